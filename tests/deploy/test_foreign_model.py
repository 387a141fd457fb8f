"""Layouts from shapes, and what is told where a model fits none; activations and units with their reasons."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.foreign_model import find_layout
from deploy.manifest import TensorScale
from deploy.model_probe import probe
from deploy.model_signature import Output, Signature, onnx_signature, told_signature
from deploy.onnx_graph import read_graph
from tests.deploy.foreign_models import Foreign, shaped

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo"


def signature(*shapes: tuple[int, ...], hw: tuple[int, int] = (64, 64), **change) -> Signature:
    outputs = tuple(Output(f"out_{i}", shape) for i, shape in enumerate(shapes))
    fields = {"path": Path("m.onnx"), "input_hw": hw, "outputs": outputs, "precision": "fp32", "source": "drawn"}
    return Signature(**{**fields, **change})


def head_shapes(classes: int, hw=(64, 64), strides=(8, 16, 32), bins=16, sums=False) -> list[tuple[int, ...]]:
    kinds = (4 * bins, classes, 1) if sums else (4 * bins, classes)
    return [(1, channels, hw[0] // s, hw[1] // s) for s in strides for channels in kinds]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    classes=st.integers(1, 90),
    bins=st.sampled_from([8, 16, 32]),
    sums=st.booleans(),
    strides=st.sampled_from([(8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32), (8,), (7, 14)]),
)
def test_heads_are_found_in_any_order(data, classes, bins, sums, strides):
    hw = (448, 896)
    shapes = head_shapes(classes, hw, strides, bins, sums)
    order = data.draw(st.permutations(range(len(shapes))))
    sums_look_like_classes = sums and classes == 1
    if classes % 4 == 0 and classes >= 8:  # box or class: only the order tells, so it must be kept
        order = range(len(shapes))
    found = find_layout(signature(*(shapes[i] for i in order), hw=hw), classes, "names.txt")
    assert [level.stride for level in found.levels] == list(strides)
    assert (found.reg_max, found.has_sums, found.decoded) == (bins, sums, None)
    per_level = 3 if sums else 2
    for i, level in enumerate(found.levels):
        kinds = [order[int(o.name[4:])] - per_level * i for o in (level.box, level.classes, level.score_sum) if o]
        assert kinds == ([0, 1, 2] if sums else [0, 1]) or (sums_look_like_classes and sorted(kinds) == [0, 1, 2])
    assert ("the first of a level" in " ".join(found.notes)) == (classes == 4 * bins)
    assert ("1 channel" in " ".join(found.notes)) == sums_look_like_classes


@pytest.mark.parametrize("classes", [1, 2, 20, 80])
@pytest.mark.parametrize("hw", [(640, 640), (384, 640)])
def test_decoded_outputs_are_found_both_ways_round(classes, hw):
    boxes = sum(hw[0] // s * (hw[1] // s) for s in (8, 16, 32))
    for transposed in (False, True):
        shape = (1, boxes, 4 + classes) if transposed else (1, 4 + classes, boxes)
        found = find_layout(signature(shape, hw=hw), classes, "names.txt")
        assert (found.transposed, found.boxes, found.strides) == (transposed, boxes, (8, 16, 32))
        assert not found.maybe_suppressed
        assert f"{boxes} boxes, the cells of strides 8, 16, 32" in str(found)


def test_the_sum_of_one_class_is_the_output_computed_from_the_other(tmp_path):
    rng = np.random.default_rng(0)
    heads = [rng.normal(size=(1, c, 64 // s, 64 // s)).astype(np.float32) for s in (8, 16, 32) for c in (64, 1)]
    path = (
        Foreign((64, 64), 1, heads)
        .heads(sigmoid=True, sums=True)
        .save(tmp_path / "m.onnx", [2, 1, 0, 8, 5, 3, 7, 6, 4])
    )
    found = find_layout(onnx_signature(path), 1, "names.txt")
    for level in found.levels:
        s = level.stride
        assert (level.box.name, level.classes.name, level.score_sum.name) == (f"box_{s}", f"prob_{s}", f"sum_{s}")


WRONG = [
    ([(1, 84, 8400)], 79, (640, 640), "has 4 [+] 80 channels, so 80 classes, names.txt names 79"),
    ([(1, 8400, 84)], 81, (640, 640), "so 80 classes, names.txt names 81"),
    ([(1, 20, 8400)], 15, (640, 640), "so 16 classes, names.txt names 15 .one more than fits: an oriented-box"),
    ([(1, 116, 8400)], 80, (640, 640), "so 112 classes, names.txt names 80 .32 more than fit: a segmentation"),
    ([(1, 116, 8400), (1, 32, 160, 160)], 80, (640, 640), "those of a segmentation model"),
    ([(1, 300, 6)], 80, (640, 640), "left after suppression inside the model .*nms=False"),
    ([(1, 25200, 85)], 80, (640, 640), "three boxes a cell.*YOLOv5"),
    ([(1, 25200, 85)], 81, (640, 640), "three boxes a cell.*YOLOv5"),
    (head_shapes(80), 79, (64, 64), "class output of 80 channels, so 80 classes, names.txt names 79"),
    (head_shapes(1, sums=True), 2, (64, 64), "class output of 1 channels, so 1 classes, names.txt names 2"),
    (head_shapes(6, bins=5), 5, (64, 64), "box output of 4 x reg_max channels and a class output of 5.*got 20 and 6"),
    (head_shapes(7, bins=1), 7, (64, 64), "box output of 4 channels, distances without a distribution"),
    ([(1, 64, 8, 8), (1, 3, 8, 8), (1, 64, 5, 5), (1, 3, 5, 5)], 3, (64, 64), "has 5 x 5 cells.*no whole multiple"),
    ([(1, 64, 8, 4), (1, 3, 8, 4)], 3, (64, 64), "no whole multiple of that, the same for height and width"),
    ([(1, 8, 8, 64), (1, 8, 8, 3)], 3, (64, 64), "no whole multiple"),
    ([(1, 67, 8, 8), (1, 67, 4, 4)], 3, (64, 64), "box and class joined: cut the model before the Concat"),
    ([(1, 64, 8, 8), (1, 3, 8, 8), (1, 1, 8, 8), (1, 2, 8, 8)], 3, (64, 64), "no known layout fits"),
    ([(1, 64, 8, 8), (1, 3, 8, 8), (1, 2, 8, 8)], 3, (64, 64), "none of them 1 channel as a score sum"),
    ([*head_shapes(3)[:2], (1, 1, 8, 8), *head_shapes(3)[2:]], 3, (64, 64), "each level must have a score sum or none"),
    ([(1, 64, 8, 8), (1, 3, 8, 8), (1, 32, 4, 4), (1, 3, 4, 4)], 3, (64, 64), "same channels on each level"),
    ([(1, 1000)], 1000, (224, 224), "no known layout fits its outputs out_0 1 x 1000; known: one output of"),
    ([(1, 8400, 4), (1, 8400, 80)], 80, (640, 640), "no known layout fits"),
    ([(4, 84, 8400)], 80, (640, 640), "must have batch 1"),
]


@pytest.mark.parametrize(("shapes", "classes", "hw", "message"), WRONG)
def test_what_does_not_fit_is_told_in_one_line(shapes, classes, hw, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_layout(signature(*shapes, hw=hw), classes, "names.txt")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("m.onnx: ")


INPUTS = [
    ({"inputs": [("n", 3, 64, 64)]}, r"must have fixed axes, got \['n', 3, 64, 64\]; .*dynamic=False"),
    ({"inputs": [(1, 3, "h", "w")]}, "must have fixed axes"),
    ({"inputs": [(1, 64, 64, 3)]}, r"must be NCHW.*got NHWC \[1, 64, 64, 3\]"),
    ({"inputs": [(1, 1, 64, 64)]}, "must have 3 channels"),
    ({"inputs": [(2, 3, 64, 64)]}, "must have batch 1"),
    ({"inputs": [(1, 3, 64)]}, r"must have shape \[1, 3, height, width\]"),
    ({"inputs": [(1, 3, 64, 64), (1, 3, 64, 64)]}, r"must have one input, the image, got 2 \(in_0, in_1\)"),
    ({"kind": onnx.TensorProto.FLOAT16}, r"input in_0 must be float32, got tensor\(float16\); .*half=False"),
    ({"kind": onnx.TensorProto.UINT8}, "must be float32, got"),
]


@pytest.mark.parametrize(("change", "message"), INPUTS)
def test_inputs_and_outputs_that_cannot_serve_are_refused(change, message, tmp_path):
    path = shaped(tmp_path / "m.onnx", **{"outputs": [(1, 7, 84)], **change})
    with pytest.raises(ValueError, match=message) as caught:
        onnx_signature(path)
    assert "\n" not in str(caught.value)


def test_outputs_whose_size_depends_on_the_image_are_refused(tmp_path):
    foreign = Foreign((64, 64), 3)
    foreign.node("Relu", ["images"], "positive")
    foreign.node("NonZero", ["positive"], "places")
    foreign.outputs = [("places", (4, "found"))]
    path = foreign.save(tmp_path / "m.onnx", kind=onnx.TensorProto.INT64)
    with pytest.raises(ValueError, match=r"output places has no fixed shape, got \[4, 'found'\]; .*dynamic=False"):
        onnx_signature(path)
    foreign.node("Shape", ["images"], "sides")
    foreign.outputs = [("sides", (4,))]
    path = foreign.save(tmp_path / "m.onnx", kind=onnx.TensorProto.INT64)
    with pytest.raises(ValueError, match=r"output sides must be float32, got tensor\(int64\)"):
        onnx_signature(path)


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing"):
        onnx_signature(tmp_path / "m.onnx")
    whole = (ZOO / "procedural" / "model.onnx").read_bytes()
    for content in (b"", b"\x89PNG\r\n\x1a\n" * 100, b"Lorem ipsum dolor sit amet", b"PK\x03\x04" * 9, whole[:5000]):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"m\.onnx (is not an ONNX file|cannot be loaded by ONNX Runtime)"
        ) as caught:
            onnx_signature(tmp_path / "m.onnx")
        assert "\n" not in str(caught.value)


def test_weights_in_other_files_are_refused(tmp_path):
    path = shaped(tmp_path / "m.onnx", [(1, 7, 84)])
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").is_file()
    with pytest.raises(ValueError, match="weights in files beside it"):
        onnx_signature(path)


def test_a_missing_runtime_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        onnx_signature(shaped(tmp_path / "m.onnx", [(1, 7, 84)]))


@pytest.mark.parametrize("name", ["procedural", "vhr10"])
def test_the_outline_of_a_graph_is_that_of_the_onnx_package(name):
    path = ZOO / name / "model.onnx"
    graph, expected = read_graph(path), onnx.load(str(path)).graph
    assert graph.producers.keys() == {output for node in expected.node for output in node.output}
    for node in expected.node:
        for output in node.output:
            found = graph.producers[output]
            assert (found.operation, found.inputs, found.outputs) == (
                node.op_type,
                tuple(node.input),
                tuple(node.output),
            )
    assert not graph.external
    assert graph.activation("class_8")[0] == "none"
    assert graph.reaches("images", "class_32")
    assert not graph.reaches("class_8", "class_32")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300), cut=st.integers(0, 3000))
def test_any_bytes_are_read_or_refused(content, cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "m.onnx"
    for data in (content, (ZOO / "procedural" / "model.onnx").read_bytes()[:cut] + content):
        path.write_bytes(data)
        try:
            read_graph(path)
        except ValueError as error:
            assert "is not an ONNX file" in str(error)  # noqa: PT017


def drawn_heads(classes: int, hw=(64, 64), low=-8.0) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.uniform(low, 4, (1, c, hw[0] // s, hw[1] // s)).astype(np.float32)
        for s in (8, 16, 32)
        for c in (64, classes)
    ]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_graph_tells_the_activation_for_certain(sigmoid, tmp_path):
    # Scores that are all positive: a look at the values would take the logits for probabilities.
    heads = [head if i % 2 == 0 else np.full_like(head, 0.4) for i, head in enumerate(drawn_heads(3))]
    for i, build in enumerate((lambda f: f.heads(sigmoid=sigmoid), lambda f: f.decoded(sigmoid=sigmoid))):
        read = onnx_signature(build(Foreign((64, 64), 3, heads)).save(tmp_path / f"{i}.onnx"))
        layout = find_layout(read, 3, "names.txt")
        found = probe(read, layout)
        assert found.activation == ("sigmoid" if sigmoid else "none")
        assert ("Sigmoid" if sigmoid else "Add") in found.activation_why
        with pytest.raises(ValueError, match="leave the option out"):
            probe(read, layout, "none" if sigmoid else "sigmoid")


@pytest.mark.parametrize(("low", "expected"), [(-8.0, "none"), (0.01, "sigmoid")])
def test_where_the_graph_tells_nothing_noise_images_do(low, expected, tmp_path):
    foreign = Foreign((64, 64), 3, drawn_heads(3, low=low)).heads()
    for i in (1, 3, 5):
        name, shape = foreign.outputs[i]
        if low > 0:
            name = foreign.node("Sigmoid", [name], f"{name}_s")
        foreign.outputs[i] = (foreign.node("Mul", [name, foreign.constant(f"one_{i}", np.float32(1))], f"m_{i}"), shape)
    read = onnx_signature(foreign.save(tmp_path / "m.onnx"))
    layout = find_layout(read, 3, "names.txt")
    found = probe(read, layout)
    assert found.activation == expected
    assert "found by running" in found.activation_why
    assert probe(read, layout, "none").activation_why == "by --activation"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("corners", [False, True])
def test_form_and_unit_of_boxes_are_found(transposed, fractions, corners, tmp_path):
    foreign = Foreign((64, 96), 3, drawn_heads(3, (64, 96)))
    path = foreign.decoded(transposed=transposed, fractions=fractions, corners=corners).save(tmp_path / "m.onnx")
    read = onnx_signature(path)
    found = probe(read, find_layout(read, 3, "names.txt"))
    assert found.box_format == ("xyxy" if corners else "xywh")
    assert found.box_units == ("fractions" if fractions else "pixels")


def test_boxes_that_are_no_boxes_are_refused(tmp_path):
    value = np.zeros((1, 7, 84), np.float32)
    value[0, 0], value[0, 3] = 20, -4
    read = onnx_signature(shaped(tmp_path / "m.onnx", [(1, 7, 84)], value=value))
    with pytest.raises(ValueError, match="neither centre and size nor corners"):
        probe(read, find_layout(read, 3, "names.txt"), "sigmoid")
    value[:] = np.nan
    read = onnx_signature(shaped(tmp_path / "m.onnx", [(1, 7, 84)], value=value))
    with pytest.raises(ValueError, match="NaN or infinity"):
        probe(read, find_layout(read, 3, "names.txt"), "sigmoid")


def test_two_classes_and_suppression_inside_are_told_apart_by_a_run(tmp_path):
    rng = np.random.default_rng(0)
    value = rng.random((1, 300, 6)).astype(np.float32)
    read = onnx_signature(shaped(tmp_path / "m.onnx", [(1, 300, 6)], value=value))
    layout = find_layout(read, 2, "names.txt")
    assert layout.maybe_suppressed
    assert probe(read, layout).activation == "sigmoid"
    value[..., 5] = rng.integers(0, 2, (1, 300))
    read = onnx_signature(shaped(tmp_path / "m.onnx", [(1, 300, 6)], value=value))
    with pytest.raises(ValueError, match="left after suppression inside"):
        probe(read, find_layout(read, 2, "names.txt"))


@pytest.mark.parametrize(
    ("scale", "zero_point", "expected"), [(1 / 255, -128, "sigmoid"), (0.1, 98, "none"), (0.05, -128, "none")]
)
def test_the_integers_of_an_int8_output_tell_the_activation(scale, zero_point, expected):
    stored = TensorScale(scale=scale, zero_point=zero_point)
    outputs = tuple(Output(f"o{i}", shape, stored) for i, shape in enumerate(head_shapes(3)))
    read = signature(outputs=outputs, precision="int8")
    found = probe(read, find_layout(read, 3, "names.txt"))
    assert found.activation == expected
    assert "integers of o1 reach from" in found.activation_why


def test_class_outputs_that_disagree_are_refused(tmp_path):
    foreign = Foreign((64, 64), 3, drawn_heads(3)).heads()
    foreign.outputs[3] = (foreign.node("Sigmoid", ["class_16"], "p"), foreign.outputs[3][1])
    read = onnx_signature(foreign.save(tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match="must all have a sigmoid or none, got none for class_8, sigmoid for p"):
        probe(read, find_layout(read, 3, "names.txt"))


@pytest.mark.parametrize(("layout", "count"), [("six", 6), ("nine", 9), ("one", 1)])
def test_a_told_signature_is_that_of_yolov8(layout, count):
    read = told_signature(Path("m.rknn"), layout, (640, 384), 12, "fp16")
    assert len(read.outputs) == count
    found = find_layout(read, 12, "names.txt")
    assert found.strides == (8, 16, 32)
    assert found.has_sums == (layout == "nine")
    with pytest.raises(ValueError, match=r"nothing here tells .* give --activation"):
        probe(read, found)
    assert probe(read, found, "sigmoid").activation == "sigmoid"
    with pytest.raises(ValueError, match=r"--input-size must be multiples of 32, height and width, got 640 380"):
        told_signature(Path("m.rknn"), layout, (640, 380), 12, "fp16")


def test_names_noted_in_the_file_are_read(tmp_path):
    names = {0: "ship", 1: "tank", 2: "court"}
    for i, text in enumerate((repr(names), json.dumps(list(names.values())), "nonsense(", "{1: 2")):
        foreign = Foreign((64, 64), 3, drawn_heads(3)).heads()
        read = onnx_signature(foreign.save(tmp_path / "m.onnx", notes={"names": text}))
        assert read.class_names == (("ship", "tank", "court") if i < 2 else ())
