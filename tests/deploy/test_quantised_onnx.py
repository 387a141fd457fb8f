"""Learnt integers in ONNX files: stored, read back, under the network's own names, computed as torch computes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from deploy.convert.agreement import compare_layers
from deploy.convert.inside import OnnxRun
from deploy.convert.onnx_export import export_onnx
from deploy.convert.quantised_onnx import (
    DQ,
    IntegerWeights,
    Q,
    activations_of,
    compile_form,
    has_islands,
    integers_of,
    is_quantised,
    output_grids,
    quantiser_name,
    store_integers,
)
from quantize.export_form import ExportForm, export_form
from quantize.insert import Settings
from tests.deploy.small_detector import HW, IMAGES, SmallDetector, learnt_network, pixels_of, run
from train.diagnosis import diagnose
from train.prove import integers_for_file


def test_integers_come_back_as_they_were_stored(learnt_path, learnt_weights):
    back = integers_of(onnx.load(str(learnt_path)))
    assert back.keys() == learnt_weights.keys()
    for name, w in learnt_weights.items():
        for part in ("integers", "scale", "zero_point"):
            ours, theirs = getattr(w, part), getattr(back[name], part)
            assert ours.dtype == theirs.dtype, (name, part)
            np.testing.assert_array_equal(ours, theirs)


def test_activations_come_back_to_the_bit(learnt_path, learnt_form):
    assert activations_of(onnx.load(str(learnt_path))) == learnt_form.activations


def test_a_file_with_two_values_for_one_quantiser_is_refused(learnt_path):
    model = onnx.load(str(learnt_path))
    shared = [n for n in model.graph.node if n.op_type == Q and quantiser_name(n.name) == "early_cv1_act_quantiser"]
    assert len(shared) > 1, "the C2f's first convolution and its sum share a grid"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    shared[1].input[1] = "other"
    with pytest.raises(ValueError, match=r"quantiser early_cv1_act_quantiser stands in the graph with .* and with"):
        activations_of(model)


@pytest.mark.parametrize("change", ["name", "shape"])
def test_integers_that_do_not_fit_the_graph_are_refused(learnt_path, learnt_weights, learnt_form, tmp_path, change):
    w = learnt_weights["stem.0.conv"]
    wrong = (
        {"nothing": w}
        if change == "name"
        else {"stem.0.conv": IntegerWeights(w.integers[:, :1], w.scale, w.zero_point)}
    )
    with pytest.raises(ValueError, match=r"the exported graph has no weight (nothing|stem\.0\.conv)\.weight of shape"):
        export_onnx(learnt_form.module, tmp_path / "bad.onnx", HW, integers=wrong)
    assert not list(tmp_path.iterdir())
    plain = onnx.load(str(learnt_path))  # its weights are no float initialisers any more
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
        ("/model.4/m.0/model_4_m_0_cv1_act_quantiser_1/QuantizeLinear", "model_4_m_0_cv1_act_quantiser"),
    ],
)
def test_the_quantiser_of_a_node(node, name):
    assert quantiser_name(node) == name


def test_every_place_of_a_shared_quantiser_is_in_the_graph(learnt_path, learnt):
    model = onnx.load(str(learnt_path))
    places: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == Q:
            name = quantiser_name(node.name)
            places[name] = places.get(name, 0) + 1
    assert places == {name: len(nodes) for name, nodes in learnt.placement.groups.items()}
    assert max(places.values()) > 1


def test_the_grids_of_the_outputs(learnt_path, learnt_form):
    grids = output_grids(onnx.load(str(learnt_path)))
    assert list(grids) == ["box_8", "class_8", "box_16", "class_16"]
    assert grids["box_8"] == learnt_form.activations["box_0_quantiser"]
    assert grids["class_16"] == learnt_form.activations["cls_1_quantiser"]


def test_a_float_file_has_no_integers(tmp_path):
    export_onnx(SmallDetector(), tmp_path / "float.onnx", HW)
    model = onnx.load(str(tmp_path / "float.onnx"))
    assert not is_quantised(model)
    assert (integers_of(model), activations_of(model), output_grids(model)) == ({}, {}, {})


# ---- names


def operations(model: onnx.ModelProto) -> list[str]:
    """Return the names of a graph's nodes, but for roundings and what exporting adds."""
    return [n.name for n in model.graph.node if n.op_type not in (Q, DQ, "Constant", "Identity")]


def test_nodes_have_the_names_that_the_float_network_is_exported_with(learnt_path, tmp_path):
    export_onnx(SmallDetector(), tmp_path / "float.onnx", HW)
    ours, wanted = operations(onnx.load(str(learnt_path))), operations(onnx.load(str(tmp_path / "float.onnx")))
    assert ours == wanted
    assert {"/early/m.0/cv1/conv/Conv", "/early/m.0/Add", "/early/Concat", "/pool/m_1/MaxPool"} <= set(ours)


