"""The deployed form computed without doubt: to the bit as the vendor's simulator does, and in integers as the NPU does.

Both are copies of the network that `export_form` makes; only how a value is computed differs, see `numerics`. The order
of sums is that of ONNX Runtime's plain kernels (MLAS, `convolve.cpp` and `sgemm.cpp`), which the simulator shares.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .export_form import ExportForm, Rounding, WeightIntegers
from .half_islands import with_halves
from .insert import ACTIVATIONS, _replace
from .layers import geometry_of
from .numerics import DEPLOYED_BITS, Grid, divided_to_integers, per_channel

# Products that are summed up before they join the sum of the blocks before them, and pixels at a time.
_DEPTH, _PIXELS, _FEWEST_PIXELS = 128, 128, 16


def as_simulated(form: ExportForm) -> fx.GraphModule:
    """Return the network as the vendor's simulator computes it, float32, every rounding in the same place.

    Layers that are float16 get and give values rounded to it, see `half_islands`.
    """
    return _with_layers(form, lambda name, conv, scale: SimulatedConv2d(conv), SimulatedSiLU, SimulatedRounding)


def in_integers(form: ExportForm) -> fx.GraphModule:
    """Return the network with integer sums: int8 by int8 into int32, the bias among them, the rest in float64.

    It takes values that lie on each layer's input grid, which they do behind every rounding.
    """

    def layer(name: str, conv: nn.Conv2d, scale: float | None) -> nn.Module:
        if name not in form.weights or scale is None:
            return conv
        return IntegerConv2d(conv, form.weights[name], scale)

    return _with_layers(form, layer, nn.SiLU, IntegerRounding)


def _with_layers(
    form: ExportForm,
    layer: Callable[[str, nn.Conv2d, float | None], nn.Module],
    silu: Callable[[], nn.Module],
    rounding: Callable[[float, int], nn.Module],
) -> fx.GraphModule:
    """Return a copy of a form's network with other parts. layer: gets name, convolution and scale of its input."""
    module = form.module
    assert isinstance(module, fx.GraphModule)
    scales = {str(n.target): _input_scale(module, n) for n in module.graph.nodes if n.op == "call_module"}
    new = with_halves(module, form.weights)
    for name, part in list(new.named_modules(remove_duplicate=False)):
        if isinstance(part, nn.Conv2d):
            _replace(new, name, layer(name, part, scales.get(name)))
        elif isinstance(part, nn.SiLU):
            _replace(new, name, silu())
        elif isinstance(part, Rounding):
            _replace(new, name, rounding(part.scale, part.zero_point))
    return new


def _input_scale(module: fx.GraphModule, node: fx.Node) -> float | None:
    """Return the scale of the grid on which a layer's input lies, None where it was never rounded.

    What stands between a rounding and a layer moves values only, and the parts of a Concat share one grid, unless one
    of them is an island's.
    """
    if not node.all_input_nodes:
        return None
    scales: set[float | None] = set()
    for at in node.all_input_nodes:
        part = module.get_submodule(str(at.target)) if at.op == "call_module" else None
        if isinstance(part, Rounding):
            scales.add(part.scale)
        elif isinstance(part, (nn.Conv2d, nn.Linear, *ACTIVATIONS)):
            return None
        else:
            scales.add(_input_scale(module, at))
    return scales.pop() if len(scales) == 1 else None


def _take_over(new: nn.Conv2d, source: nn.Conv2d) -> None:
    """Make an empty convolution one with the geometry and the values of another."""
    with torch.device("meta"):
        nn.Conv2d.__init__(new, *geometry_of(source))
    new.weight, new.bias = source.weight, source.bias
    if source.padding_mode != "zeros" or isinstance(source.padding, str):
        raise ValueError(
            f"a convolution must pad with zeros by a number of pixels, got {source.padding_mode}, {source.padding}"
        )


