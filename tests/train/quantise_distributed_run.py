"""Quantise a tiny network in every way, alone or under torchrun; run and called by test_quantise_processes."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.train.conftest import draw_pictures
from tests.train.test_quantising import float_model, recipe_of
from train import quantise_stage as stage
from train import quantising
from train.run_log import RunLog, read_log
from train.trainer import Trainer

CLASSES = ["square", "disc"]
# Twelve bits: on a coarse grid the last bit of a sum soon makes another network.
WAYS = {
    "calibrated": {"method": "calibrate", "observe_batches": 2},
    "observed": {"learn": False, "weights": [12], "activations": [12], "epochs": 1},
    "tuned": {
        "losses": ["cwd"],
        "weights": [16, 12],
        "activations": [16, 12],
        "epochs": 2,
        "learning_rate": 1e-6,
        # A small step: one of the usual length turns what this untrained teacher says upside down.
        "tuning": {"every": 2, "query_share": 0.25, "rate": 1e-5},
    },
}


@contextmanager
def kept_trainers():
    """Collect the trainers of a stage, whose networks are this process's own, and score nothing."""
    found = []

    class Kept(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    def nothing(_recipe, _val):
        return lambda _model: {"map50": 0.2, "map50_95": 0.1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "Trainer", Kept)
        for module in (stage, quantising):
            patch.setattr(module, "validator", nothing)
        if dist.is_initialized() and dist.get_rank():
            patch.setattr("train.trainer.save_checkpoint", refuse)
            patch.setattr(stage, "save_checkpoint", refuse)
        yield found


def refuse(path, _content):
    raise AssertionError(f"{path} is the first process's to write")


def quantise(way, data, out):
    """Return what one way leaves in this process: ranges and weights, the teacher's moved part, the losses."""
    recipe = recipe_of(train={"batch": 4}, quantize=WAYS[way])
    start = {"version": 1, "model": float_model().state_dict(), "size": "n", "class_names": CLASSES, "image_size": 64}
    first = not dist.is_initialized() or dist.get_rank() == 0
    log = RunLog(out / way, Console(quiet=True), tensorboard=False, active=first)
    with kept_trainers() as trainers:
        content = stage.quantise_stage(recipe, start, out / way, data, data, log)
    log.close()
    mine = trainers[0].model.state_dict() if trainers else content["model"]
    tuner = trainers[0].job.stages.tuner if trainers else None
    rows = read_log(out / way / "log.jsonl") if trainers and first else []
    return {
        "content": content["model"],
        "mine": dict(mine),
        "teacher": {n: p.detach() for n, p in tuner.moving.items()} if tuner else {},
        "before": {n: p for n, p in float_model().named_parameters()},
        "losses": [{k: v for k, v in row.items() if k.startswith("loss/")} for row in rows],
    }


def main(out):
    """Be one process of the group and leave what it has in `out`."""
    from train.walk import _join_group

    torch.set_num_threads(1)
    rank = _join_group()
    scratch = out / f"pictures{rank}"
    scratch.mkdir(parents=True)
    pictures = draw_pictures(scratch, 8)
    found = {way: quantise(way, pictures, out / "runs") for way in WAYS}
    torch.save(found, out / f"process{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
