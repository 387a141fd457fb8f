"""A float checkpoint becomes a quantised one: rung by rung, continued bit for bit, never from what it must not be."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.train.test_distilling import teacher_of
from tests.train.test_quantising import float_model, recipe_of
from train import quantise_stage as stage
from train import quantising
from train.checkpoint import load_checkpoint, model_from, save_checkpoint
from train.model import Yolov8
from train.quantise_stage import check_pooling, float_recipe, quantise_stage
from train.run_log import RunLog, read_log
from train.teacher_cache import weights_digest
from train.trainer import Trainer
from train.walk import walk_recipe

QUIET = Console(quiet=True)
CLASSES = ["square", "disc"]
# One step an epoch; two epochs at 12 bits, one at 8.
SHORT = {"weights": [12, 8], "activations": [12, 8], "shares": [2, 1], "epochs": 3, "observe_batches": 1}


def small(train=None, **quantize):
    return recipe_of(train={"batch": 8, **(train or {})}, quantize={**SHORT, **quantize})


@pytest.fixture(scope="module")
def start():
    return content_of(float_model())


def content_of(model):
    content = {"version": 1, "model": model.state_dict(), "size": "n", "class_names": CLASSES, "image_size": 64}
    return {**content, "training": {"epochs": 7}, "scores": {"map50": 0.5, "map50_95": 0.25}}


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    """Score nothing: the figures come from a list, the last one again and again."""
    told = [0.1]

    def validator(_recipe, _val):
        return lambda _model: {"map50": told[0], "map50_95": told.pop(0) if len(told) > 1 else told[0]}

    monkeypatch.setattr(quantising, "validator", validator)
    monkeypatch.setattr(stage, "validator", validator)
    return told


def run(recipe, start, out, pictures, console=QUIET, teacher=None):
    log = RunLog(out, console, tensorboard=False)
    return quantise_stage(recipe, start, out, pictures, pictures, log, teacher)


def stop_after(epoch):
    def check(trainer):
        if trainer.epoch == epoch:
            raise KeyboardInterrupt
        return False

    return check


def cut(recipe, start, out, pictures, epoch, then=None):
    """Stop a run after an epoch, then take it up again, with the recipe `then` where one is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", stop_after(epoch))
        with pytest.raises(KeyboardInterrupt):
            run(recipe, start, out, pictures)
    assert not (out / "checkpoint.pt").exists()
    return run(then or recipe, start, out, pictures)


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_two_rungs_end_folded_at_8_bits_and_rebuild_to_what_was_scored(start, pictures, tmp_path, monkeypatch):
    seen = []
    x = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def validator(_recipe, _val):
        def validate(model):
            with torch.no_grad():
                seen.append((model.describe(), [h.clone() for h in model(x)]))
            return {"map50": 0.2, "map50_95": 0.1}

        return validate

    monkeypatch.setattr(quantising, "validator", validator)
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115
    content = run(small(), start, tmp_path, pictures, console)
    assert [d["weights"] for d, _ in seen] == [12, 12, 8]
    assert content["quantised"] == {
        "weights": 8, "activations": 8, "observer": "moving_average", "float16": [], "folded": True, "learnt": True
    }  # fmt: skip
    model = model_from(content, "x")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        again = model.to(memory_format=torch.channels_last)(x)
    assert all(torch.equal(a, b) for a, b in zip(again, seen[-1][1], strict=True))
    assert content["training"]["epochs"] == 3
    same(content["float_model"], start["model"])
    said = console.export_text()
    assert (
        "quantisation-aware training, 12/12 -> 8/8 bits (weights/activations), from YOLOv8n in float, 7 epochs" in said
    )
    assert "from epoch 3: 8-bit weights, 8-bit activations, BatchNorm folded" in said
    rates = [row["learning_rate"] for row in read_log(tmp_path / "log.jsonl")]
    assert len(rates) == 3


def test_what_an_earlier_rung_scored_never_counts(start, pictures, tmp_path, scores):
    scores[:] = [0.9, 0.8, 0.3]
    content = run(small(), start, tmp_path, pictures)
    assert content["scores"]["map50_95"] == 0.3
    assert content["quantised"]["weights"] == 8
    assert content["epoch"] == 3


def test_patience_ends_no_run_above_its_last_rung(start, pictures, tmp_path, scores):
    """Two scorings without a better one in the first rung: what is deployed has not been trained yet."""
    scores[:] = [0.9, 0.5, 0.4, 0.3]
    content = run(small(train={"patience": 1}, epochs=5, shares=[4, 1]), start, tmp_path, pictures)
    assert content["quantised"]["weights"] == 8


