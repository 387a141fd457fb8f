"""An export that fails or is stopped leaves the bundle that was there."""

import json

import pytest
from rich.console import Console

from train import export
from train.model import Yolov8
from train.recipe import parse_recipe


@pytest.mark.parametrize("error", [ValueError("the compiler gave up"), KeyboardInterrupt()])
def test_a_failed_export_leaves_the_earlier_bundle(pictures, tmp_path, monkeypatch, error):
    part = {"annotations": "unused"}
    recipe = parse_recipe({"name": "x", "data": {"format": "coco", "train": part, "val": part}}, "x")
    content = {"size": "n", "class_names": pictures.class_names, "image_size": 64}
    before = {"model.onnx": "old onnx", "model.rknn": "old rknn", "manifest.json": "{}"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)

    def fail(onnx_path, *_args, log_path, **_kwargs):
        assert onnx_path.is_file()
        log_path.write_text("why")
        raise error

    monkeypatch.setattr(export, "build_rknn", fail)
    with pytest.raises(type(error)):
        export.build_bundle(recipe, content, Yolov8("n", 2), pictures, pictures, tmp_path, Console(quiet=True))
    assert {name: (tmp_path / name).read_text() for name in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "convert.log"])


def test_the_recipe_of_a_checkpoint_takes_overrides(pictures):
    part = {"annotations": "unused"}
    recipe = parse_recipe({"name": "x", "data": {"format": "coco", "train": part, "val": part}}, "x")
    content = {"recipe": recipe.model_dump_json()}
    assert export.recipe_of(content, None, ["data.root=elsewhere"], "c.pt").data.root == "elsewhere"
    with pytest.raises(ValueError, match=r"c\.pt: data\.rot is not a key of a recipe; did you mean root"):
        export.recipe_of(content, None, ["data.rot=elsewhere"], "c.pt")
    assert json.loads(content["recipe"])["name"] == "x"
