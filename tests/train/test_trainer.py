"""The loop: resume bit for bit, several processes like one, stops that say why, nothing lost."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from train.checkpoint import load_checkpoint, model_from
from train.model import Yolov8
from train.recipe import Augment, Train, parse_recipe
from train.run_log import RunLog, read_log
from train.supervised import supervised_job
from train.trainer import NonFiniteLoss, Trainer, choose_device, choose_precision, seed_everything

ROOT = Path(__file__).resolve().parents[2]


def tiny_recipe(**train):
    options = {
        "image_size": 64,
        "epochs": 3,
        "batch": 4,
        "warmup_epochs": 0.5,
        "validate_every": 1,
        "precision": "float32",
        **train,
    }
    split = {"annotations": "unused"}
    return parse_recipe(
        {
            "name": "tiny",
            "data": {"format": "coco", "train": split, "val": split, "workers": 0},
            "train": options,
            "augment": {"close_mosaic_epochs": 1},
        },
        "test",
    )


def trainer(recipe, data, out, **kwargs):
    seed_everything(recipe.train.seed)
    model = Yolov8("n", len(data.class_names))
    describe = {"size": "n", "class_names": data.class_names, "image_size": recipe.train.image_size}
    job = supervised_job(recipe, data, data, describe)
    if kwargs:
        job = dataclasses.replace(job, **kwargs)
    return Trainer(model, recipe.train, job, out, log=RunLog(out, Console(quiet=True), tensorboard=False))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(pictures, tmp_path, precision):
    recipe = tiny_recipe(precision=precision)
    whole = trainer(recipe, pictures, tmp_path / "whole")
    whole.fit()

    cut = trainer(recipe, pictures, tmp_path / "cut")
    epochs = cut._epoch

    def stop_in_the_middle_of_epoch_3():
        if cut.epoch == 2:
            raise KeyboardInterrupt
        return epochs()

    cut._epoch = stop_in_the_middle_of_epoch_3
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    again = trainer(recipe, pictures, tmp_path / "cut")
    again.resume()
    assert again.epoch == 2
    again.fit()

    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    for part in ("model",):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    assert all(torch.equal(a["resume"]["raw_model"][k], b["resume"]["raw_model"][k]) for k in a["model"])
    rows = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(tmp_path / n / "log.jsonl")]
        for n in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


def test_validations_come_when_asked_and_the_best_is_kept(pictures, tmp_path):
    recipe = tiny_recipe(epochs=4, validate_every=2)
    run = trainer(recipe, pictures, tmp_path)
    best = run.fit()
    rows = read_log(tmp_path / "log.jsonl")
    assert [r["epoch"] for r in rows if "val/map50_95" in r] == [2, 4]
    kept = load_checkpoint(tmp_path / "best.pt")
    assert kept["scores"]["map50_95"] == best["map50_95"] == max(r.get("val/map50_95", -1) for r in rows)
    assert "resume" not in kept
    assert not model_from(kept, "best").training


def test_a_non_finite_loss_names_its_component(pictures, tmp_path):
    def poisoned(model):
        def step(batch):
            value = model(batch.images.float() / 255)[0].mean()
            return {"cls": value, "dfl": value * float("nan")}

        return step

    run = trainer(tiny_recipe(), pictures, tmp_path, make_step=poisoned)
    with pytest.raises(
        NonFiniteLoss, match=r"component 'dfl' became nan in epoch 1, step 1; lower train.learning_rate"
    ):
        run.fit()


def test_early_stop_counts_validations(pictures, tmp_path):
    run = trainer(
        tiny_recipe(epochs=9, patience=2), pictures, tmp_path, validate=lambda _m: {"map50": 0.5, "map50_95": 0.3}
    )
    run.fit()
    assert run.epoch == 3  # the first is the best so far, two more without a better one


def test_resume_refuses_another_recipe(pictures, tmp_path):
    trainer(tiny_recipe(epochs=1), pictures, tmp_path).fit()
    other = trainer(tiny_recipe(epochs=2, image_size=96), pictures, tmp_path)
    with pytest.raises(ValueError, match="was trained with image_size 64, the recipe says 96"):
        other.resume()


def test_a_full_disk_leaves_the_old_checkpoint(pictures, tmp_path, monkeypatch):
    run = trainer(tiny_recipe(epochs=1), pictures, tmp_path)
    run.fit()
    before = (tmp_path / "last.pt").read_bytes()

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.checkpoint.os.fsync", full)
    with pytest.raises(
        OSError, match=r"last\.pt: cannot be written \(No space left on device\); the previous file is kept"
    ):
        run._save("last.pt", full=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_warm_up_then_cosine(pictures, tmp_path):
    run = trainer(
        tiny_recipe(epochs=10, warmup_epochs=2, learning_rate=1.0, final_learning_rate=0.1), pictures, tmp_path
    )
    rates = []
    for run.steps in range(20):
        rates.append(run._rate())
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(1.0)
    assert rates[12] == pytest.approx(0.55)  # half way: the mean of both ends
    assert rates == rates[:5] + sorted(rates[5:], reverse=True)


def test_two_processes_give_the_losses_of_one(pictures, tmp_path):
    from .distributed_run import losses_of_two_epochs

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    script = [str(ROOT / "tests" / "train" / "distributed_run.py"), str(tmp_path / "2")]
    done = subprocess.run([*command, *script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "2" / "losses.json").read_text())
    assert two["processes"] == 2
    # One process is this one: nothing of the group, and the same eight pictures.
    for key, distilled in (("rows", False), ("distilled", True)):
        alone = losses_of_two_epochs(pictures, tmp_path, distilled=distilled)
        for one, both in zip(alone, two[key], strict=True):
            assert one.keys() == both.keys()
            for name in one:
                assert both[name] == pytest.approx(one[name], rel=5e-4, abs=1e-7), name
    assert {"fg", "bg", "fitnets", "logit_cls", "logit_box"} <= two["distilled"][0].keys()


def test_devices_and_precisions_that_are_not_there():
    with pytest.raises(ValueError, match=r"train.device must be auto, cpu, cuda"):
        choose_device("gpu7")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            choose_device("cuda")
    with pytest.raises(ValueError, match="float16 needs a GPU"):
        choose_precision("float16", torch.device("cpu"))


def test_recipe_defaults_describe_a_run():
    assert Train().epochs == 100
    assert Augment().mosaic == 1.0
