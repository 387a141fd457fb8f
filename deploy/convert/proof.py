"""The proof that what was learnt is what the NPU will compute: five checks, kept in a bundle and repeatable.

layers       every compiled layer is INT8 and runs on the NPU
scales       the file that was compiled holds the learnt integers, scales and zero points, each of them
simulator    the vendor's simulator says what ONNX Runtime says of that file, integer for integer
torch        each layer of the torch network, fed with the same integers, gives the same integers
perturbation a learnt scale times 0.9 changes the simulator's output as torch predicts: nothing is calibrated anew

Whole networks cannot be held to a bit: see `agreement`. Where a distance leaves the bounds, it is set against those
between torch in float32, torch in float64 and ONNX Runtime, which differ in the order and width of sums alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from ..backends.rknn_simulator import SimulatedHeads
from .agreement import Agreement, OnnxRun, compare_heads, compare_layers, torch_heads
from .layer_table import LayerTable, layer_faults
from .quantised_onnx import IntegerWeights, activations_of, integers_of

PROOF_NAME, PAGE_NAME = "proof.json", "proof.md"
PROOF_VERSION = 1
# Of whole networks: integers apart, share of equal ones, cosine.
MAX_LSB, IDENTICAL, COSINE = 2.0, 0.95, 0.9999
# Of one layer fed with the same integers: only sums at the border of two integers may differ.
LAYER_MAX_LSB, LAYER_IDENTICAL = 1.0, 0.999
# The simulator's mean square distance may be so many times that of correct implementations from one another.
NOISE = 1.5
# A scale that is a tenth smaller cuts off the largest values: a change that is more than another rounding.
STRETCH = 0.9
# How many quantisers are tried for the perturbation.
TRIED = 6
# A change must move the outputs by so much, root mean square, to be told from rounding.
MOVED_LSB = 0.5
# Of the change that a perturbation makes, seen and predicted; rounding noise keeps it from 1.
PREDICTED_COSINE = 0.9


class ProofFailed(ValueError):
    """What was learnt is not what the NPU computes. One line with the check and the layer."""


@dataclass
class Check:
    """One check. told: its result in a line. figures: what stands behind it."""

    name: str
    passed: bool
    told: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Learnt:
    """What training left. module: the deployed form in torch. weights: by layer. activations: by quantiser."""

    module: fx.GraphModule
    weights: Mapping[str, IntegerWeights]
    activations: Mapping[str, tuple[float, int]]


def check_layers(table: LayerTable, islands: Sequence[str] = ()) -> Check:
    """Check the compiler's table: INT8 on the NPU throughout, but for float16 `islands` that the recipe asked for."""
    faults = layer_faults(table, "int8", islands=bool(islands))
    count, halves = len(table.layers), sum(layer.dtype == "FLOAT16" for layer in table.layers)
    told = f"{count - halves} of {count} layers INT8 on the NPU, {table.cycles} cycles"
    if halves:
        told += f", {halves} FLOAT16 for {', '.join(islands)}"
    figures = {"layers": count, "float16": halves, "cycles": table.cycles, "faults": faults}
    return Check("layers", not faults, told if not faults else "; ".join(faults[:3]), figures)


def check_scales(learnt: Learnt, path: Path) -> Check:
    """Check that the file holds exactly what was learnt."""
    model = onnx.load(str(path))
    weights, activations = integers_of(model), activations_of(model)
    wrong: list[str] = []
    for name, ours in learnt.weights.items():
        theirs = weights.get(name)
        if theirs is None or not all(
            np.array_equal(getattr(ours, part), getattr(theirs, part)) for part in ("integers", "scale", "zero_point")
        ):
            wrong.append(f"weights of {name}")
    for name, (scale, zero) in learnt.activations.items():
        if activations.get(name) != (float(np.float32(scale)), zero):
            wrong.append(f"grid of {name}")
    wrong += [f"{name}, which was not learnt" for name in (weights.keys() - learnt.weights.keys())]
    count = sum(w.integers.size for w in learnt.weights.values())
    told = f"{count} weights of {len(learnt.weights)} layers and {len(learnt.activations)} grids equal to the bit"
    figures = {"weights": count, "layers": len(learnt.weights), "grids": len(learnt.activations), "wrong": wrong}
    return Check("scales", not wrong, told if not wrong else f"{wrong[0]} differs ({len(wrong)} in all)", figures)


