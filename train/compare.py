"""Compare recipes: every row with every seed from the same start, on the same images, into one table.

Each run lies in a folder of its own and is finished, continued or skipped there, so that a stopped comparison goes on
with the same command. A run's figure is that of its last epoch: choosing the best epoch on the images that are then
scored would flatter whichever recipe swings most.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from deploy.annotations import AnnotationSet
from deploy.detections import Detections
from deploy.metrics import score_detections

from .checkpoint import model_from, write_atomically
from .compare_quantised import float_digest, quantised_leg, starts_from_float
from .comparison_report import Row, Run, write_comparison
from .evaluate import LetterboxCache, find_all, layout_for, torch_infer
from .provenance import describe_run
from .quantise_stage import check_float_file
from .recipe import Recipe
from .resume import flat_recipe
from .rows import Variant
from .run_log import RunLog
from .splits import load_both
from .stage import train_stage
from .teacher import check_teacher_file, find_teacher, needs_teacher, teacher_recipe
from .teacher_student import Teacher
from .trainer import choose_device

# What may differ between two legs of one comparison: where and how it runs. Anything else is another experiment.
FREE = (
    "name",
    "data.root",
    "data.workers",
    "data.cache_mb",
    "train.device",
    "distill.cache",
    "teacher.checkpoint",
    "quantize.checkpoint",
)


@dataclass(frozen=True)
class Plan:
    """What is compared. seeds: 0 ... seeds - 1. folds: 0 for train against val, else k-fold over the train split.

    references: rows that the others are compared with; the first is that of the main table, each further one gets files
    of its own.
    """

    variants: list[Variant]
    seeds: int
    folds: int
    references: list[str]
    cache_teacher: bool = False
    resamples: int = 1000


@dataclass(frozen=True)
class Finished:
    """One finished run: what it found on each scored image, its training minutes, its teacher and where it was made."""

    found: list[Detections]
    minutes: float
    teacher: str | None
    provenance: dict[str, Any]


def compare(plan: Plan, out: Path, console: Console) -> dict[str, Any]:
    """Run what is missing and write comparison.md, .json and .png into `out`; returns the main table.

    Raises ValueError for a plan that cannot be compared, or for a folder with runs of other recipes.
    """
    train, val = _checked(plan)
    out.mkdir(parents=True, exist_ok=True)
    parts = [(train, val)] if not plan.folds else [fold_of(train, plan.folds, k) for k in range(plan.folds)]
    total, count = plan.seeds * len(plan.variants) * len(parts), 0
    table: dict[str, Any] = {}
    runs: dict[str, list[Run]] = {v.name: [] for v in plan.variants}
    legs: list[Finished] = []
    work = Work(plan, out, console)
    truth = [image for _, scored in parts for image in scored.images]
    for seed in range(plan.seeds):
        for variant in plan.variants:
            pooled: list[Finished] = []
            for number, (part, scored) in enumerate(parts, 1):
                count += 1
                fold = number if plan.folds else None
                label = f"{variant.name}, seed {seed}" + (f", fold {fold} of {plan.folds}" if fold else "")
                console.print(f"[{count}/{total}] {label}", highlight=False, markup=False)
                pooled.append(work.run(variant, seed, fold, part, scored))
            found = [one for leg in pooled for one in leg.found]
            minutes = sum(leg.minutes for leg in pooled)
            accuracy = score_detections(truth, found, val.class_names)
            console.print(
                f"      mAP50 {100 * accuracy.map50:.1f}  mAP50-95 {100 * accuracy.map50_95:.1f}  "
                f"training {minutes:.1f} min",
                highlight=False,
            )
            runs[variant.name].append(Run(seed, accuracy, minutes, found))
            legs += pooled
        rows = [Row(v.name, v.recipe.name, runs[v.name]) for v in plan.variants]
        tables = write_comparison(
            rows,
            truth,
            list(val.class_names),
            plan.references,
            out,
            resamples=plan.resamples,
            folds=plan.folds,
            about=_about(plan, legs),
        )
        table = tables[0]
    return table


class Work:
    """Do the runs of a plan in `out`, each in a folder of its own; rows that ask for the same teacher share it."""

    def __init__(self, plan: Plan, out: Path, console: Console) -> None:
        self.plan, self.out, self.console = plan, out, console
        self.teachers: dict[Path, Teacher] = {}

    def run(self, variant: Variant, seed: int, fold: int | None, train: AnnotationSet, val: AnnotationSet) -> Finished:
        """Return the finished run: read where it is done, otherwise begun or continued."""
        where = self.out / "runs" / slug(variant.name) / (f"seed{seed}" + (f"-fold{fold}" if fold else ""))
        config = variant.recipe.train
        # One validation, after the last epoch: the best of several would be chosen on the images that are scored.
        config = config.model_copy(update={"seed": seed, "validate_every": 10**9, "patience": 0})
        recipe = variant.recipe.model_copy(update={"name": variant.name, "train": config})
        teacher = self.teacher(recipe, fold, train, val) if needs_teacher(recipe) else None
        identity = _identity(recipe, val, teacher)
        done, kept = where / "run.json", where / "found.npz"
        record = _read_record(done)
        if record:
            _check_same(record["identity"], identity, where)
            if kept.is_file() and "minutes" in record:
                found = load_found(kept, len(val.images))
                return Finished(found, record["minutes"], record["teacher"], record["provenance"])
        write_atomically(done, json.dumps({"identity": identity}).encode())
        if teacher and self.plan.cache_teacher:
            cache = self.out / "teacher_cache" / f"{teacher.digest[:12]}-{recipe.train.image_size}"
            recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"cache": str(cache)})})
        if starts_from_float(recipe):
            found, minutes, provenance = quantised_leg(recipe, where, train, val, teacher, self.console)
            return self.keep(where, identity, Finished(found, minutes, teacher.line() if teacher else None, provenance))
        log = RunLog(where, self.console)
        content = train_stage(recipe, where, train, val, log, teacher)
        log.close()
        size = recipe.train.image_size
        model = model_from(content, str(where)).to(choose_device(recipe.train.device))
        inputs = LetterboxCache(val.images, (size, size), recipe.data.cache_mb)
        infer = torch_infer(model, next(model.parameters()).device)
        found = find_all(infer, inputs, len(val.images), layout_for(size, len(val.class_names)))
        minutes, provenance = float(content["training"]["minutes"]), json.loads(content["provenance"])
        return self.keep(where, identity, Finished(found, minutes, teacher.line() if teacher else None, provenance))

    def keep(self, where: Path, identity: dict[str, Any], finished: Finished) -> Finished:
        """Write down a finished run and drop what only a continued one needs."""
        save_found(where / "found.npz", finished.found)
        record = {"identity": identity, **{k: v for k, v in vars(finished).items() if k != "found"}}
        write_atomically(where / "run.json", json.dumps(record).encode())
        for name in ("last.pt", "best.pt"):  # the optimiser's state is of no use any more, and large
            (where / name).unlink(missing_ok=True)
        return finished

    def teacher(self, recipe: Recipe, fold: int | None, train: AnnotationSet, val: AnnotationSet) -> Teacher:
        """Return the teacher of a row; with folds one that saw only the fold's training images.

        All seeds share it: it is trained with seed 0, and kept after its last epoch, as the rows are.
        """
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 0})})
        if recipe.teacher.checkpoint:
            told = recipe.teacher.checkpoint
        else:
            flat = flat_recipe(teacher_recipe(recipe).model_dump_json())
            told = json.dumps({k: v for k, v in flat.items() if k not in FREE and not k.startswith("export.")})
        name = f"{recipe.teacher.size}-{hashlib.sha256(told.encode()).hexdigest()[:10]}"
        where = self.out / "teachers" / name / (f"fold{fold}" if fold else "all")
        if where not in self.teachers:
            self.teachers[where] = find_teacher(recipe, where, train, val, self.console)
            if fold and recipe.teacher.checkpoint:
                self.console.print(
                    "warning: teacher.checkpoint may have been trained on the images that a fold is scored on; leave "
                    "it empty, so that each fold trains its own",
                    soft_wrap=True,
                )
        return self.teachers[where]


def _checked(plan: Plan) -> tuple[AnnotationSet, AnnotationSet]:
    """Refuse a plan that compares unlike things, then read the data that all rows share."""
    names = [v.name for v in plan.variants]
    for wanted in plan.references:
        if wanted not in names:
            raise ValueError(f"--reference must be one of the rows ({', '.join(names)}), got {wanted!r}")
    first = plan.variants[0]
    seen: dict[str, str] = {}
    for variant in plan.variants:
        check_teacher_file(variant.recipe)
        check_float_file(variant.recipe)
        if variant.recipe.quantize.method in ("calibrate", "train") and not starts_from_float(variant.recipe):
            raise ValueError(
                f"row {variant.name!r} quantises a network: quantize.checkpoint must name the float one that all rows "
                "start from; set it"
            )
        if slug(variant.name) in seen:
            raise ValueError(f"rows {seen[slug(variant.name)]!r} and {variant.name!r} would share a folder; rename one")
        seen[slug(variant.name)] = variant.name
        for section, fields in SHARED.items():
            for name in fields:
                ours, theirs = (getattr(getattr(v.recipe, section), name) for v in (variant, first))
                if ours != theirs:
                    raise ValueError(
                        f"compared recipes must share {section}.{name}: it differs between {first.name!r} and "
                        f"{variant.name!r}; only then are differences those of the training"
                    )
    recipes = [_differing(v.recipe) for v in plan.variants]
    for number, recipe in enumerate(recipes):
        if recipe in recipes[:number]:
            twin = plan.variants[recipes.index(recipe)].name
            raise ValueError(
                f"rows {twin!r} and {names[number]!r} are the same recipe; --set changes every row, so it cannot name "
                "a key by which rows differ"
            )
    return load_both(first.recipe)


# The same images, and the same start.
SHARED = {
    "data": ("format", "root", "train", "val", "class_names", "seed", "objects", "strict"),
    "model": ("size", "weights"),
}


def _differing(recipe: Recipe) -> dict[str, Any]:
    """Return what makes a recipe another experiment, {"section.key": value}."""
    flat = flat_recipe(recipe.model_dump_json())
    kept = {"teacher.checkpoint"}
    if starts_from_float(recipe) and recipe.quantize.method == "toolkit":
        kept |= {"export.algorithm", "export.calibration_images"}
    return {k: v for k, v in flat.items() if k in kept or (k not in FREE and k[:7] != "export.")}


def _identity(recipe: Recipe, val: AnnotationSet, teacher: Teacher | None) -> dict[str, Any]:
    """Return what a finished run must agree in to stand for a row."""
    flat = flat_recipe(recipe.model_dump_json())
    distils = teacher is not None or bool(recipe.quantize.losses)
    unused = ("teacher.",) if distils else ("distill.", "teacher.")
    kept = {k: v for k, v in flat.items() if k not in FREE and not k.startswith(("export.", *unused))}
    names, digest = list(val.class_names), teacher.digest if teacher else None
    found = {**kept, "class_names": names, "scored_images": len(val.images), "teacher": digest}
    if starts_from_float(recipe):
        found["float"] = float_digest(recipe)
        if recipe.quantize.method == "toolkit":
            found["export.algorithm"] = recipe.export.algorithm
            found["export.calibration_images"] = recipe.export.calibration_images
    return found


def _check_same(kept: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    for key in sorted(kept.keys() | wanted.keys()):
        if kept.get(key) != wanted.get(key):
            raise ValueError(
                f"{where}: was made with {key} {kept.get(key)!r}, now it is {wanted.get(key)!r}; "
                "give another --out, or delete that folder"
            )


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete its folder, and the run is made again") from error
    if not isinstance(record, dict) or "identity" not in record:
        raise ValueError(f"{path}: no record of a run; delete its folder, and the run is made again")
    return record


def _about(plan: Plan, legs: list[Finished]) -> dict[str, Any]:
    """Return what a reader of the table needs to know about how it was made."""
    recipe = plan.variants[0].recipe
    base = _differing(next(v.recipe for v in plan.variants if v.name == plan.references[0]))
    changes = {
        v.name: {k: value for k, value in _differing(v.recipe).items() if base.get(k) != value} for v in plan.variants
    }
    commits = sorted({leg.provenance["commit"] for leg in legs})
    return {
        "epochs": recipe.quantize.epochs if starts_from_float(recipe) else recipe.train.epochs,
        "image_size": recipe.train.image_size,
        "batch": recipe.train.batch,
        "start": "a float checkpoint"
        if starts_from_float(recipe)
        else recipe.model.weights
        if recipe.model.weights in ("none", "procedural")
        else "a checkpoint",
        "student": f"yolov8{recipe.model.size}",
        "teachers": sorted({leg.teacher for leg in legs if leg.teacher}),
        "changes": changes,
        "provenance": {
            **describe_run(None, recipe.data.name or recipe.name).model_dump(),
            "commit": ", ".join(commits),
            "machine": "; ".join(sorted({leg.provenance["machine"] for leg in legs})),
        },
    }


def fold_of(train: AnnotationSet, folds: int, number: int) -> tuple[AnnotationSet, AnnotationSet]:
    """Return (the other folds, fold `number`) of a training split, dealt out in an order that is always the same."""
    if not 2 <= folds <= len(train.images):
        raise ValueError(f"--folds must be 2 to the {len(train.images)} training images, got {folds}")
    order = np.random.default_rng(0).permutation(len(train.images))
    held = set(order[number::folds].tolist())
    inside = [image for i, image in enumerate(train.images) if i in held]
    outside = [image for i, image in enumerate(train.images) if i not in held]
    return replace(train, images=outside), replace(train, images=inside)


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
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and the run is scored again") from error
    if len(count) != images:
        raise ValueError(f"{path}: must hold {images} images, got {len(count)}; delete it, and the run is scored again")
    cuts = np.cumsum(count)[:-1]
    return [Detections(x, s, c) for x, s, c in zip(*(np.split(p, cuts) for p in parts), strict=True)]
