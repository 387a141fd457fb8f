"""The integer scheme, against torch's own fake quantisation and against cases worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.numerics import (
    Grid,
    bias_integers,
    marked_asymmetric,
    represented_range,
    scale_and_zero_point,
    to_integers,
    to_real,
)

INT8 = Grid(8)


def test_the_rules_by_hand():
    # -1 ... 3: scale 4 / 255; zero point round(-128 + 1 * 255 / 4) = round(-64.25) = -64.
    scale, zero = scale_and_zero_point(torch.tensor(-1.0), torch.tensor(3.0), INT8)
    assert float(scale) == pytest.approx(4 / 255)
    assert int(zero) == -64
    # Zero is included: 2 ... 4 becomes 0 ... 4, and zero is the smallest integer.
    scale, zero = scale_and_zero_point(torch.tensor(2.0), torch.tensor(4.0), INT8)
    assert (float(scale), int(zero)) == (pytest.approx(4 / 255), -128)
    # The input image: 0 ... 1.
    scale, zero = scale_and_zero_point(torch.tensor(0.0), torch.tensor(1.0), INT8)
    assert (float(scale), int(zero)) == (pytest.approx(1 / 255), -128)


@given(
    st.floats(-100, 100), st.floats(0, 100), st.integers(2, 16), st.integers(0, 2**31)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_zero_is_exact_and_every_value_in_the_range_is_half_a_step_away_at_most(low, width, bits, seed):
    grid = Grid(bits)
    ends = torch.tensor(low), torch.tensor(low + width)
    scale, zero = scale_and_zero_point(*ends, grid)
    assert grid.low <= int(zero) <= grid.high
    assert float(to_real(to_integers(torch.zeros(1), scale, zero, grid), scale, zero)) == 0
    x = torch.rand(50, generator=torch.Generator().manual_seed(seed)) * width + low
    back = to_real(to_integers(x, scale, zero, grid), scale, zero)
    # One step, not half: rounding the zero point moves the represented range by up to half a step.
    assert bool(((back - x).abs() <= scale * 1.001 + 1e-6).all())


def test_integers_agree_with_torch():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    scale, zero = scale_and_zero_point(x.min(), x.max() * 0.7, INT8)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, INT8.low, INT8.high)
    assert torch.equal(to_real(to_integers(x, scale, zero, INT8), scale, zero), theirs)


def test_represented_range_gives_the_same_grid_again():
    scale, zero = scale_and_zero_point(torch.tensor([-0.3, -2.0]), torch.tensor([1.7, 0.0]), INT8)
    again = scale_and_zero_point(*represented_range(scale, zero, INT8), INT8)
    assert torch.allclose(scale, again[0])
    assert torch.equal(zero, again[1])


def test_bias_on_the_grid_of_the_products():
    bias = torch.tensor([0.5, -0.25, 1e9])
    integers = bias_integers(bias, torch.tensor(0.1), torch.tensor([0.01, 0.02, 1e-9]))
    assert integers.tolist() == [500, -125, 2**31 - 1]


def test_weights_with_all_zero_points_zero_are_marked_without_changing_a_value():
    integers = torch.tensor([[-128, 5], [-127, 3]], dtype=torch.int32)
    zero = torch.zeros(2, dtype=torch.int32)
    new, shifted = marked_asymmetric(integers, zero)
    assert shifted.tolist() == [0, -1]
    assert torch.equal(new - shifted[:, None], integers)
    assert int(new.min()) >= -128
    assert marked_asymmetric(integers, torch.tensor([0, 7]))[1].tolist() == [0, 7]
    with pytest.raises(ValueError, match="every channel uses it"):
        marked_asymmetric(torch.tensor([[-128], [-128]]), zero)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(float("nan"), 1.0, "finite"), (0.0, float("inf"), "finite"), (2.0, 1.0, "end below")]
)
def test_ranges_that_are_none(low, high, said):
    with pytest.raises(ValueError, match=said):
        scale_and_zero_point(torch.tensor(low), torch.tensor(high), INT8)


@pytest.mark.parametrize("bits", [1, 17, 0])
def test_bit_widths_outside(bits):
    with pytest.raises(ValueError, match=f"bits must be 2 to 16, got {bits}"):
        Grid(bits)