@dataclass(frozen=True)
class Floor:
    """How far correct implementations are from one another on the same integers: all that the order of sums can do.

    pairs: by name, one entry per output. mean_square: of the pair that is furthest apart, over all outputs.
    """

    pairs: Mapping[str, list[Agreement]]

    @property
    def mean_square(self) -> float:
        """The largest mean square distance of a pair, in integers."""
        return max(_mean_square(found) for found in self.pairs.values())


def noise_floor(learnt: Learnt, path: Path, images: Sequence[np.ndarray]) -> Floor:
    """Compare torch in float32, torch in float64 and ONNX Runtime with one another; no vendor's code is asked."""
    double, run = copy.deepcopy(learnt.module).double(), OnnxRun(path)
    plain = [torch_heads(learnt.module, image) for image in images]
    exact = [torch_heads(double, image, torch.float64) for image in images]
    other = [run.heads(image) for image in images]
    return Floor(
        {
            "torch float32, torch float64": compare_heads(plain, exact, run.grids),
            "torch float32, ONNX Runtime": compare_heads(plain, other, run.grids),
            "torch float64, ONNX Runtime": compare_heads(exact, other, run.grids),
        }
    )


def check_simulator(simulated: SimulatedHeads, path: Path, images: Sequence[np.ndarray], floor: Floor) -> Check:
    """Check the vendor's simulator against ONNX Runtime on whole images.

    The outputs must lie within the bounds, or no further away than `NOISE` times the floor, where a network amplifies
    the last bit of its sums so much that no two implementations could.
    """
    run = OnnxRun(path)
    found = compare_heads(_heads(simulated, len(images)), (run.heads(image) for image in images), run.grids)
    strict = all(a.holds(MAX_LSB, IDENTICAL, COSINE) for a in found)
    passed = _within(found, floor)
    told = _told(found)
    if not strict:
        verdict = "no more than" if passed else "MORE than"
        told += (
            f"; mean square {_mean_square(found):.3f}, {verdict} the order of sums explains ({floor.mean_square:.3f})"
        )
    figures = {"images": len(images), "within_bounds": strict, "floor": floor.mean_square, **_figures(found)}
    return Check("simulator", passed, told, figures)


def _mean_square(found: Sequence[Agreement]) -> float:
    return sum(a.mean_square for a in found) / len(found)


def _within(found: Sequence[Agreement], floor: Floor) -> bool:
    strict = all(a.holds(MAX_LSB, IDENTICAL, COSINE) for a in found)
    return strict or _mean_square(found) <= NOISE * floor.mean_square


def check_torch(
    learnt: Learnt,
    simulated: SimulatedHeads,
    path: Path,
    images: Sequence[np.ndarray],
    floor: Floor,
) -> Check:
    """Check every layer of the torch network, and tell how far the whole of it comes out."""
    layers = compare_layers(learnt.module, learnt.activations, path, images)
    bad = [a for a in layers if not a.holds(LAYER_MAX_LSB, LAYER_IDENTICAL, COSINE)]
    worst = min(bad or layers, key=lambda a: a.identical)
    told = (
        f"layer {worst.name}: {100 * worst.identical:.3f} % identical, {worst.max_lsb:g} LSB apart at most"
        if bad
        else f"{len(layers)} layers, the worst {100 * worst.identical:.4f} % identical ({worst.name}), "
        f"{max(a.max_lsb for a in layers):g} LSB apart at most"
    )
    grids = OnnxRun(path).grids
    plain = [torch_heads(learnt.module, image) for image in images]
    whole = compare_heads(_heads(simulated, len(images)), plain, grids)
    figures = {
        "images": len(images),
        "layers": [asdict(a) for a in layers],
        "whole_network": [asdict(a) for a in whole],
        "whole_network_holds": all(a.holds(MAX_LSB, IDENTICAL, COSINE) for a in whole),
        "implementations": {pair: [asdict(a) for a in found] for pair, found in floor.pairs.items()},
    }
    return Check("torch", not bad, told, figures)


