"""The proof that what was learnt is what the NPU will compute: six checks, kept in a bundle and repeatable.

layers       every compiled layer is INT8 and runs on the NPU
scales       the file that was compiled holds the learnt integers, scales and zero points, each of them
simulator    the vendor's simulator says what ONNX Runtime says of that file, from pixels to heads
torch        it says what the torch network says; and each layer as it was trained says so of the same integers
integers     each layer, fed with the simulator's own integers, gives its integers in int8 and int32 arithmetic
perturbation a learnt scale times 0.9 changes the simulator's output as torch predicts: nothing is calibrated anew

Whole networks are compared in the simulator's own order of sums (`inside.OnnxRun`, `Learnt.simulated`), in which all
three agree to the bit; in another order a network amplifies a handful of last bits, see `agreement`. The NPU itself
sums in int32, where there is no order: that is the check of the integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import fx

from ..backends.rknn_simulator import SimulatedHeads
from .agreement import Agreement, compare_heads, compare_layers, first_apart, torch_heads
from .inside import Inside, OnnxRun
from .layer_table import LayerTable, layer_faults
from .quantised_onnx import IntegerWeights, activations_of, integers_of

PROOF_NAME, PAGE_NAME = "proof.json", "proof.md"
PROOF_VERSION = 2
# Of whole networks: integers apart, share of equal ones, cosine.
MAX_LSB, IDENTICAL, COSINE = 2.0, 0.95, 0.9999
# Of one layer fed with the same integers: only sums at the border of two integers may differ, one in a million of them.
LAYER_MAX_LSB, LAYER_IDENTICAL = 1.0, 0.9999
# So many may differ in a layer that is too small for a share to mean anything.
LAYER_FEW = 4
# A scale that is a tenth smaller cuts off the largest values: a change that is more than another rounding.
STRETCH = 0.9
# How many quantisers are tried for the perturbation.
TRIED = 6
# A change must move the outputs by so much, root mean square, to be told from rounding.
MOVED_LSB = 0.5
# Of the change that a perturbation makes, seen and predicted.
PREDICTED_COSINE = 0.99


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
    """What training left, as it is deployed.

    module: the network in torch. simulated: the same in the simulator's order of sums. integer: in int8 and int32.
    weights: by layer. activations: (scale, zero point) by quantiser.
    """

    module: fx.GraphModule
    simulated: fx.GraphModule
    integer: fx.GraphModule
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


def check_simulator(
    learnt: Learnt, simulated: SimulatedHeads, inside: Inside, path: Path, images: Sequence[np.ndarray]
) -> Check:
    """Check the vendor's simulator against ONNX Runtime on whole images; a failure names the first layer apart.

    inside: the simulator's own inner tensors for the first image.
    """
    run = OnnxRun(path)
    found = compare_heads(_heads(simulated, len(images)), (run.heads(image) for image in images), run.grids, run.names)
    passed, told = _whole(found)
    if not passed:
        told += _from_layer(learnt, inside, OnnxRun(path, inside=True), images[0])
    return Check("simulator", passed, told, {"images": len(images), **_figures(found)})


def check_torch(
    learnt: Learnt, simulated: SimulatedHeads, inside: Inside, path: Path, images: Sequence[np.ndarray]
) -> Check:
    """Check the whole torch network against the simulator, and each layer as trained on the simulator's integers.

    inside: the simulator's inner tensors for these images.
    """
    outputs = (OnnxRun(path).grids, list(simulated.arrays))
    theirs = _heads(simulated, len(images))
    found = compare_heads(theirs, (torch_heads(learnt.simulated, image) for image in images), *outputs)
    trained = compare_heads(theirs, (torch_heads(learnt.module, image) for image in images), *outputs)
    layers = compare_layers(learnt.module, learnt.activations, inside, images)
    passed, told = _whole(found)
    fine, of_layers = _each(layers)
    figures = {
        "images": len(images),
        "layers": [asdict(a) for a in layers],
        "as_trained": [asdict(a) for a in trained],
        **_figures(found),
    }
    # The layer that is wrong says more than what becomes of it at the outputs.
    return Check("torch", passed and fine, f"{told}; {of_layers}" if fine else of_layers, figures)


def check_integers(learnt: Learnt, inside: Inside, images: Sequence[np.ndarray]) -> Check:
    """Check every layer in integer arithmetic on the simulator's own integers. inside: its tensors for the images."""
    layers = compare_layers(learnt.integer, learnt.activations, inside, images)
    fine, told = _each(layers)
    return Check("integers", fine, told, {"images": len(images), "layers": [asdict(a) for a in layers]})


