"""Measure, layer by layer, what rounding to integers costs: signal-to-noise ratios of a quantised against its float
network.

The float network is the same one, with the same trained and folded weights, and nothing rounded. Both run side by side,
one image at a time, and wherever a value is rounded three figures are kept, in dB of power: 10 log10(sum ref^2 / sum
(ref - q)^2) over all images.

- accumulated: everything before is rounded too. It tells how good the values are that the next layer gets.
- own: only this layer's weights, bias and output are rounded, its input is the float network's. It tells who is to
  blame: noise that a layer merely inherits does not count.
- weights: as own, before the output is rounded. Where it is close to own, the weights are the cause, else the range of
  the output.

6 dB are one bit. A uniform grid of 8 bits whose range is four standard deviations to each side would give 41 dB.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from deploy.convert.cycles import Convolution
from quantize.fake_quant import FakeQuantizer
from quantize.insert import FakeQuantised, Settings
from quantize.layers import FakeConv2d, FakeLinear
from quantize.numerics import DEPLOYED_BITS

from .dataset import Batch
from .loss import Targets
from .model import Yolov8
from .quantised_model import QuantisedYolov8
from .quantising import observe

# A tensor that is 0 in the float network and not in the quantised one has no ratio; it stands for "nothing but noise".
LOWEST_DB = -100.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LayerNoise:
    """What rounding costs at one place of the network.

    name: the operation of the traced graph whose value is rounded. layer: the convolution or linear layer that made it,
    by its module path; "" for sums and the like. label: for people. quantiser: which one rounds; the parts of a Concat
    share one. own_db, accumulated_db, weights_db: see the module; infinite where nothing was lost. saturated: share of
    the values beyond the grid's ends. integers_used, integers: how many of the grid's integers appeared, of how many.
    readers: the layers that compute with this value as it is. reads_image: whether the layer's input is the image.
    convolution: the layer's shape, None for other layers.
    """

    name: str
    layer: str
    label: str
    quantiser: str
    own_db: float
    accumulated_db: float
    weights_db: float
    saturated: float
    integers_used: int
    integers: int
    readers: tuple[str, ...] = ()
    reads_image: bool = False
    convolution: Convolution | None = None


def diagnose(
    model: QuantisedYolov8 | FakeQuantised, images: Iterable[np.ndarray], progress: Progress | None = None
) -> list[LayerNoise]:
    """Return the figures of every place where a value is rounded, in the network's order; the input is left out.

    model: with known ranges; it is not changed. A quantiser that is switched off loses nothing. images: letterboxed
    (h, w, 3) uint8 RGB, one by one, all of one size; never more than one is in memory with its activations. progress:
    called with (done, total) after each image, total 0 where it is not known. Raises ValueError for images of another
    kind, for none at all, and for a range that is not known.
    """
    twin = _Twin(model.network if isinstance(model, QuantisedYolov8) else model)
    total = len(images) if isinstance(images, Sized) else 0
    done = 0
    for done, image in enumerate(_checked(images), 1):
        twin.see(_as_input(image).float().to(twin.device) / 255)
        if progress:
            progress(done, total)
    if not done:
        raise ValueError("a diagnosis needs at least one image, got none; 8 to 16 from the val split are usual")
    return twin.result()


def calibrated_stand_in(model: Yolov8, images: Iterable[np.ndarray]) -> QuantisedYolov8:
    """Return a float network with fake-quantisers as the toolkit's calibration would set them, *approximately*.

    The toolkit does not tell its ranges. These are the smallest and largest value seen in the calibration images, which
    is its algorithm "normal"; "mmse" and "kl_divergence" cut outliers off. Its grouping of tensors may differ too.
    model: not changed. images: (h, w, 3) uint8 RGB, letterboxed. Raises ValueError as `diagnose` does.
    """
    found = QuantisedYolov8(model, Settings(DEPLOYED_BITS, DEPLOYED_BITS, "min_max"))  # which inserts into a copy
    found.cpu().fold()
    seen = 0

    def batches() -> Iterator[Batch]:
        nonlocal seen
        for image in _checked(images):
            seen += 1
            nothing = Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0).bool())
            yield Batch(_as_input(image), nothing)

    observe(found, batches(), torch.device("cpu"))
    if not seen:
        raise ValueError("calibration needs at least one image, got none; 32 to 128 from the train split are usual")
    found.network.freeze()
    return found.eval()


def _checked(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape: tuple[int, ...] | None = None
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.shape != (shape or image.shape):
            wanted = shape or "(h, w, 3)"
            raise ValueError(f"images must be uint8 with shape {wanted}, got {image.dtype} {image.shape}; letterbox it")
        shape = image.shape
        yield image


def _as_input(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


class _Values(NamedTuple):
    """What a node of the graph gives: in float, rounded as the network stands, and with only its own layer rounded.

    own is None behind the place of rounding: what follows gets the float network's values again.
    """

    reference: Any
    rounded: Any
    own: Any = None


class _Weights(NamedTuple):
    """Weight and bias of a layer, in float and on the grid."""

    weight: Tensor
    bias: Tensor | None
    rounded_weight: Tensor
    rounded_bias: Tensor | None


@dataclass
class _Place:
    """A call of a quantiser, and sums over all images in float64.

    source: the operation whose value it rounds. layer: the layer that the value began at. used: which integers of the
    grid appeared.
    """

    source: fx.Node
    layer: fx.Node | None
    quantiser: FakeQuantizer
    used: Tensor
    signal: float = 0.0
    own: float = 0.0
    accumulated: float = 0.0
    weights: float = 0.0
    values: int = 0
    beyond: int = 0


class _Twin:
    """Runs both networks side by side, node by node, each value kept only as long as a later node needs it."""

    def __init__(self, network: FakeQuantised) -> None:
        network = copy.deepcopy(network).eval()
        with torch.no_grad():
            network.fold_batch_norm()
            self.layers = {name: _weights_of(layer) for name, layer in network.layers().items()}
        self.shapes: dict[str, Convolution] = {}
        self.graph = network.graph
        self.nodes = list(self.graph.graph.nodes)
        self.device = next(iter(network.quantisers().values())).scale.device
        self.run_node = fx.Interpreter(self.graph)
        self.places = {node: place for node in self.nodes if (place := self._place(node)) is not None}
        last_use: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            last_use.update({needed: node for needed in node.all_input_nodes})
        self.free_after: dict[fx.Node, list[fx.Node]] = {}
        for needed, node in last_use.items():
            self.free_after.setdefault(node, []).append(needed)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _place(self, node: fx.Node) -> _Place | None:
        quantiser = self._module(node)
        if not isinstance(quantiser, FakeQuantizer) or quantiser.fixed:
            return None
        source = node.args[0]
        assert isinstance(source, fx.Node)
        begin: Any = source
        while isinstance(begin, fx.Node) and not isinstance(self._module(begin), (FakeConv2d, FakeLinear)):
            # Behind a layer stand at most its BatchNorm and activation, each with one input.
            begin = begin.args[0] if len(begin.all_input_nodes) == 1 else None
            if isinstance(begin, fx.Node) and isinstance(self._module(begin), FakeQuantizer):
                begin = None
        used = torch.zeros(quantiser.grid.steps + 1, dtype=torch.bool)
        return _Place(source, begin if isinstance(begin, fx.Node) else None, quantiser, used)

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Run one image, (1, 3, h, w) float 0 to 1, and add up what was lost."""
        values: dict[fx.Node, _Values] = {}
        for node in self.nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                values[node] = _Values(x, x)
            elif node in self.places:
                values[node] = self._round(self.places[node], values)
            else:
                values[node] = self._run(node, values)
            for needed in self.free_after.get(node, ()):
                del values[needed]

    def _run(self, node: fx.Node, values: dict[fx.Node, _Values]) -> _Values:
        module = self._module(node)
        if isinstance(module, FakeQuantizer):  # of the input, whose pixels lie on its grid
            given = values[node.all_input_nodes[0]]
            return _Values(given.reference, module(given.rounded))
        if isinstance(module, (FakeConv2d, FakeLinear)):
            given, w = values[node.all_input_nodes[0]], self.layers[str(node.target)]
            reference = _apply(module, given.reference, w.weight, w.bias)
            if isinstance(module, FakeConv2d):
                self.shapes[str(node.target)] = _shape_of(module, given.reference, reference)
            return _Values(
                reference,
                _apply(module, given.rounded, w.rounded_weight, w.rounded_bias),
                _apply(module, given.reference, w.rounded_weight, w.rounded_bias),
            )

        def call(choose: Callable[[_Values], Any]) -> Any:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: choose(values[n]))
            return getattr(self.run_node, node.op)(node.target, args, kwargs)

        reference, rounded = call(lambda v: v.reference), call(lambda v: v.rounded)
        if all(values[n].own is None for n in node.all_input_nodes):
            return _Values(reference, rounded)
        return _Values(reference, rounded, call(lambda v: v.reference if v.own is None else v.own))

    def _round(self, place: _Place, values: dict[fx.Node, _Values]) -> _Values:
        given, quantiser = values[place.source], place.quantiser
        reference = given.reference
        rounded = quantiser(given.rounded)
        unrounded = reference if given.own is None else given.own
        place.signal += _energy(reference)
        place.accumulated += _energy(reference - rounded)
        place.own += _energy(reference - quantiser(unrounded))
        place.weights += 0.0 if given.own is None else _energy(reference - unrounded)
        place.values += reference.numel()
        scale, zero_point = quantiser.parameters_as_integers()
        grid = quantiser.grid
        if quantiser.enabled and quantiser.rounding:
            integers = (given.rounded / scale).round() + zero_point
            place.beyond += int(((integers < grid.low) | (integers > grid.high)).sum())
            index = (integers.clamp(grid.low, grid.high) - grid.low).long().flatten()
            place.used |= (torch.bincount(index, minlength=len(place.used)) > 0).cpu()
        return _Values(reference, rounded)

    def _reads_image(self, layer: fx.Node) -> bool:
        given = self._module(layer.all_input_nodes[0])
        return isinstance(given, FakeQuantizer) and given.fixed

    def _readers(self, node: fx.Node) -> list[str]:
        found: dict[str, None] = {}
        behind = list(node.users)
        while behind:
            user = behind.pop(0)
            module = self._module(user)
            if isinstance(module, (FakeConv2d, FakeLinear)):
                found[str(user.target)] = None
            elif not isinstance(module, FakeQuantizer):
                behind.extend(user.users)
        return list(found)

    def result(self) -> list[LayerNoise]:
        """Return the figures of what was seen."""
        found = []
        for node, place in self.places.items():
            layer = str(place.layer.target) if place.layer is not None else ""
            found.append(
                LayerNoise(
                    name=place.source.name,
                    layer=layer,
                    label=layer or _described(place.source),
                    quantiser=place.quantiser.name or place.source.name,
                    own_db=ratio_db(place.signal, place.own),
                    accumulated_db=ratio_db(place.signal, place.accumulated),
                    weights_db=ratio_db(place.signal, place.weights),
                    saturated=place.beyond / max(1, place.values),
                    integers_used=int(place.used.sum()),
                    integers=len(place.used),
                    readers=tuple(self._readers(node)),
                    reads_image=place.layer is not None and self._reads_image(place.layer),
                    convolution=self.shapes.get(layer),
                )
            )
        return found


