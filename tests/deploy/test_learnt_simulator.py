"""What the vendor's compiler and simulator make of learnt integers: the network, and the integer scheme itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.convert.inside import OnnxRun
from deploy.convert.onnx_export import INPUT_NAME
from deploy.convert.quantised_onnx import DQ, Q, output_grids
from deploy.convert.rknn_build import ConversionError, build_rknn
from quantize.exact_forms import SimulatedSiLU, as_simulated, sums_in_blocks
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
    simulated_in_torch, reference = as_simulated(learnt_form), OnnxRun(learnt_path)
    for number, (image, pixels) in enumerate(zip(IMAGES, pixels_of(IMAGES), strict=True)):
        with torch.no_grad():
            in_torch = [head.numpy() for head in simulated_in_torch(torch.from_numpy(pixels[None]))]
        heads = zip(grids.items(), got, in_torch, reference.heads(image), strict=True)
        for (name, (scale, _)), simulated, ours, in_onnx in heads:
            theirs = np.rint(simulated[number] / scale)
            np.testing.assert_array_equal(np.rint(ours[0] / scale), theirs, err_msg=f"torch, {name}")
            np.testing.assert_array_equal(np.rint(in_onnx[0] / scale), theirs, err_msg=f"ONNX Runtime, {name}")


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


# ---- the last bit of SiLU


def on_borders(scale: np.float32) -> np.ndarray:
    """Return float32 values whose SiLU falls to another integer by another evaluation of the same formula."""
    low, high = np.full(238, -0.2), np.full(238, 13.0)
    borders = (np.arange(238) + 0.5) * float(scale)
    for _ in range(60):
        middle = (low + high) / 2
        below = middle / (1 + np.exp(-middle)) < borders
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    near = (
        low.astype(np.float32)[:, None]
        + np.arange(-12, 13, dtype=np.float32) * np.spacing(low.astype(np.float32))[:, None]
    )
    values = np.unique(near)
    told = np.stack([np.rint(form(values) / scale) for form in SILU.values()])
    return values[(told != told[0]).any(0)]


ONE = np.float32(1)
SILU = {
    "as the simulator": lambda y: SimulatedSiLU()(torch.from_numpy(y)).numpy(),
    "torch's SiLU": lambda y: torch.nn.functional.silu(torch.from_numpy(y)).numpy(),
    "torch's sigmoid": lambda y: y * torch.sigmoid(torch.from_numpy(y)).numpy(),
    "one division": lambda y: y / (ONE + np.exp(-y.astype(np.float64)).astype(np.float32)),
    "float64": lambda y: (y / (1 + np.exp(-y.astype(np.float64)))).astype(np.float32),
}


def convolved(weights: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the 1x1 convolution (channels, pixels) of (pixels, 3) values, summed up in the simulator's order."""
    return sums_in_blocks(torch.from_numpy(weights), torch.from_numpy(np.float32(pixels.T))).numpy()


def test_silu_is_the_simulators_to_the_last_bit(tmp_path):
    """Values at the borders of integers tell one evaluation from another; drawn ones would take a billion."""
    rng = np.random.default_rng(0)
    scale_in, (scale, zero) = np.float32(1 / 255), (np.float32(0.0473), -121)
    borders = on_borders(scale)
    assert len(borders) > 64
    borders = rng.permutation(borders)[:64]
    # One channel each: weights 100, 10, 1 for the three colours, and the scale that takes one pixel to the border.
    colours = rng.integers(40, 200, (64, 3))
    weights = np.broadcast_to(np.array([100, 10, 1], np.int8)[:, None, None], (64, 3, 1, 1)).copy()
    weights[0] -= 1
    zeros = np.where(np.arange(64) == 0, -1, 0).astype(np.int8)
    real = (weights[:, :, 0, 0] - zeros[:, None]).astype(np.float32)
    scales = (borders / (real * colours).sum(1) / scale_in).astype(np.float32)
    tried = scales + np.arange(-40, 41, dtype=np.float32)[:, None] * np.spacing(scales)
    reached = np.stack([np.diag(convolved(real * one[:, None], colours * scale_in)) for one in tried])
    scales = tried[(reached == borders).argmax(0), np.arange(64)]
    image = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    image[::2, ::2] = colours[rng.integers(0, 64, (HW[0] // 2, HW[1] // 2))]
    layer = {"integers": weights, "zero_point": zeros, "scale": scales, "bias": np.zeros(64, np.int32)}
    grids = [(float(scale_in), -128), (float(scale), zero)]
    onnx.save(graph_of([{**layer, "stride": 2, "silu": True}], grids), str(tmp_path / "silu.onnx"))
    build = build_rknn(tmp_path / "silu.onnx", tmp_path / "out", evaluate=image[None], processes=1)
    theirs = build.simulated.arrays["box_8"][0].reshape(64, -1).astype(int)
    y = convolved(real * scales[:, None], image[::2, ::2].reshape(-1, 3) * scale_in)
    assert np.isin(borders, y).mean() > 0.5
    integers = {name: np.clip(np.rint(form(y) / scale) + zero, -128, 127) for name, form in SILU.items()}
    apart = {name: int((found != theirs).sum()) for name, found in integers.items()}
    assert apart.pop("as the simulator") == 0
    assert min(apart.values()) > 0, f"every other evaluation is another: {apart}"


def test_the_compiler_rescales_a_grid_whose_zero_point_is_zero(tmp_path):
    """Why no activation may be deployed with zero point 0: it is taken for symmetric, and its scale changed."""
    layers, grids = known_layers()
    onnx.save(graph_of(layers, [*grids[:-1], (grids[-1][0], 0)]), str(tmp_path / "known.onnx"))
    with pytest.raises(ConversionError, match=r"box_8 is not a multiple of its scale 0\.05"):
        build_rknn(tmp_path / "known.onnx", tmp_path / "out", evaluate=IMAGES[:1], processes=1)