def check_perturbation(
    quantiser: str,
    perturbed_module: fx.GraphModule,
    learnt: Learnt,
    before: SimulatedHeads,
    after: SimulatedHeads,
    perturbed_path: Path,
    images: Sequence[np.ndarray],
    floor: Floor,
) -> Check:
    """Check that a changed scale moves the simulator's output as torch predicts.

    perturbed_module, after, perturbed_path: torch network, simulated heads and file with the scale of `quantiser`
    multiplied by `STRETCH`; learnt.module, before: without. Distances are counted in integers of each output.
    """
    run = OnnxRun(perturbed_path)
    scales = [scale for scale, _ in run.grids.values()]
    seen, predicted = [], []
    for i, image in enumerate(images):
        for a, b, scale in zip(after.heads([i]), before.heads([i]), scales, strict=True):
            seen.append(((a - b) / scale).ravel())
        pair = zip(torch_heads(perturbed_module, image), torch_heads(learnt.module, image), scales, strict=True)
        predicted += [((a - b) / scale).ravel() for a, b, scale in pair]
    x, y = np.concatenate(seen).astype(np.float64), np.concatenate(predicted).astype(np.float64)
    cosine = _cosine(x, y)
    follows = compare_heads(_heads(after, len(images)), (run.heads(image) for image in images), run.grids)
    exact = _within(follows, floor)
    size = float(np.sqrt(np.mean(np.square(x))))
    told = (
        f"scale of {quantiser} times {STRETCH}: the outputs move by {size:.2f} LSB (root mean square), cosine "
        f"{cosine:.3f} with the change that torch predicts"
    )
    figures = {"quantiser": quantiser, "rms_lsb": size, "cosine": cosine, **_figures(follows)}
    return Check("perturbation", exact and cosine >= PREDICTED_COSINE and size >= MOVED_LSB, told, figures)


def choose_quantiser(
    learnt: Learnt, path: Path, images: Sequence[np.ndarray], stretch: Callable[[str], fx.GraphModule]
) -> str:
    """Return the quantiser whose stretching changes the outputs most predictably, of a few tried along the network.

    The scale of an activation, or those of a layer's weights. Torch alone decides, before the simulator is asked: by
    the cosine of the change in float32 with that in float64. A change that is no more than another rounding in the
    first layers is amplified with all its noise, and nobody can foretell it. stretch: returns the torch network with
    one quantiser's scale multiplied by `STRETCH`.
    """
    # Not the input, whose grid is fixed, and not the outputs, whose change would show nothing of what is behind them.
    outputs = {str(n.target) for n in _outputs(learnt.module)}
    names = [name for name in [*list(learnt.activations)[1:], *learnt.weights] if name not in outputs]
    scales = [scale for scale, _ in OnnxRun(path).grids.values()]
    image, base = images[0], _both(learnt.module, images[0], scales)

    def foretold(name: str) -> float:
        plain, exact = (a - b for a, b in zip(_both(stretch(name), image, scales), base, strict=True))
        moved = float(np.sqrt(np.mean(np.square(exact))))
        return _cosine(plain, exact) if moved >= MOVED_LSB else moved - 2

    return max(names[:: max(1, len(names) // TRIED)], key=foretold)


def _both(module: fx.GraphModule, image: np.ndarray, scales: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return all outputs for an image in integers, in float32 and in float64."""
    double = copy.deepcopy(module).double()
    found = (torch_heads(module, image), torch_heads(double, image, torch.float64))
    one, two = (np.concatenate([np.ravel(h) / s for h, s in zip(heads, scales, strict=True)]) for heads in found)
    return one.astype(np.float64), two.astype(np.float64)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))


def first_failure(checks: Sequence[Check]) -> Check | None:
    """Return the first check that did not pass."""
    return next((check for check in checks if not check.passed), None)


def raise_for(checks: Sequence[Check], where: Path) -> None:
    """Raise ProofFailed where a check did not pass."""
    failed = first_failure(checks)
    if failed is not None:
        raise ProofFailed(
            f"the proof failed at {failed.name}: {failed.told}; the NPU would not compute what was learnt, see {where}"
        )


def _outputs(module: fx.GraphModule) -> list[fx.Node]:
    """Return the operations whose results the network returns."""
    return list(next(n for n in module.graph.nodes if n.op == "output").all_input_nodes)


def _heads(simulated: SimulatedHeads, count: int) -> list[list[np.ndarray]]:
    return [simulated.heads([i]) for i in range(count)]


def _figures(found: Sequence[Agreement]) -> dict[str, Any]:
    return {"outputs": [asdict(a) for a in found]}


def _told(found: Sequence[Agreement]) -> str:
    worst = min(found, key=lambda a: a.identical)
    return (
        f"{worst.name}: {100 * worst.identical:.2f} % identical, {worst.max_lsb:g} LSB apart at most, cosine "
        f"{worst.cosine:.6f}"
    )