VARIANTS = {
    "plain": {},
    "observed": {"learn": False},
    "tuned": {"losses": ["cwd"], "tuning": {"every": 1, "query_share": 0.3, "rate": 1e-2}},
}


@pytest.mark.parametrize(("name", "epoch"), [("plain", 1), ("observed", 1), ("tuned", 1), ("tuned", 2)])
def test_a_stopped_ladder_continues_bit_for_bit(start, pictures, tmp_path, name, epoch):
    """Stopped within the first rung, or where the second begins."""
    recipe = small(**VARIANTS[name])
    whole = run(recipe, start, tmp_path / "whole", pictures)
    out = tmp_path / "cut"
    resumed = cut(recipe, start, out, pictures, epoch)
    same(resumed["model"], whole["model"])
    a, b = (load_checkpoint(folder / "last.pt")["resume"] for folder in (tmp_path / "whole", out))
    same(a["raw_model"], b["raw_model"])
    if name == "tuned":
        same(a["stages"]["tuner"]["teacher"], b["stages"]["tuner"]["teacher"])
    old, new = ([row["loss/box"] for row in read_log(f / "log.jsonl")] for f in (tmp_path / "whole", out))
    assert old == new


def test_a_stop_within_the_last_rung_continues_bit_for_bit(start, pictures, tmp_path):
    recipe = small(shares=[1, 2])
    whole = run(recipe, start, tmp_path / "whole", pictures)
    same(cut(recipe, start, tmp_path / "cut", pictures, 2)["model"], whole["model"])


def test_the_teacher_that_was_passed_in_is_never_moved(start, pictures, tmp_path):
    teacher = teacher_of(Yolov8("n", 2), CLASSES)
    before = weights_digest(teacher.model)
    tuning = {"every": 1, "query_share": 0.3, "rate": 1e-2}
    recipe = small(losses=["cwd"], teacher="teacher", tuning=tuning)
    content = run(recipe, start, tmp_path, pictures, teacher=teacher)
    assert weights_digest(teacher.model) == before
    assert content["teacher"]["sha256"] == teacher.digest
    tuned = load_checkpoint(tmp_path / "last.pt")["resume"]["stages"]["tuner"]["teacher"]
    theirs = {f"model.{k}": v for k, v in teacher.model.state_dict().items()}
    assert any(not torch.equal(value, theirs[name]) for name, value in tuned.items()), "its copy is"
    assert {"loss/tuning_query", "loss/tuning_teacher_task"} <= read_log(tmp_path / "log.jsonl")[-1].keys()


def test_a_recipe_that_needs_a_teacher_says_so(start, pictures, tmp_path):
    with pytest.raises(
        ValueError, match=r'quantize\.teacher is "teacher", then the recipe needs one; fill in \[teacher\]'
    ):
        run(small(losses=["cwd"], teacher="teacher"), start, tmp_path, pictures)


def test_calibration_keeps_the_weights_and_finds_ranges(start, pictures, tmp_path):
    content = run(small(method="calibrate"), start, tmp_path, pictures)
    assert content["quantised"]["weights"] == content["quantised"]["activations"] == 8
    assert content["training"] == {"epochs": 0, "planned_epochs": 0, "minutes": 0.0}
    model = model_from(content, "x")
    plain = float_model()
    conv, norm = plain.model[0].conv, plain.model[0].bn
    k = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = model.network.layers()["model.0.conv"].weight
    assert torch.allclose(folded, conv.weight * k[:, None, None, None], atol=1e-6)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first = [h.clone() for h in model(x)]
        assert all(torch.equal(a, b) for a, b in zip(first, model(x), strict=True)), "nothing moves any more"
    stamp = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    same(run(small(method="calibrate"), start, tmp_path, pictures)["model"], content["model"])
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == stamp


def test_a_finished_network_is_read_and_only_for_its_own_start(start, pictures, tmp_path):
    content = run(small(), start, tmp_path, pictures)
    stamp = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    same(run(small(), start, tmp_path, pictures)["model"], content["model"])
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == stamp
    other = content_of(float_model(seed=5))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: was quantised from another float network"):
        run(small(), other, tmp_path, pictures)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"last\.pt: was quantised from another float network"):
        run(small(), other, tmp_path, pictures)
    with pytest.raises(ValueError, match=r"was trained with quantize\.(observer|weights)"):
        run(small(weights=[10, 8]), start, tmp_path, pictures)


def test_what_is_quantised_already_is_no_start(start, pictures, tmp_path):
    content = run(small(method="calibrate"), start, tmp_path / "first", pictures)
    with pytest.raises(ValueError, match=r"is quantised already, quantisation starts from a float network"):
        run(small(), content, tmp_path / "second", pictures)


