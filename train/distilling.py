"""Training by distillation as a job for the loop: student, frozen teacher, and the losses that a recipe names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from deploy.annotations import AnnotationSet

from .adapter_fit import fit_adapters
from .baselines import BASELINES
from .dataset import Batch
from .distill import MethodDistillation
from .loss import Targets
from .model import Yolov8
from .recipe import Distill, Recipe
from .supervised import batches_of, detection_loss, images_to_float, validator
from .teacher_cache import Ask, TeacherCache
from .teacher_student import Outputs, channels_of, run_network
from .trainer import Job, Step, choose_device, choose_precision


def build_losses(config: Distill, student: dict[int, int], teacher: dict[int, int]) -> nn.ModuleDict:
    """Build the losses that `config.losses` names. student, teacher: channels of the maps by stride."""
    c, names = config, set(config.losses)
    found = nn.ModuleDict()
    if names & {"magnitude", "relation"}:
        magnitude, relation = float("magnitude" in names), float("relation" in names)
        found["method"] = MethodDistillation(
            student,
            teacher,
            alpha=c.alpha * magnitude,
            beta=c.beta * magnitude,
            gamma=c.gamma * relation,
            delta=c.delta * relation,
            attention=c.attention,
            size_aware=c.size_aware,
            levels=c.levels,
            level_offset=c.level_offset,
            eps=c.eps,
            normalise=c.normalise,
            standardise=c.standardise,
        )
    for name, kind in BASELINES.items():
        if name in names:
            found[name] = kind(student, teacher, **getattr(c, name).model_dump())
    return found


class DistillingNetwork(nn.Module):
    """Student, detection loss and distillation losses as one module, so that one wrapper can distribute all of them."""

    def __init__(self, student: Yolov8, criterion: nn.Module, losses: nn.ModuleDict) -> None:
        super().__init__()
        self.student, self.criterion, self.losses = student, criterion, losses

    def forward(
        self, images: Tensor, targets: Targets, teacher: Outputs | Callable[[Outputs], Outputs]
    ) -> dict[str, Tensor]:
        """Return all losses by name.

        images: (b, 3, h, w) float, RGB 0 to 1. teacher: its outputs on the same, or what returns them when it is given
        the student's.
        """
        ours = run_network(self.student, images)
        teacher = (teacher if isinstance(teacher, Outputs) else teacher(ours)).detached()
        found: dict[str, Tensor] = dict(self.criterion(ours.heads, targets))
        for loss in self.losses.values():
            found.update(loss(ours, teacher, targets))
        return found


def ask_directly(teacher: Yolov8) -> Ask:
    """Return a function that runs the frozen teacher on a batch, in eval mode and without a graph."""
    teacher.eval().requires_grad_(False)

    @torch.no_grad()
    def ask(batch: Batch) -> Outputs:
        return run_network(teacher, images_to_float(batch.images))

    return ask


def distilling_step(network: nn.Module, ask: Ask) -> Step:
    """Return the step: teacher forward, student forward, detection and distillation losses by name."""

    def step(batch: Batch) -> dict[str, Tensor]:
        return network(images_to_float(batch.images), batch.targets, ask(batch))

    return step


def distilling_job(
    recipe: Recipe,
    train: AnnotationSet,
    val: AnnotationSet,
    describe: dict[str, Any],
    student: Yolov8,
    teacher: Yolov8,
    teacher_digest: str,
    *,
    fresh: bool = True,
) -> Job:
    """Put data, teacher, losses and scoring together for the loop.

    fresh: the run begins now; its adapters then start from a fit, a continued run brings its own.
    """
    device = choose_device(recipe.train.device)
    losses = build_losses(recipe.distill, channels_of(student), channels_of(teacher))
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ask = ask_directly(teacher)
    batches, count = batches_of(recipe, train)
    if recipe.distill.cache:
        key: dict[str, str | int] = {
            "teacher": teacher_digest,
            "precision": str(choose_precision(recipe.train.precision, device) or torch.float32),
            "image_size": recipe.train.image_size,
            "device": device.type,
            "torch": torch.__version__,
        }
        world = dist.get_world_size() if dist.is_initialized() else 1
        ask = TeacherCache(ask, Path(recipe.distill.cache), key, world * count * recipe.train.epochs)
    if fresh and recipe.distill.fit_adapters:
        student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        losses.to(device)
        first = itertools.islice(batches(0), recipe.distill.fit_adapters)
        precision = choose_precision(recipe.train.precision, device)
        fit_adapters(losses, student, ask, first, precision, frozen=recipe.train.freeze_batch_norm)
    criterion = detection_loss(recipe)
    return Job(
        make_step=lambda network: distilling_step(network, ask),
        batches=batches,
        steps_per_epoch=count,
        validate=validator(recipe, val),
        describe=describe,
        assemble=lambda model: DistillingNetwork(model, criterion, losses),  # type: ignore[arg-type]
        companion=losses,
    )
