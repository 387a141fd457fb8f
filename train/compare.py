"""Compare recipes: every row with every seed from the same start, on the same images, into one table.

Each run lies in a folder of its own and is finished, continued or skipped there, so that a stopped comparison goes on
with the same command. A run's figure is that of its last epoch: choosing the best epoch on the images that are then
scored would flatter whichever recipe swings most.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from deploy.annotations import AnnotationSet
from deploy.detections import Detections
from deploy.metrics import score_detections

from .checkpoint import model_from, write_atomically
from .comparison_report import Row, Run, write_comparison
from .evaluate import LetterboxCache, find_all, layout_for, torch_infer
from .provenance import describe_run
from .recipe import Recipe
from .resume import check_same_run
from .rows import Variant
from .run_log import RunLog
from .splits import load_both
from .stage import train_stage
from .teacher import find_teacher
from .teacher_student import Teacher
from .trainer import choose_device


@dataclass(frozen=True)
class Plan:
    """What is compared. seeds: 0 ... seeds - 1. folds: 0 for train against val, else k-fold over the train split."""

    variants: list[Variant]
    seeds: int
    folds: int
    reference: str
    cache_teacher: bool = False
    resamples: int = 1000


def compare(plan: Plan, out: Path, console: Console) -> dict[str, Any]:
    """Run what is missing and write comparison.md, .json and .png into `out`; returns the table.

    Raises ValueError for a plan that cannot be compared, or for a folder with runs of other recipes.
    """
    if plan.reference not in [v.name for v in plan.variants]:
        raise ValueError(
            f"--reference must be one of the rows ({', '.join(v.name for v in plan.variants)}), got {plan.reference!r}"
        )
    train, val = _same_data(plan.variants)
    out.mkdir(parents=True, exist_ok=True)
    parts = [(train, val)] if not plan.folds else [fold_of(train, plan.folds, k) for k in range(plan.folds)]
    total, count = plan.seeds * len(plan.variants) * len(parts), 0
    table: dict[str, Any] = {}
    finished: dict[str, list[Run]] = {v.name: [] for v in plan.variants}
    teachers: dict[str, Teacher] = {}
    truth = [image for _, scored in parts for image in scored.images]
    for seed in range(plan.seeds):
        for variant in plan.variants:
            found: list[Detections] = []
            minutes = 0.0
            for fold, (part, scored) in enumerate(parts, 1):
                count += 1
                label = f"{variant.name}, seed {seed}" + (f", fold {fold} of {plan.folds}" if plan.folds else "")
                console.print(f"[{count}/{total}] {label}", highlight=False, markup=False)
                where = out / "runs" / slug(variant.name) / (f"seed{seed}" + (f"-fold{fold}" if plan.folds else ""))
                one = _one_run(
                    plan, variant, seed, fold if plan.folds else None, part, scored, out, where, teachers, console
                )
                found += one[0]
                minutes += one[1]
            accuracy = score_detections(truth, found, val.class_names)
            console.print(
                f"      mAP50 {100 * accuracy.map50:.1f}  mAP50-95 {100 * accuracy.map50_95:.1f}  "
                f"training {minutes:.1f} min",
                highlight=False,
            )
            finished[variant.name].append(Run(seed, accuracy, minutes, found))
        rows = [Row(v.name, v.recipe.name, finished[v.name]) for v in plan.variants]
        table = write_comparison(
            rows,
            truth,
            list(val.class_names),
            plan.reference,
            out,
            resamples=plan.resamples,
            folds=plan.folds,
            about=_about(plan, teachers),
        )
    return table


def _one_run(
    plan: Plan,
    variant: Variant,
    seed: int,
    fold: int | None,
    train: AnnotationSet,
    val: AnnotationSet,
    out: Path,
    where: Path,
    teachers: dict[str, Teacher],
    console: Console,
) -> tuple[list[Detections], float]:
    """Return what the finished run found on each validation image, and its training minutes."""
    recipe = variant.recipe
    config = recipe.train.model_copy(update={"seed": seed, "validate_every": recipe.train.epochs, "patience": 0})
    recipe = recipe.model_copy(update={"name": variant.name, "train": config})
    done, kept = where / "run.json", where / "found.npz"
    if done.is_file() and kept.is_file():
        content = json.loads(done.read_text(encoding="utf-8"))
        check_same_run(content, _identity(recipe, val), str(where))
        return load_found(kept, len(val.images)), float(content["minutes"])
    teacher = None
    if recipe.distill.losses:
        teacher = _teacher_for(variant.recipe, fold, train, val, out, teachers, console)
        if plan.cache_teacher:
            cache = out / "teacher_cache" / f"{teacher.digest[:12]}-{recipe.train.image_size}"
            recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"cache": str(cache)})})
    log = RunLog(where, console)
    content = train_stage(recipe, where, train, val, log, teacher)
    log.close()
    size = recipe.train.image_size
    model = model_from(content, str(where)).to(choose_device(recipe.train.device))
    inputs = LetterboxCache(val.images, (size, size), recipe.data.cache_mb)
    infer = torch_infer(model, next(model.parameters()).device)
    found = find_all(infer, inputs, len(val.images), layout_for(size, len(val.class_names)))
    save_found(kept, found)
    minutes = float(content["training"]["minutes"])
    write_atomically(done, json.dumps({**_identity(recipe, val), "minutes": minutes}).encode())
    for name in ("last.pt", "best.pt"):  # the optimiser's state is of no use any more, and large
        (where / name).unlink(missing_ok=True)
    return found, minutes


def _teacher_for(
    recipe: Recipe,
    fold: int | None,
    train: AnnotationSet,
    val: AnnotationSet,
    out: Path,
    teachers: dict[str, Teacher],
    console: Console,
) -> Teacher:
    """Return the teacher that all rows with the same `[teacher]` share; with folds, one that saw only their images."""
    key = f"{recipe.teacher.model_dump_json()}-{fold}"
    if key not in teachers:
        alike = sorted({k.rpartition("-")[0] for k in teachers} | {key.rpartition("-")[0]})
        where = out / "teachers" / f"{recipe.teacher.size}{alike.index(key.rpartition('-')[0]) or ''}"
        teachers[key] = find_teacher(recipe, where / (f"fold{fold}" if fold else "all"), train, val, console)
        if fold and recipe.teacher.checkpoint:
            console.print(
                "warning: teacher.checkpoint may have been trained on the images that a fold is scored on; leave it "
                "empty, so that each fold trains its own"
            )
    return teachers[key]


def _same_data(variants: list[Variant]) -> tuple[AnnotationSet, AnnotationSet]:
    """Read the data, which must be the same for all rows. Raises ValueError where it is not, or names repeat."""
    first = variants[0].recipe
    for variant in variants[1:]:
        for name in ("format", "root", "train", "val", "class_names", "seed", "objects"):
            if getattr(variant.recipe.data, name) != getattr(first.data, name):
                raise ValueError(
                    f"compared recipes must have the same data: data.{name} differs between {variants[0].name!r} and "
                    f"{variant.name!r}; only then are differences those of the training"
                )
    return load_both(first)


def fold_of(train: AnnotationSet, folds: int, number: int) -> tuple[AnnotationSet, AnnotationSet]:
    """Return (the other folds, fold `number`) of a training split, dealt out in an order that is always the same."""
    if not 2 <= folds <= len(train.images):
        raise ValueError(f"--folds must be 2 to the {len(train.images)} training images, got {folds}")
    order = np.random.default_rng(0).permutation(len(train.images))
    held = set(order[number::folds].tolist())
    inside = [image for i, image in enumerate(train.images) if i in held]
    outside = [image for i, image in enumerate(train.images) if i not in held]
    return replace(train, images=outside), replace(train, images=inside)


def _identity(recipe: Recipe, val: AnnotationSet) -> dict[str, Any]:
    return {
        "size": recipe.model.size,
        "class_names": list(val.class_names),
        "image_size": recipe.train.image_size,
        "recipe": recipe.model_dump_json(),
    }


def _about(plan: Plan, teachers: dict[str, Teacher]) -> dict[str, Any]:
    """Return what a reader of the table needs to know about how it was made."""
    recipe = plan.variants[0].recipe
    return {
        "epochs": recipe.train.epochs,
        "image_size": recipe.train.image_size,
        "batch": recipe.train.batch,
        "start": recipe.model.weights if recipe.model.weights in ("none", "procedural") else "a checkpoint",
        "student": f"yolov8{recipe.model.size}",
        "teachers": sorted({t.line() for t in teachers.values()}),
        "provenance": describe_run(None, recipe.data.name or recipe.name).model_dump(),
    }


def slug(name: str) -> str:
    """Return a folder name for a row."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"


def save_found(path: Path, found: list[Detections]) -> None:
    """Keep the detections of a run: xyxy, score, class_id of all images in order, and how many each image has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part.npz")
    np.savez_compressed(
        scratch,
        xyxy=np.concatenate([f.xyxy for f in found]),
        score=np.concatenate([f.score for f in found]),
        class_id=np.concatenate([f.class_id for f in found]),
        count=np.array([len(f) for f in found]),
    )
    scratch.replace(path)


def load_found(path: Path, images: int) -> list[Detections]:
    """Read what `save_found` kept. Raises ValueError where it is of another number of images, or damaged."""
    try:
        with np.load(path) as kept:
            count, parts = kept["count"], (kept["xyxy"], kept["score"], kept["class_id"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and the run is scored again") from error
    if len(count) != images:
        raise ValueError(f"{path}: must hold {images} images, got {len(count)}; delete it, and the run is scored again")
    cuts = np.cumsum(count)[:-1]
    return [Detections(x, s, c) for x, s, c in zip(*(np.split(p, cuts) for p in parts), strict=True)]