def test_other_classes_are_named(start, pictures, tmp_path):
    other = replace(pictures, class_names=["disc", "square"])
    with pytest.raises(ValueError, match=r"has the classes \['square', 'disc'\], the data has \['disc', 'square'\]"):
        run(small(), start, tmp_path, other)


# ---- the walk


def walking(folder, **quantize):
    return recipe_of(
        data={"root": str(folder / "scenes")}, train={"batch": 4, "epochs": 1}, quantize={**SHORT, **quantize}
    )


def test_the_walk_trains_the_float_network_once(tmp_path):
    out = tmp_path / "run"
    walk_recipe(walking(tmp_path), out, console=QUIET)
    stamps = {p: (out / p).stat().st_mtime_ns for p in ("float/checkpoint.pt", "checkpoint.pt")}
    assert load_checkpoint(out / "float" / "checkpoint.pt").get("quantised") is None
    assert load_checkpoint(out / "checkpoint.pt")["quantised"]["weights"] == 8
    for name in ("checkpoint.pt", "best.pt", "last.pt"):
        (out / name).unlink()
    with pytest.raises(ValueError, match="already holds a run"):
        walk_recipe(walking(tmp_path), out, console=QUIET)
    walk_recipe(walking(tmp_path), out, resume=True, console=QUIET)
    assert (out / "float" / "checkpoint.pt").stat().st_mtime_ns == stamps["float/checkpoint.pt"]
    assert (out / "checkpoint.pt").stat().st_mtime_ns > stamps["checkpoint.pt"]
    assert json.loads((out / "report.json").read_text())["training"]
    # From that float network, in a folder of its own: nothing is trained in float again.
    again = tmp_path / "again"
    recipe = walking(tmp_path, method="calibrate", checkpoint=str(out / "float" / "checkpoint.pt"))
    walk_recipe(recipe, again, console=QUIET)
    assert not (again / "float").exists()


def refused(recipe, out, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        walk_recipe(recipe, out, console=QUIET)
    assert not (out / "float" / "last.pt").exists(), "the float network was trained first"


def test_a_missing_float_checkpoint_is_told_before_any_work(tmp_path):
    refused(walking(tmp_path, checkpoint=str(tmp_path / "gone.pt")), tmp_path / "run", r"gone\.pt: no such file")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("quantize", "said"),
    [
        ({"float16": ["model.99"]}, r"float16 names 'model\.99'"),
        ({"losses": ["cwd"], "tuning": {"every": 1, "parts": ["model.30"]}}, r"no parameter begins with"),
        ({"losses": ["cwd"], "tuning": {"every": 1, "query_share": 0.99}}, r"query_share takes 4 of 4 train images"),
    ],
)
def test_mistakes_about_integers_are_told_before_the_float_training(tmp_path, quantize, said):
    refused(walking(tmp_path, **quantize), tmp_path / "run", said)


@pytest.mark.parametrize("method", ["toolkit", "train"])
def test_maps_that_the_compiler_pools_wrongly_are_told_before_the_float_training(tmp_path, method):
    recipe = walking(tmp_path, method=method)
    large = recipe.train.model_copy(update={"image_size": 128})
    exported = recipe.export.model_copy(update={"enabled": True})
    refused(
        recipe.model_copy(update={"train": large, "export": exported}),
        tmp_path / "run",
        r"image_size is 128: layer model\.9\.m then pools a map of 4 x 4 cells .* at least 160, or export\.enabled",
    )


@pytest.mark.parametrize(("size", "right"), [(32, True), (64, True), (96, True), (128, False), (160, True)])
def test_only_maps_that_no_window_covers_whole_are_refused(size, right):
    recipe = recipe_of(train={"image_size": size})
    if right:
        check_pooling(recipe)
    else:
        with pytest.raises(ValueError, match="turns into another pooling"):
            check_pooling(recipe)


def test_a_quantised_start_is_refused_before_a_teacher_is_trained(tmp_path, start, pictures):
    content = run(small(method="calibrate"), start, tmp_path / "first", pictures)
    save_checkpoint(tmp_path / "int8.pt", content)
    raw = walking(tmp_path, losses=["cwd"], teacher="teacher", checkpoint=str(tmp_path / "int8.pt"))
    recipe = raw.model_copy(update={"teacher": raw.teacher.model_copy(update={"size": "n", "weights": "none"})})
    with pytest.raises(ValueError, match="is quantised already"):
        walk_recipe(recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "teacher").exists()


def test_the_float_training_knows_nothing_of_integers():
    assert float_recipe(small()).quantize.method == "toolkit"
