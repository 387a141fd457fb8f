"""The quantised stage with a larger teacher, and what a stopped one may be continued with."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.train.test_distilling import teacher_of
from tests.train.test_quantise_stage import CLASSES, content_of, cut, run, small, stop_after
from tests.train.test_quantising import float_model, recipe_of, student_of
from train import quantise_stage as stage
from train import quantising
from train.model import Yolov8
from train.quantising import quantising_job, stage_recipe
from train.run_log import read_log
from train.supervised import batches_of, images_to_float
from train.teacher_cache import weights_digest
from train.trainer import NonFiniteLoss, Trainer


@pytest.fixture(autouse=True)
def no_scores(monkeypatch):
    for module in (quantising, stage):
        monkeypatch.setattr(module, "validator", lambda *_: lambda _model: {"map50": 0.2, "map50_95": 0.1})


@pytest.fixture(scope="module")
def start():
    return content_of(float_model())


@pytest.fixture(scope="module")
def larger():
    """A teacher with other channels than the student's, whose BatchNorm has statistics."""
    torch.manual_seed(3)
    model = Yolov8("s", 2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    return model.eval()


def job_of(pictures, larger, *, fresh=True, **distill):
    recipe = recipe_of(quantize={"losses": ["magnitude", "cwd"], "teacher": "teacher"}, distill=distill)
    student = student_of(recipe, float_model(), pictures)
    before = weights_digest(student)
    job = quantising_job(
        stage_recipe(recipe), pictures, pictures, {}, student, copy.deepcopy(larger), fresh=fresh
    )  # fmt: skip
    assert weights_digest(student) == before, "the student stays as it is, its ranges included"
    return student, job


def left_over(student, job, larger, pictures):
    """Return, by loss, what the adapters of the finest level leave unsaid, as a share of the teacher's variance."""
    recipe = stage_recipe(recipe_of(quantize={"losses": ["magnitude", "cwd"]}))
    with torch.no_grad():
        images = torch.cat([images_to_float(b.images) for b in batches_of(recipe, pictures)[0](0)])
        x, y = student.eval().features(images)[8], larger.features(images)[8]
        variance = float(y.var(dim=(0, 2, 3)).mean())
        found = {}
        for name, loss in job.companion.items():
            found[name] = float((loss.adapters.levels["8"](x) - y).square().mean()) / variance
    return found


def test_adapters_to_a_larger_teacher_start_where_least_squares_puts_them(pictures, larger):
    student, job = job_of(pictures, larger)
    fitted = left_over(student, job, larger, pictures)
    assert fitted.keys() == {"method", "cwd"}
    assert all(share < 0.9 for share in fitted.values()), "the mean alone would leave 1"
    for student, job in (job_of(pictures, larger, fresh=False), job_of(pictures, larger, fit_adapters=0)):
        at_random = left_over(student, job, larger, pictures)
        assert all(at_random[name] > 1.0 for name in fitted)


def test_a_continued_stage_keeps_its_adapters(pictures, larger, start, tmp_path, monkeypatch):
    fits = []
    fit = quantising.fit_adapters
    monkeypatch.setattr(quantising, "fit_adapters", lambda *args, **kwargs: (fits.append(1), fit(*args, **kwargs)))
    recipe = small(losses=["cwd"], teacher="teacher", weights=[8], activations=[8], shares=[1], epochs=2)
    teacher = teacher_of(larger, CLASSES)
    whole = run(recipe, start, tmp_path / "whole", pictures, teacher=teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", stop_after(1))
        with pytest.raises(KeyboardInterrupt):
            run(recipe, start, tmp_path / "cut", pictures, teacher=teacher)
    resumed = run(recipe, start, tmp_path / "cut", pictures, teacher=teacher)
    assert len(fits) == 2, "once for each run that began"
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


def test_a_stopped_stage_may_go_on_at_another_rate_and_from_a_moved_file(pictures, start, tmp_path):
    first, second = small(learning_rate=1e-4), small(learning_rate=2e-5, checkpoint="elsewhere.pt")
    cut(first, start, tmp_path, pictures, 2, second)
    rates = [row["learning_rate"] for row in read_log(tmp_path / "log.jsonl")]
    assert len(rates) == 3
    assert rates[2] <= 2e-5 < rates[0], "half a cosine down from 1e-4 would still stand at 5e-5"


def test_another_experiment_is_refused_all_the_same(pictures, start, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", stop_after(1))
        with pytest.raises(KeyboardInterrupt):
            run(small(), start, tmp_path, pictures)
    for key in ({"warmup_epochs": 0.0}, {"mosaic": 0.5}, {"observe_batches": 2}, {"epochs": 4}):
        with pytest.raises(ValueError, match=rf"was trained with .*{next(iter(key))}"):
            run(small(**key), start, tmp_path, pictures)


def test_a_loss_that_is_not_finite_names_the_rate_of_this_stage(pictures, start, tmp_path, monkeypatch):
    def poisoned(*args, **kwargs):
        job = quantising_job(*args, **kwargs)

        def make_step(network):
            step = job.make_step(network)
            return lambda batch: {name: value * float("nan") for name, value in step(batch).items()}

        return replace(job, make_step=make_step)

    monkeypatch.setattr(stage, "quantising_job", poisoned)
    with pytest.raises(
        NonFiniteLoss, match=r"became nan in epoch 1, step 1; lower quantize\.learning_rate or set"
    ) as told:
        run(small(), start, tmp_path, pictures)
    assert "train.learning_rate" not in str(told.value)
