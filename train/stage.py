"""Train one network of a recipe to its `checkpoint.pt`: begin, continue, or skip what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import distributed as dist

from deploy.annotations import AnnotationSet

from .checkpoint import load_checkpoint, load_weights, read_weights, save_checkpoint
from .distilling import distilling_job
from .grow import grow, size_of
from .model import SCALES, Yolov8
from .provenance import describe_run
from .recipe import Recipe
from .resume import check_same_run
from .run_log import RunLog
from .supervised import supervised_job, validator
from .teacher_student import Teacher, check_pair
from .trainer import Trainer, choose_device, seed_everything

ZOO = Path(__file__).resolve().parent.parent / "deploy" / "zoo"
PROCEDURAL_WEIGHTS = ZOO / "procedural" / "weights.safetensors"


def starting_model(recipe: Recipe, class_count: int) -> tuple[Yolov8, str]:
    """Build the recipe's network with its starting weights, and a line that says where they come from.

    Weights of a smaller size are grown to the recipe's.
    """
    seed_everything(recipe.train.seed)
    model = Yolov8(recipe.model.size, class_count)
    source = recipe.model.weights
    if source == "none":
        return model, f"YOLOv8{recipe.model.size} from scratch"
    path = PROCEDURAL_WEIGHTS if source == "procedural" else Path(source)
    weights = read_weights(path)
    # Only the file's name: the line goes into cards, and folders of one machine do not belong there.
    told = "the shipped procedural weights" if source == "procedural" else path.name
    given = size_of(weights)
    classes = weights.get("model.22.cv3.0.2.weight")
    if given and classes is not None and list(SCALES).index(given) < list(SCALES).index(recipe.model.size):
        small = Yolov8(given, int(classes.shape[0]))
        load_weights(small, weights, str(path))
        weights = grow(small, recipe.model.size, recipe.train.seed).state_dict()
        told += f", grown from size {given}"
    fresh = load_weights(model, weights, str(path), other_classes=True)
    kept = f", {len(fresh)} class tensors new" if fresh else ""
    return model, f"YOLOv8{recipe.model.size} from {told}{kept}"


def begun(out: Path) -> bool:
    """Return whether a folder holds a run, finished or not."""
    return (out / "last.pt").is_file() or (out / "checkpoint.pt").is_file()


def train_stage(
    recipe: Recipe, out: Path, train: AnnotationSet, val: AnnotationSet, log: RunLog, teacher: Teacher | None = None
) -> dict[str, Any]:
    """Train the recipe's network in `out`, from a teacher where one is given, and return the finished checkpoint.

    A run that is already there is continued; a finished one is read. Raises ValueError where it is another recipe's.
    """
    resume = begun(out)
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
        "teacher": teacher.describe() if teacher else None,
    }
    finished = out / "checkpoint.pt"
    if resume and finished.is_file():
        content = load_checkpoint(finished)
        check_same_run(content, describe, str(finished))
        if recipe.train.epochs <= content.get("training", {}).get("planned_epochs", 0):
            log.say(f"YOLOv8{recipe.model.size} in {out} was finished before; going on with what follows")
            return content
    log.say(origin)
    if teacher:
        check_pair(teacher, model, list(train.class_names))
        if not resume:
            _compare_start(recipe, model, teacher, val, log)
        log.say(f"teacher: {teacher.line()}")
        job = distilling_job(recipe, train, val, describe, model, teacher.model, teacher.digest, fresh=not resume)
    else:
        job = supervised_job(recipe, train, val, describe)
    trainer = Trainer(model, recipe.train, job, out, log=log)
    if resume:
        trainer.resume()
        log.say(f"continuing after epoch {trainer.epoch} of {recipe.train.epochs}")
    trainer.fit()
    if trainer.rank == 0:
        best = load_checkpoint(out / "best.pt")
        done = {"epochs": trainer.epoch, "planned_epochs": recipe.train.epochs, "minutes": trainer.seconds / 60}
        best.pop("companion", None)  # adapters are of no use without the teacher; best.pt still has them
        save_checkpoint(finished, {**best, "training": done})
        if teacher:
            warn_if_worse(teacher, best["scores"], "the trained student", log)
    _wait_for_all()
    return load_checkpoint(finished)


def warn_if_worse(teacher: Teacher, scores: dict[str, float], student: str, log: RunLog) -> None:
    """Say so where a teacher scores below the student that is to learn from it, with both figures."""
    theirs, ours = 100 * teacher.scores["map50_95"], 100 * scores["map50_95"]
    if theirs < ours:
        log.say(
            f"warning: the teacher (YOLOv8{teacher.model.size}, {teacher.origin}) is worse than {student}: mAP50-95 "
            f"{theirs:.1f} against {ours:.1f}; train it longer, or take a larger one"
        )


def _compare_start(recipe: Recipe, student: Yolov8, teacher: Teacher, val: AnnotationSet, log: RunLog) -> None:
    """Warn before a long training where the student already begins above its teacher."""
    if recipe.model.weights in ("none", "procedural") or (dist.is_initialized() and dist.get_rank()):
        return
    scores = validator(recipe, val)(student.to(choose_device(recipe.train.device)).eval())
    warn_if_worse(teacher, scores, "the student's starting weights", log)


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
