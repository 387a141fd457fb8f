"""Learnt integers in ONNX files: stored, read back, completed for the compiler, and what the vendor's tools make of it.

The network here is a small detector with everything that YOLOv8 has: SiLU, split, sum, Concat, pooling, resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from deploy.backends.onnx_session import session_options
from deploy.convert.agreement import compare_layers
from deploy.convert.onnx_export import INPUT_NAME, export_onnx
from deploy.convert.quantised_onnx import (
    DQ,
    IntegerWeights,
    Q,
    activations_of,
    compile_form,
    integers_of,
    is_quantised,
    output_grids,
    quantiser_name,
    store_integers,
)
from deploy.convert.rknn_build import ConversionError, build_rknn
from quantize.export_form import ExportForm, export_form
from quantize.insert import FakeQuantised, insert
from quantize.numerics import marked_asymmetric
from train.model import SPPF, C2f, Concat, ConvBlock, Upsample

# Not smaller: the compiler takes a pooling that is wider than its map for a global one, and simulates other values.
HW = (128, 128)


class SmallDetector(nn.Module):
    """Two levels, strides 8 and 16: [box_8, class_8, box_16, class_16]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, 16, 3, 2), ConvBlock(16, 32, 3, 2), ConvBlock(32, 32, 3, 2))
        self.early, self.down, self.pool = C2f(32, 32, 1, True), ConvBlock(32, 32, 3, 2), SPPF(32, 32)
        self.up, self.join, self.mix = Upsample(), Concat(), C2f(64, 32, 1, False)
        self.box = nn.ModuleList([nn.Conv2d(32, 64, 1) for _ in range(2)])
        self.cls = nn.ModuleList([nn.Conv2d(32, 3, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        early = self.early(self.stem(x))
        deep = self.pool(self.down(early))
        fine = self.mix(self.join(self.up(deep), early))
        return [head(level) for level, *heads in zip((fine, deep), self.box, self.cls, strict=True) for head in heads]


def smooth_images(count: int, seed: int) -> np.ndarray:
    """Return (n, 128, 128, 3) uint8 images with structure at every size, as photographs have."""
    rng = np.random.default_rng(seed)
    return np.stack([cv2.resize(rng.integers(0, 256, (13, 13, 3), dtype=np.uint8), HW[::-1]) for _ in range(count)])


def pixels_of(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


IMAGES = smooth_images(4, seed=5)


@pytest.fixture(scope="module")
def network() -> FakeQuantised:
    """A folded network with learnt ranges that are not those of an observer."""
    torch.manual_seed(0)
    model = SmallDetector()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    seen = torch.from_numpy(pixels_of(smooth_images(8, seed=1)))
    with torch.no_grad():
        model.train()(seen)
        found = insert(model.eval()).train()
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        found(seen)
        found.eval().fold_batch_norm()
        found.learn()
        for quantiser in found.quantisers().values():
            if not quantiser.fixed:
                quantiser.stretch += torch.rand(quantiser.stretch.shape) * 0.03
    return found


@pytest.fixture(scope="module")
def form(network) -> ExportForm:
    return export_form(network)


@pytest.fixture(scope="module")
def weights(form) -> dict[str, IntegerWeights]:
    return {
        n: IntegerWeights(w.integers.numpy(), w.scale.numpy(), w.zero_point.numpy()) for n, w in form.weights.items()
    }


@pytest.fixture(scope="module")
def path(form, weights, tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(form.module, found, HW, integers=weights)
    return found


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1, exact=True), providers=["CPUExecutionProvider"]
    )
    outs = [session.run(None, {INPUT_NAME: x[None]}) for x in pixels]
    return [np.concatenate(parts) for parts in zip(*outs, strict=True)]


# ---- the file


def test_integers_come_back_as_they_were_stored(path, weights):
    back = integers_of(onnx.load(str(path)))
    assert back.keys() == weights.keys()
    for name, w in weights.items():
        for part in ("integers", "scale", "zero_point"):
            ours, theirs = getattr(w, part), getattr(back[name], part)
            assert ours.dtype == theirs.dtype, (name, part)
            np.testing.assert_array_equal(ours, theirs)


def test_activations_come_back_to_the_bit(path, form):
    assert activations_of(onnx.load(str(path))) == form.activations


def test_a_file_with_two_values_for_one_quantiser_is_refused(path):
    model = onnx.load(str(path))
    shared = [n for n in model.graph.node if n.op_type == Q and quantiser_name(n.name) == "early_cv1_act_quantiser"]
    assert len(shared) > 1, "the C2f's first convolution and its sum share a grid"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    shared[1].input[1] = "other"
    with pytest.raises(ValueError, match=r"quantiser early_cv1_act_quantiser stands in the graph with .* and with"):
        activations_of(model)


@pytest.mark.parametrize("change", ["name", "shape"])
def test_integers_that_do_not_fit_the_graph_are_refused(path, weights, form, tmp_path, change):
    w = weights["stem.0.conv"]
    wrong = (
        {"nothing": w}
        if change == "name"
        else {"stem.0.conv": IntegerWeights(w.integers[:, :1], w.scale, w.zero_point)}
    )
    with pytest.raises(ValueError, match=r"the exported graph has no weight (nothing|stem\.0\.conv)\.weight of shape"):
        export_onnx(form.module, tmp_path / "bad.onnx", HW, integers=wrong)
    assert not list(tmp_path.iterdir())
    plain = onnx.load(str(path))  # its weights are no float initialisers any more
    with pytest.raises(ValueError, match="no weight"):
        store_integers(plain, {"stem.0.conv": w})


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("/act_quantiser/QuantizeLinear", "act_quantiser"),
        ("/act_quantiser_1/QuantizeLinear", "act_quantiser"),
        ("/model_4_cv1_act_quantiser_12/DequantizeLinear", "model_4_cv1_act_quantiser"),
        ("/add_2_quantiser/QuantizeLinear", "add_2_quantiser"),
        ("/add_2_quantiser_3/QuantizeLinear", "add_2_quantiser"),
    ],
)
def test_the_quantiser_of_a_node(node, name):
    assert quantiser_name(node) == name


def test_every_place_of_a_shared_quantiser_is_in_the_graph(path, network):
    model = onnx.load(str(path))
    places: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == Q:
            name = quantiser_name(node.name)
            places[name] = places.get(name, 0) + 1
    assert places == {name: len(nodes) for name, nodes in network.placement.groups.items()}
    assert max(places.values()) > 1


def test_the_grids_of_the_outputs(path, form):
    grids = output_grids(onnx.load(str(path)))
    assert list(grids) == ["box_8", "class_8", "box_16", "class_16"]
    assert grids["box_8"] == form.activations["box_0_quantiser"]
    assert grids["class_16"] == form.activations["cls_1_quantiser"]


def test_a_float_file_has_no_integers(tmp_path):
    export_onnx(SmallDetector(), tmp_path / "float.onnx", HW)
    model = onnx.load(str(tmp_path / "float.onnx"))
    assert not is_quantised(model)
    assert (integers_of(model), activations_of(model), output_grids(model)) == ({}, {}, {})


def test_onnx_runtime_computes_what_torch_computes(path, form):
    model = onnx.load(str(path))
    assert is_quantised(model)
    pixels = pixels_of(IMAGES)
    with torch.no_grad():
        wanted = [head.numpy() for head in form.module(torch.from_numpy(pixels))]
    for got, want, (scale, _) in zip(run(model, pixels), wanted, output_grids(model).values(), strict=True):
        apart = np.abs(np.rint(got / scale) - np.rint(want / scale))
        # Sums at the border of two integers fall to either side, and the layers behind spread that.
        assert (apart <= 2).mean() > 0.99
        assert (apart == 0).mean() > 0.7
        assert np.std(want) > 2 * scale, "a test of constants would prove nothing"
    for layer in compare_layers(form.module, form.activations, path, list(IMAGES[:2])):
        assert layer.max_lsb <= 1, layer.name
        assert layer.identical > 0.999, f"{layer.name}: {layer.identical}"


# ---- the compiler's form


def reaching_only_sizes(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that are worked out from shapes: where a split cuts."""
    sizes: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Shape" or any(name in sizes for name in node.input if node.op_type != "Slice"):
            sizes |= set(node.output)
    return sizes


def test_every_tensor_but_the_gate_of_silu_is_quantised_for_the_compiler(path):
    before = onnx.load(str(path))
    size = before.ByteSize()
    full = compile_form(before)
    assert before.ByteSize() == size, "a copy is completed"
    made = {name: node for node in full.graph.node for name in node.output}
    kinds = {node.op_type for node in full.graph.node}
    assert kinds >= {"Conv", "Slice", "Concat", "MaxPool", "Resize", "Add", "Sigmoid"}
    sizes = reaching_only_sizes(full)
    for node in full.graph.node:
        if node.op_type in (Q, DQ, "Constant") or node.output[0] in sizes:
            continue
        for place, name in enumerate(node.input):
            source = made.get(name)
            if source is None or source.op_type == "Constant" or name in sizes:
                continue  # bias
            gate = node.op_type == "Mul" and source.op_type == "Sigmoid"
            assert gate or source.op_type == DQ, f"{node.name} input {place} comes from {source.op_type}"
    assert all(made[value.name].op_type == DQ for value in full.graph.output)
    assert sum(n.op_type == Q for n in full.graph.node) > sum(n.op_type == Q for n in before.graph.node)


def test_what_keeps_its_values_keeps_its_grid(path):
    full = compile_form(onnx.load(str(path)))
    made = {name: node for node in full.graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in full.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = 0
    for node in full.graph.node:
        if node.op_type not in ("Split", "Slice", "Concat", "MaxPool", "Resize"):
            continue
        sources = [made[name] for name in node.input if name in made and made[name].op_type == DQ]
        grids = {tuple(source.input[1:]) for source in sources}
        values = {grid_of(full, grid) for grid in grids}
        for output in node.output:
            (behind,) = users[output]
            assert behind.op_type == Q
            values.add(grid_of(full, behind.input[1:]))
            found += 1
        assert len(values) == 1, f"{node.name} joins the grids {values}"
    assert found >= 8


def grid_of(model: onnx.ModelProto, names: Sequence[str]) -> tuple[float, ...]:
    """Return the values of constants of the graph."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    found |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    return tuple(numpy_helper.to_array(found[name]).item() for name in names)


def without_rounding_before_activations(full: onnx.ModelProto) -> onnx.ModelProto:
    """Take the added pairs behind convolutions out again, as the compiler's fusion does."""
    made = {name: node for node in full.graph.node for name in node.output}
    renamed, drop = {}, set()
    for node in full.graph.node:
        if node.op_type == Q and node.name.endswith("_added_quantise") and made[node.input[0]].op_type == "Conv":
            after = next(n for n in full.graph.node if n.op_type == DQ and n.input[0] == node.output[0])
            renamed[after.output[0]] = node.input[0]
            drop |= {node.name, after.name}
    assert renamed
    kept = [n for n in full.graph.node if n.name not in drop or not n.name]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    kept_nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del full.graph.node[:]
    full.graph.node.extend(kept_nodes)
    onnx.checker.check_model(full, full_check=True)
    return full


def test_the_compilers_form_computes_the_same_but_before_activations(path):
    shipped = onnx.load(str(path))
    pixels = pixels_of(IMAGES[:2])
    full = compile_form(shipped)
    want, rough = run(shipped, pixels), run(full, pixels)
    for a, b in zip(want, run(without_rounding_before_activations(full), pixels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(want, rough, strict=True)), "the extra rounding is there"


def test_completing_twice_adds_nothing(path):
    once = compile_form(onnx.load(str(path)))
    assert len(compile_form(once).graph.node) == len(once.graph.node)


def test_a_learnt_model_has_one_precision(path, tmp_path):
    with pytest.raises(ValueError, match="learnt integers compiles to int8, precision is 'fp16'"):
        build_rknn(path, tmp_path, precision="fp16")


# ---- the vendor's compiler and simulator


def test_the_simulator_computes_the_learnt_network(path, form, tmp_path):
    build = build_rknn(path, tmp_path, evaluate=IMAGES, processes=1)
    inside = [layer for layer in build.table.layers if not layer.type.endswith("Operator")]
    assert {(layer.dtype, layer.target) for layer in inside} == {("INT8", "NPU")}
    assert build.calibration_count == 0
    grids = output_grids(onnx.load(str(path)))
    assert {name: (s.scale, s.zero_point) for name, s in build.output_scales.items()} == grids
    got = build.simulated.heads(list(range(len(IMAGES))))
    pixels = pixels_of(IMAGES)
    with torch.no_grad():
        ours = [head.numpy() for head in form.module(torch.from_numpy(pixels))]
    as_written = run(onnx.load(str(path)), pixels)
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
