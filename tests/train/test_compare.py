"""Comparing recipes end to end on drawn pictures: rows, seeds, folds, and what a second call does again."""

import json

import numpy as np
import pytest
from rich.console import Console

import train.compare as compared
from deploy.detections import Detections
from deploy.metrics import score_detections
from train.compare import Plan, compare, fold_of, load_found, save_found, slug
from train.compare_command import run
from train.recipe import load_recipe
from train.rows import Variant, read_rows, variants_of

QUIET = Console(quiet=True)
RECIPE = """
[data]
format = "procedural"
root = "{root}"
workers = 0
train.count = 6
val.count = 4
[train]
image_size = 64
epochs = 1
batch = 4
precision = "float32"
device = "cpu"
[teacher]
size = "n"
weights = "none"
[distill]
losses = ["magnitude"]
"""
ROWS = """
reference = "plain"
[rows.plain]
distill.losses = []
[rows."the method"]
distill.alpha = 2.0
"""


@pytest.fixture
def files(tmp_path):
    recipe, rows = tmp_path / "small.toml", tmp_path / "two.toml"
    recipe.write_text(RECIPE.format(root=tmp_path / "scenes"))
    rows.write_text(ROWS)
    return str(recipe), str(rows)


def counted(monkeypatch):
    calls = []
    real = compared.train_stage

    def spy(recipe, out, *args):
        calls.append(out)
        return real(recipe, out, *args)

    monkeypatch.setattr(compared, "train_stage", spy)
    return calls


