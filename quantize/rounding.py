"""Round to the grid and back, with the derivatives of LSQ and LSQ+ both ways, in few passes over the data.

With y the output and inside = the values whose integers are not cut off: dy/dx = inside; dy/dscale = (y - inside x) /
scale; dy/dzero_point = -scale outside, 0 inside. LSQ: Esser et al., arXiv:1902.08153; LSQ+: arXiv:2004.09576.

Torch's fake quantisation goes value by value, by way of 64-bit integers: on a CPU it takes ten times as long as the
SiLU before it. There the same numbers come from vectorised operations, in pieces that stay in the cache from one
operation to the next, and nothing is kept for the way back but the input, which the operation before holds anyway: the
integers are found again. On other devices torch's kernels are the fast ones, and what they return is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .numerics import Grid, per_channel

# Values worked on at once: 1 MB as float32, what a core's cache holds. With fewer the calls would cost more.
PIECE = 1 << 18

Gradients = tuple[Tensor, Tensor | None, Tensor | None]


def fake_quantise(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    grid: Grid,
    axis: int | None = None,
    *,
    factor: Tensor | None = None,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Round to the grid and back: (clamp(round(x / scale) + round(zero_point)) - round(zero_point)) * scale.

    x: any shape, float. scale, zero_point: scalars, or (channels,) along `axis`. factor: (channels,), where x times it
    is rounded and the result divided by it. Gradients reach all four, twice; those of scale and zero point come
    multiplied by `gain`. Computed in float32 and returned as `dtype`.
    """
    if x.device.type == "cpu":
        return _Again.apply(x, scale, zero_point, factor, grid, axis, gain, dtype)  # type: ignore[no-any-return]
    if factor is None:
        return _Kept.apply(x, scale, zero_point, grid, axis, gain, dtype)  # type: ignore[no-any-return]
    wide = per_channel(factor, x.ndim, axis or 0)
    return (_Kept.apply(x * wide, scale, zero_point, grid, axis, gain, torch.float32) / wide).to(dtype)


