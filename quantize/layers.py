"""Convolution and linear layer with weights and bias on the NPU's grid going forward, and the BatchNorm behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .fake_quant import FakeQuantizer
from .numerics import DEPLOYED_BITS, Grid, bias_on_grid, per_channel, to_integers

# A channel whose BatchNorm gain has all but vanished carries nothing; dividing by less would only make noise.
SMALLEST_GAIN = 1e-5
# Integers for the bias of a channel: half of what int32 holds, so that ranges may still be learnt.
ROOM_FOR_BIAS = 2.0**30


class _WithFakeWeights:
    """What both layers share: the weight's quantiser, and the BatchNorm behind the layer until it is folded.

    With a BatchNorm behind it the *folded* weight is rounded, because that is what will be deployed: round(w k) with
    k = gain / sqrt(running variance + eps) of each output channel. Where the BatchNorm keeps its statistics (eval mode,
    as all training of a finished network has it), the layer does its work along: weight round(w k), bias shift - mean
    k, and the `NormBehind` passes on what comes; that saves a pass over every map, and its derivatives. Where it takes
    its statistics from the batch, the layer's output is as it expects it: w' = round(w k) / k.
    """

    weight: Any
    bias: Any
    weight_quantiser: FakeQuantizer

    def attach(self, source: nn.Module, norm: nn.BatchNorm2d | None, bits: int, name: str) -> None:
        """Take over weight and bias of `source` and remember the BatchNorm, which stays part of the graph."""
        self.weight, self.bias = source.weight, source.bias
        quantiser = FakeQuantizer(bits, axis=0, channels=int(self.weight.shape[0]), observer="min_max", name=name)
        self.weight_quantiser = quantiser
        # Not registered: the graph owns it, under its old name.
        object.__setattr__(self, "_norm", norm)
        if isinstance(norm, NormBehind):
            norm.follow(self)

    @property
    def norm(self) -> nn.BatchNorm2d | None:
        """The BatchNorm behind this layer, None where there is none or it was folded."""
        return self.__dict__.get("_norm")

    @property
    def works_for_norm(self) -> bool:
        """Whether what this layer returns has been through the BatchNorm already."""
        norm = self.norm
        return isinstance(norm, NormBehind) and not norm.training and self.weight_quantiser.enabled

    def gain(self) -> Tensor | None:
        """Return k of each output channel, (channels,) without gradient to the statistics, None without BatchNorm."""
        norm = self.norm
        if norm is None:
            return None
        # Times, not divided by: the forward derivative of a quotient costs a millisecond of Python for each layer.
        k = norm.weight * torch.rsqrt(norm.running_var.detach() + norm.eps)  # type: ignore[union-attr]
        return torch.where(k.abs() < SMALLEST_GAIN, torch.full_like(k, SMALLEST_GAIN), k)

    def folded(self, k: Tensor | None = None) -> Tensor:
        """Return the weight as it will be deployed, before rounding; k: the gain where it is known."""
        k = self.gain() if k is None else k
        return self.weight if k is None else self.weight * per_channel(k, self.weight.ndim)

    def folded_bias(self, k: Tensor | None) -> Any:
        """Return the bias with the BatchNorm's shift taken in, before rounding; k: the gain where there is one."""
        norm = self.norm
        if norm is None or k is None:
            return self.bias
        shift = norm.bias - norm.running_mean.detach() * k  # type: ignore[union-attr]
        return shift if self.bias is None else shift + self.bias * k

    def fake_weight(self) -> Tensor:
        """Return the rounded weight: the folded one where the layer works for its BatchNorm, else for use before it."""
        if not self.weight_quantiser.enabled:
            return self.weight
        quantiser, k = self.weight_quantiser, self.gain()
        if not quantiser.learnt and not quantiser.frozen:
            quantiser.seen.fill_(False)  # the range that the weight has now, not the largest it ever had
            quantiser.observe(self.folded(k).detach())
            self._leave_room_for_bias()
        if self.works_for_norm:
            return quantiser(self.folded(k))  # type: ignore[no-any-return]
        return quantiser(self.weight, factor=k)  # type: ignore[no-any-return]

    def fake_bias(self) -> Tensor | None:
        """Return the bias on the grid of the products where the input's scale is known (8 bits), else as it is.

        Where the layer works for its BatchNorm, what that would add.
        """
        if self.works_for_norm:
            return self.folded_bias(self.gain())
        source: FakeQuantizer | None = self.__dict__.get("_input")
        quantiser = self.weight_quantiser
        if self.bias is None or source is None or not (source.enabled and quantiser.enabled) or self.norm is not None:
            return self.bias
        if max(source.grid.bits, quantiser.grid.bits) > DEPLOYED_BITS:
            return self.bias  # products of finer grids leave the range of int32, and no NPU computes them
        # An int32 step is so fine that only its rounding matters, not a gradient to the scales.
        exact = bias_on_grid(self.bias.detach(), *(q.current()[0].detach() for q in (source, quantiser)))
        return exact + (self.bias - self.bias.detach())

    def fed_by(self, source: FakeQuantizer | None) -> None:
        """Remember whose grid the input lies on."""
        object.__setattr__(self, "_input", source)

    @torch.no_grad()
    def _leave_room_for_bias(self) -> None:
        """Raise the scale of channels whose weights have all but vanished, so that their bias still fits into int32.

        Such a channel says nothing but its bias; on a grid as fine as its weights the bias would be cut off.
        """
        source: FakeQuantizer | None = self.__dict__.get("_input")
        if self.bias is None or source is None or not source.ready or self.norm is not None:
            return
        least = self.bias.detach().abs() / (source.current()[0].detach() * ROOM_FOR_BIAS)
        quantiser = self.weight_quantiser
        small = quantiser.current()[0].detach() < least
        if bool(small.any()):
            quantiser.scale.copy_(torch.where(small, least, quantiser.scale))
            quantiser.zero_point.copy_(torch.where(small, torch.zeros_like(least), quantiser.zero_point))
            quantiser.stretch.masked_fill_(small, 0.0)
            quantiser.shift.masked_fill_(small, 0.0)

    @torch.no_grad()
    def fold(self) -> None:
        """Take the BatchNorm's trained statistics into weight and bias; the graph must drop the BatchNorm itself."""
        norm, k = self.norm, self.gain()
        if norm is None or k is None:
            return
        self.weight.mul_(per_channel(k, self.weight.ndim))
        self.bias = nn.Parameter(self.folded_bias(k))
        object.__setattr__(self, "_norm", None)
        self._leave_room_for_bias()

    def weight_integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (integers int32, scale, zero point) of the folded weight."""
        scale, zero_point = self.weight_quantiser.parameters_as_integers()
        grid: Grid = self.weight_quantiser.grid
        w = self.folded().detach()
        wide_scale, wide_zero = (per_channel(v, w.ndim) for v in (scale, zero_point))
        return to_integers(w, wide_scale, wide_zero, grid), scale, zero_point


def geometry_of(source: nn.Conv2d) -> tuple[Any, ...]:
    """Return the arguments that make another convolution of the same shape."""
    return (
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        source.stride,
        source.padding,
        source.dilation,
        source.groups,
        source.bias is not None,
        source.padding_mode,
    )


class NormBehind(nn.BatchNorm2d):
    """The BatchNorm behind a fake-quantised convolution, under the name and with the parameters of the one it replaces.

    It passes on what it is given where the convolution has done its work along.
    """

    @classmethod
    def of(cls, source: nn.BatchNorm2d) -> NormBehind:
        """Take over a BatchNorm; parameters and statistics are shared with it."""
        with torch.device("meta"):
            new = cls(source.num_features, source.eps, source.momentum)
        new.weight, new.bias = source.weight, source.bias
        for name, buffer in source.named_buffers(recurse=False):
            new.register_buffer(name, buffer)
        return new.train(source.training)

    def follow(self, layer: _WithFakeWeights) -> None:
        """Remember the convolution in front; it is not a part of this module."""
        object.__setattr__(self, "_layer", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, c, h, w), or return it as it is."""
        return x if self.__dict__["_layer"].works_for_norm else super().forward(x)