def test_rows_times_seeds_then_only_what_is_missing(files, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    variants, reference = variants_of([files[0]], [], files[1])
    assert reference == ["plain"]
    assert variants[1].recipe.distill.alpha == 2.0
    plan = Plan(variants, 1, 0, reference, cache_teacher=True, resamples=100)
    out = tmp_path / "table"
    compare(plan, out, QUIET)
    assert [c.relative_to(out / "runs").as_posix() for c in calls] == ["plain/seed0", "the-method/seed0"]
    table = compare(Plan(variants, 2, 0, reference, cache_teacher=True, resamples=100), out, QUIET)
    assert [c.name for c in calls[2:]] == ["seed1", "seed1"]
    assert [row["name"] for row in table["rows"]] == ["plain", "the method"]
    assert table["rows"][1]["difference"]["map50_95"]["low"] <= table["rows"][1]["difference"]["map50_95"]["high"]
    assert json.loads((out / "comparison.json").read_text())["images"] == 4
    assert list((out / "teacher_cache").rglob("*.safetensors"))
    assert (out / "comparison.png").stat().st_size > 5000
    assert "the method" in (out / "comparison.md").read_text()


def test_a_stopped_comparison_goes_on(files, tmp_path, monkeypatch):
    variants, reference = variants_of([files[0]], [], files[1])
    plan = Plan(variants, 1, 0, reference, resamples=100)
    out = tmp_path / "table"
    real = compared.find_all

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(compared, "find_all", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(plan, out, QUIET)
    monkeypatch.setattr(compared, "find_all", real)
    stamp = (out / "runs" / "plain" / "seed0" / "checkpoint.pt").stat().st_mtime_ns
    compare(plan, out, QUIET)
    assert (out / "runs" / "plain" / "seed0" / "checkpoint.pt").stat().st_mtime_ns == stamp


def test_a_finished_run_of_another_recipe_is_refused(files, tmp_path):
    out = tmp_path / "table"
    recipe = load_recipe(files[0], ["distill.losses=[]"])
    compare(Plan([Variant("a", recipe)], 1, 0, ["a"], resamples=100), out, QUIET)
    other = load_recipe(files[0], ["distill.losses=[]", "loss.box=1.0"])
    with pytest.raises(ValueError, match=r"with loss\.box 7\.5, now it is 1\.0; give another --out"):
        compare(Plan([Variant("a", other)], 1, 0, ["a"], resamples=100), out, QUIET)


@pytest.mark.parametrize(
    "change", ["train.epochs=2", "train.learning_rate=0.01", "distill.alpha=3.0", "teacher.epochs=2"]
)
def test_nothing_that_shapes_a_run_may_change_under_its_name(files, tmp_path, change):
    out = tmp_path / "table"
    compare(Plan([Variant("a", load_recipe(files[0], []))], 1, 0, ["a"], resamples=100), out, QUIET)
    with pytest.raises(ValueError, match="was made with"):
        compare(Plan([Variant("a", load_recipe(files[0], [change]))], 1, 0, ["a"], resamples=100), out, QUIET)


def test_rows_with_different_teachers_have_different_teachers(files, tmp_path):
    out = tmp_path / "table"
    variants = [Variant(f"{n} epochs", load_recipe(files[0], [f"teacher.epochs={n}"])) for n in (1, 2)]
    table = compare(Plan(variants, 1, 0, ["1 epochs", "2 epochs"], resamples=100), out, QUIET)
    assert len(list((out / "teachers").glob("n-*"))) == 2
    assert len(table["about"]["teachers"]) == 2
    again = compare(Plan(variants[::-1], 1, 0, ["1 epochs"], resamples=100), out, QUIET)
    assert again["about"]["teachers"] == table["about"]["teachers"], "a second call still knows the teachers"
    assert table["about"]["changes"]["2 epochs"] == {"teacher.epochs": 2}
    assert json.loads((out / "comparison_2.json").read_text())["reference"] == "2 epochs"


def test_rows_that_cannot_be_compared(files):
    plain = load_recipe(files[0], [])
    with pytest.raises(ValueError, match="are the same recipe"):
        compare(Plan([Variant("a", plain), Variant("b", plain)], 1, 0, ["a"]), None, QUIET)
    other = load_recipe(files[0], ["model.weights=procedural"])
    with pytest.raises(ValueError, match=r"must share model\.weights"):
        compare(Plan([Variant("a", plain), Variant("b", other)], 1, 0, ["a"]), None, QUIET)
    third = load_recipe(files[0], ["loss.box=1.0"])
    with pytest.raises(ValueError, match="would share a folder"):
        compare(Plan([Variant("a b", plain), Variant("a-b", third)], 1, 0, ["a b"]), None, QUIET)


def test_a_damaged_record_names_its_file(files, tmp_path):
    out = tmp_path / "table"
    plan = Plan([Variant("a", load_recipe(files[0], ["distill.losses=[]"]))], 1, 0, ["a"], resamples=100)
    compare(plan, out, QUIET)
    record = out / "runs" / "a" / "seed0" / "run.json"
    whole = record.read_text()
    record.write_text(whole[:20])
    with pytest.raises(ValueError, match=r"run\.json: damaged"):
        compare(plan, out, QUIET)
    record.write_text(whole)
    (record.parent / "found.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"found\.npz: damaged"):
        compare(plan, out, QUIET)


def test_several_processes_are_refused(files, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="runs in one process"):
        run([files[0]], None, 1, 0, [], 100, False, [], tmp_path / "out")


def test_folds_are_disjoint_whole_and_have_teachers_of_their_own(files, tmp_path, pictures):
    parts = [fold_of(pictures, 3, k) for k in range(3)]
    held = [image.path for _, scored in parts for image in scored.images]
    assert sorted(held) == sorted(image.path for image in pictures.images)
    for train, scored in parts:
        assert not {i.path for i in train.images} & {i.path for i in scored.images}
    variants, reference = variants_of([files[0]], [], files[1])
    out = tmp_path / "table"
    table = compare(Plan(variants, 1, 2, reference, resamples=100), out, QUIET)
    assert table["images"] == 6
    found = sorted(p.parent.name for p in (out / "teachers").rglob("teacher.json"))
    assert found == ["fold1", "fold2"]


def test_the_pooled_figure_is_that_of_the_kept_detections(files, tmp_path):
    variants, reference = variants_of([files[0]], ["distill.losses=[]"], None)
    assert reference == []
    out = tmp_path / "table"
    table = compare(Plan(variants, 1, 0, ["small"], resamples=100), out, QUIET)
    val = compared.load_both(variants[0].recipe)[1]
    kept = load_found(out / "runs" / "small" / "seed0" / "found.npz", 4)
    assert score_detections(val.images, kept, val.class_names).map50 == pytest.approx(table["rows"][0]["map50"]["mean"])


def test_found_survives_the_disk(tmp_path):
    found = [
        Detections(np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([1], np.int32)),
        Detections.empty(),
    ]
    save_found(tmp_path / "found.npz", found)
    again = load_found(tmp_path / "found.npz", 2)
    assert [len(d) for d in again] == [1, 0]
    assert np.array_equal(again[0].xyxy, found[0].xyxy)
    with pytest.raises(ValueError, match="must hold 3 images, got 2; delete it"):
        load_found(tmp_path / "found.npz", 3)


def test_the_shipped_rows_are_recipes():
    variants, reference = variants_of(["distill_vhr10"], [], "distillation")
    names = [v.name for v in variants]
    assert reference == ["no distillation", "the method"]
    assert len(names) == len({slug(n) for n in names}) == 18
    assert variants[0].recipe.distill.losses == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rows.a]\ndistill.alpha = -1", "row 'a'"),
        ("reference = 'b'\n[rows.a]\n", "reference must be one of its rows"),
        ("other = 1\n[rows.a]\n", "must hold `reference` and tables"),
        ("rows = 3", "must hold `reference` and tables"),
        ("[rows", "not valid TOML"),
    ],
)
def test_rows_that_are_wrong(files, tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        variants_of([files[0]], [], str(path))


def test_an_unknown_table_of_rows_and_a_recipe_given_twice(files):
    with pytest.raises(FileNotFoundError, match=r"did you mean distillation\?"):
        read_rows("destillation")
    with pytest.raises(ValueError, match="comes twice"):
        variants_of([files[0], files[0]], [], None)


def test_recipes_on_different_data_cannot_be_compared(files):
    one = load_recipe(files[0], [])
    other = load_recipe(files[0], ["data.seed=5"])
    with pytest.raises(ValueError, match=r"must share data\.seed: it differs between 'a' and 'b'"):
        compare(Plan([Variant("a", one), Variant("b", other)], 1, 0, ["a"]), None, QUIET)
