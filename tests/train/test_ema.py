"""The moving average against a hand-worked sequence."""

import math

import pytest
import torch
from torch import nn

from train.ema import Ema


class Counter(nn.Module):
    """One weight, one integer buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("steps", torch.tensor(0))


def test_the_average_follows_the_written_recursion():
    model = Counter()
    ema = Ema(model, decay=0.9, ramp_steps=2.0)
    expected = 0.0
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(float(step))
            model.steps.fill_(step)
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-step / 2))
        expected = decay * expected + (1 - decay) * step
        assert float(ema.model.weight.detach()) == pytest.approx(expected, rel=1e-5)
        assert int(ema.model.steps) == step
    assert expected < 5  # it lags behind
    assert not ema.model.weight.requires_grad
    assert not ema.model.training


def test_the_model_that_is_followed_is_not_touched():
    model = Counter()
    ema = Ema(model, 0.5, 1.0)
    with torch.no_grad():
        model.weight.fill_(2.0)
    ema.update(model)
    assert float(model.weight.detach()) == 2.0
