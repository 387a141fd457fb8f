"""Rounding in pieces, and with a factor: against torch's kernels, and against the same in plain operations."""

import pytest
import torch
from torch.autograd import forward_ad

from quantize import rounding
from quantize.numerics import Grid, per_channel
from quantize.rounding import fake_quantise


def leaf(value):
    return torch.as_tensor(value, dtype=torch.float32).clone().requires_grad_()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that a test's tensors do not fit into one."""
    monkeypatch.setattr(rounding, "PIECE", 100)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_pieces_equal_torchs_learnable_kernel(bits, layout, given):
    """Value by value, and the gradients of scale and zero point, whichever way x and the gradient lie in memory."""
    grid = Grid(bits)
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(2, 5, 7, 9, generator=generator).contiguous(memory_format=layout)
    gradient = torch.randn(2, 5, 7, 9, generator=generator).contiguous(memory_format=given)
    found = []
    for learnt in (False, True):
        # A range that cuts off a tenth.
        x, scale, zero = leaf(values), leaf([3.3 / grid.steps]), leaf([3.0])
        if learnt:
            y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, grid.low, grid.high, 1.0)
        else:
            y = fake_quantise(x, scale[0], zero[0], grid)
        y.backward(gradient)
        found.append((y.detach(), x.grad, scale.grad, zero.grad))
    ours, theirs = found
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert 0 < float((ours[1] == 0).float().mean()) < 0.5
    for a, b in zip(ours[2:], theirs[2:], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * 3.3)


@pytest.mark.parametrize("edge", [-8, 7])
@pytest.mark.parametrize("zero", [0, 1])
def test_ties_at_the_ends_are_cut_off_as_torch_does(edge, zero):
    """Halfway to the first integer beyond the grid: inside where it rounds to the even end, and only there."""
    x = torch.tensor([edge - zero - 0.5, edge - zero, edge - zero + 0.5], requires_grad=True)
    grid, theirs = Grid(4), x.detach().clone().requires_grad_()
    fake_quantise(x, torch.tensor(1.0), torch.tensor(float(zero)), grid).sum().backward()
    y = torch.fake_quantize_per_tensor_affine(theirs, torch.tensor(1.0), torch.tensor(zero), grid.low, grid.high)
    y.sum().backward()
    assert torch.equal(x.grad, theirs.grad)


def test_a_factor_is_multiplied_before_and_divided_after():
    """Values, first and second derivatives by all four, negative factors included; the gain is not the factor's."""
    grid, generator = Grid(4), torch.Generator().manual_seed(2)
    start = torch.randn(4, 3, 5, generator=generator), 0.2 + 0.2 * torch.rand(4, generator=generator)
    start = (*start, torch.rand(4, generator=generator) * 2, torch.tensor([0.7, -1.3, 2.0, 0.4]))
    found = []
    for own in (True, False):
        x, scale, zero, factor = given = tuple(leaf(v) for v in start)
        wide = per_channel(factor, 3)
        y = (
            fake_quantise(x, scale, zero, grid, 0, factor=factor)
            if own
            else fake_quantise(x * wide, scale, zero, grid, 0) / wide
        )
        (y**3).sum().backward(retain_graph=True)  # the fast way back
        plain = [v.grad for v in given]
        once = torch.autograd.grad((y**3).sum(), given, create_graph=True)
        twice = torch.autograd.grad(sum((v**2).sum() for v in once), given)
        found.append((y, *plain, *once, *twice))
        for a, b in zip(plain, once, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.detach().abs().max()))
    x, scale, zero, factor = given = tuple(leaf(v) for v in start)
    (fake_quantise(x, scale, zero, grid, 0, factor=factor, gain=0.25) ** 3).sum().backward()
    for v, b, share in zip(given, found[0][1:5], (1, 0.25, 0.25, 1), strict=True):
        assert torch.allclose(v.grad, b * share, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["one range", "by channel", "by channel with a factor"])
def test_the_forward_derivative_is_the_adjoint_of_the_gradient(kind, layout):
    """<w, J v> = <J' w, v>, in float32 and, to its precision, in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(3, 5, 7, 9, generator=generator).contiguous(memory_format=layout)
    move, weight = (torch.randn(start.shape, generator=generator) for _ in range(2))
    axis = None if kind == "one range" else 0
    scale = torch.tensor(0.15) if axis is None else torch.tensor([0.1, 0.2, 0.15])
    zero = torch.tensor(3.0) if axis is None else torch.tensor([3.0, -2.0, 0.0])
    factor = torch.tensor([0.5, 1.0, 2.0]) if "factor" in kind else None
    turn = torch.tensor([0.3, -1.0, 0.7])
    for dtype, close in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        x, f = start.to(dtype).requires_grad_(), None if factor is None else factor.clone().requires_grad_()
        y = fake_quantise(x, scale, zero, Grid(4), axis, factor=f, dtype=dtype)
        back = torch.autograd.grad(y, [x] if f is None else [x, f], weight.to(dtype))
        wanted = (back[0].float() * move).sum() + (0 if f is None else (back[1] * turn).sum())
        with forward_ad.dual_level():
            moving = forward_ad.make_dual(start.to(dtype), move.to(dtype))
            turning = None if factor is None else forward_ad.make_dual(factor, turn)
            y = fake_quantise(moving, scale, zero, Grid(4), axis, factor=turning, dtype=dtype)
            value, tangent = forward_ad.unpack_dual(y)
        assert tangent.dtype == value.dtype == dtype
        assert 0 < float((back[0] == 0).float().mean()) < 0.9, "some are cut off"
        scale_of_it = float((tangent.float() * weight).abs().sum())
        assert float((tangent.float() * weight).sum()) == pytest.approx(float(wanted), abs=close * scale_of_it)


def test_there_is_no_forward_derivative_by_a_range():
    x, scale = torch.ones(3), torch.tensor(0.1)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward derivative by a scale"):
        fake_quantise(x, forward_ad.make_dual(scale, torch.tensor(1.0)), torch.tensor(0.0), Grid(4))


def test_half_precision_is_rounded_in_full_and_returned_as_asked():
    x = (torch.randn(3, 4, 5, 6) * 3).bfloat16().requires_grad_()
    scale, zero = leaf(0.017), leaf(5.0)
    y = fake_quantise(x, scale, zero, Grid(8), dtype=torch.bfloat16)
    exact = torch.fake_quantize_per_tensor_affine(
        x.detach().float(), torch.tensor(0.017), torch.tensor(5), Grid(8).low, Grid(8).high
    )
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16())
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert scale.grad.dtype == zero.grad.dtype == torch.float32
