"""Give a finished float network its integers: calibrate it, or train it rung by rung, into `checkpoint.pt`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy.annotations import AnnotationSet
from deploy.convert.pooling import survives
from quantize.bilevel import trainable

from .checkpoint import load_checkpoint, model_from, save_checkpoint
from .model import Yolov8
from .provenance import describe_run
from .quantise_processes import is_first, wait_for_all
from .quantised_model import QuantisedYolov8
from .quantising import NECK_AND_HEAD, quantised, quantising_job, settings_of, split_query, stage_recipe
from .recipe import Recipe
from .resume import check_same_run
from .run_log import RunLog
from .stage import begun
from .supervised import batches_of, validator
from .teacher_cache import weights_digest
from .teacher_student import Teacher, check_pair
from .trainer import NonFiniteLoss, Trainer, choose_device, seed_everything

FOLDER = "float"


def float_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the float training that comes first."""
    return recipe.model_copy(update={"quantize": type(recipe.quantize)()})


def check_float_file(recipe: Recipe) -> None:
    """Raise FileNotFoundError where the recipe starts from a float checkpoint that is not there."""
    path = recipe.quantize.checkpoint
    if path and not Path(path).is_file():
        raise FileNotFoundError(
            f"quantize.checkpoint {path}: no such file; give the checkpoint.pt of a float run, or leave it empty to "
            "train one"
        )


def check_before_training(recipe: Recipe, train: AnnotationSet) -> None:
    """Raise ValueError for what a bundle would fail at in the end, and for what `[quantize]` gets wrong about network
    and data, before any training.
    """
    q = recipe.quantize
    if recipe.export.enabled:
        check_pooling(recipe)
    if q.method == "toolkit":
        return
    if q.checkpoint:
        float_network(load_checkpoint(Path(q.checkpoint)), q.checkpoint)
    plain = Yolov8(recipe.model.size, len(train.class_names))
    QuantisedYolov8(plain, settings_of(recipe))
    if q.method == "train" and q.tuning.every:
        split_query(train, q.tuning.query_share, recipe.train.seed)
        trainable(plain, tuple(q.tuning.parts) or NECK_AND_HEAD)


def check_pooling(recipe: Recipe) -> None:
    """Raise ValueError where the network pools maps that are too small for the NPU's compiler; see `pooling`."""
    size = recipe.train.image_size
    with torch.device("meta"):  # shapes alone, nothing is computed
        model = Yolov8(recipe.model.size, 1).eval()
        for name, layer in model.named_modules():
            if isinstance(layer, nn.MaxPool2d):
                layer.register_forward_pre_hook(lambda pool, given, name=name: _refuse_pool(name, pool, given[0], size))
        model(torch.zeros(1, 3, size, size))


def _refuse_pool(name: str, pool: nn.MaxPool2d, given: Tensor, size: int) -> None:
    kernel, stride, padding = (v if isinstance(v, int) else v[0] for v in (pool.kernel_size, pool.stride, pool.padding))
    cells = int(given.shape[2])
    if not survives(cells, kernel, stride, (padding, padding), ceil_mode=pool.ceil_mode):
        raise ValueError(
            f"train.image_size is {size}: layer {name} then pools a map of {cells} x {cells} cells with a window of "
            f"{kernel} x {kernel}, which the NPU's compiler turns into another pooling; set train.image_size to at "
            f"least {kernel * size // cells}, or export.enabled to false"
        )


def float_network(content: dict[str, Any], origin: str) -> Any:
    """Return the float network of a checkpoint. Raises ValueError where it is quantised already."""
    if content.get("quantised"):
        raise ValueError(
            f"{origin}: is quantised already, quantisation starts from a float network; give the checkpoint.pt of a "
            "run without [quantize]"
        )
    return model_from(content, origin)


