"""The NPU's integer scheme in one place: ranges, rounding, scale and zero point, bias, and the weight lattice.

What the RK3588 computes with int8 (the vendor's converter and simulator, measured):

- Activations: one scale and zero point per tensor, asymmetric, -128 ... 127, zero always representable. real =
  (integer - zero_point) * scale.
- Weights: one scale and zero point per output channel, asymmetric.
- Bias: int32 on the grid of the products, scale = input scale * weight scale of the channel, zero point 0.
- The input image: uint8 pixels with mean 0 and std 255, which is scale 1/255 and zero point -128.
- A convolution and the SiLU or ReLU behind it are one operation: the value between them is never rounded.
- Rounding is to the nearest, ties to even, as in torch and NumPy.

How the vendor's simulator computes this, to the bit. Written down literally (`exact_forms`) it gives every integer of
two YOLOv8n, inside and at the heads, on every image tried:

1. Activations and weights become real, (integer - zero_point) * scale, rounded to float32. So is the bias, its int32
   times the float32 product of the two scales.
2. A convolution sums real products in float32 as ONNX Runtime's plain kernels do: in the order input channel, row,
   column, 128 at a time (more where an output has fewer than 65 pixels), each block by one fused multiply-add per
   product, the blocks one after the other, the bias last.
3. SiLU is y * (1 / (1 + exp(-y))): exp rounded to the nearest float32, then three operations, each rounded. y / (1 +
   exp(-y)), or a logistic function of float64 that is rounded once, give other integers now and then.
4. A sum (Add) is one float32 addition. Split, Concat, pooling and resizing move integers.
5. Rounding divides by the scale, to the nearest, ties to even; times its reciprocal is another integer now and then.

Only the sums depend on an order. The NPU sums int8 products in int32, exactly; on the simulator's own integers the two
differ in about one value in a million, by one. That is enough for a network to amplify: from pixels to heads, exact
sums or those of another library make up to a third of a YOLOv8n's outputs differ by one.

Two habits of the converter shape the lattice. Weights whose zero points are *all* zero are taken for symmetric ones,
rescaled by 128/127 and rounded again; `marked_asymmetric` gives one channel the zero point -1, which changes no value.
And symmetric activations are rescaled likewise, which is why activations are asymmetric here.

Other bit widths than 8 use the same rules on a coarser or finer grid. They exist for training only: this NPU runs 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BIAS_BITS = 32
INPUT_SCALE = 1 / 255
INPUT_ZERO_POINT = -128
DEPLOYED_BITS = 8
BITS = range(2, 17)
# Below this a range is no range: the smallest normal float16, and far below any activation that matters.
SMALLEST_SCALE = 2.0**-24


@dataclass(frozen=True)
class Grid:
    """The integers of a signed bit width: -2^(bits-1) ... 2^(bits-1) - 1."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be {BITS.start} to {BITS.stop - 1}, got {self.bits}")

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1

    @property
    def steps(self) -> int:
        """The number of steps between the two: 255 for 8 bits."""
        return self.high - self.low


def scale_and_zero_point(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the scale (float32) and zero point (int32) that put the range low ... high on the grid.

    low, high: any equal shape, real values; 0 is included in each range. scale = (high - low) / steps, zero_point =
    round(grid.low - low / scale). Raises ValueError for a range that is not finite or the wrong way round.
    """
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise ValueError("a range to quantise must be finite, got NaN or infinity; look for values that overflowed")
    if bool((low > high).any()):
        raise ValueError(
            f"a range to quantise must not end below its start, got {float(low.max())} to {float(high.min())}"
        )
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / grid.steps).clamp(min=SMALLEST_SCALE)
    zero_point = (grid.low - low / scale).round().clamp(grid.low, grid.high)
    return scale, zero_point.to(torch.int32)


def represented_range(scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest real value that a scale and zero point can say."""
    return (grid.low - zero_point) * scale, (grid.high - zero_point) * scale


def to_integers(real: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Return the nearest integers of the grid, int32, same shape; scale and zero_point must broadcast."""
    # Times the reciprocal, as torch's fake quantisation does: one weight in a million would else fall elsewhere.
    return ((real * (1 / scale)).round() + zero_point).clamp(grid.low, grid.high).to(torch.int32)


def divided_to_integers(real: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Return the nearest integers as the simulator finds them: real / scale, not times 1 / scale; int32, same shape."""
    return ((real / scale).round() + zero_point).clamp(grid.low, grid.high).to(torch.int32)


def to_real(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return (integers - zero_point) * scale, float32."""
    return (integers - zero_point).float() * scale


def per_channel(values: Tensor, ndim: int, axis: int = 0) -> Tensor:
    """Reshape (channels,) so that it broadcasts along `axis` of a tensor of `ndim` dimensions."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.view(shape)


def bias_integers(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Return the int32 bias of a convolution: round(bias / (input_scale * weight_scale)), (channels,).

    A bias beyond int32 is cut off, as the NPU's accumulator would.
    """
    limit = 2 ** (BIAS_BITS - 1)
    exact = bias.double() / bias_step(input_scale, weight_scale).double()
    return exact.round().clamp(-limit, limit - 1).to(torch.int32)


def bias_step(input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Return the grid of the products, input_scale * weight_scale, (channels,), rounded to float32.

    The rounding matters: the vendor's simulator multiplies the int32 bias with this float32 product. With it a graph
    agrees bit for bit, with a product of double precision one value in a hundred thousand flips at each layer, and
    5 to 10 in a hundred at the end of a YOLOv8n.
    """
    return input_scale.float() * weight_scale.float()


def bias_on_grid(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Return the real values of `bias_integers`: their float32 times the float32 step."""
    return bias_integers(bias, input_scale, weight_scale).float() * bias_step(input_scale, weight_scale)


def marked_asymmetric(integers: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same weights with at least one zero point that is not 0, so that the converter leaves them alone.

    integers: (channels, ...) int32 of the 8-bit grid. zero_point: (channels,) int32. One channel that does not use the
    smallest integer is moved down by one together with its zero point: no real value changes. Raises ValueError where
    every channel uses it.
    """
    if bool((zero_point != 0).any()):
        return integers, zero_point
    free = (integers.flatten(1).amin(1) > Grid(DEPLOYED_BITS).low).nonzero()
    if not len(free):
        raise ValueError(
            "weights with all zero points 0 must leave -128 free in one channel, every channel uses it; "
            "quantise them asymmetrically"
        )
    channel = int(free[0])
    integers, zero_point = integers.clone(), zero_point.clone()
    integers[channel] -= 1
    zero_point[channel] -= 1
    return integers, zero_point
