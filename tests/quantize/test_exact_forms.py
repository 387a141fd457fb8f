"""The simulator's order of sums against ONNX Runtime's kernels, integer arithmetic against literal NumPy."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from quantize import exact_forms
from quantize.exact_forms import (
    IntegerConv2d,
    SimulatedConv2d,
    SimulatedRounding,
    SimulatedSiLU,
    as_simulated,
    fused_in_order,
    in_integers,
    sums_in_blocks,
)
from quantize.export_form import Rounding, WeightIntegers, export_form

from .test_export_form import IMAGES, NETWORKS, folded, tensors

# in, out, kernel, stride, padding, groups, map: depths of one block and of several, maps of many pixels and of few.
LAYERS = {
    "stem": (3, 16, 3, 2, 1, 1, 40),
    "two_blocks": (16, 24, 3, 1, 1, 1, 20),
    "three_blocks": (32, 16, 3, 1, 1, 1, 16),
    "pointwise": (192, 32, 1, 1, 0, 1, 16),
    "pointwise_of_one_block": (64, 10, 1, 1, 0, 1, 12),
    "few_pixels": (64, 32, 3, 1, 1, 1, 8),
    "fewer_pixels": (64, 32, 3, 1, 1, 1, 5),
    "more_channels_than_pixels": (96, 80, 3, 2, 1, 1, 9),
    "groups": (32, 32, 3, 1, 1, 2, 16),
}


def made(name: str) -> tuple[nn.Conv2d, torch.Tensor]:
    cin, cout, kernel, stride, padding, groups, size = LAYERS[name]
    seeded = torch.Generator().manual_seed(5)
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups)
    for parameter in conv.parameters():
        parameter.data = torch.randn(parameter.shape, generator=seeded)
    return conv, torch.randn(2, cin, size, size, generator=seeded)


def in_onnx_runtime(conv: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    settings = {
        "strides": list(conv.stride),
        "pads": [*conv.padding, *conv.padding],
        "kernel_shape": list(conv.kernel_size),
        "group": conv.groups,
    }
    weights = [numpy_helper.from_array(p.detach().numpy(), n) for n, p in conv.named_parameters()]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **settings)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *x.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": image[None]})[0] for image in x])


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_convolution_sums_up_as_onnx_runtime_does_to_the_bit(name):
    conv, x = made(name)
    ours = SimulatedConv2d(conv)(x).numpy()
    theirs = in_onnx_runtime(conv, x.numpy())
    np.testing.assert_array_equal(ours, theirs)
    assert np.allclose(ours, conv(x).numpy(), atol=1e-3)


@torch.no_grad()
def test_the_order_of_sums_matters_to_that_test():
    conv, x = made("three_blocks")
    doubly = conv.double()(x.double()).float().numpy()
    assert (doubly != SimulatedConv2d(conv.float())(x).numpy()).mean() > 0.1


@pytest.mark.parametrize("depth", [27, 128, 300])
def test_the_slow_way_where_a_library_sums_in_another_order(depth, monkeypatch):
    seeded = torch.Generator().manual_seed(1)
    weights, columns = torch.randn(8, depth, generator=seeded), torch.randn(depth, 200, generator=seeded)
    fast = sums_in_blocks(weights, columns)
    monkeypatch.setattr(exact_forms, "_library_sums_in_order", lambda: False)
    assert torch.equal(sums_in_blocks(weights, columns), fast)


def test_fused_multiply_adds_by_hand():
    # 1 + 2^-24 is no float32: two roundings lose what a fused multiply-add keeps, (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24.
    a = torch.tensor([[-(1 + 2.0**-11), 1 + 2.0**-12]])
    b = torch.tensor([[1.0], [1 + 2.0**-12]])
    assert fused_in_order(a, b).item() == 2.0**-24


def test_silu_rounds_every_operation():
    x = np.random.default_rng(0).normal(0, 3, 20_000).astype(np.float32)
    one = np.float32(1)
    wanted = x * (one / (one + np.exp(-x.astype(np.float64)).astype(np.float32)))
    np.testing.assert_array_equal(SimulatedSiLU()(torch.from_numpy(x)).numpy(), wanted)
    assert (nn.functional.silu(torch.from_numpy(x)).numpy() != wanted).mean() > 0.1, "torch's own is another"


def test_rounding_divides():
    # In float32, x / scale is exactly 1.5, which goes to the even 2; x times the rounded 1 / scale lies below 1.5.
    found = 0
    for scale in np.linspace(0.01, 0.2, 400).astype(np.float32):
        x = np.float32(1.5) * scale
        if x / scale != 1.5:
            continue
        assert round(SimulatedRounding(float(scale), -3)(torch.tensor([x])).item() / float(scale)) == 2
        found += round(Rounding(float(scale), -3)(torch.tensor([x])).item() / float(scale)) == 1
    assert found > 10


@torch.no_grad()
def test_integers_against_literal_ones():
    rng = np.random.default_rng(4)
    integers = rng.integers(-128, 128, (6, 5, 3, 3))
    zero = rng.integers(-20, 20, 6)
    scale, input_scale = rng.uniform(0.001, 0.01, 6).astype(np.float32), 0.037
    step = np.float32(input_scale) * scale
    bias = rng.integers(-9000, 9000, 6)
    x = rng.integers(-90, 160, (1, 5, 7, 7))  # minus the zero point
    conv = nn.Conv2d(5, 6, 3, 1, 1)
    conv.bias.data = torch.from_numpy(bias.astype(np.float32) * step)
    parts = (torch.from_numpy(v.astype(t)) for v, t in ((integers, np.int8), (scale, np.float32), (zero, np.int8)))
    real = torch.from_numpy(x.astype(np.float32) * np.float32(input_scale))
    ours = IntegerConv2d(conv, WeightIntegers(*parts), input_scale)(real).numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, integers - zero[:, None, None, None]) + bias[:, None, None]
    np.testing.assert_allclose(ours, sums * step.astype(np.float64)[:, None, None], rtol=1e-15)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_whole_networks_are_the_same_but_for_a_few_last_bits(name):
    form = export_form(folded(name))
    before = {k: v.clone() for k, v in form.module.state_dict().items()}
    for make in (as_simulated, in_integers):
        new = make(form)
        for ours, theirs in zip(tensors(new(IMAGES)), tensors(form.module(IMAGES)), strict=True):
            step = float(theirs.abs().max()) / 255
            assert float((ours - theirs).abs().max()) <= 4 * step
            assert float(((ours - theirs).abs() > step / 2).float().mean()) < 0.2
    kinds = {type(m) for m in form.module.modules()}
    assert not kinds & {SimulatedConv2d, IntegerConv2d, SimulatedRounding}, "the form itself is left alone"
    assert all(torch.equal(v, before[k]) for k, v in form.module.state_dict().items())
    assert not [m for m in as_simulated(form).modules() if type(m) in (nn.Conv2d, nn.SiLU, Rounding)]


def test_padding_that_no_simulator_has_is_refused():
    with pytest.raises(ValueError, match=r"must pad with zeros by a number of pixels, got reflect"):
        SimulatedConv2d(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
