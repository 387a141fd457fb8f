"""Walk one recipe from annotations to a bundle: data, teacher, training, integers, scores, ONNX, RKNN, report.

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

from .checkpoint import load_checkpoint, model_from
from .distill import MethodDistillation
from .distilling import build_losses
from .model import Yolov8
from .plots import plot_training
from .quantise_stage import FOLDER as FLOAT_FOLDER
from .quantise_stage import check_before_training, check_float_file, float_recipe, quantise_stage
from .recipe import Recipe, load_recipe
from .run_log import RunLog, read_log
from .splits import load_both
from .stage import begun, train_stage
from .teacher import FOLDER, check_teacher_file, find_teacher, needs_teacher
from .teacher_student import Teacher, channels_of
from .trainer import choose_device


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
        check_teacher_file(recipe)
        check_float_file(recipe)
        with drawing_bar(console, shown=rank == 0) as progress:
            train, val = _load_first_here(recipe, progress, rank)
        check_before_training(recipe, train)
        log = RunLog(out, console, active=rank == 0)
        log.say(
            f"{recipe.data.name or recipe.name}: {len(train.images)} train and {len(val.images)} val images, "
            f"{len(train.class_names)} classes"
        )
        teacher = find_teacher(recipe, out, train, val, console) if needs_teacher(recipe) else None
        if not recipe.quantize.learns:
            train_stage(recipe, out, train, val, log, teacher)
        else:
            start = _float_network(recipe, out, train, val, log, teacher)
            quantise_stage(recipe, start, out, train, val, log, teacher)
        log.close()
        if rank == 0:
            if log.path.is_file():  # calibration alone has no epochs
                plot_training(read_log(log.path), out / "plots")
            _finish(recipe, out, train, val, teacher, console)
        return out
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _float_network(
    recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, log: RunLog, teacher: Teacher | None
) -> dict[str, Any]:
    """Return the checkpoint that quantisation starts from: the recipe's, or one that is trained in `out/float`."""
    if recipe.quantize.checkpoint:
        return load_checkpoint(Path(recipe.quantize.checkpoint))
    folder = out / FLOAT_FOLDER
    log.say(f"the float network, YOLOv8{recipe.model.size}, in {folder}")
    own = RunLog(folder, log.console, active=log.active)
    content = train_stage(float_recipe(recipe), folder, train, val, own, teacher)
    own.close()
    if own.active:
        plot_training(read_log(own.path), folder / "plots")
    return content


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


def _finish(
    recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, teacher: Teacher | None, console: Console
) -> None:
    from .report import run_report

    content = load_checkpoint(out / "checkpoint.pt")
    model = model_from(content, str(out / "checkpoint.pt"))
    if teacher:
        trained = out if not recipe.quantize.learns else out / FLOAT_FOLDER
        _draw_distillation(recipe, trained, out, teacher, val)
    run_report(recipe, content, model, train, val, out, console)


def _draw_distillation(recipe: Recipe, trained: Path, out: Path, teacher: Teacher, val: AnnotationSet) -> None:
    """Draw what was distilled, where it was the method: `best.pt` holds the adapters beside the student."""
    best = trained / "best.pt"
    if not set(recipe.distill.losses) & {"magnitude", "relation"} or not best.is_file():
        return
    from .distill_pictures import draw_distillation

    content = load_checkpoint(best)
    student: Yolov8 = model_from(content, str(best))
    losses = build_losses(recipe.distill, channels_of(student), channels_of(teacher.model))
    losses.load_state_dict(content["companion"])
    size, names = recipe.train.image_size, list(val.class_names)
    method = losses["method"]
    assert isinstance(method, MethodDistillation)
    draw_distillation(student, teacher.model, method, val.images, names, size, out / "plots")


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume one that is not there."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    there = any(begun(folder) for folder in (out, out / FOLDER, out / FLOAT_FOLDER))
    if resume and not there:
        raise FileNotFoundError(f"{out}: nothing to resume, it holds no last.pt; start without --resume")
    if not resume and there:
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