class FakeConv2d(_WithFakeWeights, nn.Conv2d):  # type: ignore[misc]
    """A convolution with fake-quantised weights, under the name of the one it replaces."""

    @classmethod
    def of(cls, source: nn.Conv2d, norm: nn.BatchNorm2d | None, bits: int, name: str) -> FakeConv2d:
        """Wrap a convolution; weight and bias are shared with it."""
        with torch.device("meta"):
            new = cls(*geometry_of(source))
        new.attach(source, norm, bits, name)
        return new

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (b, c, h, w) with the rounded weights."""
        return self._conv_forward(x, self.fake_weight(), self.fake_bias())


class FakeLinear(_WithFakeWeights, nn.Linear):  # type: ignore[misc]
    """A linear layer with fake-quantised weights, under the name of the one it replaces."""

    @classmethod
    def of(cls, source: nn.Linear, norm: nn.BatchNorm2d | None, bits: int, name: str) -> FakeLinear:
        """Wrap a linear layer; weight and bias are shared with it."""
        with torch.device("meta"):
            new = cls(source.in_features, source.out_features, source.bias is not None)
        new.attach(source, norm, bits, name)
        return new

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out) with the rounded weights."""
        return nn.functional.linear(x, self.fake_weight(), self.fake_bias())


def wrap(source: nn.Module, norm: nn.BatchNorm2d | None, bits: int, name: str) -> Any:
    """Return the fake-quantised layer of a convolution or linear layer."""
    return (FakeConv2d if isinstance(source, nn.Conv2d) else FakeLinear).of(source, norm, bits, name)  # type: ignore[arg-type]
