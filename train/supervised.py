"""Plain supervised training: the recipe's data and loss as a job for the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from deploy.annotations import AnnotationSet

from .dataset import AerialDataset, Batch, EpochSampler, make_loader
from .evaluate import LetterboxCache, layout_for, score, torch_infer
from .loss import DetectionLoss
from .recipe import Recipe
from .trainer import Job, Step


def images_to_float(images: Tensor) -> Tensor:
    """Map (b, 3, h, w) uint8 to float 0..1, the scaling that the NPU applies to its input (mean 0, std 255)."""
    return images.to(memory_format=torch.channels_last).float() / 255


def supervised_step(model: nn.Module, criterion: nn.Module) -> Step:
    """Return the step of plain training: forward, then the detection losses by name."""

    def step(batch: Batch) -> dict[str, Tensor]:
        return criterion(model(images_to_float(batch.images)), batch.targets)

    return step


def detection_loss(recipe: Recipe) -> DetectionLoss:
    """Build the loss with the recipe's gains."""
    return DetectionLoss(recipe.loss.box, recipe.loss.cls, recipe.loss.dfl)


def batches_of(recipe: Recipe, train: AnnotationSet) -> tuple[Callable[[int], Iterable[Batch]], int]:
    """Return the batches of an epoch as a function of it, and how many there are."""
    config = recipe.train
    dataset = AerialDataset(
        train.images,
        config.image_size,
        recipe.augment,
        mosaic_until=max(0, config.epochs - recipe.augment.close_mosaic_epochs),
        seed=config.seed,
        cache_mb=recipe.data.cache_mb,
    )
    ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sampler = EpochSampler(len(dataset), config.batch, config.seed, rank=ranks[0], world=ranks[1])
    loader = make_loader(dataset, sampler, recipe.data.workers, pin=torch.cuda.is_available())

    def batches(epoch: int) -> Iterable[Batch]:
        sampler.epoch = epoch
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    return batches, len(sampler)


def validator(recipe: Recipe, val: AnnotationSet) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that scores a model on the validation split."""
    size = recipe.train.image_size
    # Read at once, so that a damaged image is told before the first epoch and not after it.
    cache = LetterboxCache(val.images, (size, size), recipe.data.cache_mb)

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        layout = layout_for(size, len(val.class_names))
        result = score(torch_infer(model, device), val.images, cache, val.class_names, layout)
        return {"map50": result.map50, "map50_95": result.map50_95}

    return validate


def supervised_job(recipe: Recipe, train: AnnotationSet, val: AnnotationSet, describe: dict[str, Any]) -> Job:
    """Put data, loss and scoring together for the loop."""
    criterion = detection_loss(recipe)
    batches, count = batches_of(recipe, train)
    return Job(
        make_step=lambda model: supervised_step(model, criterion),
        batches=batches,
        steps_per_epoch=count,
        validate=validator(recipe, val),
        describe=describe,
    )
