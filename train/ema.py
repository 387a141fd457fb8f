"""An exponential moving average of the weights: what is scored, kept and exported."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class Ema:
    """Follow a model with decay `decay * (1 - exp(-steps / ramp))`: fast at first, when the weights still run.

    With a ramp of a quarter of the run, the decay ends at 0.982 whatever the run's length: the average then reaches
    back some 55 steps. A short ramp in a long run would leave half of the weight to the first half of the training.
    """

    def __init__(self, model: nn.Module, decay: float, ramp_steps: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp_steps, self.steps = decay, ramp_steps, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards the model; integer buffers are copied."""
        self.steps += 1
        share = 1 - self.decay * (1 - math.exp(-self.steps / self.ramp_steps))
        mine, theirs = self.model.state_dict(), model.state_dict()
        moving = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in moving], [theirs[n].detach() for n in moving], share)
        for name in mine.keys() - set(moving):
            mine[name].copy_(theirs[name])