def ratio_db(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise): infinite without noise, at least `LOWEST_DB`."""
    if noise == 0:
        return math.inf
    return max(LOWEST_DB, 10 * math.log10(signal / noise)) if signal > 0 else LOWEST_DB


def _energy(x: Tensor) -> float:
    return float(torch.sum(x.double().square()))


def _weights_of(layer: FakeConv2d | FakeLinear) -> _Weights:
    rounded_weight = layer.fake_weight()  # first: it may look at the weight's range, which the bias needs
    return _Weights(layer.weight, layer.bias, rounded_weight, layer.fake_bias())


def _shape_of(layer: FakeConv2d, before: Tensor, after: Tensor) -> Convolution:
    kernel, given, made = ((int(v[-2]), int(v[-1])) for v in (layer.kernel_size, before.shape, after.shape))
    return Convolution(layer.in_channels, layer.out_channels, kernel, given, made, layer.groups)


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, FakeConv2d):
        return layer._conv_forward(x, weight, bias)
    return nn.functional.linear(x, weight, bias)


def _described(node: fx.Node) -> str:
    """Name an operation that has no layer: where it stands, and what it is."""
    stack = node.meta.get("nn_module_stack") or {}
    inside = next((path for path in reversed(stack) if path), "")
    kind = node.name.rstrip("0123456789").rstrip("_")
    if node.op == "call_module":
        return str(node.target)
    return f"{inside} {kind}".strip()
