"""Fake-quantisers against torch's own, against a slow composite with detached rounding, and through two derivatives."""

import math

import pytest
import torch

from quantize.fake_quant import FakeQuantizer, fake_quantise
from quantize.numerics import Grid


def slowly(x, scale, zero_point, grid, axis=None):
    """The definition, rounding passed straight through by detaching: autograd derives everything else."""

    def rounded(v):
        return v + (v.round() - v).detach()

    if axis is not None:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, zero_point = scale.view(shape), zero_point.view(shape)
    zero = rounded(zero_point)
    return ((rounded(x / scale) + zero).clamp(grid.low, grid.high) - zero) * scale


def leaf(value):
    return torch.as_tensor(value, dtype=torch.float32).clone().requires_grad_()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equals_torch_and_its_gradients(bits):
    grid = Grid(bits)
    x = leaf(torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(bits)))
    scale, zero = torch.tensor(0.11), torch.tensor(1)
    ours = fake_quantise(x, scale, zero.float(), grid)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero.int(), grid.low, grid.high)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(x)
    for y in (ours, theirs):
        (y * weights).sum().backward()
    first = x.grad.clone()
    x.grad = None
    (theirs * 0).sum()
    (fake_quantise(x, scale, zero.float(), grid) * weights * 2).sum().backward()
    assert torch.allclose(x.grad, first)


def test_per_channel_equals_torch():
    grid = Grid(8)
    w = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    scale, zero = torch.rand(5) * 0.02 + 0.005, torch.tensor([0, 3, -7, 1, 0])
    theirs = torch.fake_quantize_per_channel_affine(w, scale, zero.int(), 0, grid.low, grid.high)
    assert torch.equal(fake_quantise(w, scale, zero.float(), grid, 0), theirs)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_first_and_second_derivatives_equal_those_of_the_definition(axis):
    grid = Grid(3)
    generator = torch.Generator().manual_seed(2)
    x = leaf(torch.randn(4, 3, 5, generator=generator))
    count = () if axis is None else (x.shape[axis],)
    scale = leaf(0.2 + 0.2 * torch.rand(count, generator=generator))
    zero = leaf(torch.rand(count, generator=generator) * 2)
    found = []
    for form in (fake_quantise, slowly):
        y = form(x, scale, zero, grid, axis)
        once = torch.autograd.grad((y**3).sum(), (x, scale, zero), create_graph=True)
        twice = torch.autograd.grad(sum((v**2).sum() for v in once), (x, scale, zero))
        found.append((*once, *twice))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_gradient_exists_twice_numerically():
    """Away from the rounding borders the first derivative is constant; its derivative along the scale is that of y."""
    grid = Grid(4)
    x, zero = torch.tensor([0.31, -0.52, 9.0]), torch.tensor(0.0)

    def slope(s):
        scale = leaf(s)
        y = fake_quantise(x, scale, zero, grid)
        return torch.autograd.grad((y**2).sum(), scale, create_graph=True)[0], scale

    value, scale = slope(0.25)
    second = float(torch.autograd.grad(value, scale)[0])
    step = 1e-3
    numeric = float((slope(0.25 + step)[0] - slope(0.25 - step)[0]).detach()) / (2 * step)
    # The straight-through estimate keeps the rounding error fixed, so both sides are those of the definition.
    scale = leaf(0.25)
    y = slowly(x, scale, zero, grid)
    exact = torch.autograd.grad(torch.autograd.grad((y**2).sum(), scale, create_graph=True)[0], scale)[0]
    assert second == pytest.approx(float(exact), rel=1e-4)
    assert numeric != 0


@pytest.mark.parametrize("observer", ["min_max", "moving_average", "percentile"])
def test_observers(observer):
    torch.manual_seed(0)
    quantiser = FakeQuantizer(8, observer=observer).train()
    for _ in range(3):
        quantiser(torch.rand(10_000) * 4 - 1)
    low, high = float(quantiser.low), float(quantiser.high)
    assert -1.01 < low < -0.98
    assert 2.98 < high < 3.01
    spike = torch.cat((torch.rand(100_000) * 4 - 1, torch.tensor([1000.0])))
    quantiser(spike)
    after = float(quantiser.high)
    assert {"min_max": after == 1000, "moving_average": 40 < after < 60, "percentile": after < 3.1}[observer]


