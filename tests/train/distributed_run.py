"""Train two epochs, alone or under torchrun, and give the losses of all processes; run and called by test_trainer."""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.train.conftest import draw_pictures
from tests.train.test_trainer import tiny_recipe
from train.distilling import distilling_job
from train.model import Yolov8
from train.recipe import Distill
from train.run_log import RunLog
from train.supervised import supervised_job
from train.trainer import Trainer, seed_everything


def losses_of_two_epochs(data, out, *, distilled=False):
    """Return one dict of summed losses for each epoch, the mean over the processes of the group, if there is one.

    distilled: with a frozen teacher, and losses whose normalisation must hold over the processes.
    """
    # Batch statistics of half a batch differ from those of a whole one, so they are frozen: what is compared is the
    # loss, its normalisation over the processes and the averaged gradients.
    recipe = tiny_recipe(epochs=2, freeze_batch_norm=True, validate_every=9)
    seed_everything(0)
    describe = {"size": "n", "class_names": data.class_names, "image_size": 64}
    student = Yolov8("n", 2)
    if distilled:
        # From chance: a fit would see each process's own share of the batches.
        distill = Distill(losses=["magnitude", "fitnets", "logit"], fit_adapters=0)
        recipe = recipe.model_copy(update={"distill": distill})
        teacher = Yolov8("s", 2)
        job = distilling_job(recipe, data, data, describe, student, teacher, "")
    else:
        job = supervised_job(recipe, data, data, describe)
    trainer = Trainer(student, recipe.train, job, out, log=RunLog(out, Console(quiet=True), active=False))
    rows = []
    for trainer.epoch in range(2):
        losses = trainer._epoch()
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        rows.append(dict(zip(losses, values.tolist(), strict=True)))
    return rows


def main(out):
    """Be one process of the group: the first writes losses.json and how many processes made it."""
    from train.walk import _join_group

    torch.set_num_threads(1)
    rank = _join_group()
    scratch = out / f"pictures{rank}"
    scratch.mkdir(parents=True)
    pictures = draw_pictures(scratch, 8)
    rows = losses_of_two_epochs(pictures, out)
    distilled = losses_of_two_epochs(pictures, out, distilled=True)
    if rank == 0:
        found = {"processes": dist.get_world_size(), "rows": rows, "distilled": distilled}
        (out / "losses.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
