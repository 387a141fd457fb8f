"""Export a traced network under the names of the network that was traced.

A traced network (`torch.fx`) calls its layers from one flat graph, so the exporter would number them: /conv/Conv,
/conv_1/Conv, ... Tracing kept, with every operation, the modules it stood in. Here operations are called inside of
modules of those names again, and the exporter writes what it writes of the network itself: /model.2/cv1/conv/Conv. The
compiler's layer table repeats these names, so its rows tell which layer of the network they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx, nn

# A call of a module: its path, and the tracer's mark, which tells two calls of one module apart.
_Call = tuple[str, str]


class _Scope(nn.Module):
    """A module that has only a name: what is called inside of its call is named after it."""

    def forward(self, inside: Callable[[], None]) -> None:
        inside()


class NamedNetwork(nn.Module):
    """A traced network whose operations are called where they once stood; returns its outputs as a tuple.

    Parameters keep their names. What was put in after the tracing (quantisers) is called between its neighbours.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self._nodes = _placed(network.graph)
        for node, calls in self._nodes:
            for path, _ in calls:
                _put(self, path, _Scope())
            if node.op == "call_module":
                _put(self, str(node.target), network.get_submodule(str(node.target)))
        # Not as a child: a wrapper attribute would prefix every name.
        object.__setattr__(self, "_calls", fx.Interpreter(network))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, h, w) float32 to the network's outputs."""
        values: dict[fx.Node, Any] = {}
        self._run(self._nodes, 0, x, values)
        return tuple(values[self._nodes[-1][0]])

    def _run(
        self, nodes: Sequence[tuple[fx.Node, list[_Call]]], depth: int, x: Tensor, values: dict[fx.Node, Any]
    ) -> None:
        """Run operations in their order; those that stood in one call of a module share one call of its scope."""
        for call, group in itertools.groupby(nodes, lambda n: n[1][depth] if len(n[1]) > depth else None):
            inner = list(group)
            if call is not None:
                self.get_submodule(call[0])(lambda inner=inner: self._run(inner, depth + 1, x, values))
                continue
            for node, _ in inner:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
                if node.op == "placeholder":
                    values[node] = x
                else:
                    values[node] = getattr(self._calls, node.op)(node.target, args, kwargs)


def scope_of(node: fx.Node) -> str:
    """Return the path of the innermost module that an operation stood in, "" where it stood in none."""
    calls = _calls(node)
    return calls[-1][0] if calls else ""


def _calls(node: fx.Node) -> list[_Call]:
    """Return the modules around an operation, the outermost first; its own module is not around it."""
    stack = node.meta.get("nn_module_stack") or {}
    around = [(path, mark) for mark, (path, _) in stack.items() if path]
    return [call for call in around if not (node.op == "call_module" and call[0] == node.target)]


def _placed(graph: fx.Graph) -> list[tuple[fx.Node, list[_Call]]]:
    """Return all operations with the modules around them; what has none of its own stays inside of its neighbours'.

    Were it called outside, the module around would be left and entered again, and the exporter would number it.
    """
    nodes = list(graph.nodes)
    traced = [_calls(node) if node.meta.get("nn_module_stack") else None for node in nodes]
    before: list[_Call] = []
    placed = []
    for number, (node, calls) in enumerate(zip(nodes, traced, strict=True)):
        if calls is None:
            after = next((c for c in traced[number:] if c is not None), [])
            both = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
            calls = [call for call, _ in both]
        placed.append((node, calls))
        before = calls
    return placed


def _put(tree: nn.Module, path: str, module: nn.Module) -> None:
    """Register a module at a path, with scopes above it; what is there already stays."""
    *above, name = path.split(".")
    for part in above:
        if part not in tree._modules:
            tree.add_module(part, _Scope())
        tree = tree.get_submodule(part)
    if name not in tree._modules:
        tree.add_module(name, module)
