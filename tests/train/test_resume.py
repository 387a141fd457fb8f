"""What a resumed run takes over, and what it refuses."""

import json

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.train.test_trainer import tiny_recipe, trainer
from train.checkpoint import load_checkpoint, save_checkpoint
from train.model import Yolov8
from train.resume import check_same_run
from train.run_log import RunLog
from train.stage import train_stage
from train.trainer import NonFiniteLoss


def describe(**changes):
    recipe = tiny_recipe()
    raw = recipe.model_dump(mode="json")
    for key, value in changes.items():
        section, _, name = key.partition("__")
        raw[section][name] = value
    return {"size": "n", "class_names": ["a"], "image_size": 64, "recipe": json.dumps(raw)}


@pytest.mark.parametrize("changes", [{}, {"train__epochs": 9}, {"data__root": "x"}, {"export__precision": "fp16"}])
def test_a_run_may_go_on_elsewhere_and_for_longer(changes):
    check_same_run(describe(), describe(**changes), "last.pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__batch": 2}, r"train\.batch 4, the recipe says 2"),
        ({"train__seed": 5}, r"train\.seed 0, the recipe says 5"),
        ({"loss__box": 1.0}, r"loss\.box 7\.5, the recipe says 1\.0"),
        ({"augment__mosaic": 0.0}, r"augment\.mosaic"),
    ],
)
def test_another_experiment_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_same_run(describe(), describe(**changes), "last.pt")


def test_everything_that_decides_the_rest_is_taken_over(pictures, tmp_path):
    first = trainer(tiny_recipe(epochs=2), pictures, tmp_path, validate=lambda _m: {"map50": 0.5, "map50_95": 0.3})
    first.fit()
    second = trainer(tiny_recipe(epochs=3), pictures, tmp_path, validate=lambda _m: {"map50": 0.5, "map50_95": 0.2})
    second.resume()
    for name in ("epoch", "steps", "best", "stale", "seconds"):
        assert getattr(second, name) == getattr(first, name), name
    assert (second.best, second.stale) == (0.3, 1)
    assert second.ema.steps == first.ema.steps == 4
    old, new = first.optimiser.state_dict()["state"], second.optimiser.state_dict()["state"]
    assert all(torch.equal(old[k]["exp_avg_sq"], new[k]["exp_avg_sq"]) for k in old)


def test_a_resumed_run_needs_no_starting_weights_and_keeps_its_origin(pictures, tmp_path):
    from safetensors.torch import save_file

    save_file(Yolov8("n", 2).state_dict(), tmp_path / "start.safetensors")
    log = RunLog(tmp_path / "run", Console(quiet=True), tensorboard=False)

    def leg(epochs):
        recipe = tiny_recipe(epochs=epochs)
        weights = recipe.model.model_copy(update={"weights": str(tmp_path / "start.safetensors")})
        recipe = recipe.model_copy(update={"model": weights})
        return train_stage(recipe, tmp_path / "run", pictures, pictures, log)

    first = leg(1)
    (tmp_path / "start.safetensors").unlink()
    second = leg(2)
    assert first["start"] == second["start"] == "YOLOv8n from start.safetensors"
    assert (first["training"]["epochs"], second["training"]["epochs"]) == (1, 2)


def test_a_checkpoint_with_parts_missing_is_called_damaged(pictures, tmp_path):
    run = trainer(tiny_recipe(epochs=1), pictures, tmp_path)
    run.fit()
    content = load_checkpoint(tmp_path / "last.pt")
    del content["resume"]["optimiser"]
    save_checkpoint(tmp_path / "last.pt", content)
    with pytest.raises(ValueError, match=r"last\.pt: damaged \(KeyError"):
        trainer(tiny_recipe(epochs=2), pictures, tmp_path).resume()


def test_large_gradients_are_clipped_and_infinite_ones_stop_the_run(pictures, tmp_path):
    def pulling(factor):
        def make_step(model):
            def step(batch):
                return {"pull": (next(model.parameters()) * factor).sum()}

            return step

        return make_step

    recipe = tiny_recipe(clip_gradient=1.0)
    run = trainer(recipe, pictures, tmp_path, make_step=pulling(1e6))
    run._epoch()
    norm = next(run.model.parameters()).grad.norm()
    assert float(norm) == pytest.approx(1.0, rel=1e-3)
    before = next(run.model.parameters()).detach().clone()
    run = trainer(recipe, pictures, tmp_path, make_step=pulling(3e38))
    with pytest.raises(NonFiniteLoss):
        run._epoch()
    assert torch.isfinite(before).all()
    assert torch.isfinite(next(run.model.parameters())).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_keeps_its_statistics(pictures, tmp_path, frozen):
    run = trainer(tiny_recipe(freeze_batch_norm=frozen), pictures, tmp_path)
    norm = next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    run._epoch()
    assert torch.equal(norm.running_mean, before) is frozen
