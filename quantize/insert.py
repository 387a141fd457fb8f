"""Put fake-quantisers where the NPU's compiler wants them, by tracing the graph and not by knowing the network's names.

The rules, each found by experiment with the vendor's compiler:

- The input has the fixed grid of uint8 pixels.
- A convolution, its BatchNorm and its activation are one operation: one quantiser behind the last, none between.
- A sum is quantised behind its activation, or behind itself where it has none.
- All parts of a Concat, and the Concat, share one grid, or the compiler falls back to float16.
- Splitting, pooling by maximum, nearest resizing, flattening change no value's grid: they use their producer's.

So tensors fall into groups that share a grid. A group gets one quantiser, placed behind each operation that computes
new values for it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from .fake_quant import FakeQuantizer, Observer
from .layers import FakeConv2d, FakeLinear, NormBehind, wrap
from .numerics import INPUT_SCALE, INPUT_ZERO_POINT

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.SiLU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Hardsigmoid,
)
ACTIVATION_FUNCTIONS: tuple[Any, ...] = (
    functional.silu,
    functional.relu,
    functional.relu6,
    functional.leaky_relu,
    functional.hardswish,
    functional.sigmoid,
    torch.relu,
    torch.sigmoid,
)
SUMS = (operator.add, operator.iadd, torch.add)
PRODUCTS = (operator.mul, torch.mul)
SAME_GRID_MODULES = (nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Flatten, nn.UpsamplingNearest2d)
SAME_GRID_FUNCTIONS = (functional.max_pool2d, torch.flatten, torch.chunk, torch.split, operator.getitem)
SAME_GRID_METHODS = ("chunk", "split", "flatten", "view", "reshape", "contiguous")
MEANS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
MEAN_FUNCTIONS = (functional.avg_pool2d, functional.adaptive_avg_pool2d, torch.mean)
SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, SiLU, ReLU, ReLU6, LeakyReLU, Hardswish, Sigmoid, Hardsigmoid, sums, products, "
    "Concat, split, max and average pooling, nearest resizing, flatten"
)


@dataclass(frozen=True)
class Settings:
    """What to insert. float16: names of convolutions (or of modules that hold them) left in floating point."""

    weight_bits: int = 8
    activation_bits: int = 8
    observer: Observer = "moving_average"
    float16: tuple[str, ...] = ()


@dataclass
class Placement:
    """Where quantisers went. groups: quantiser -> the graph's operations whose values it rounds. islands: float16."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    islands: list[str] = field(default_factory=list)


class FakeQuantised(nn.Module):
    """A traced network with fake-quantisers in it; called like the network it was made from.

    graph: the fx.GraphModule; its parameters are under the names of the original network. placement: where what went.
    """

    def __init__(self, graph: fx.GraphModule, placement: Placement, settings: Settings) -> None:
        super().__init__()
        self.graph, self.placement, self.settings = graph, placement, settings

    def forward(self, *args: Any) -> Any:
        """Run the network."""
        return self.graph(*args)

    def quantisers(self) -> dict[str, FakeQuantizer]:
        """Return all fake-quantisers by name."""
        return {n: m for n, m in self.graph.named_modules() if isinstance(m, FakeQuantizer)}

    def layers(self) -> dict[str, FakeConv2d | FakeLinear]:
        """Return all layers with fake-quantised weights by name."""
        return {n: m for n, m in self.graph.named_modules() if isinstance(m, (FakeConv2d, FakeLinear))}

    def weight_quantisers(self) -> dict[str, FakeQuantizer]:
        """Return the quantisers of weights by layer."""
        return {n: layer.weight_quantiser for n, layer in self.layers().items()}

    def activation_quantisers(self) -> dict[str, FakeQuantizer]:
        """Return the quantisers of activations by name, without the input's."""
        weights = {id(q) for q in self.weight_quantisers().values()}
        return {n: q for n, q in self.quantisers().items() if id(q) not in weights and not q.fixed}

    def enable(self, on: bool) -> None:
        """Switch all rounding on or off."""
        for quantiser in self.quantisers().values():
            quantiser.enabled = on

    def freeze(self, on: bool = True) -> None:
        """Keep all ranges as they are, or let observers move them again."""
        for quantiser in self.quantisers().values():
            quantiser.frozen = on or quantiser.fixed

    def learn(self) -> None:
        """Make all ranges learnable. Raises ValueError for a layer that never saw data."""
        for name, quantiser in self.activation_quantisers().items():
            if not quantiser.ready:
                raise ValueError(f"{name} never saw data, its range is unknown; run some training batches first")
            quantiser.learn()
        for quantiser in self.weight_quantisers().values():
            quantiser.learn()

    def set_bits(self, weights: int, activations: int) -> None:
        """Change the bit widths; represented ranges stay."""
        for quantiser in self.weight_quantisers().values():
            quantiser.set_bits(weights)
        for quantiser in self.activation_quantisers().values():
            quantiser.set_bits(activations)

    def fold_batch_norm(self) -> None:
        """Take all BatchNorms into their convolutions, with the statistics of training, and drop them."""
        graph = self.graph
        for node in list(graph.graph.nodes):
            if node.op != "call_module" or not isinstance(_module(graph, node), nn.BatchNorm2d):
                continue
            layer = _module(graph, node.args[0])
            if isinstance(layer, (FakeConv2d, FakeLinear)) and layer.norm is not None:
                layer.fold()
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.graph.lint()
        graph.recompile()
        graph.delete_all_unused_submodules()