def quantise_stage(
    recipe: Recipe,
    start: dict[str, Any],
    out: Path,
    train: AnnotationSet,
    val: AnnotationSet,
    log: RunLog,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Quantise the network of a float checkpoint in `out` and return the finished checkpoint.

    start: content of the float checkpoint. teacher: for `quantize.teacher = "teacher"`. A run that is already there is
    continued; a finished one is read. Of several processes, which must all call it, the first one writes. Raises
    ValueError where it is another recipe's, and what training raises.
    """
    recipe = stage_recipe(recipe)
    q = recipe.quantize
    model = float_network(start, "the float checkpoint")
    if list(start["class_names"]) != list(train.class_names):
        raise ValueError(
            f"quantize.checkpoint: has the classes {start['class_names']}, the data has {train.class_names}; start "
            "from a network of these classes"
        )
    seed_everything(recipe.train.seed)
    digest = weights_digest(model)
    scores = start.get("scores") or {}
    best = f", mAP50-95 {100 * scores['map50_95']:.1f}" if "map50_95" in scores else ""
    describe: dict[str, Any] = {
        "size": start["size"],
        "class_names": list(train.class_names),
        "image_size": recipe.train.image_size,
        "recipe": recipe.model_dump_json(),
        "start": f"YOLOv8{start['size']} in float, {start['training']['epochs']} epochs{best}"
        if "training" in start
        else f"YOLOv8{start['size']} in float",
        "provenance": describe_run(recipe.train.seed, recipe.data.name or recipe.name).model_dump_json(),
        "teacher": teacher.describe() if teacher else None,
        "float_sha256": digest,
    }
    finished = out / "checkpoint.pt"
    if finished.is_file():
        content = load_checkpoint(finished)
        check_same_run(content, describe, str(finished))
        _check_same_start(content, digest, finished)
        log.say(f"quantised network in {out} was finished before; going on with what follows")
        return content
    kept = {"float_model": start["model"]}
    if q.method == "calibrate":
        batches, _ = batches_of(recipe, train)
        student = quantised(recipe, model, batches(0))
        log.say(f"calibrated on {q.observe_batches} batches: {_bits(recipe)}")
        if is_first():
            content = {
                **describe,
                **kept,
                "model": student.state_dict(),
                "quantised": student.describe(),
                "epoch": 0,
                "scores": validator(recipe, val)(student),
                "training": {"epochs": 0, "planned_epochs": 0, "minutes": 0.0},
            }
            save_checkpoint(finished, content)
        wait_for_all()
        return load_checkpoint(finished)
    student, own = _student(recipe, model, out, train, digest)
    source = _teacher(recipe, model, student, teacher, list(train.class_names))
    job = quantising_job(recipe, train, val, describe, student, source, fresh=not own)
    trainer = Trainer(student, recipe.train, job, out, log=log)
    log.say(f"quantisation-aware training, {_bits(recipe)}, from {describe['start']}")
    if own:
        trainer.resume()
        log.say(f"continuing after epoch {trainer.epoch} of {recipe.train.epochs}")
    try:
        trainer.fit()
    except NonFiniteLoss as error:
        # The loop knows one learning rate; that of this stage is another key.
        raise NonFiniteLoss(str(error).replace("train.learning_rate", "quantize.learning_rate")) from error
    if is_first():
        content = load_checkpoint(out / "best.pt")
        content.pop("companion", None)
        done = {"epochs": trainer.epoch, "planned_epochs": recipe.train.epochs, "minutes": trainer.seconds / 60}
        save_checkpoint(finished, {**content, **kept, "training": done})
    wait_for_all()
    return load_checkpoint(finished)


def _student(recipe: Recipe, model: Any, out: Path, train: AnnotationSet, digest: str) -> tuple[QuantisedYolov8, bool]:
    """Return the network to train, and whether it continues a run; a continued one gets its values from there."""
    if begun(out):
        kept = load_checkpoint(out / "last.pt")
        _check_same_start(kept, digest, out / "last.pt")
        student = QuantisedYolov8(copy.deepcopy(model), settings_of(recipe))
        student.shape(kept["quantised"])
        student.load_state_dict(kept["model"])
        return student.to(choose_device(recipe.train.device)), True
    batches, _ = batches_of(recipe, train)
    return quantised(recipe, model, batches(0)), False


def _check_same_start(content: dict[str, Any], digest: str, path: Path) -> None:
    if content.get("float_sha256") != digest:
        raise ValueError(
            f"{path}: was quantised from another float network; give that one's checkpoint again, or choose another "
            "--out"
        )


def _teacher(
    recipe: Recipe, model: Any, student: QuantisedYolov8, teacher: Teacher | None, class_names: list[str]
) -> Any:
    """Return a network to learn from that may be moved: a copy of the float one, or of the recipe's teacher."""
    if not recipe.distill.losses:
        return None
    if recipe.quantize.teacher == "float":
        return copy.deepcopy(model)
    if teacher is None:
        raise ValueError('quantize.teacher is "teacher", then the recipe needs one; fill in [teacher]')
    check_pair(teacher, student, class_names)
    return copy.deepcopy(teacher.model)


def _bits(recipe: Recipe) -> str:
    rungs = recipe.quantize.rungs()
    if recipe.quantize.method == "calibrate":
        rungs = rungs[-1:]
    steps = " -> ".join(f"{r.weights}/{r.activations}" for r in rungs)
    return f"{steps} bits (weights/activations)"
