"""The whole walk on a few small drawn scenes: annotations in, bundle out, and each command on what it left."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from deploy.convert.rknn_build import build_rknn
from deploy.detect_command import run as detect
from deploy.manifest import load_manifest
from train.checkpoint import load_checkpoint
from train.evaluate_command import run as evaluate
from train.export import run as export
from train.recipe import parse_recipe
from train.walk import walk, walk_recipe

from .conftest import write_recipe

SIZE = 96


class Conversion:
    """Stands before the real conversion and keeps what it was asked and what it gave."""

    def __call__(self, *paths, **options):
        self.options, self.build = options, build_rknn(*paths, **options)
        return self.build


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    recipe_file = write_recipe(folder, SIZE, (10, 9), 'precision = "float32"')
    conversion = Conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.export.build_rknn", conversion)
        out = walk(str(recipe_file), folder / "run", [], False, Console(quiet=True))
    return folder, recipe_file, out, conversion


def test_everything_is_there(walked):
    _, _, out, _ = walked
    wanted = (
        "checkpoint.pt model.onnx model.rknn manifest.json layers.json convert.log report.json report.md overlays.jpg"
    )
    for name in [*wanted.split(), "plots/losses.png", "plots/map.png", "log.jsonl"]:
        assert (out / name).stat().st_size > 0, name
    assert not list(out.rglob("*.part"))


def test_the_report_keeps_its_names(walked):
    report = json.loads((walked[2] / "report.json").read_text())
    for form in ("torch", "onnx", "rknn_sim"):
        assert 0 <= report["accuracy"][form]["map50_95"] <= report["accuracy"][form]["map50"] <= 1
    assert report["accuracy"]["torch"]["map50"] == pytest.approx(report["accuracy"]["onnx"]["map50"], abs=1e-3)
    assert report["rknn"]["layers_int8"] == report["rknn"]["layers"] > 90
    assert report["rknn"]["layers_cpu"] == 0
    assert max(d["max_abs"] for d in report["onnx"]["difference_to_torch"].values()) < 1e-3
    assert {"commit", "machine", "seed", "versions"} <= report["provenance"].keys()


def test_the_manifest_describes_the_files(walked):
    manifest = load_manifest(walked[2])
    assert manifest.input_hw == (SIZE, SIZE)
    assert [h.stride for h in manifest.heads] == [8, 16, 32]
    assert all(h.box_scale and h.class_scale for h in manifest.heads)
    assert manifest.accuracy.keys() == {"torch", "onnx", "rknn_sim"}


@pytest.mark.parametrize("backend", ["torch", "onnx", "rknn-sim"])
def test_evaluate_repeats_the_figures_of_the_report(walked, backend, tmp_path):
    _, recipe_file, out, _ = walked
    report = json.loads((out / "report.json").read_text())
    name = backend.replace("-", "_")
    evaluate(out, str(recipe_file), "val", backend, tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())["accuracy"][name]
    assert found["map50_95"] == pytest.approx(report["accuracy"][name]["map50_95"], abs=1e-6)


def test_evaluate_refuses_what_does_not_fit(walked, tmp_path):
    _, recipe_file, out, _ = walked
    with pytest.raises(ValueError, match="backend must be one of"):
        evaluate(out, str(recipe_file), "val", "tflite")
    with pytest.raises(ValueError, match="needs a bundle"):
        evaluate(out / "checkpoint.pt", str(recipe_file), "val", "onnx")
    with pytest.raises(FileNotFoundError, match="no such checkpoint or bundle"):
        evaluate(tmp_path / "nothing", str(recipe_file))
    with pytest.raises(ValueError, match="split must be train or val"):
        evaluate(out, str(recipe_file), "test", "onnx")


def test_detect_writes_coco_and_overlays(walked, tmp_path):
    folder, _, out, _ = walked
    images = sorted((folder / "scenes").rglob("val_*.jpg"))[:3]
    sources = [str(images[0]), str(images[1].parent)]
    path, overlays = detect(out, sources, tmp_path / "found", backend="onnx", score=0.01)
    content = json.loads(path.read_text())
    assert len(content["images"]) == 9  # one by name, which is not taken again from its folder
    assert len(list(overlays.glob("*.jpg"))) == 9
    assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4, 5]
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= SIZE + 0.02
        assert y + h <= SIZE + 0.02
        assert 0.01 <= row["score"] <= 1


def test_a_finished_run_is_not_overwritten_but_its_export_can_be_repeated(walked, tmp_path, monkeypatch):
    _, recipe_file, out, conversion = walked
    with pytest.raises(ValueError, match="already holds a run; continue it with --resume"):
        walk(str(recipe_file), out, [], False, Console(quiet=True))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        walk(str(recipe_file), tmp_path / "empty", [], True, Console(quiet=True))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("checkpoint.pt", "last.pt", "log.jsonl"):
        shutil.copy(out / name, copy / name)
    asked = {}

    def convert_once_more(onnx_path, out_dir, **options):
        """Stand for the conversion of the same network: what it gave the first time."""
        asked.update(options, onnx=onnx_path.read_bytes())
        paths = {
            "rknn_path": shutil.copy(out / "model.rknn", out_dir / "model.rknn"),
            "layers_path": shutil.copy(out / "layers.json", out_dir / "layers.json"),
            "log_path": shutil.copy(out / "convert.log", options["log_path"]),
        }
        return dataclasses.replace(conversion.build, **paths)

    monkeypatch.setattr("train.export.build_rknn", convert_once_more)
    walk(str(recipe_file), copy, [], True, Console(quiet=True))
    manifest = load_manifest(copy)
    assert manifest.precision == "int8"
    assert manifest.accuracy == load_manifest(out).accuracy
    # The conversion itself is repeated by `evaluate` with rknn-sim; here it must be asked for the very same.
    assert asked["onnx"] == (out / "model.onnx").read_bytes()
    assert asked["precision"] == conversion.options["precision"] == "int8"
    np.testing.assert_array_equal(asked["calibration"], conversion.options["calibration"])


def test_export_to_float16_from_the_checkpoint_alone(walked, tmp_path):
    _, _, out, _ = walked
    bundle = export(out / "checkpoint.pt", tmp_path / "fp16", "fp16", None, [], True, 4)
    manifest = load_manifest(bundle)
    assert manifest.precision == "fp16"
    assert manifest.heads[0].box_scale is None
    assert (bundle / "model.onnx").stat().st_size < 0.6 * (out / "model.onnx").stat().st_size
    report = json.loads((bundle / "report.json").read_text())
    assert report["data"]["images"] == 4
    assert report["rknn"]["layers_int8"] == 0
    with pytest.raises(ValueError, match="is a training run's folder"):
        export(out / "checkpoint.pt", out)


def test_classes_that_differ_are_named(walked):
    _, recipe_file, out, _ = walked
    content = load_checkpoint(out / "checkpoint.pt")
    assert content["class_names"][0] == "airplane"
    bad = recipe_file.with_name("bad.toml")
    other = recipe_file.parent / "other"
    (other / "images").mkdir(parents=True, exist_ok=True)
    import cv2

    cv2.imwrite(str(other / "images" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],
        "categories": [{"id": 1, "name": "kite"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
    }
    (other / "a.json").write_text(json.dumps(coco))
    part = {"annotations": "a.json", "images": "images"}
    raw = {"name": "bad", "data": {"format": "coco", "root": str(other), "train": part, "val": part}}
    bad.write_text(
        f'[data]\nformat = "coco"\nroot = "{other}"\n'
        '[data.train]\nannotations = "a.json"\n[data.val]\nannotations = "a.json"\n'
    )
    parse_recipe(raw, "test")
    with pytest.raises(ValueError, match=r"was trained on the classes .*the data has \['kite'\]"):
        evaluate(out, str(bad), "val", "torch")


def test_bad_annotations_stop_before_any_work(tmp_path):
    (tmp_path / "images").mkdir()
    coco = {
        "images": [{"id": 1, "file_name": "gone.png", "width": 40, "height": 40}],
        "categories": [{"id": 1, "name": "kite"}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    part = {"annotations": "a.json", "images": "images"}
    recipe = parse_recipe(
        {"name": "x", "data": {"format": "coco", "root": str(tmp_path), "train": part, "val": part}}, "x"
    )
    with pytest.raises(ValueError, match=r"gone\.png.*data\.strict=false"):
        walk_recipe(recipe, tmp_path / "out", console=Console(quiet=True))
