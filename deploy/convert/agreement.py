"""Do two runs of one quantised network say the same? Counted in integers of the output's own grid.

Float sums depend on their order in the last bit. Where such a sum lies at the border between two integers, one run
rounds up and the other down; the next layers amplify that one step. Ten such values in ten million are enough for a
third of a YOLOv8n's outputs to differ by one. So whole networks are compared between runs that sum in the same order,
and runs in another order layer by layer, where each layer gets the other run's integers as its input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .inside import Heads, Inside, network_input
from .scopes import scope_of


@dataclass
class Agreement:
    """How two runs compare on one tensor. max_lsb: largest difference in integers. identical: share of equal values.

    cosine: of the real values. apart: how many values differ.
    """

    name: str
    max_lsb: float
    identical: float
    cosine: float
    apart: int

    def holds(self, max_lsb: float, identical: float, cosine: float) -> bool:
        """Return whether it is at least as good as the given bounds."""
        return self.max_lsb <= max_lsb and self.identical >= identical and self.cosine >= cosine


class Tally:
    """Sums over images, for one tensor."""

    def __init__(self, name: str, scale: float) -> None:
        self.name, self.scale = name, scale
        self.worst, self.same, self.count = 0.0, 0, 0
        self.ab, self.aa, self.bb = 0.0, 0.0, 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Count one image: real values that lie on the grid, equal shapes."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        steps = np.abs(np.rint(a / self.scale) - np.rint(b / self.scale))
        self.worst = max(self.worst, float(steps.max()))
        self.same += int((steps == 0).sum())
        self.count += steps.size
        self.ab, self.aa, self.bb = (
            self.ab + float((a * b).sum()),
            self.aa + float((a * a).sum()),
            self.bb + float((b * b).sum()),
        )

    def result(self) -> Agreement:
        """Return what was counted; two runs that are both all zero agree fully."""
        norm = float(np.sqrt(self.aa * self.bb))
        cosine = self.ab / norm if norm > 0 else float(self.aa == self.bb)
        return Agreement(self.name, self.worst, self.same / self.count, cosine, self.count - self.same)


def compare_heads(
    a: Iterable[Heads], b: Iterable[Heads], grids: Mapping[str, tuple[float, int]], names: Sequence[str] = ()
) -> list[Agreement]:
    """Compare the outputs of two runs, image by image. grids: (scale, zero point) by output, in the outputs' order.

    names: of all outputs, where some are float16 and have no grid; those are not compared.
    """
    tallies = {name: Tally(name, scale) for name, (scale, _) in grids.items()}
    for ours, theirs in zip(a, b, strict=True):
        for name, x, y in zip(names or list(grids), ours, theirs, strict=True):
            if name in tallies:
                tallies[name].add(x, y)
    return [tally.result() for tally in tallies.values()]


def torch_heads(module: torch.nn.Module, image: np.ndarray, dtype: torch.dtype = torch.float32) -> Heads:
    """Return a torch network's outputs for one image as float32. dtype: in which it computes; the module's own."""
    with torch.no_grad():
        return [head.float().numpy() for head in module(torch.from_numpy(network_input(image)).to(dtype))]


def compare_layers(
    module: fx.GraphModule,
    grids: Mapping[str, tuple[float, int]],
    other: Inside,
    images: Sequence[np.ndarray],
) -> list[Agreement]:
    """Compare every layer of a torch network with another run of it, each fed with the other's integers.

    module: the deployed form; its roundings are the submodules named in `grids` ((scale, zero point) by quantiser).
    Returns one entry per rounding but the input's, named after the layer that it began at, in the network's order;
    none for a layer beside one in float16, whose input the other does not show.
    Raises ValueError where the other rounds another number of tensors.
    """
    walker = _Walker(module, grids, other.places)
    for image in images:
        walker.start(other.tensors(image))
        with torch.no_grad():
            walker.run(torch.from_numpy(network_input(image)))
    return [tally.result() for tally in walker.tallies.values() if tally.count]


def first_apart(
    module: fx.GraphModule, grids: Mapping[str, tuple[float, int]], one: Inside, other: Inside, image: np.ndarray
) -> str | None:
    """Return the name of the first layer where two runs from the same image differ, None where none does."""
    walkers = [_Walker(module, grids, run.places) for run in (one, other)]
    a, b = one.tensors(image), other.tensors(image)
    for node, tally in walkers[0].tallies.items():
        if node not in walkers[1].places:
            continue
        scale = grids[str(node.target)][0]
        theirs = np.rint(b[walkers[1].places[node]] / scale)
        if not np.array_equal(np.rint(a[walkers[0].places[node]] / scale), theirs):
            return tally.name
    return None


class _Walker(fx.Interpreter):
    """Run a network node by node; behind each rounding but the input's go on with the other run's values."""

    def __init__(
        self, module: fx.GraphModule, grids: Mapping[str, tuple[float, int]], places: Mapping[str, list[str]]
    ) -> None:
        super().__init__(module)
        self.places: dict[fx.Node, str] = {}
        self.hidden: list[fx.Node] = []
        self.tallies: dict[fx.Node, Tally] = {}
        calls: dict[str, list[fx.Node]] = {}
        for node in module.graph.nodes:
            if node.op == "call_module" and str(node.target) in grids and node.all_input_nodes[0].op != "placeholder":
                calls.setdefault(str(node.target), []).append(node)
        for name, nodes in calls.items():
            tensors = places.get(name, [])
            if len(tensors) != len(nodes):
                raise ValueError(f"{name} rounds {len(nodes)} tensors in torch, {len(tensors)} in the file")
            self.places |= {node: tensor for node, tensor in zip(nodes, tensors, strict=True) if tensor}
            self.hidden += [node for node, tensor in zip(nodes, tensors, strict=True) if not tensor]
        for node in module.graph.nodes:
            if node in self.places:
                self.tallies[node] = Tally(_layer_of(node, grids, module), grids[str(node.target)][0])

    def start(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors
        # Computed from a tensor that the other run does not show, so not from its integers.
        self.unseen: set[fx.Node] = set(self.hidden)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        from_unseen = any(source in self.unseen for source in n.all_input_nodes)
        if n not in self.places:
            if from_unseen:
                self.unseen.add(n)
            return value
        theirs = self.tensors[self.places[n]]
        if not from_unseen:
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