class Twice(nn.Module):
    """Calls one block twice, with an operation of its own between: [box, class] at strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 8, 1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.heads = nn.ModuleList([nn.Conv2d(8, 64, 1), nn.Conv2d(8, 2, 1)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        x = self.block(x + self.block(x))
        return [head(x) for head in self.heads]


def test_a_module_that_is_called_twice_is_numbered_as_the_exporter_does(tmp_path):
    torch.manual_seed(0)
    network = learnt_network(Twice())
    form = export_form(network)
    export_onnx(form.module, tmp_path / "learnt.onnx", HW, integers=integers_for_file(form))
    export_onnx(Twice(), tmp_path / "float.onnx", HW)
    ours, theirs = (onnx.load(str(tmp_path / f"{name}.onnx")) for name in ("learnt", "float"))
    assert operations(ours) == operations(theirs)
    assert len(operations(ours)) == len(set(operations(ours))) == 10
    pixels = pixels_of(IMAGES[:1])
    with torch.no_grad():
        wanted = [head.numpy() for head in form.module(torch.from_numpy(pixels))]
    for got, want, (scale, _) in zip(run(ours, pixels), wanted, output_grids(ours).values(), strict=True):
        assert np.abs(np.rint(got / scale) - np.rint(want / scale)).max() <= 1


def test_layers_are_called_the_same_everywhere(learnt, learnt_path, learnt_form):
    """By the comparison of layers (and so the proof), by the diagnosis of rounding noise, and in the file."""
    compared = compare_layers(
        learnt_form.module, learnt_form.activations, OnnxRun(learnt_path, inside=True), list(IMAGES[:1])
    )
    diagnosed = diagnose(learnt, IMAGES[:1])
    assert [a.name for a in compared] == [noise.label for noise in diagnosed]
    names = {a.name for a in compared}
    assert names >= learnt_form.weights.keys() - {"early.m.0.cv2.conv"} | {"early.m.0 add"}
    in_file = {name.strip("/").replace("/", ".") for name in operations(onnx.load(str(learnt_path)))}
    convolutions = {name.removesuffix(".Conv") for name in in_file if name.endswith(".Conv")}
    assert convolutions == {name.replace("stem.", "stem.stem.") for name in learnt_form.weights}


# ---- equal weights


EQUAL = (("box.0", "box.1"), ("cls.0", "cls.1"), ("early.m.0.cv1.conv", "early.m.0.cv2.conv"))


def with_equal_weights(island: str) -> ExportForm:
    """Return the deployed form of a detector in which pairs of layers have equal weights, integers and biases.

    island: one that is left in floating point, and whose floats are what the other's integers stand for.
    """
    torch.manual_seed(2)
    network = learnt_network(SmallDetector(), Settings(float16=(island,) if island else ()))
    layers = network.layers()
    for one, other in EQUAL:
        if island not in (one, other):
            layers[other].load_state_dict(layers[one].state_dict())
    form = export_form(network)
    for one, other in EQUAL:
        if island in (one, other):
            source, copy = (form.module.get_submodule(n) for n in ((other, one) if island == one else (one, other)))
            copy.load_state_dict(source.state_dict())
    return form


@pytest.mark.parametrize("island", ["", "box.1", "box.0"])
def test_layers_with_equal_weights_keep_their_own_integers(tmp_path, island):
    """The exporter keeps one tensor for both; a head left in floating point may be either of the two."""
    form, path = with_equal_weights(island), tmp_path / "model.onnx"
    export_onnx(form.module, path, HW)
    merged = [n.output[0] for n in onnx.load(str(path)).graph.node if n.op_type == "Identity"]
    assert {f"{other}.weight" for _, other in EQUAL} <= set(merged), "the exporter does merge them"
    weights = integers_for_file(form)
    export_onnx(form.module, path, HW, integers=weights)
    model = onnx.load(str(path))
    back = integers_of(model)
    assert back.keys() == weights.keys()
    assert {"box.0", "box.1"} - back.keys() == ({island} if island else set())
    assert has_islands(model) is bool(island)
    for layer in compare_layers(form.module, form.activations, OnnxRun(path, inside=True), list(IMAGES[:1])):
        assert layer.max_lsb <= 1, layer.name
        assert layer.identical > 0.999, f"{layer.name}: {layer.identical}"
    run(compile_form(model), pixels_of(IMAGES[:1]))  # the checker and ONNX Runtime take it


def test_integers_may_differ_where_the_floats_are_equal(tmp_path):
    form, path = with_equal_weights(""), tmp_path / "model.onnx"
    weights = integers_for_file(form)
    theirs = weights["cls.1"]
    weights["cls.1"] = IntegerWeights(theirs.integers // 2, theirs.scale * np.float32(2), theirs.zero_point)
    export_onnx(form.module, path, HW, integers=weights)
    back = integers_of(onnx.load(str(path)))
    for name, w in weights.items():
        np.testing.assert_array_equal(back[name].integers, w.integers)
        np.testing.assert_array_equal(back[name].scale, w.scale)


# ---- values


def test_onnx_runtime_computes_what_torch_computes(learnt_path, learnt_form):
    model = onnx.load(str(learnt_path))
    assert is_quantised(model)
    pixels = pixels_of(IMAGES)
    with torch.no_grad():
        wanted = [head.numpy() for head in learnt_form.module(torch.from_numpy(pixels))]
    for got, want, (scale, _) in zip(run(model, pixels), wanted, output_grids(model).values(), strict=True):
        apart = np.abs(np.rint(got / scale) - np.rint(want / scale))
        # Sums at the border of two integers fall to either side, and the layers behind spread that.
        assert (apart <= 2).mean() > 0.99
        assert (apart == 0).mean() > 0.7
        assert np.std(want) > 2 * scale, "a test of constants would prove nothing"
    for layer in compare_layers(
        learnt_form.module, learnt_form.activations, OnnxRun(learnt_path, inside=True), list(IMAGES[:2])
    ):
        assert layer.max_lsb <= 1, layer.name
        assert layer.identical > 0.999, f"{layer.name}: {layer.identical}"
