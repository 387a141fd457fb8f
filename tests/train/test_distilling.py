"""Distillation through the loop: stages that continue, teachers that do not fit, a cache that cannot lie."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from train import distilling
from train.checkpoint import load_checkpoint, save_checkpoint
from train.dataset import Batch, pad_targets
from train.distilling import DistillingNetwork, ask_directly, build_losses
from train.loss import DetectionLoss
from train.model import Yolov8
from train.recipe import DISTILLATION_LOSSES, Distill, parse_recipe
from train.run_log import RunLog
from train.stage import starting_model, train_stage, warn_if_worse
from train.supervised import images_to_float
from train.teacher import find_teacher
from train.teacher_cache import TeacherCache, weights_digest
from train.teacher_student import Teacher, channels_of, check_pair, run_network
from train.trainer import Trainer
from train.walk import walk_recipe

QUIET = Console(quiet=True)


def spied(ask, calls):
    def once(batch):
        calls.append(1)
        return ask(batch)

    return once


def interrupt(_trainer):
    raise KeyboardInterrupt


def recipe_of(**sections):
    raw = {
        "name": "small",
        "data": {"format": "procedural", "train": {"count": 4}, "val": {"count": 2}, "workers": 0},
        "train": {"image_size": 64, "epochs": 2, "batch": 4, "precision": "float32", "device": "cpu"},
        "teacher": {"size": "n", "weights": "none", "epochs": 1},
        "distill": {"losses": ["magnitude", "relation"]},
        "export": {"enabled": False},
    }
    for section, keys in sections.items():
        raw[section] = {**raw.get(section, {}), **keys}
    return parse_recipe(raw, "small")


def batch_of(pictures, count=2):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (count, 3, 64, 64), np.uint8))
    chosen = pictures.images[:count]
    return Batch(images, pad_targets([i.xyxy for i in chosen], [i.class_id.astype(np.int64) for i in chosen]))


def teacher_of(model, classes=("square", "disc"), score=0.5):
    return Teacher(model, list(classes), "a test", "0" * 64, {"map50": score, "map50_95": score})


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_every_loss_trains_the_student_and_never_the_teacher(pictures, name):
    torch.manual_seed(0)
    student, teacher = Yolov8("n", 2), Yolov8("s", 2)
    losses = build_losses(Distill(losses=[name]), channels_of(student), channels_of(teacher))
    batch = batch_of(pictures)
    before = weights_digest(teacher)
    student.train()
    answer = ask_directly(teacher)(batch)
    ours = run_network(student, images_to_float(batch.images))
    found = {}
    for loss in losses.values():
        found.update(loss(ours, answer, batch.targets))
    sum(found.values()).backward()
    assert all(torch.isfinite(v) and v >= 0 for v in found.values())
    assert all(p.grad is not None for p in losses.parameters())
    assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert weights_digest(teacher) == before, "neither weights nor BatchNorm statistics of the teacher may move"


def test_a_step_cuts_the_teacher_off_whatever_it_is_given(pictures):
    """The losses themselves go back to the teacher, for its tuning; training must not, even with a graph behind it."""
    student, teacher = Yolov8("n", 2), Yolov8("n", 2)
    losses = build_losses(Distill(losses=["magnitude", "logit"]), channels_of(student), channels_of(teacher))
    batch = batch_of(pictures)
    images = images_to_float(batch.images)
    network = DistillingNetwork(student, DetectionLoss(), losses)
    sum(network(images, batch.targets, run_network(teacher, images)).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    sum(losses["logit"](run_network(student, images), run_network(teacher, images), batch.targets).values()).backward()
    assert any(p.grad is not None for p in teacher.parameters())


@pytest.mark.parametrize("name", sorted(set(DISTILLATION_LOSSES) - {"mgd"}))  # MGD generates anew by construction
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(pictures, name):
    torch.manual_seed(0)
    model = Yolov8("n", 2).eval()
    losses = build_losses(Distill(losses=[name]), channels_of(model), channels_of(model))
    batch = batch_of(pictures)
    with torch.no_grad():
        outputs = run_network(model, images_to_float(batch.images))
        for loss in losses.values():
            assert all(float(v) == 0 for v in loss(outputs, outputs, batch.targets).values())


def test_teacher_then_student_each_continued_and_skipped(pictures, tmp_path):
    recipe = recipe_of()
    out = tmp_path / "run"
    walked = find_teacher(recipe, out, pictures, pictures, QUIET)
    assert load_checkpoint(out / "teacher" / "checkpoint.pt")["training"]["epochs"] == 1
    log = RunLog(out, QUIET)
    content = train_stage(recipe, out, pictures, pictures, log, walked)
    assert content["teacher"]["sha256"] == walked.digest
    names = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert {"loss/fg", "loss/bg", "loss/relation_object", "loss/relation_context", "loss/box"} <= names.keys()
    stamp = (out / "checkpoint.pt").stat().st_mtime_ns
    again = find_teacher(recipe, out, pictures, pictures, QUIET)
    assert again.digest == walked.digest
    train_stage(recipe, out, pictures, pictures, log, again)
    assert (out / "checkpoint.pt").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("losses", [["magnitude", "relation"], ["mgd"]])  # MGD draws masks in every step
def test_a_stopped_student_continues_bit_for_bit(pictures, tmp_path, losses):
    recipe = recipe_of(train={"epochs": 2, "validate_every": 1}, distill={"losses": losses})
    teacher = teacher_of(Yolov8("s", 2))
    whole = train_stage(recipe, tmp_path / "whole", pictures, pictures, RunLog(tmp_path / "whole", QUIET), teacher)

    cut = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_stage(recipe, cut, pictures, pictures, RunLog(cut, QUIET), teacher)
    resumed = train_stage(recipe, cut, pictures, pictures, RunLog(cut, QUIET), teacher)
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


def test_a_stopped_teacher_continues_bit_for_bit(pictures, tmp_path):
    recipe = recipe_of(train={"epochs": 2, "validate_every": 1}, teacher={"epochs": 2})
    whole = find_teacher(recipe, tmp_path / "whole", pictures, pictures, QUIET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_teacher(recipe, tmp_path / "cut", pictures, pictures, QUIET)
    assert not (tmp_path / "cut" / "teacher" / "checkpoint.pt").exists()
    assert find_teacher(recipe, tmp_path / "cut", pictures, pictures, QUIET).digest == whole.digest


def test_more_epochs_for_the_student_leave_its_teacher_alone(pictures, tmp_path):
    """The teacher inherits the student's epochs; one that has begun to teach must not be trained further."""
    legs = []
    for epochs in (1, 2):
        recipe = recipe_of(train={"epochs": epochs}, teacher={"epochs": None})
        teacher = find_teacher(recipe, tmp_path, pictures, pictures, QUIET)
        legs.append(teacher.digest)
        content = train_stage(recipe, tmp_path, pictures, pictures, RunLog(tmp_path, QUIET), teacher)
    assert legs[0] == legs[1]
    assert content["training"]["epochs"] == 2