def test_tensors_that_share_a_grid_are_all_covered():
    quantiser = FakeQuantizer(8, slots=2).train()
    for _ in range(20):
        quantiser(torch.tensor([0.0, 10.0]), 0)
        quantiser(torch.tensor([-1.0, 1.0]), 1)
    assert float(quantiser.scale) == pytest.approx(11 / 255)


def test_enabled_frozen_learnt():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    quantiser = FakeQuantizer(4).train()
    quantiser.enabled = False
    assert quantiser(x) is x
    quantiser.enabled = True
    quantiser(x)
    before = quantiser.scale.clone()
    quantiser.frozen = True
    quantiser(x * 9)
    assert torch.equal(before, quantiser.scale)
    quantiser.learn()
    quantiser(x).square().sum().backward()
    assert quantiser.stretch.grad != 0
    quantiser.shift.data.fill_(-3)
    quantiser.keep_on_grid()
    assert float(quantiser.current()[1].detach()) == quantiser.grid.low
    quantiser.stretch.data.fill_(-3)
    assert float(quantiser.current()[0]) == pytest.approx(math.exp(-3) * float(before))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_step_of_the_optimiser_changes_every_range_by_the_same_share(bits):
    """A step of Adam is as long for a scale of 0.0001 as for one of 0.1: only shares may be learnt."""
    quantiser = FakeQuantizer(bits).train()
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    quantiser(x)
    quantiser.learn()
    before = [float(v) for v in quantiser.current()]
    optimiser = torch.optim.Adam(quantiser.parameters(), lr=0.01)
    quantiser(x).square().sum().backward()
    optimiser.step()
    scale, zero_point = (float(v) for v in quantiser.current())
    assert abs(scale / before[0] - 1) == pytest.approx(0.01, rel=0.01)
    assert abs(zero_point - before[1]) <= 0.0101 * quantiser.grid.steps


def test_the_gradient_scale_of_lsq():
    """1 / sqrt(N Q_p), N the values of one image: a hundredth here of what the plain derivative is."""
    x = leaf(torch.randn(2, 7 * 49, generator=torch.Generator().manual_seed(0)))
    quantiser = FakeQuantizer(8).train()
    quantiser(x)
    plain_scale = leaf(quantiser.scale.detach())
    fake_quantise(x, plain_scale, quantiser.zero_point, quantiser.grid).sum().backward()
    quantiser.learn()
    quantiser(x).sum().backward()
    wanted = float(plain_scale.grad * plain_scale) / (7 * 49 * 127) ** 0.5
    assert float(quantiser.stretch.grad) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [(16, 12), (8, 4), (4, 8)])
def test_another_bit_width_keeps_the_represented_range(before, after):
    quantiser = FakeQuantizer(before, observer="min_max").train()
    quantiser(torch.tensor([-1.0, 3.0]))
    quantiser.set_bits(after)
    assert float(quantiser.scale) == pytest.approx(4 / quantiser.grid.steps, rel=0.35 if after == 2 else 0.08)
    assert quantiser.grid.bits == after


def test_a_fixed_grid_never_changes():
    quantiser = FakeQuantizer(8, fixed=(1 / 255, -128)).train()
    pixels = torch.arange(256) / 255
    assert torch.allclose(quantiser(pixels), pixels, atol=1e-7)
    quantiser.learn()
    quantiser.set_bits(4)
    assert quantiser.grid.bits == 8
    assert not quantiser.stretch.requires_grad


def test_a_range_that_was_never_seen_and_one_that_is_none():
    quantiser = FakeQuantizer(8, name="neck").eval()
    with pytest.raises(ValueError, match="neck never saw data"):
        quantiser(torch.ones(2))
    with pytest.raises(ValueError, match="neck saw NaN or infinity"):
        quantiser.train()(torch.tensor([1.0, float("nan")]))


def test_half_precision_comes_back_as_float_with_a_half_gradient():
    x = torch.randn(50).bfloat16().requires_grad_()
    y = FakeQuantizer(8).train()(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
