"""Recipes: every mistake becomes one line that names the field, the rule, the value and the cure."""

import pytest

from train.recipe import load_recipe, shipped_recipes
from train.rows import variants_of


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(name):
    assert load_recipe(name).name == name


def test_overrides_reach_every_type():
    recipe = load_recipe(
        "vhr10_yolov8n",
        [
            "data.root=../elsewhere",
            "train.epochs=3",
            "augment.quarter_turns=false",
            'model.size="s"',
            "train.learning_rate=1e-4",
        ],
    )
    assert recipe.data.root == "../elsewhere"
    assert recipe.train.epochs == 3
    assert recipe.augment.quarter_turns is False
    assert recipe.model.size == "s"
    assert recipe.train.learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", ["train.epoch", "did you mean epochs?"]),
        ("trian.epochs=3", ["trian", "did you mean train?"]),
        ("data.train.anotations=x", ["data.train.anotations", "did you mean annotations?"]),
        ("train.epochs=0", ["train.epochs", "greater than or equal to 1", "got 0"]),
        ("train.image_size=500", ["train.image_size", "multiple of 32", "got 500"]),
        ("augment.flip=2", ["augment.flip", "less than or equal to 1", "got 2"]),
        ("model.size=q", ["model.size", "'n', 's', 'm', 'l' or 'x'", "got 'q'"]),
        ("data.format=kitti", ["data.format", "got 'kitti'"]),
        ("train.epochs", ["KEY=VALUE"]),
        ("name.x=1", ["name is a value"]),
        ("data.train.annotations=", ["data.train.annotations must name the coco annotations"]),
    ],
)
def test_mistakes_are_explained_in_one_line(override, words):
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_recipe("vhr10_yolov8n", [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean vhr10_yolov8n"):
        load_recipe("vhr10_yolo8n")


def test_broken_toml_names_the_line(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[data]\nformat = coco\n")
    with pytest.raises(ValueError, match=r"r\.toml: not valid TOML.*line 2"):
        load_recipe(str(path))


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[data]\nformat = "coco"\n[data.train]\nannotations = "a"\n')
    with pytest.raises(ValueError, match=r"data\.val is missing"):
        load_recipe(str(path))


@pytest.mark.parametrize("rows", ["quantisation", "quantisation_6", "quantisation_4"])
def test_the_shipped_rows_of_quantisation_are_recipes(rows):
    """Rows change the length of the ladder: what the base recipe says of its shares must change with it."""
    variants, references = variants_of(["quantise_vhr10"], [], rows)
    assert len(variants) >= 5
    assert set(references) <= {v.name for v in variants}
    for variant in variants:
        assert variant.recipe.quantize.rungs()


def test_the_thesis_recipe_is_the_whole_method():
    recipe = load_recipe("thesis", [])
    assert (recipe.teacher.size, recipe.model.size) == ("m", "n")
    assert recipe.distill.losses == ["magnitude", "relation"]
    assert recipe.quantize.method == "train"
    assert recipe.quantize.tuning.every
    assert [r.weights for r in recipe.quantize.rungs()] == [16, 12, 10, 8]
    assert recipe.export.enabled
