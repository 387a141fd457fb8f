"""Train two epochs under torchrun and write the summed losses of all processes; run by test_trainer."""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.train.conftest import draw_pictures
from tests.train.test_trainer import tiny_recipe
from train.model import Yolov8
from train.run_log import RunLog
from train.supervised import supervised_job
from train.trainer import Trainer, seed_everything
from train.walk import _join_group

out, pictures = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
rank = _join_group()
out.mkdir(parents=True, exist_ok=True)
scratch = out / f"pictures{rank}"
scratch.mkdir()
data = draw_pictures(scratch, 8)
# Batch statistics of half a batch differ from those of a whole one, so they are frozen: what is compared is the loss,
# its normalisation over the processes and the averaged gradients.
recipe = tiny_recipe(epochs=2, freeze_batch_norm=True, validate_every=9)
seed_everything(0)
describe = {"size": "n", "class_names": data.class_names, "image_size": 64}
job = supervised_job(recipe, data, data, describe)
trainer = Trainer(Yolov8("n", 2), recipe.train, job, out, log=RunLog(out, Console(quiet=True), active=False))
rows = []
for trainer.epoch in range(2):
    losses = trainer._epoch()
    values = torch.tensor(list(losses.values()), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    rows.append(dict(zip(losses, values.tolist(), strict=True)))
if rank == 0:
    (out / "losses.json").write_text(json.dumps(rows))
if dist.is_initialized():
    dist.destroy_process_group()