def insert(model: nn.Module, settings: Settings | None = None, method: str = "forward") -> FakeQuantised:
    """Return a copy of a network with fake-quantisers; its outputs may be nested lists and dicts of tensors.

    method: which of the network's methods is traced. Raises ValueError for an operation that cannot be quantised
    (named, with its layer) and for a name in `settings.float16` that fits nothing.
    """
    settings = settings or Settings()
    model = copy.deepcopy(model)
    tracer = fx.Tracer()
    tracer.traced_func_name = method
    try:
        graph = fx.GraphModule(model, tracer.trace(model))
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(
            f"the network cannot be traced ({str(error).splitlines()[0]}); its forward must not branch on values"
        ) from error
    builder = _Builder(graph, settings)
    builder.check()
    builder.wrap_layers()
    placement = builder.place()
    return FakeQuantised(graph, placement, settings)


class _Builder:
    """One pass over one graph."""

    def __init__(self, graph: fx.GraphModule, settings: Settings) -> None:
        self.graph, self.settings = graph, settings
        self.nodes = [n for n in graph.graph.nodes if n.op not in ("output", "get_attr")]
        self.leader: dict[fx.Node, fx.Node] = {n: n for n in self.nodes}
        self.islands: set[str] = set()

    def module(self, node: fx.Node) -> nn.Module | None:
        return _module(self.graph, node) if node.op == "call_module" else None

    def is_layer(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), (nn.Conv2d, nn.Linear))

    def is_activation(self, node: fx.Node) -> bool:
        if node.op == "call_function":
            return node.target in ACTIVATION_FUNCTIONS
        return isinstance(self.module(node), ACTIVATIONS)

    def is_sum_or_product(self, node: fx.Node) -> bool:
        return node.op == "call_function" and node.target in (*SUMS, *PRODUCTS)

    def is_concat(self, node: fx.Node) -> bool:
        return node.op == "call_function" and node.target in (torch.cat, torch.concat)

    def keeps_grid(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in SAME_GRID_METHODS
        if node.op == "call_function":
            nearest = node.target is functional.interpolate and node.kwargs.get("mode", "nearest") == "nearest"
            return nearest or node.target in SAME_GRID_FUNCTIONS
        module = self.module(node)
        return isinstance(module, SAME_GRID_MODULES) or (isinstance(module, nn.Upsample) and module.mode == "nearest")

    def is_mean(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), MEANS) or (node.op == "call_function" and node.target in MEAN_FUNCTIONS)

    def check(self) -> None:
        """Refuse what the compiler could not run in integers, before anything is changed."""
        known = (self.is_layer, self.is_activation, self.is_sum_or_product, self.is_concat, self.keeps_grid)
        for node in self.nodes:
            fine = node.op == "placeholder" or isinstance(self.module(node), nn.BatchNorm2d)
            if not fine and not self.is_mean(node) and not any(test(node) for test in known):
                what = type(self.module(node)).__name__ if node.op == "call_module" else str(node.target)
                raise ValueError(
                    f"layer {node.name} uses {what}, which cannot be quantised for the NPU; supported are {SUPPORTED}"
                )
        names = [str(n.target) for n in self.nodes if self.is_layer(n)]
        for wanted in self.settings.float16:
            hit = [n for n in names if n == wanted or n.startswith(f"{wanted}.")]
            if not hit:
                raise ValueError(
                    f"float16 names {wanted!r}, no convolution is called so; there are {', '.join(names[:4])}, ..."
                )
            self.islands.update(hit)

    def wrap_layers(self) -> None:
        """Replace convolutions and linear layers by ones with fake-quantised weights."""
        for node in self.nodes:
            if self.is_layer(node) and str(node.target) not in self.islands:
                norm = self._norm_behind(node)
                if norm is not None:
                    norm = NormBehind.of(norm)
                    _replace(self.graph, str(next(iter(node.users)).target), norm)
                layer = wrap(
                    self.graph.get_submodule(str(node.target)), norm, self.settings.weight_bits, str(node.target)
                )
                _replace(self.graph, str(node.target), layer)

    def _norm_behind(self, node: fx.Node) -> nn.BatchNorm2d | None:
        users = list(node.users)
        module = self.module(users[0]) if len(users) == 1 else None
        return module if isinstance(module, nn.BatchNorm2d) else None

    def last_of(self, node: fx.Node) -> fx.Node:
        """Return the end of the operation that begins at a convolution or sum: its BatchNorm, then its activation."""
        end = node
        while len(end.users) == 1:
            follower = next(iter(end.users))
            if not (isinstance(self.module(follower), nn.BatchNorm2d) or self.is_activation(follower)):
                break
            end = follower
            if self.is_activation(end):
                break
        return end

    def find(self, node: fx.Node) -> fx.Node:
        while self.leader[node] is not node:
            node = self.leader[node]
        return node

    def union(self, a: fx.Node, b: fx.Node) -> None:
        first, second = sorted((self.find(a), self.find(b)), key=self.nodes.index)
        self.leader[second] = first

    def place(self) -> Placement:
        """Group tensors by grid and put one quantiser behind each operation that computes new values."""
        sources: list[fx.Node] = []
        inside: set[fx.Node] = set()
        floats: set[fx.Node] = set()
        for node in self.nodes:
            if node in inside:
                continue
            if (
                node.op == "placeholder"
                or self.is_mean(node)
                or self.is_activation(node)
                or isinstance(self.module(node), nn.BatchNorm2d)
            ):
                sources.append(node)
            elif self.is_layer(node) or self.is_sum_or_product(node):
                end = self.last_of(node)
                walk = end
                while walk is not node:
                    inside.add(walk)
                    walk = walk.args[0]  # type: ignore[assignment]
                if str(node.target) in self.islands:
                    floats.add(end)
                sources.append(end)
            elif self.is_concat(node):
                for part in node.args[0] if node.args else node.kwargs["tensors"]:  # type: ignore[union-attr]
                    self.union(part, node)
            else:
                self.union(node.args[0], node)  # type: ignore[arg-type]
        return self._quantisers(sources, floats)

    def _quantisers(self, sources: Sequence[fx.Node], floats: set[fx.Node]) -> Placement:
        placement = Placement(islands=sorted(self.islands))
        members: dict[fx.Node, list[fx.Node]] = {}
        for node in sources:
            if node not in floats:
                members.setdefault(self.find(node), []).append(node)
        made: dict[fx.Node, FakeQuantizer] = {}
        for leader, nodes in members.items():
            name = f"{nodes[0].name}_quantiser"
            image = any(n.op == "placeholder" for n in nodes)
            made[leader] = quantiser = FakeQuantizer(
                8 if image else self.settings.activation_bits,
                observer=self.settings.observer,
                slots=len(nodes),
                fixed=(INPUT_SCALE, INPUT_ZERO_POINT) if image else None,
                name=name,
            )
            # Heads: nothing behind them would cast them.
            quantiser.exact = all(user.op == "output" for node in nodes for user in node.users)
            self.graph.add_submodule(name, quantiser)
            placement.groups[name] = [n.name for n in nodes]
            for slot, node in enumerate(nodes):
                with self.graph.graph.inserting_after(node):
                    rounded = self.graph.graph.call_module(name, (node, slot))
                node.replace_all_uses_with(rounded)
                rounded.args = (node, slot)  # its own input was replaced as well
        self._tell_layers_their_input(made)
        self.graph.graph.lint()
        self.graph.recompile()
        return placement

    def _tell_layers_their_input(self, made: dict[fx.Node, FakeQuantizer]) -> None:
        for node in self.nodes:
            layer = self.module(node)
            if isinstance(layer, (FakeConv2d, FakeLinear)):
                before: Any = node.args[0]
                while before not in self.leader:  # the inserted call stands between a source and its users
                    before = before.args[0]
                layer.fed_by(made.get(self.find(before)))


def _module(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return graph.get_submodule(str(node.target))


def _replace(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(graph.get_submodule(parent), own, module)
