"""The teacher of a recipe: read from a checkpoint, or trained by the same command when it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from torch import distributed as dist

from deploy.annotations import AnnotationSet

from .checkpoint import load_checkpoint, model_from, write_atomically
from .recipe import Distill, Model, Recipe
from .run_log import RunLog
from .stage import begun, train_stage
from .supervised import validator
from .teacher_cache import weights_digest
from .teacher_student import Teacher
from .trainer import choose_device, choose_precision

FOLDER = "teacher"


def teacher_recipe(recipe: Recipe) -> Recipe:
    """Return the plain training of the recipe's teacher; what `[teacher]` leaves open is as for the student."""
    t = recipe.teacher
    own = {k: getattr(t, k) for k in ("epochs", "learning_rate", "batch", "image_size") if getattr(t, k) is not None}
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}_teacher",
            "model": Model(size=t.size, weights=t.weights),
            "train": recipe.train.model_copy(update=own),
            "teacher": type(t)(),
            "distill": Distill(),
        }
    )


def needs_teacher(recipe: Recipe) -> bool:
    """Return whether a recipe's float or quantised training learns from `[teacher]`."""
    q = recipe.quantize
    trains_float = not q.checkpoint
    return bool(recipe.distill.losses and trains_float) or bool(
        q.method == "train" and q.losses and q.teacher == "teacher"
    )


def check_teacher_file(recipe: Recipe) -> None:
    """Raise FileNotFoundError where the recipe names a teacher that is not there; cheap, before any work."""
    path = recipe.teacher.checkpoint
    if needs_teacher(recipe) and path and not Path(path).is_file():
        raise FileNotFoundError(
            f"teacher.checkpoint {path}: no such file; give the checkpoint.pt of a run, or leave it empty to train one"
        )


def find_teacher(recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, console: Console) -> Teacher:
    """Return the recipe's teacher; without `teacher.checkpoint` it is trained, continued or read in `out/teacher`.

    Raises ValueError for a checkpoint that is none, and what training raises.
    """
    active = not (dist.is_initialized() and dist.get_rank())
    if recipe.teacher.checkpoint:
        path = Path(recipe.teacher.checkpoint)
    else:
        path = out / FOLDER / "checkpoint.pt"
        # A student that has begun keeps the teacher it began with, also where the recipe now asks for more epochs.
        if not (path.is_file() and begun(out)):
            log = RunLog(path.parent, console, active=active)
            log.say(f"the teacher, YOLOv8{recipe.teacher.size}, in {path.parent}")
            train_stage(teacher_recipe(recipe), path.parent, train, val, log)
            log.close()
    content = load_checkpoint(path)
    model = model_from(content, str(path))
    digest = weights_digest(model)
    epochs = content.get("training", {}).get("epochs")
    origin = f"{epochs} epochs at {content['image_size']} pixels" if epochs else path.name
    teacher = Teacher(model, list(content["class_names"]), origin, digest, {"map50": 0.0, "map50_95": 0.0})
    if teacher.class_names != list(train.class_names):
        return teacher  # cannot be scored on these classes; `check_pair` says what is wrong
    scores = _scores(recipe, teacher, val, out / "teacher.json") if active else teacher.scores
    return Teacher(model, teacher.class_names, origin, digest, _told_to_all(scores))


def _scores(recipe: Recipe, teacher: Teacher, val: AnnotationSet, kept: Path) -> dict[str, float]:
    """Score the teacher at the student's image size, once for a run: `kept` remembers."""
    key = {"sha256": teacher.digest, "image_size": recipe.train.image_size, "images": len(val.images)}
    if kept.is_file():
        try:
            found = json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if all(found.get(name) == value for name, value in key.items()):
            return {name: float(found[name]) for name in ("map50", "map50_95")}
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    model = teacher.model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    # In the precision in which it will teach: in float32 a large teacher takes minutes on a CPU.
    with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
        scores = validator(recipe, val)(model)
    write_atomically(kept, json.dumps({**key, **scores}, indent=1).encode())
    return scores


def _told_to_all(scores: dict[str, float]) -> dict[str, float]:
    """Give every process what the first one measured."""
    if not dist.is_initialized():
        return scores
    shared = [scores]
    dist.broadcast_object_list(shared, 0)
    return shared[0]
