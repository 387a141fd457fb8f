"""Walk one recipe from annotations to a bundle: data, training, scores, ONNX, RKNN, report.

Every stage leaves its result in the output folder before the next begins, so a run that was stopped continues with
`--resume` where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed as dist

from deploy.annotations import AnnotationSet

from .checkpoint import load_checkpoint, load_weights, model_from, read_weights, save_checkpoint
from .model import Yolov8
from .plots import plot_training
from .provenance import describe_run
from .recipe import Recipe, load_recipe
from .resume import check_same_run
from .run_log import RunLog, read_log
from .splits import load_both
from .supervised import supervised_job
from .trainer import Trainer, choose_device, seed_everything

ZOO = Path(__file__).resolve().parent.parent / "deploy" / "zoo"
PROCEDURAL_WEIGHTS = ZOO / "procedural" / "weights.safetensors"


def walk(recipe_name: str, out: Path, overrides: list[str], resume: bool, console: Console | None = None) -> Path:
    """Train a recipe, export it, score every form and write the report. Returns the output folder.

    Started by `torchrun`, each process joins the group; only the first one writes, exports and scores.
    Raises ValueError, FileNotFoundError or OSError with one clear line.
    """
    recipe = load_recipe(recipe_name, overrides)
    return walk_recipe(recipe, out, resume=resume, console=console)


def walk_recipe(recipe: Recipe, out: Path, *, resume: bool = False, console: Console | None = None) -> Path:
    """Do what `walk` does for a recipe that is already loaded."""
    console = console or Console()
    rank = _join_group(recipe.train.device)
    try:
        _check_folder(out, resume)
        log = RunLog(out, console, active=rank == 0)
        with drawing_bar(console, shown=rank == 0) as progress:
            train, val = _load_first_here(recipe, progress, rank)
        log.say(
            f"{recipe.data.name or recipe.name}: {len(train.images)} train and {len(val.images)} val images, "
            f"{len(train.class_names)} classes"
        )
        _train(recipe, out, train, val, log, resume)
        log.close()
        if rank == 0:
            plot_training(read_log(log.path), out / "plots")
            _finish(recipe, out, train, val, console)
        return out
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _load_first_here(
    recipe: Recipe, progress: Callable[[int, int], None], rank: int
) -> tuple[AnnotationSet, AnnotationSet]:
    """Read both splits, the first process before the others: where scenes are drawn, only one may write them."""
    if rank:
        dist.barrier()
    found = load_both(recipe, progress)
    if dist.is_initialized() and not rank:
        dist.barrier()
    return found


def starting_model(recipe: Recipe, class_count: int) -> tuple[Yolov8, str]:
    """Build the recipe's network with its starting weights, and a line that says where they come from."""
    seed_everything(recipe.train.seed)
    model = Yolov8(recipe.model.size, class_count)
    source = recipe.model.weights
    if source == "none":
        return model, f"YOLOv8{recipe.model.size} from scratch"
    path = PROCEDURAL_WEIGHTS if source == "procedural" else Path(source)
    if source == "procedural" and recipe.model.size != "n":
        raise ValueError(
            f"model.weights = procedural fits size n only, got {recipe.model.size}; give a checkpoint, or none"
        )
    fresh = load_weights(model, read_weights(path), str(path), other_classes=True)
    # Only the file's name: the line goes into cards, and folders of one machine do not belong there.
    told = "the shipped procedural weights" if source == "procedural" else path.name
    kept = f", {len(fresh)} class tensors new" if fresh else ""
    return model, f"YOLOv8{recipe.model.size} from {told}{kept}"


def _train(recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, log: RunLog, resume: bool) -> None:
    if resume:
        # The weights it once started from may be gone, or lie elsewhere now; where it came from stays as it was.
        kept = load_checkpoint(out / ("last.pt" if (out / "last.pt").is_file() else "checkpoint.pt"))
        seed_everything(recipe.train.seed)
        model, origin = Yolov8(recipe.model.size, len(train.class_names)), kept["start"]
    else:
        model, origin = starting_model(recipe, len(train.class_names))
    describe: dict[str, Any] = {
        "size": recipe.model.size,
        "class_names": list(train.class_names),
        "image_size": recipe.train.image_size,
        "recipe": recipe.model_dump_json(),
        "start": origin,
        "provenance": describe_run(recipe.train.seed, recipe.data.name or recipe.name).model_dump_json(),
    }
    finished = out / "checkpoint.pt"
    if resume and finished.is_file():
        content = load_checkpoint(finished)
        check_same_run(content, describe, str(finished))
        if recipe.train.epochs <= content.get("training", {}).get("planned_epochs", 0):
            log.say("training was finished; going on with the export")
            return
    log.say(origin)
    trainer = Trainer(model, recipe.train, supervised_job(recipe, train, val, describe), out, log=log)
    if resume:
        trainer.resume()
        log.say(f"continuing after epoch {trainer.epoch} of {recipe.train.epochs}")
    trainer.fit()
    if trainer.rank == 0:
        best = load_checkpoint(out / "best.pt")
        done = {"epochs": trainer.epoch, "planned_epochs": recipe.train.epochs, "minutes": trainer.seconds / 60}
        save_checkpoint(finished, {**best, "training": done})


@contextmanager
def drawing_bar(console: Console, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how far the drawing of procedural scenes is; reading annotations never calls it."""
    columns = (TextColumn("drawing scenes"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task: list[Any] = []

        def advance(done: int, total: int) -> None:
            if not task:
                task.append(bar.add_task("", total=total))
            bar.update(task[0], completed=done, total=total)

        yield advance


def _finish(recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, console: Console) -> None:
    from .report import run_report

    content = load_checkpoint(out / "checkpoint.pt")
    model = model_from(content, str(out / "checkpoint.pt"))
    run_report(recipe, content, model, train, val, out, console)


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume one that is not there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    there = (out / "last.pt").is_file()
    if resume and not there and not (out / "checkpoint.pt").is_file():
        raise FileNotFoundError(f"{out}: nothing to resume, it holds no last.pt; start without --resume")
    if not resume and (there or (out / "checkpoint.pt").is_file()):
        raise ValueError(f"{out} already holds a run; continue it with --resume, or choose another --out")


def _join_group(device: str = "auto") -> int:
    """Join the processes that torchrun started and return this one's rank; 0 when alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return 0
    on_gpu = choose_device(device).type == "cuda"
    backend = "nccl" if on_gpu else "gloo"
    if on_gpu:
        torch.cuda.set_device(choose_device(device))
    dist.init_process_group(backend)
    return dist.get_rank()