def test_a_missing_teacher_file_is_told_before_any_work(tmp_path):
    recipe = recipe_of(teacher={"checkpoint": str(tmp_path / "gone.pt")}, data={"root": str(tmp_path / "scenes")})
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such file; give the checkpoint\.pt of a run, or leave"):
        walk_recipe(recipe, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_weights_without_a_class_tower_are_told_in_one_line(tmp_path):
    weights = {k: v for k, v in Yolov8("n", 2).state_dict().items() if "model.22" not in k}
    torch.save(weights, tmp_path / "backbone.pt")
    recipe = recipe_of(model={"size": "s", "weights": str(tmp_path / "backbone.pt")})
    with pytest.raises(ValueError, match="weights do not fit YOLOv8s"):
        starting_model(recipe, 2)


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"losses": ["magnitude"], "alpha": 0, "beta": 0}, "distill.alpha or distill.beta must be above 0"),
        ({"losses": ["cwd"], "cwd": {"gain": 0}}, "distill.cwd.gain must be above 0"),
    ],
)
def test_a_named_loss_needs_a_gain(distill, said):
    with pytest.raises(ValueError, match=said):
        recipe_of(distill=distill)


def test_another_teacher_cannot_continue_a_student(pictures, tmp_path):
    recipe = recipe_of(train={"epochs": 1})
    first, second = (
        Teacher(Yolov8("n", 2), ["square", "disc"], "a test", digest * 64, {"map50": 0.5, "map50_95": 0.5})
        for digest in "ab"
    )
    log = RunLog(tmp_path, QUIET)
    train_stage(recipe, tmp_path, pictures, pictures, log, first)
    with pytest.raises(ValueError, match="was taught by another teacher"):
        train_stage(recipe, tmp_path, pictures, pictures, log, second)


def test_resume_in_the_middle_of_the_teacher(tmp_path):
    """The walk goes on where only the teacher was begun, and refuses to start over it without --resume."""
    recipe = recipe_of(data={"root": str(tmp_path / "scenes")}, train={"epochs": 1})
    out = tmp_path / "run"
    walk_recipe(recipe, out, console=QUIET)
    for name in ("checkpoint.pt", "best.pt", "last.pt"):
        (out / name).unlink()
    stamp = (out / "teacher" / "checkpoint.pt").stat().st_mtime_ns
    with pytest.raises(ValueError, match="already holds a run"):
        walk_recipe(recipe, out, console=QUIET)
    walk_recipe(recipe, out, resume=True, console=QUIET)
    assert (out / "teacher" / "checkpoint.pt").stat().st_mtime_ns == stamp
    report = json.loads((out / "report.json").read_text())
    assert report["training"]["teacher"]["size"] == "n"
    assert (out / "plots" / "distillation.png").is_file()
    assert (out / "plots" / "distill_masks.png").is_file()
    assert "teacher: YOLOv8n" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("square", "star"), "it lacks disc and has star besides"),
        (("disc", "square"), "the order differs"),
        (("square",), "its 1 classes must be the 2 of the data"),
    ],
)
def test_a_teacher_of_other_classes(classes, said):
    with pytest.raises(ValueError, match=said):
        check_pair(teacher_of(Yolov8("n", len(classes)), classes), Yolov8("n", 2), ["square", "disc"])