def check_perturbation(
    quantiser: str,
    perturbed: fx.GraphModule,
    learnt: Learnt,
    before: SimulatedHeads,
    after: SimulatedHeads,
    images: Sequence[np.ndarray],
) -> Check:
    """Check that a changed scale moves the simulator's output as torch predicts.

    perturbed, after: torch network in the simulator's order, and simulated heads, with the scale of `quantiser`
    multiplied by `STRETCH`; learnt.simulated, before: without. Distances are counted in integers of each output.
    """
    names = list(before.arrays)
    predictions = [torch_heads(perturbed, image) for image in images]
    seen, predicted = [], []
    for i, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        old = zip(before.heads([i]), torch_heads(learnt.simulated, image), strict=True)
        new = zip(after.heads([i]), prediction, strict=True)
        for name, (a, x), (b, y) in zip(names, old, new, strict=True):
            if name in before.scales:
                seen.append(((b - a) / before.scales[name].scale).ravel())
                predicted.append(((y - x) / before.scales[name].scale).ravel())
    x, y = (np.concatenate(parts).astype(np.float64) for parts in (seen, predicted))
    cosine = float(x @ y / max(1e-12, float(np.linalg.norm(x) * np.linalg.norm(y))))
    grids = {name: (grid.scale, grid.zero_point) for name, grid in after.scales.items()}
    follows = compare_heads(_heads(after, len(images)), predictions, grids, names)
    size = float(np.sqrt(np.mean(np.square(x))))
    told = (
        f"scale of {quantiser} times {STRETCH}: the outputs move by {size:.2f} LSB (root mean square), cosine "
        f"{cosine:.3f} with the change that torch predicts"
    )
    passed = _whole(follows)[0] and cosine >= PREDICTED_COSINE and size >= MOVED_LSB
    return Check(
        "perturbation", passed, told, {"quantiser": quantiser, "rms_lsb": size, "cosine": cosine, **_figures(follows)}
    )


def choose_quantiser(
    learnt: Learnt, image: np.ndarray, simulated: SimulatedHeads, stretch: Callable[[str], fx.GraphModule]
) -> str:
    """Return the first quantiser along the network whose stretching moves the outputs enough, of a few tried.

    The scale of an activation, or those of a layer's weights; torch alone decides, before the simulator is asked.
    simulated: names and scales of the outputs. stretch: returns the torch network in the simulator's order with one
    quantiser's scale multiplied by `STRETCH`.
    """
    # Not the input, whose grid is fixed, and not the outputs, whose change would show nothing of what is behind them.
    outputs = {str(n.target) for n in _outputs(learnt.module)}
    names = [name for name in [*list(learnt.activations)[1:], *learnt.weights] if name not in outputs]
    base = torch_heads(learnt.simulated, image)
    moved: dict[str, float] = {}
    for name in names[:: max(1, len(names) // TRIED)]:
        pairs = zip(simulated.arrays, torch_heads(stretch(name), image), base, strict=True)
        steps = [((a - b) / simulated.scales[out].scale).ravel() for out, a, b in pairs if out in simulated.scales]
        moved[name] = float(np.sqrt(np.mean(np.square(np.concatenate(steps)))))
        if moved[name] >= MOVED_LSB:
            return name
    return max(moved, key=lambda name: moved[name])


def _whole(found: Sequence[Agreement]) -> tuple[bool, str]:
    """Return whether all outputs lie within the bounds of whole networks, and the worst in words."""
    bad = [a for a in found if not a.holds(MAX_LSB, IDENTICAL, COSINE)]
    worst = min(bad or found, key=lambda a: a.identical)
    if not any(a.apart for a in found):
        return True, f"all {len(found)} outputs identical"
    told = f"{worst.name}: {100 * worst.identical:.2f} % identical, {worst.max_lsb:g} LSB apart at most"
    return not bad, f"{told}, cosine {worst.cosine:.6f}"


def _each(layers: Sequence[Agreement]) -> tuple[bool, str]:
    """Return whether every layer lies within the bounds of single layers, and the worst of them in words."""
    bad = [a for a in layers if a.max_lsb > LAYER_MAX_LSB or (a.identical < LAYER_IDENTICAL and a.apart > LAYER_FEW)]
    worst = min(bad or layers, key=lambda a: a.identical)
    told = f"{100 * worst.identical:.4f} % identical"
    if bad:
        return False, f"layer {worst.name}: {told}, {worst.max_lsb:g} LSB apart at most"
    return True, (
        f"{len(layers)} layers, the worst {told} ({worst.name}), {sum(a.apart for a in layers)} values in all apart, "
        f"{max(a.max_lsb for a in layers):g} LSB at most"
    )


def _from_layer(learnt: Learnt, inside: Inside, other: Inside, image: np.ndarray) -> str:
    name = first_apart(learnt.module, learnt.activations, inside, other, image)
    return f", from layer {name} on" if name else ""


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
