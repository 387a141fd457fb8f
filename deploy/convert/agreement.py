"""Do two runs of one quantised network say the same? Counted in integers of the output's own grid.

Float sums depend on their order in the last bit. Where such a sum lies at the border between two integers, one run
rounds up and the other down; the next layers amplify that one step. So two correct float implementations of a deep
INT8 network agree on each layer, but need not agree at its end. Both are measured here: whole networks against each
other, and layer by layer, where each layer gets the other implementation's integers as its input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import fx, nn

from ..backends.onnx_session import session_options
from .quantised_onnx import DQ, output_grids, quantiser_name
from .scopes import scope_of

Heads = list[np.ndarray]


@dataclass
class Agreement:
    """How two runs compare on one tensor. max_lsb: largest difference in integers. identical: share of equal values.

    cosine: of the real values. mean_square: of the difference in integers.
    """

    name: str
    max_lsb: float
    identical: float
    cosine: float
    mean_square: float

    def holds(self, max_lsb: float, identical: float, cosine: float) -> bool:
        """Return whether it is at least as good as the given bounds."""
        return self.max_lsb <= max_lsb and self.identical >= identical and self.cosine >= cosine


class Tally:
    """Sums over images, for one tensor."""

    def __init__(self, name: str, scale: float) -> None:
        self.name, self.scale = name, scale
        self.worst, self.same, self.count, self.square = 0.0, 0, 0, 0.0
        self.ab, self.aa, self.bb = 0.0, 0.0, 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Count one image: real values that lie on the grid, equal shapes."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        steps = np.abs(np.rint(a / self.scale) - np.rint(b / self.scale))
        self.worst = max(self.worst, float(steps.max()))
        self.same += int((steps == 0).sum())
        self.count += steps.size
        self.square += float(np.square(steps).sum())
        self.ab, self.aa, self.bb = (
            self.ab + float((a * b).sum()),
            self.aa + float((a * a).sum()),
            self.bb + float((b * b).sum()),
        )

    def result(self) -> Agreement:
        """Return what was counted; two runs that are both all zero agree fully."""
        norm = float(np.sqrt(self.aa * self.bb))
        cosine = self.ab / norm if norm > 0 else float(self.aa == self.bb)
        return Agreement(self.name, self.worst, self.same / self.count, cosine, self.square / self.count)


def compare_heads(a: Iterable[Heads], b: Iterable[Heads], grids: Mapping[str, tuple[float, int]]) -> list[Agreement]:
    """Compare the outputs of two runs, image by image. grids: (scale, zero point) by output, in the outputs' order."""
    tallies = [Tally(name, scale) for name, (scale, _) in grids.items()]
    for ours, theirs in zip(a, b, strict=True):
        for tally, x, y in zip(tallies, ours, theirs, strict=True):
            tally.add(x, y)
    return [tally.result() for tally in tallies]


def network_input(image: np.ndarray) -> np.ndarray:
    """Return a letterboxed (h, w, 3) uint8 image as the (1, 3, h, w) float32 that the network sees, 0 to 1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)[None] / np.float32(255)


class OnnxRun:
    """ONNX Runtime on a file, computed as it is written; with `inside`, every quantised tensor is an output too."""

    def __init__(self, path: Path, *, inside: bool = False) -> None:
        import onnxruntime

        model = onnx.load(str(path))
        self.grids = output_grids(model)
        self.names = [value.name for value in model.graph.output]
        # Tensors behind each quantiser, in the order in which the network calls it.
        self.places: dict[str, list[str]] = {}
        if inside:
            have = set(self.names)
            for node in model.graph.node:
                if node.op_type == DQ and "quantiser" in node.name:
                    self.places.setdefault(quantiser_name(node.name), []).append(node.output[0])
                    if node.output[0] not in have:
                        model.graph.output.append(helper.make_tensor_value_info(node.output[0], 1, None))
        self._session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(exact=True), providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def heads(self, image: np.ndarray) -> Heads:
        """Return the outputs for one letterboxed image, (1, channels, h, w) float32 each."""
        return list(self._session.run(self.names, {self._input: network_input(image)}))

    def tensors(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return all outputs by name, the inner ones among them."""
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {self._input: network_input(image)}), strict=True))


def torch_heads(module: torch.nn.Module, image: np.ndarray, dtype: torch.dtype = torch.float32) -> Heads:
    """Return a torch network's outputs for one image as float32. dtype: in which it computes; the module's own."""
    with torch.no_grad():
        return [head.float().numpy() for head in module(torch.from_numpy(network_input(image)).to(dtype))]


def compare_layers(
    module: fx.GraphModule,
    grids: Mapping[str, tuple[float, int]],
    path: Path,
    images: Sequence[np.ndarray],
) -> list[Agreement]:
    """Compare every layer of a torch network with the ONNX file, each fed with the file's integers.

    module: the deployed form; its roundings are the submodules named in `grids` ((scale, zero point) by quantiser).
    Returns one entry per rounding, named after the layer that it began at, in the network's order. Raises ValueError
    where the file rounds another number of tensors.
    """
    run = OnnxRun(path, inside=True)
    walker = _Walker(module, grids, run.places)
    for image in images:
        walker.start(run.tensors(image))
        with torch.no_grad():
            walker.run(torch.from_numpy(network_input(image)))
    return [tally.result() for tally in walker.tallies.values()]


class _Walker(fx.Interpreter):
    """Run a network node by node; behind each rounding go on with the other implementation's values."""

    def __init__(
        self, module: fx.GraphModule, grids: Mapping[str, tuple[float, int]], places: dict[str, list[str]]
    ) -> None:
        super().__init__(module)
        self.places: dict[fx.Node, str] = {}
        self.tallies: dict[fx.Node, Tally] = {}
        calls: dict[str, list[fx.Node]] = {}
        for node in module.graph.nodes:
            if node.op == "call_module" and str(node.target) in grids:
                calls.setdefault(str(node.target), []).append(node)
        for name, nodes in calls.items():
            tensors = places.get(name, [])
            if len(tensors) != len(nodes):
                raise ValueError(f"{name} rounds {len(nodes)} tensors in torch, {len(tensors)} in the ONNX file")
            for node, tensor in zip(nodes, tensors, strict=True):
                self.places[node] = tensor
        for node in module.graph.nodes:
            if node in self.places:
                self.tallies[node] = Tally(_layer_of(node, grids, module), grids[str(node.target)][0])

    def start(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n not in self.places:
            return value
        theirs = self.tensors[self.places[n]]
        self.tallies[n].add(value.numpy(), theirs)
        return torch.from_numpy(np.ascontiguousarray(theirs))


def _layer_of(rounding: fx.Node, roundings: Collection[str], module: fx.GraphModule) -> str:
    """Name a rounded value after the convolution or linear layer that it began at, else after where it is computed.

    As the learnt file and the diagnosis of rounding noise do. roundings: names of the network's roundings.
    """
    source = at = rounding.all_input_nodes[0]
    while at.op != "placeholder" and str(at.target) not in roundings:
        if at.op == "call_module" and isinstance(module.get_submodule(str(at.target)), (nn.Conv2d, nn.Linear)):
            return str(at.target)
        if len(at.all_input_nodes) != 1:  # behind a layer stands at most its activation
            break
        at = at.all_input_nodes[0]
    if source.op == "call_module":
        return str(source.target)
    return f"{scope_of(source)} {source.name.rstrip('0123456789').rstrip('_')}".strip()