class _Again(torch.autograd.Function):
    """On a CPU: the integers are found again on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero: Tensor,
        factor: Tensor | None,
        grid: Grid,
        axis: int | None,
        gain: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero, factor)
        ctx.save_for_forward(x, scale, zero, factor)
        ctx.set_materialize_grads(False)
        ctx.told = grid, axis, gain, dtype
        if axis is not None:
            whole = per_channel(zero.round().clamp(grid.low, grid.high), x.ndim, axis)
            # Added, cut off at plain numbers, and taken away again: ends that differ by channel are not vectorised.
            y = _place(x, scale, factor, axis).round_().add_(whole).clamp_(grid.low, grid.high).sub_(whole)
            y.mul_(per_channel(scale, x.ndim, axis))
            return (y if factor is None else y.div_(per_channel(factor, x.ndim, axis))).to(dtype)
        (low, high), inverse = _ends_as_numbers(zero, grid), 1 / scale
        y = torch.empty(x.numel(), dtype=dtype)
        for part, out in zip(_pieces(x, x), y.split(PIECE), strict=True):
            out.copy_(part.float().mul(inverse).clamp_(low, high).round_().mul_(scale))
        return _unflat(y, x)

    @staticmethod
    @torch.no_grad()
    def jvp(ctx: Any, *moved: Any) -> Tensor:
        x, scale, zero, factor = ctx.saved_tensors
        grid, axis, _, dtype = ctx.told
        by_x, by_factor = _movements(moved[0], moved[3], ranges=moved[1:3], like=x)
        if axis is None:
            return _forward_by_pieces(by_x, x, scale, zero, grid, dtype)
        whole = per_channel(zero.round().clamp(grid.low, grid.high), x.ndim, axis)
        integers = _place(x, scale, factor, axis).round_().add_(whole)
        if factor is None or by_factor is None:
            return _strictly_between(by_x.float(), integers, grid.low - 0.5, grid.high + 0.5).to(dtype)
        # y = q(x f) / f, so that f moves y by (inside x - y) / f.
        wide, share = per_channel(factor, x.ndim, axis), per_channel(by_factor / factor, x.ndim, axis)
        passed = _strictly_between(by_x.float() + x.float() * share, integers, grid.low - 0.5, grid.high + 0.5)
        y = integers.clamp_(grid.low, grid.high).sub_(whole).mul_(per_channel(scale, x.ndim, axis)).div_(wide)
        return passed.sub_(y.mul_(share)).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 8
        x, scale, zero, factor = ctx.saved_tensors
        grid, axis, gain, _ = ctx.told
        ranges = any(ctx.needs_input_grad[1:4])
        to_factor: Tensor | None = None
        to_scale: Tensor | None
        to_zero: Tensor | None
        if torch.is_grad_enabled():  # the gradient's own gradient will be asked for
            y = fake_quantise(x, scale, zero, grid, axis, factor=factor)
            inside = _inside(x, scale, zero, factor, grid, axis)
            if factor is None:
                passed, to_scale, to_zero = _formula(gradient, x, scale, y, inside, axis)
            else:
                wide, over = per_channel(factor, x.ndim, axis), [d for d in range(x.ndim) if d != axis]
                passed, to_scale, to_zero = _formula(gradient / wide, x * wide, scale, y * wide, inside, axis)
                to_factor = (passed * x).sum(over) - (gradient * y).sum(over) / factor
                passed = passed * wide
        elif axis is None:
            passed, to_scale, to_zero = _by_pieces(gradient, x, scale, zero, grid, ranges)
        else:
            passed, to_scale, to_zero, to_factor = _by_channel(gradient, x, scale, zero, factor, grid, axis)
        if not ranges or to_scale is None or to_zero is None:
            return passed, None, None, None, None, None, None, None
        return passed, to_scale * gain, to_zero * gain, to_factor, None, None, None, None


class _Kept(torch.autograd.Function):
    """Elsewhere: torch's kernel, which hands out the mask of what was not cut off."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, grid: Grid, axis: int | None, gain: float, dtype: torch.dtype
    ) -> Tensor:
        integers, ends = zero.round().clamp(grid.low, grid.high).to(torch.int32), (grid.low, grid.high)
        if axis is None:
            y, inside = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
                x.float(), scale, integers, torch.ones(1, device=x.device), *ends
            )
        else:
            y, inside = torch.ops.aten.fake_quantize_per_channel_affine_cachemask(
                x.float(), scale, integers, axis, *ends
            )
        y = y.to(dtype)
        ctx.save_for_backward(x, scale, y, inside)
        ctx.save_for_forward(x, inside)
        ctx.set_materialize_grads(False)
        ctx.told = axis, gain
        return y  # type: ignore[no-any-return]

    @staticmethod
    @torch.no_grad()
    def jvp(ctx: Any, *moved: Any) -> Tensor:
        x, inside = ctx.saved_tensors
        by_x, _ = _movements(moved[0], None, ranges=moved[1:3], like=x)
        return by_x * inside

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 7
        x, scale, y, inside = ctx.saved_tensors
        axis, gain = ctx.told
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return gradient * inside, None, None, None, None, None, None
        passed, to_scale, to_zero = _formula(gradient, x, scale, y, inside, axis)
        return passed, to_scale * gain, to_zero * gain, None, None, None, None


