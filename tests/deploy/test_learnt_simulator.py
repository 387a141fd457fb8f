"""What the vendor's compiler and simulator make of learnt integers: the network, and the integer scheme itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.convert.onnx_export import INPUT_NAME
from deploy.convert.quantised_onnx import DQ, Q, output_grids
from deploy.convert.rknn_build import ConversionError, build_rknn
from quantize.numerics import marked_asymmetric
from tests.deploy.small_detector import HW, IMAGES, pixels_of, run


def test_the_simulator_computes_the_learnt_network(learnt_path, learnt_form, tmp_path):
    build = build_rknn(learnt_path, tmp_path, evaluate=IMAGES, processes=1)
    inside = [layer for layer in build.table.layers if not layer.type.endswith("Operator")]
    assert {(layer.dtype, layer.target) for layer in inside} == {("INT8", "NPU")}
    convolutions = [n.name for n in onnx.load(str(learnt_path)).graph.node if n.op_type == "Conv"]
    assert {f"Conv:{name}" for name in convolutions} == {layer.name for layer in inside if "Conv" in layer.type}
    assert {"Add:/early/m.0/Add", "MaxPool:/pool/m_1/MaxPool"} <= {layer.name for layer in inside}
    assert build.calibration_count == 0
    grids = output_grids(onnx.load(str(learnt_path)))
    assert {name: (s.scale, s.zero_point) for name, s in build.output_scales.items()} == grids
    got = build.simulated.heads(list(range(len(IMAGES))))
    pixels = pixels_of(IMAGES)
    with torch.no_grad():
        ours = [head.numpy() for head in learnt_form.module(torch.from_numpy(pixels))]
    as_written = run(onnx.load(str(learnt_path)), pixels)
    for (name, (scale, _)), simulated, in_torch, in_onnx in zip(grids.items(), got, ours, as_written, strict=True):
        apart = np.abs(np.rint(in_onnx / scale) - np.rint(simulated / scale))
        assert apart.max() <= 2, name
        assert (apart == 0).mean() >= 0.95, name
        assert (np.abs(np.rint(in_torch / scale) - np.rint(simulated / scale)) <= 2).mean() > 0.99, name


def chain_in_integers(images: np.ndarray, layers: list[dict], grids: list[tuple[float, int]]) -> np.ndarray:
    """Compute convolutions in NumPy as the NPU does: int32 sums and bias, one float per channel, SiLU, rounding.

    images: (n, h, w, 3) uint8. Returns int8-valued (n, c, h, w).
    """
    integers = images.transpose(0, 3, 1, 2).astype(np.int64) - 128
    for number, layer in enumerate(layers):
        (scale_in, zero_in), (scale_out, zero_out) = grids[number], grids[number + 1]
        w = layer["integers"].astype(np.int64) - layer["zero_point"].astype(np.int64)[:, None, None, None]
        k, stride = w.shape[2], layer["stride"]
        real = np.pad(integers - zero_in, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))  # 0 is zero_in
        windows = np.lib.stride_tricks.sliding_window_view(real, (k, k), (2, 3))[:, :, ::stride, ::stride]
        sums = np.einsum("nchwij,ocij->nohw", windows, w) + layer["bias"].astype(np.int64)[None, :, None, None]
        assert np.abs(sums).max() < 2**31
        step = np.float32(scale_in) * layer["scale"].astype(np.float32)
        value = sums.astype(np.float32) * step[None, :, None, None]
        if layer["silu"]:
            value = value / (1 + np.exp(-value.astype(np.float32)))
        integers = np.clip(np.rint(value / np.float32(scale_out)).astype(np.int64) + zero_out, -128, 127)
    return integers


def known_layers() -> tuple[list[dict], list[tuple[float, int]]]:
    """A 3x3 convolution with SiLU and zero points of all kinds, then a 1x1 whose zero points are 0 but for the mark."""
    rng = np.random.default_rng(3)
    layers = []
    for cout, cin, k, stride, silu in ((16, 3, 3, 2, True), (32, 16, 1, 1, False)):
        integers = rng.integers(-120, 121, (cout, cin, k, k)).astype(np.int32)
        zero = rng.integers(-60, 61, cout).astype(np.int32) if silu else np.zeros(cout, np.int32)
        marked = marked_asymmetric(torch.from_numpy(integers), torch.from_numpy(zero))
        layers.append(
            {
                "integers": marked[0].numpy().astype(np.int8),
                "zero_point": marked[1].numpy().astype(np.int8),
                "scale": rng.uniform(0.002, 0.006, cout).astype(np.float32),
                "bias": rng.integers(-40_000, 40_000, cout).astype(np.int32),
                "stride": stride,
                "silu": silu,
            }
        )
    return layers, [(1 / 255, -128), (0.02, -114), (0.05, 9)]


def graph_of(layers: list[dict], grids: list[tuple[float, int]]) -> onnx.ModelProto:
    """Write the layers as a file that `export_onnx` could have written: Q/DQ behind each activation only."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def rounded(name: str, number: int, out: str) -> str:
        scale, zero = grids[number]
        pair = [constant(f"s{number}", np.float32(scale)), constant(f"z{number}", np.int8(zero))]
        nodes.append(helper.make_node(Q, [name, *pair], [f"{out}_q"], name=f"/q{number}_quantiser/QuantizeLinear"))
        nodes.append(helper.make_node(DQ, [f"{out}_q", *pair], [out], name=f"/q{number}_quantiser/DequantizeLinear"))
        return out

    x = rounded(INPUT_NAME, 0, "x0")
    for i, layer in enumerate(layers):
        parts = [constant(f"l{i}.weight_{part}", layer[part]) for part in ("integers", "scale", "zero_point")]
        nodes.append(helper.make_node(DQ, parts, [f"l{i}.weight"], name=f"l{i}.weight_dq", axis=0))
        step = np.float32(grids[i][0]) * layer["scale"]
        bias = constant(f"l{i}.bias", layer["bias"].astype(np.float32) * step)
        k = layer["integers"].shape[2]
        geometry = {"strides": [layer["stride"]] * 2, "pads": [k // 2] * 4, "kernel_shape": [k, k]}
        nodes.append(helper.make_node("Conv", [x, f"l{i}.weight", bias], [f"c{i}"], name=f"conv{i}", **geometry))
        last = f"c{i}"
        if layer["silu"]:
            nodes.append(helper.make_node("Sigmoid", [last], [f"g{i}"], name=f"sigmoid{i}"))
            nodes.append(helper.make_node("Mul", [last, f"g{i}"], [f"a{i}"], name=f"mul{i}"))
            last = f"a{i}"
        x = rounded(last, i + 1, f"x{i + 1}" if i < len(layers) - 1 else "box_8")
    shapes = [(1, 3, *HW), (1, layers[-1]["integers"].shape[0], HW[0] // 2, HW[1] // 2)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip((INPUT_NAME, "box_8"), shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, "known", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_the_simulator_follows_the_integer_scheme_to_the_integer(tmp_path):
    layers, grids = known_layers()
    model = graph_of(layers, grids)
    onnx.save(model, str(tmp_path / "known.onnx"))
    wanted = chain_in_integers(IMAGES, layers, grids)
    assert wanted.std() > 10, "a test of constants would prove nothing"
    assert (np.abs(wanted) < 127).mean() > 0.9
    scale, zero = grids[-1]
    ours = np.rint(run(model, pixels_of(IMAGES))[0] / np.float32(scale)).astype(np.int64) + zero
    build = build_rknn(tmp_path / "known.onnx", tmp_path / "out", evaluate=IMAGES, processes=1)
    theirs = build.simulated.arrays["box_8"].astype(np.int64)
    for name, found in (("ONNX Runtime", ours), ("simulator", theirs)):
        apart = np.abs(found - wanted)
        assert apart.max() <= 1, name
        assert (apart == 0).mean() > 0.9995, f"{name}: {(apart == 0).mean()}"


def test_the_compiler_rescales_a_grid_whose_zero_point_is_zero(tmp_path):
    """Why no activation may be deployed with zero point 0: it is taken for symmetric, and its scale changed."""
    layers, grids = known_layers()
    onnx.save(graph_of(layers, [*grids[:-1], (grids[-1][0], 0)]), str(tmp_path / "known.onnx"))
    with pytest.raises(ConversionError, match=r"box_8 is not a multiple of its scale 0\.05"):
        build_rknn(tmp_path / "known.onnx", tmp_path / "out", evaluate=IMAGES[:1], processes=1)