def test_a_teacher_with_other_strides():
    class Finer(Yolov8):
        def features(self, x):
            maps = super().features(x)
            return {4: maps[8], 8: maps[16], 16: maps[32]}

    with pytest.raises(ValueError, match=r"strides must be the student's 8/16/32, got 4/8/16"):
        check_pair(teacher_of(Finer("n", 2)), Yolov8("n", 2), ["square", "disc"])


def test_a_checkpoint_of_other_classes_as_teacher(pictures, tmp_path):
    model = Yolov8("n", 3)
    path = tmp_path / "teacher.pt"
    content = {"model": model.state_dict(), "size": "n", "class_names": ["a", "b", "c"], "image_size": 64, "epoch": 1}
    save_checkpoint(path, content)
    recipe = recipe_of(teacher={"checkpoint": str(path)})
    teacher = find_teacher(recipe, tmp_path, pictures, pictures, QUIET)
    with pytest.raises(ValueError, match="classes must be the 2 of the data"):
        train_stage(recipe, tmp_path / "run", pictures, pictures, RunLog(tmp_path / "run", QUIET), teacher)


def test_a_teacher_worse_than_its_student_is_told_with_both_figures(tmp_path):
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115
    log = RunLog(tmp_path, console)
    warn_if_worse(teacher_of(Yolov8("n", 2), score=0.301), {"map50_95": 0.422}, "the trained student", log)
    said = console.export_text()
    assert "worse than the trained student" in said
    assert "30.1 against 42.2" in said
    warn_if_worse(teacher_of(Yolov8("n", 2), score=0.5), {"map50_95": 0.422}, "the trained student", log)
    assert console.export_text() == ""


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (["magnitud"], "unknown loss 'magnitud'; did you mean magnitude?"),
        (["bananas"], "known are magnitude, relation, logit, fitnets, cwd, mgd, fgd, ld"),
        (["cwd", "cwd"], "must name each loss once"),
    ],
)
def test_unknown_losses(losses, said):
    with pytest.raises(ValueError, match=said):
        recipe_of(distill={"losses": losses})


def test_the_cache_answers_like_the_teacher_and_only_for_the_same_pixels(pictures, tmp_path):
    teacher = Yolov8("n", 2)
    asked = []
    direct = ask_directly(teacher)

    def ask(batch):
        asked.append(1)
        return direct(batch)

    cache = TeacherCache(ask, tmp_path / "cache", {"teacher": weights_digest(teacher)}, 3)
    batch = batch_of(pictures)
    first, second = cache(batch), cache(batch)
    assert len(asked) == 1
    for stride, m in first.maps.items():
        assert torch.equal(m, second.maps[stride])
    assert all(torch.equal(a, b) for a, b in zip(first.heads, second.heads, strict=True))
    cache(Batch(batch.images.flip(3), batch.targets))
    assert len(asked) == 2
    file = next((tmp_path / "cache").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])  # torn: asked again
    cache(batch)
    cache(Batch(batch.images.flip(3), batch.targets))
    assert len(asked) == 3


def test_a_cache_of_another_teacher_is_refused(tmp_path):
    TeacherCache(lambda batch: None, tmp_path / "cache", {"teacher": "a", "image_size": 64}, 1)
    with pytest.raises(ValueError, match=r"was made with teacher 'a', this run has 'b'; give another folder"):
        TeacherCache(lambda batch: None, tmp_path / "cache", {"teacher": "b", "image_size": 64}, 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        TeacherCache(lambda batch: None, other, {"teacher": "a"}, 1)


def test_a_cached_training_equals_an_uncached_one(pictures, tmp_path):
    teacher = teacher_of(Yolov8("n", 2))
    plain = recipe_of(train={"epochs": 1})
    kept = recipe_of(train={"epochs": 1}, distill={"losses": ["magnitude", "relation"], "cache": str(tmp_path / "c")})
    results, asked = [], []
    for name, recipe in (("plain", plain), ("fills", kept), ("reads", kept)):
        calls = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distilling, "ask_directly", lambda model, calls=calls: spied(ask_directly(model), calls))
            log = RunLog(tmp_path / name, QUIET)
            results.append(train_stage(recipe, tmp_path / name, pictures, pictures, log, teacher)["model"])
        asked.append(len(calls))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
        assert torch.equal(value, results[2][name]), name
    assert len(list((tmp_path / "c").rglob("*.safetensors"))) == asked[1] > 0
    assert asked[2] == 0, "the third run must not have asked the teacher at all"