def _movements(
    by_x: Tensor | None, by_factor: Tensor | None, *, ranges: tuple[Any, ...], like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return how x and the factor move; a derivative along a range is not offered, nobody moves one by hand."""
    if any(moved is not None for moved in ranges):
        raise NotImplementedError("no forward derivative by a scale or zero point; ask for its gradient instead")
    return torch.zeros_like(like) if by_x is None else by_x, by_factor


def _forward_by_pieces(moved: Tensor, x: Tensor, scale: Tensor, zero: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Return how the rounded values move where the values do, for one range."""
    (low, high), inverse = _ends_as_numbers(zero, grid), 1 / scale
    y = torch.empty(x.numel(), dtype=dtype)
    for part, given, out in zip(_pieces(x, x), _pieces(moved, x), y.split(PIECE), strict=True):
        place = part.float().mul(inverse)
        out.copy_(_strictly_between(given.float(), place, low - 0.5, high + 0.5))
    return _unflat(y, x)


def _place(x: Tensor, scale: Tensor, factor: Tensor | None, axis: int | None) -> Tensor:
    """Return where x, times the factor, lies on the grid, counted from the zero point and before it is rounded."""
    # Times the reciprocal, as torch's kernels do, and in this order: one value in a million would else fall elsewhere.
    if axis is None:
        return x.float() * (1 / scale)
    inverse = per_channel(1 / scale, x.ndim, axis)
    return x.float() * inverse if factor is None else (x.float() * per_channel(factor, x.ndim, axis)).mul_(inverse)


def _ends(zero: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest integer, counted from the zero point."""
    whole = zero.round().clamp(grid.low, grid.high)
    return grid.low - whole, grid.high - whole


def _ends_as_numbers(zero: Tensor, grid: Grid) -> tuple[int, int]:
    """Return what `_ends` does for one range, in a quarter of the time; Python rounds ties to even, too."""
    whole = min(max(round(float(zero)), grid.low), grid.high)
    return grid.low - whole, grid.high - whole


def _formula(
    gradient: Tensor, x: Tensor, scale: Tensor, y: Tensor, inside: Tensor, axis: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by x, scale and zero point in operations that can be differentiated again."""
    over = [d for d in range(x.ndim) if d != axis]
    gradient = gradient.float()
    passed = gradient * inside
    if axis is None:
        to_scale = (_dot(gradient, y.float()) - _dot(passed, x.float())) / scale
        to_zero = -scale * (gradient.sum() - passed.sum())
    else:
        to_scale = (gradient * y - passed * x).sum(over) / scale
        to_zero = -scale * (gradient - passed).sum(over)
    return passed.to(x.dtype), to_scale, to_zero


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of products in one pass, whichever memory layout the first tensor has."""
    return torch.dot(_flat(a, a), _flat(b, a))


@torch.no_grad()
def _inside(x: Tensor, scale: Tensor, zero: Tensor, factor: Tensor | None, grid: Grid, axis: int | None) -> Tensor:
    low, high = (v if axis is None else per_channel(v, x.ndim, axis) for v in _ends(zero, grid))
    integers = _place(x, scale, factor, axis).round_()
    return (integers >= low) & (integers <= high)


def _by_pieces(gradient: Tensor, x: Tensor, scale: Tensor, zero: Tensor, grid: Grid, ranges: bool) -> Gradients:
    """Return what `_formula` does for one range, without a derivative of its own.

    With the gradient in integers, y / scale - inside x / scale, so that little cancels.
    """
    (low, high), inverse = _ends_as_numbers(zero, grid), 1 / scale
    passed = torch.empty(x.numel(), dtype=x.dtype)
    to_scale, outside = torch.zeros(()), torch.zeros(())
    for part, given, out in zip(_pieces(x, x), _pieces(gradient, x), passed.split(PIECE), strict=True):
        place, given = part.float().mul(inverse), given.float()
        integers = place.round()
        inside = _strictly_between(given, integers, low - 0.5, high + 0.5)
        out.copy_(inside)
        if ranges:
            to_scale += torch.dot(given, integers.clamp_(low, high)) - torch.dot(inside, place)
            outside += given.sum() - inside.sum()
    return _unflat(passed, x), to_scale, -scale * outside


def _by_channel(
    gradient: Tensor, x: Tensor, scale: Tensor, zero: Tensor, factor: Tensor | None, grid: Grid, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return what `_formula` does along an axis, and the gradient by the factor, without a derivative of their own.

    Scale and factor only come as scale / factor, so their gradients are the same sum.
    """
    whole = per_channel(zero.round().clamp(grid.low, grid.high), x.ndim, axis)
    over = [d for d in range(x.ndim) if d != axis]
    gradient, place = gradient.float(), _place(x, scale, factor, axis)
    integers = place.round().add_(whole)
    passed = _strictly_between(gradient, integers, grid.low - 0.5, grid.high + 0.5)
    ends = integers.clamp_(grid.low, grid.high).sub_(whole)
    outside = gradient.sum(over) - passed.sum(over)
    by_size = ends.mul_(gradient).addcmul_(passed, place, value=-1).sum(over)
    passed = passed.to(x.dtype)
    if factor is None:
        return passed, by_size, -scale * outside, None
    size = scale / factor
    return passed, by_size / factor, -size * outside, -size / factor * by_size


# (gradient, x, low, high) -> the gradient where low < x < high, else 0: the only kernel that masks in one pass.
_strictly_between = torch.ops.aten.hardtanh_backward


def _pieces(values: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    return _flat(values, like).split(PIECE)


def _channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _flat(values: Tensor, like: Tensor) -> Tensor:
    """Return the values in the order in which `like` lies in memory, (n,): a view where both lie alike."""
    return (values.permute(0, 2, 3, 1) if _channels_last(like) else values).reshape(-1)


def _unflat(flat: Tensor, like: Tensor) -> Tensor:
    """Return values in the order of `_flat` in the shape, and in the memory layout, of `like`."""
    if not _channels_last(like):
        return flat.view(like.shape)
    b, c, h, w = like.shape
    return flat.view(b, h, w, c).permute(0, 3, 1, 2)
