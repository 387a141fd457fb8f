"""Fake-quantisers: floats rounded to the NPU's integer grid going forward, gradients passed through going back.

Ranges come from an observer (minimum and maximum, their moving average, or percentiles) or are learnt: LSQ (Esser et
al., arXiv:1902.08153) with its gradient scale, and the learnt zero point of LSQ+ (Bhalgat et al., arXiv:2004.09576).

The rounding itself, and the gradients that pass through it, twice, are in `rounding`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .numerics import DEPLOYED_BITS, Grid, per_channel, represented_range, scale_and_zero_point
from .rounding import fake_quantise

Observer = Literal["min_max", "moving_average", "percentile"]

MOMENTUM = 0.05
PERCENTILE = 99.99
# More values than this do not move a percentile, and sorting them would dominate the step.
_SAMPLE = 200_000


class FakeQuantizer(nn.Module):
    """A configuration, `enabled`, `frozen`, and a forward.

    bits: 2 to 16. axis: None for one range (activations), 0 for one per output channel (weights, `channels` of them).
    observer: where the range comes from until it is learnt. slots: how many tensors share the quantiser (the parts of a
    Concat); each is observed apart and the range covers all. fixed: (scale, zero_point) that never change, for inputs.

    enabled: False passes values through, unseen; rounding: False passes them through, but looks at them. frozen: True
    keeps the range. exact: True returns float32 inside autocast too, for what leaves the network. `learn()` makes the
    range learnable, as `stretch` and `shift`: the scale in use is scale * exp(stretch), the zero point in use
    zero_point + shift * steps of the grid, rounded where it is used. So a step of the optimiser changes every range by
    the same *share*, whether its scale is 0.1 or, at 16 bits, 0.0001; Adam's steps know nothing of the size of what
    they move.
    """

    scale: Tensor
    zero_point: Tensor
    stretch: nn.Parameter
    shift: nn.Parameter
    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(
        self,
        bits: int = 8,
        *,
        axis: int | None = None,
        channels: int = 1,
        observer: Observer = "moving_average",
        slots: int = 1,
        fixed: tuple[float, int] | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        shape = () if axis is None else (channels,)
        self.grid, self.axis, self.observer, self.name = Grid(bits), axis, observer, name
        self.enabled, self.frozen, self.learnt, self.fixed = True, fixed is not None, False, fixed is not None
        self.rounding, self.exact = True, False
        scale, zero = fixed or (1.0, 0)
        self.register_buffer("scale", torch.full(shape, float(scale)))
        self.register_buffer("zero_point", torch.full(shape, float(zero)))
        self.stretch = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.shift = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.register_buffer("low", torch.zeros(slots, *shape))
        self.register_buffer("high", torch.zeros(slots, *shape))
        self.register_buffer("seen", torch.full((slots,), fixed is not None))

    def forward(self, x: Tensor, slot: int = 0, factor: Tensor | None = None) -> Tensor:
        """Return x on the grid, same shape, float32 (inside autocast in its type, unless `exact`); x itself where not
        enabled.

        slot: which of the tensors that share this quantiser x is. factor: (channels,), where x times it is what is
        observed and rounded, and then divided by it. Raises ValueError where the range is unknown or not finite, naming
        the layer.
        """
        if not self.enabled:
            return x
        if self.training and not self.frozen and not self.learnt:
            seen = x.detach()
            self.observe(seen if factor is None else seen * per_channel(factor.detach(), x.ndim), slot)
        if not self.rounding:
            return x
        if not self.ready:
            raise ValueError(
                f"fake-quantiser {self.name or '(unnamed)'} never saw data, its range is unknown; run some training "
                "batches before it is frozen or evaluated, or leave the layer out"
            )
        scale, zero_point = self.current()
        zero_point = self._asymmetric(zero_point)
        gain = self._gradient_scale(x) if self.learnt else 1.0
        dtype = self._type(x)
        return fake_quantise(x, scale, zero_point, self.grid, self.axis, factor=factor, gain=gain, dtype=dtype)

    def _type(self, x: Tensor) -> torch.dtype:
        # The convolution behind would cast it anyway; until there everything has half as much to read.
        device = x.device.type
        if self.exact or not torch.is_autocast_enabled(device):
            return torch.float32
        return torch.get_autocast_dtype(device)

    def current(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point (not yet rounded) as they are used now, float32."""
        if not self.learnt:
            return self.scale, self.zero_point
        return self.scale * torch.exp(self.stretch), self.zero_point + self.shift * self.grid.steps

    @property
    def ready(self) -> bool:
        """Whether the range is known for at least one of its tensors."""
        return self._ready or self._look()

    _ready = False

    def _look(self) -> bool:
        # Kept as a plain bool: asking the buffer in every forward would make a GPU wait.
        self._ready = bool(self.seen.any())
        return self._ready

    @torch.no_grad()
    def observe(self, x: Tensor, slot: int = 0) -> None:
        """Take the range of x into account and set scale and zero point. Raises ValueError for NaN or infinity."""
        low, high = self._range_of(x)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise ValueError(
                f"fake-quantiser {self.name or '(unnamed)'} saw NaN or infinity; lower the learning rate, or train in "
                "float32"
            )
        if not bool(self.seen[slot]):
            self.low[slot], self.high[slot] = low, high
        elif self.observer == "min_max":
            self.low[slot], self.high[slot] = torch.minimum(self.low[slot], low), torch.maximum(self.high[slot], high)
        else:
            self.low[slot].lerp_(low, MOMENTUM)
            self.high[slot].lerp_(high, MOMENTUM)
        self.seen[slot] = True
        known = self.seen
        self._set(self.low[known].amin(0), self.high[known].amax(0))

    @torch.no_grad()
    def take_ends(self, low: Tensor, high: Tensor) -> None:
        """Replace the ends that were seen, (slots, ...) each, by those that several processes agreed on."""
        self.low.copy_(low)
        self.high.copy_(high)
        if bool(self.seen.any()):
            self._set(self.low[self.seen].amin(0), self.high[self.seen].amax(0))

    def _range_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.float()
        flat = x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)
        if self.observer == "percentile":
            step = max(1, flat.shape[1] // _SAMPLE)
            ends = torch.tensor([100 - PERCENTILE, PERCENTILE], device=x.device) / 100
            low, high = torch.quantile(flat[:, ::step], ends, dim=1)
        else:
            low, high = torch.aminmax(flat, dim=1)
        return (low[0], high[0]) if self.axis is None else (low, high)

    def _set(self, low: Tensor, high: Tensor) -> None:
        # New tensors: the parts of a Concat share the quantiser, and a part before may need the old ones going back.
        scale, zero_point = scale_and_zero_point(low, high, self.grid)
        self.scale, self.zero_point = scale.to(self.scale), zero_point.to(self.zero_point)

    def learn(self) -> None:
        """Make the range learnable from here on, starting where the observer left it."""
        if not self.fixed:
            self.learnt = True
            self.stretch.requires_grad_(True)
            self.shift.requires_grad_(True)

    @torch.no_grad()
    def set_bits(self, bits: int) -> None:
        """Change the bit width; the represented range stays the same, so the scale grows as the grid gets coarser."""
        if self.fixed or bits == self.grid.bits:
            return
        scale, zero_point = (value.detach() for value in self.current())
        whole = zero_point.round().clamp(self.grid.low, self.grid.high)
        low, high = represented_range(scale, whole, self.grid)
        self.grid = Grid(bits)
        self.stretch.zero_()
        self.shift.zero_()
        if self.ready:
            self._set(low, high)

    @torch.no_grad()
    def keep_on_grid(self) -> None:
        """Bring a learnt zero point back onto the grid, after an optimiser's step."""
        if self.learnt:
            low, high = ((edge - self.zero_point) / self.grid.steps for edge in (self.grid.low, self.grid.high))
            self.shift.copy_(torch.maximum(torch.minimum(self.shift, high), low))

    def parameters_as_integers(self) -> tuple[Tensor, Tensor]:
        """Return what is deployed: scale float32 and zero point int32."""
        scale, zero_point = (value.detach() for value in self.current())
        return scale, self._asymmetric(zero_point).round().clamp(self.grid.low, self.grid.high).to(torch.int32)

    def _asymmetric(self, zero_point: Tensor) -> Tensor:
        """Move an activation's zero point off 0: the compiler takes such a grid for symmetric and rescales it."""
        if self.axis is not None or self.fixed or self.grid.bits != DEPLOYED_BITS:
            return zero_point
        whole = zero_point.detach()
        away = torch.where(whole > 0, 1.0, -1.0) - whole
        return zero_point + torch.where(whole.round() == 0, away, torch.zeros_like(whole))

    def _gradient_scale(self, x: Tensor) -> float:
        """Return 1 / sqrt(N Q_p) (LSQ, section 2.2): N values share a scale, per image for activations."""
        count = x.numel() / (x.shape[self.axis] if self.axis is not None else max(1, x.shape[0]))
        return 1 / math.sqrt(max(1.0, count) * self.grid.high)
