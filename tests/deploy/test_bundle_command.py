"""Wrapped models of every layout against the six-head bundle that they are made of; and what the command says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy import bundle_command
from deploy.backends.rknn_abi import RknnError
from deploy.bundle_command import run
from deploy.detect_command import run as detect
from deploy.detector import open_detector
from deploy.head_layout import HeadLayout
from deploy.manifest import TensorScale, load_manifest, sha256_of
from deploy.model_signature import Output, Signature
from deploy.postprocess import PostProcessor
from deploy.procedural import CLASS_NAMES, draw_scene
from tests.deploy.foreign_models import Foreign, shaped
from tests.deploy.test_foreign_model import drawn_heads, head_shapes

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo" / "procedural"

# name -> how the outputs are added, and in which order the file gives them
LAYOUTS = {
    "six": (lambda f: f.heads(), [5, 4, 1, 0, 2, 3]),
    "six with sigmoid": (lambda f: f.heads(sigmoid=True), None),
    "nine": (lambda f: f.heads(sigmoid=True, sums=True), None),
    "nine, shuffled": (lambda f: f.heads(sigmoid=True, sums=True), [4, 8, 2, 6, 1, 0, 7, 3, 5]),
    "nine of logits": (lambda f: f.heads(sums=True), None),
    "one": (lambda f: f.decoded(), None),
    "one, transposed": (lambda f: f.decoded(transposed=True), None),
    "one, fractions": (lambda f: f.decoded(fractions=True), None),
    "one, corners of logits": (lambda f: f.decoded(corners=True, sigmoid=False), None),
}


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(CLASS_NAMES))
    return path


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(9000, objects=30).image, draw_scene(9001, objects=30).image[:300]]


@pytest.fixture(scope="module")
def expected(scenes):
    with open_detector(ZOO, "onnx") as detector:
        found = detector.detect(scenes)
    assert min(map(len, found)) > 5
    return found


# A whole network takes seconds for each; what the others decode is the matter of the test behind this one.
@pytest.mark.parametrize("layout", ["six", "nine, shuffled", "one"])
def test_a_real_model_finds_what_its_six_heads_find(layout, names, scenes, expected, tmp_path):
    build, order = LAYOUTS[layout]
    model = build(Foreign.around(ZOO / "model.onnx", (512, 512), 5)).save(tmp_path / "foreign.onnx", order)
    bundle = run(model, names, tmp_path / "bundle")
    manifest = load_manifest(bundle)
    assert (manifest.decoded is not None) == layout.startswith("one")
    assert manifest.activation_applied == (layout != "six")
    with open_detector(bundle, "onnx") as detector:
        assert detector.class_names == CLASS_NAMES
        found = detector.detect(scenes)
    for got, want in zip(found, expected, strict=True):
        assert len(got) == len(want)
        np.testing.assert_array_equal(got.class_id, want.class_id)
        np.testing.assert_allclose(got.score, want.score, atol=1e-5)
        np.testing.assert_allclose(got.xyxy, want.xyxy, atol=0.01)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_back_the_heads_that_were_put_in(layout, tmp_path):
    hw, classes = (64, 96), 3
    heads = drawn_heads(classes, hw)
    wanted = PostProcessor(HeadLayout((8, 16, 32), 16, hw, classes), score_threshold=0.5)(heads)[0]
    assert len(wanted) > 10
    build, order = LAYOUTS[layout]
    model = build(Foreign(hw, classes, heads)).save(tmp_path / "m.onnx", order)
    (tmp_path / "n.txt").write_text("a\nb\nc\n")
    with open_detector(run(model, tmp_path / "n.txt", tmp_path / "out"), "onnx", score_threshold=0.5) as detector:
        found = detector.detect([np.zeros((*hw, 3), np.uint8)])[0]  # model and image pixels are the same
    np.testing.assert_array_equal(found.class_id, wanted.class_id)
    np.testing.assert_allclose(found.score, wanted.score, atol=1e-6)
    inside = np.clip(wanted.xyxy, 0, [hw[1], hw[0]] * 2)
    np.testing.assert_allclose(found.xyxy, inside, atol=1e-3)


def test_detection_runs_on_a_wrapped_bundle(names, scenes, tmp_path):
    model = Foreign.around(ZOO / "model.onnx", (512, 512), 5).decoded().save(tmp_path / "foreign.onnx")
    bundle = run(model, names, tmp_path / "bundle")
    cv2.imwrite(str(tmp_path / "scene.png"), scenes[0][..., ::-1])
    detect(bundle, [tmp_path / "scene.png"], tmp_path / "found", backend="onnx")
    assert json.loads((tmp_path / "found" / "detections.json").read_text())["annotations"]


def test_the_bundle_is_whole_and_says_what_was_found(names, tmp_path, capsys):
    model = (
        Foreign.around(ZOO / "model.onnx", (512, 512), 5)
        .heads(sigmoid=True, sums=True)
        .save(tmp_path / "yolo.onnx", notes={"names": repr(dict(enumerate(["plane", *CLASS_NAMES[1:]])))})
    )
    bundle = run(
        model, names, tmp_path / "new" / "bundle", channel_order="bgr", mean=(1, 2, 3), std=(4, 5, 6), name="taken"
    )
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "model.onnx"]
    assert sha256_of(bundle / "model.onnx") == sha256_of(model)
    manifest = load_manifest(bundle)
    assert (manifest.name, manifest.channel_order, manifest.precision) == ("taken", "bgr", "fp32")
    assert (manifest.mean, manifest.std) == ((1, 2, 3), (4, 5, 6))
    assert manifest.outputs == [f"{k}_{s}" for s in (8, 16, 32) for k in ("box", "prob", "sum")]
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "1 x 3 x 512 x 512, fp32",
        "9 outputs: box, class and score sum (not read) at strides 8, 16, 32, 16 bins a side",
        "5: airplane, ship, storage_tank, vehicle, ...",
        "probabilities, sigmoid inside: the graph's last operation for prob_8 is Sigmoid",
        "bgr, (pixel - (1, 2, 3)) / (4, 5, 6): not read from the file, --channel-order, --mean and --std change it",
        "warning: the model's own notes call class 0 'plane', the file of class names 'airplane'",
        f"wrote {bundle}",
    ):
        assert part in said


def test_a_manifest_of_six_plain_heads_has_no_field_that_older_readers_refuse(names, tmp_path):
    bundle = run(ZOO / "model.onnx", names, tmp_path / "bundle")
    assert not {"decoded", "outputs"} & json.loads((bundle / "manifest.json").read_text()).keys()


RKNN = {"layout": "six", "input_size": (512, 512), "precision": "int8", "activation": "none"}


@pytest.fixture
def off_board(monkeypatch):
    """Let no runtime answer, whatever this machine has."""

    def refuse(path):
        raise OSError("librknnrt.so cannot be loaded (no such file); on the board copy it to /usr/lib")

    monkeypatch.setattr(bundle_command, "rknn_signature", refuse)


@pytest.mark.parametrize("layout", ["six", "nine"])
def test_a_closed_file_is_wrapped_by_what_the_options_say(layout, names, off_board, tmp_path, capsys):
    bundle = run(ZOO / "model.rknn", names, tmp_path / "bundle", **{**RKNN, "layout": layout})
    manifest = load_manifest(bundle)
    assert list(manifest.files) == ["rknn"]
    assert (manifest.precision, manifest.activation_applied, manifest.heads[0].box_scale) == ("int8", False, None)
    kinds = ("box", "class", "sum")
    assert manifest.outputs == ([f"{k}_{s}" for s in (8, 16, 32) for k in kinds] if layout == "nine" else [])
    said = " ".join(capsys.readouterr().out.split())
    assert "as the options say" in said
    assert "scales of the INT8 outputs are not known here" in said
    assert "the first image on the board will show whether it fits" in said


@pytest.mark.parametrize("missing", RKNN)
def test_what_is_missing_for_a_closed_file_is_named(missing, names, off_board, tmp_path):
    option = f"--{missing.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"does not answer here .*give what is missing: {option}") as caught:
        run(ZOO / "model.rknn", names, tmp_path / "bundle", **{**RKNN, missing: None})
    assert all(f"--{other.replace('_', '-')}" not in str(caught.value) for other in RKNN if other != missing)
    assert not (tmp_path / "bundle").exists()


def test_one_output_in_int8_is_refused_with_the_reason(names, off_board, tmp_path):
    with pytest.raises(
        ValueError, match=r"boxes .up to 512. and scores .up to 1. in one scale, so every score becomes 0"
    ):
        run(ZOO / "model.rknn", names, tmp_path / "bundle", **{**RKNN, "layout": "one"})
    bundle = run(
        ZOO / "model.rknn",
        names,
        tmp_path / "b",
        **{**RKNN, "layout": "one", "precision": "fp16", "activation": "sigmoid"},
    )
    assert load_manifest(bundle).decoded.boxes == 5376


def test_on_a_board_the_runtime_tells_scales(names, tmp_path, monkeypatch):
    shapes = head_shapes(5, (512, 512))
    order = [3, 2, 1, 0, 4, 5]
    outputs = tuple(Output(f"o{i}", shapes[i], TensorScale(scale=0.1 + i, zero_point=-i)) for i in order)
    told = Signature(ZOO / "model.rknn", (512, 512), outputs, "int8", "as the runtime tells")
    monkeypatch.setattr(bundle_command, "rknn_signature", lambda path: told)
    manifest = load_manifest(run(ZOO / "model.rknn", names, tmp_path / "bundle"))
    assert [(h.stride, h.box_output, h.class_output) for h in manifest.heads] == [
        (8, "o0", "o1"),
        (16, "o2", "o3"),
        (32, "o4", "o5"),
    ]
    assert (manifest.heads[1].box_scale, manifest.heads[1].class_scale) == (outputs[1].scale, outputs[0].scale)
    assert manifest.outputs == [f"o{i}" for i in order]
    for change, message in (
        ({"layout": "nine"}, "--layout is nine, but the model has 6 outputs"),
        ({"input_size": (640, 640)}, r"--input-size is \(640, 640\), but the model has \(512, 512\)"),
        ({"precision": "fp16"}, "--precision is fp16, but the model has int8"),
        ({"activation": "sigmoid"}, "--activation is sigmoid, but the integers of o1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(ZOO / "model.rknn", names, tmp_path / "other", **change)

    def refuse(path):
        raise RknnError("rknn_init", -6, str(path))

    monkeypatch.setattr(bundle_command, "rknn_signature", refuse)
    with pytest.raises(OSError, match="RKNN_ERR_MODEL_INVALID"):  # the options do not hide what the runtime says
        run(ZOO / "model.rknn", names, tmp_path / "other", **RKNN)


WRONG = [
    ({"model": "gone.onnx"}, "gone.onnx is missing"),
    ({"model": "gone.rknn"}, "gone.rknn is missing"),
    ({"model": "best.pt"}, "must be an .onnx or .rknn file, got 'best.pt'; export it to ONNX first"),
    ({"model": "best.tflite"}, "must be an .onnx or .rknn file"),
    ({"classes": "gone.txt"}, "gone.txt is missing"),
    ({"layout": "nine"}, "--layout is nine, but the model has 6 outputs"),
    ({"layout": "ten"}, "--layout must be one of six, nine, one, got 'ten'"),
    ({"channel_order": "brg"}, "--channel-order must be one of rgb, bgr, got 'brg'"),
    ({"mean": (1, 2)}, "--mean must be 3 finite numbers"),
    ({"std": (1, float("nan"), 1)}, "--std must be 3 finite numbers"),
    ({"std": (1, 0, 1)}, "--std must be above 0"),
    ({"input_size": (640, 640)}, "--input-size is .640, 640., but the model has .512, 512."),
    ({"activation": "sigmoid"}, "--activation is sigmoid, but the graph's last operation for class_8 is Conv"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_mistakes_are_told_before_anything_is_written(change, message, names, tmp_path):
    told = {"model": ZOO / "model.onnx", "classes": names, **change}
    told = {k: tmp_path / v if isinstance(v, str) and k in ("model", "classes") else v for k, v in told.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run(told.pop("model"), told.pop("classes"), tmp_path / "bundle", **told)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("extra", [1, -1])
def test_a_class_count_that_is_one_off_is_told_with_both_numbers(extra, tmp_path):
    (tmp_path / "n.txt").write_text("\n".join(f"c{i}" for i in range(5 + extra)))
    with pytest.raises(ValueError, match=rf"so 5 classes, .*n\.txt names {5 + extra};"):
        run(ZOO / "model.onnx", tmp_path / "n.txt", tmp_path / "bundle")


def test_a_folder_in_use_stays_as_it_is(names, tmp_path):
    bundle = run(ZOO / "model.onnx", names, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(ValueError, match="is there and not empty; choose a new folder for --out"):
        run(ZOO / "model.onnx", names, bundle)
    with pytest.raises(ValueError, match=r"model\.onnx is a file; choose a new folder for --out"):
        run(ZOO / "model.onnx", names, bundle / "model.onnx")
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_copy_that_fails_leaves_nothing(names, tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        run(ZOO / "model.onnx", names, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_that_gives_nan_is_refused(tmp_path):
    (tmp_path / "n.txt").write_text("a\nb\nc\n")
    heads = drawn_heads(3)
    heads[2][0, 0, 0, 0] = np.nan
    model = Foreign((64, 64), 3, heads).heads().save(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="output box_16 holds NaN or infinity for a grey image"):
        run(model, tmp_path / "n.txt", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_suppression_inside_is_refused_by_the_command(names, tmp_path):
    model = shaped(tmp_path / "m.onnx", [(1, 300, 6)], [(1, 3, 512, 512)])
    with pytest.raises(ValueError, match="left after suppression inside the model"):
        run(model, names, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:5000], r"was cut off, its header tells of [\d,]+ bytes or more, got 5,000; copy it again"),
        (lambda data: data[:20], "was cut off, its header tells of a header of 64 bytes, got 20"),
        (lambda data: b"PK" + data, "must begin with \"RKNN\", got b'PKRK'"),
    ],
)
def test_an_rknn_file_that_is_none_or_not_whole_is_refused(tmp_path, names, change, told):
    model = tmp_path / "model.rknn"
    model.write_bytes(change((ZOO / "model.rknn").read_bytes()))
    with pytest.raises(ValueError, match=told):
        run(model, names, tmp_path / "bundle", **RKNN)
    assert not (tmp_path / "bundle" / "manifest.json").exists()
