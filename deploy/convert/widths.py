"""Which channel counts a network can choose, what each wastes of the NPU's arrays, and what another count would cost.

A count is rarely one layer's: what a convolution puts out, the layers behind it take in, through sums, splits and
concatenations. So the channels of all maps are cut into runs that can only change together; a run's new width is set in
every layer that it touches, and the whole network is priced again. The image's channels and those of the network's
outputs are nobody's to choose.

What is lost counts where channels do not fill whole groups: INT8 pays 32 in by 32 out, float16 32 in by 16 out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .cycles import IN_GROUP, OUT_GROUP, Precision, arithmetic_cycles
from .layer_costs import LayerCost, closed_form, total_of
from .network_shapes import Network, NetworkLayer

ROUND_TO = 32


@dataclass(frozen=True)
class OtherWidth:
    """A run at another width. cycles: of the whole network, against now; negative saves. costs: of every layer then."""

    channels: int
    cycles: int
    costs: tuple[LayerCost, ...] = field(repr=False)


@dataclass(frozen=True)
class Width:
    """A run of channels that can only change together.

    layers: convolutions that put it out or take it in. wider, narrower: at the next multiples of 32, None where there
    is none.
    """

    channels: int
    layers: tuple[str, ...]
    wider: OtherWidth | None
    narrower: OtherWidth | None


@dataclass(frozen=True)
class Loss:
    """One convolution that does not fill the arrays. filled: share of the paid multiplications that are real, 0 to 1.

    lost_cycles: those of the arithmetic that whole groups cost beyond the channels that are there.
    """

    layer: str
    in_channels: int
    out_channels: int
    filled: float
    lost_cycles: int


def losses(network: Network, precision: Precision) -> list[Loss]:
    """Return the plain convolutions whose channels do not fill whole groups, the dearest first."""
    found = []
    for layer in network.convolutions:
        conv = layer.conv
        if conv is None or conv.depthwise:
            continue
        paid = 1.0
        for channels, group in ((conv.in_channels, IN_GROUP), (conv.out_channels, OUT_GROUP[precision])):
            paid *= channels / (-(-channels // group) * group)
        if paid < 1:
            lost = round(arithmetic_cycles(conv, precision) * (1 - paid))
            found.append(Loss(layer.name, conv.in_channels, conv.out_channels, paid, lost))
    return sorted(found, key=lambda loss: -loss.lost_cycles)


def widths(network: Network, precision: Precision) -> list[Width]:
    """Return the runs of channels that are no multiple of 32, as they are and rounded; the best gain first.

    A layer whose channels cannot be followed (a kind that mixes them) ends its runs: they are left out.
    """
    if not network.connected:
        return []
    runs = _Runs(network)
    now = total_of(closed_form(network, precision))
    found = []
    for run, channels in runs.free.items():
        if channels % ROUND_TO == 0:
            continue
        up = (channels // ROUND_TO + 1) * ROUND_TO
        down = channels // ROUND_TO * ROUND_TO
        wider, narrower = (
            _priced(runs.resized({run: size}), precision, size, now) if size else None for size in (up, down)
        )
        found.append(Width(channels, runs.layers_of(run), wider, narrower))
    return sorted(found, key=lambda width: min(o.cycles for o in (width.wider, width.narrower) if o))


def rounded(network: Network, precision: Precision, up: bool) -> tuple[LayerCost, ...] | None:
    """Return the costs with every free run rounded to a multiple of 32, at least 32; None where none changes."""
    if not network.connected:
        return None
    runs = _Runs(network)
    sizes = {
        run: max(ROUND_TO, (-(-channels // ROUND_TO) if up else channels // ROUND_TO) * ROUND_TO)
        for run, channels in runs.free.items()
        if channels % ROUND_TO
    }
    return closed_form(runs.resized(sizes), precision) if sizes else None


def _priced(network: Network, precision: Precision, channels: int, now: int) -> OtherWidth:
    costs = closed_form(network, precision)
    return OtherWidth(channels, total_of(costs) - now, costs)


class _Runs:
    """The channels of every map as runs. A run is a number; `parts` says into what it was cut, `joined` what it equals.

    free: width of each run that convolutions put out and the network does not fix.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sizes: list[int] = []
        self.parts: dict[int, tuple[int, int]] = {}
        self.joined: dict[int, int] = {}
        self.maps: dict[str, list[int]] = {}
        self.fixed: set[int] = set()
        made = {name for layer in network.layers for name in layer.outputs}
        for name, shape in network.maps.items():
            if name not in made:
                self.maps[name] = [self._new(shape[0])]
                self.fixed.update(self.maps[name])
        for layer in network.layers:
            self._follow(layer)
        self.maps = {name: self._flat(runs) for name, runs in self.maps.items()}
        self.fixed = set(self._flat(sorted(self.fixed)))
        seen = {run for runs in self.maps.values() for run in runs}
        self.free = {run: self.sizes[run] for run in sorted(seen - self.fixed)}

    def _follow(self, layer: NetworkLayer) -> None:
        """Give a layer's outputs their runs."""
        inputs = [self._flat(self.maps[name]) for name in layer.inputs]
        outs = [self.network.maps[name][0] for name in layer.outputs]
        if layer.kind == "Output":
            self.fixed.update(inputs[0])
        elif layer.conv is not None and not layer.conv.depthwise:
            self.maps[layer.outputs[0]] = [self._new(layer.conv.out_channels)]
        elif layer.kind == "Concat" and sum(map(self._width, inputs)) == outs[0]:
            self.maps[layer.outputs[0]] = [run for runs in inputs for run in runs]
        elif layer.kind == "Split" and sum(outs) == self._width(inputs[0]):
            rest = inputs[0]
            for name, size in zip(layer.outputs, outs, strict=True):
                self.maps[name], rest = self._cut(rest, size)
        elif layer.kind == "Add" and len(inputs) == 2 and all(self._width(runs) == outs[0] for runs in inputs):
            self.maps[layer.outputs[0]] = self._join(*inputs)
        elif len(outs) == 1 and layer.kind in {"MaxPool", "AveragePool", "Resize", "Upsample", "Conv"}:
            self.maps[layer.outputs[0]] = inputs[0]
        else:  # a kind that may mix channels: nothing that it touches may change
            for runs in inputs:
                self.fixed.update(runs)
            for name, size in zip(layer.outputs, outs, strict=True):
                self.maps[name] = [self._new(size)]
                self.fixed.update(self.maps[name])

    def _new(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _width(self, runs: Sequence[int]) -> int:
        return sum(self.sizes[run] for run in runs)

    def _flat(self, runs: Sequence[int]) -> list[int]:
        """Return the runs as they are known by now: parts for what was cut, one name for what was joined."""
        flat: list[int] = []
        for run in runs:
            while run in self.joined:
                run = self.joined[run]
            flat += self._flat(self.parts[run]) if run in self.parts else [run]
        return flat

    def _cut(self, runs: Sequence[int], size: int) -> tuple[list[int], list[int]]:
        """Cut a list of runs after `size` channels; a run that lies across is cut wherever it occurs."""
        runs = self._flat(runs)
        for number, run in enumerate(runs):
            if size == 0:
                return runs[:number], runs[number:]
            if self.sizes[run] > size:
                self.parts[run] = (self._new(size), self._new(self.sizes[run] - size))
                return self._cut(
                    [*runs[:number], *self.parts[run], *runs[number + 1 :]], self._width(runs[:number]) + size
                )
            size -= self.sizes[run]
        return runs, []

    def _join(self, left: Sequence[int], right: Sequence[int]) -> list[int]:
        """Make two lists of equal width the same channels, run by run."""
        left, right, both = self._flat(left), self._flat(right), []
        while left:
            size = min(self.sizes[left[0]], self.sizes[right[0]])
            (first, *_), left = self._cut(left, size)
            (second, *_), right = self._cut(right, size)
            (first,), (second,) = self._flat([first]), self._flat([second])
            if first != second:
                self.joined[second] = first
            both.append(first)
            left, right = self._flat(left), self._flat(right)
        return both

    def layers_of(self, run: int) -> tuple[str, ...]:
        """Return the convolutions that put a run out or take it in."""
        return tuple(
            layer.name
            for layer in self.network.convolutions
            if any(run in self.maps[name] for name in (*layer.inputs, *layer.outputs))
        )

    def resized(self, sizes: dict[int, int]) -> Network:
        """Return the network with some runs as wide as told."""

        def channels(name: str) -> int:
            return sum(sizes.get(run, self.sizes[run]) for run in self.maps[name])

        layers = []
        for layer in self.network.layers:
            if layer.conv is not None:
                wide, out = channels(layer.inputs[0]), channels(layer.outputs[0])
                groups = wide if layer.conv.depthwise else layer.conv.groups
                conv = replace(layer.conv, in_channels=wide, out_channels=out, groups=groups)
                layer = replace(layer, conv=conv)
            layers.append(layer)
        maps = {name: (channels(name), *shape[1:]) for name, shape in self.network.maps.items()}
        return replace(self.network, layers=tuple(layers), maps=maps)