class SimulatedConv2d(nn.Conv2d):
    """A convolution whose float32 sums come out to the bit as the simulator's: in blocks, each in order, bias last."""

    def __init__(self, source: nn.Conv2d) -> None:
        _take_over(self, source)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (b, c, h, w) float32."""
        assert not isinstance(self.padding, str)
        geometry = (self.kernel_size, self.dilation, self.padding, self.stride)
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in zip(x.shape[2:], *geometry, strict=True)
        )
        images = []
        for image in x:  # one by one: the simulator knows no batches, and columns of a batch would be large
            columns = F.unfold(image[None], *geometry)[0]  # type: ignore[arg-type]
            parts = zip(self.weight.flatten(1).chunk(self.groups), columns.chunk(self.groups), strict=True)
            images.append(torch.cat([sums_in_blocks(w, c) for w, c in parts]))
        y = torch.stack(images)
        if self.bias is not None:
            y = y + self.bias[:, None]
        return y.view(len(x), -1, height, width)


def sums_in_blocks(weights: Tensor, columns: Tensor) -> Tensor:
    """Return weights (m, k) @ columns (k, n), float32, summed up as MLAS does it: blocks of k in turn."""
    depth = _block_depth(columns.shape[1], columns.shape[0])
    total: Tensor | None = None
    for first in range(0, columns.shape[0], depth):
        block = _sums_in_order(weights[:, first : first + depth], columns[first : first + depth])
        total = block if total is None else block + total
    assert total is not None
    return total


def _block_depth(pixels: int, products: int) -> int:
    """Return how many products make a block: more than usual where an output has few pixels."""
    depth, width = _DEPTH, _PIXELS
    if pixels < products:
        while width > _FEWEST_PIXELS and width // 2 >= pixels:
            depth, width = depth * 2, width // 2
    return depth


def _sums_in_order(weights: Tensor, columns: Tensor) -> Tensor:
    """Return weights (m, k) @ columns (k, n) with each sum taken in order, one fused multiply-add per product."""
    # Of longer sums a library makes blocks of its own.
    fast = columns.shape[0] <= _DEPTH and _library_sums_in_order()
    return _by_one_thread(weights, columns) if fast else fused_in_order(weights, columns)


def _by_one_thread(weights: Tensor, columns: Tensor) -> Tensor:
    """Return weights @ columns; several threads may share one sum, and then add its parts in another order."""
    threads = torch.get_num_threads()
    if threads == 1:
        return weights @ columns
    torch.set_num_threads(1)
    try:
        return weights @ columns
    finally:
        torch.set_num_threads(threads)


def fused_in_order(weights: Tensor, columns: Tensor) -> Tensor:
    """Return weights (m, k) @ columns (k, n), float32, one fused multiply-add after the other; slow.

    A product of two float32 is exact in float64, so that only the sum is rounded, as in a fused multiply-add.
    """
    total = torch.zeros(weights.shape[0], columns.shape[1])
    for w, c in zip(weights.T.double(), columns.double(), strict=True):
        total = (torch.outer(w, c) + total).float()
    return total


@functools.cache
def _library_sums_in_order() -> bool:
    """Whether this machine's matrix product sums in order within a block; those with fused multiply-add do."""
    seeded = torch.Generator().manual_seed(0)
    one, other = torch.randn(48, _DEPTH, generator=seeded), torch.randn(_DEPTH, 200, generator=seeded)
    return torch.equal(_by_one_thread(one, other), fused_in_order(one, other))


class SimulatedSiLU(nn.Module):
    """x * (1 / (1 + exp(-x))), each operation rounded to float32, exp to the nearest.

    torch's own SiLU divides once less, and the exp of a library for vectors is not always the nearest.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the SiLU of float32 values, same shape."""
        return x * (1 / (1 + torch.exp(-x.double()).float()))


class SimulatedRounding(nn.Module):
    """A rounding that divides by the scale; torch's own multiplies by its reciprocal, another value now and then."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor, slot: int = 0) -> Tensor:
        """Return x on the grid, same shape, float32. slot: as in `Rounding`."""
        return _rounded(x, torch.tensor(self.scale, dtype=torch.float32), self.zero_point)


class IntegerConv2d(nn.Conv2d):
    """A convolution of integers: exact sums, then one product with the float32 step of each channel."""

    def __init__(self, source: nn.Conv2d, weights: WeightIntegers, scale: float) -> None:
        _take_over(self, source)
        self.scale = scale
        self.step = torch.tensor(scale, dtype=torch.float32) * weights.scale
        self.integers = weights.integers.double() - per_channel(weights.zero_point.double(), weights.integers.ndim)
        self.bias_integers = None if source.bias is None else (source.bias.double() / self.step.double()).round()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (b, c, h, w) values of the input's grid; float64, not rounded."""
        # float64 holds each sum of int8 products that fits into int32.
        sums = self._conv_forward((x.double() / self.scale).round(), self.integers, self.bias_integers)
        return sums * per_channel(self.step.double(), sums.ndim, axis=1)


class IntegerRounding(nn.Module):
    """A rounding of float64 values to the grid of int8."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor, slot: int = 0) -> Tensor:
        """Return x on the grid, same shape, float32. slot: as in `Rounding`."""
        return _rounded(x.double(), torch.tensor(self.scale, dtype=torch.float64), self.zero_point).float()


def _rounded(x: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    integers = divided_to_integers(x, scale, torch.tensor(zero_point), Grid(DEPLOYED_BITS))
    return (integers - zero_point).to(scale.dtype) * scale
