"""Quantisation-aware training as a job for the loop: the ladder of widths, the teacher, and its tuning."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.annotations import AnnotationSet
from quantize.bilevel import Problem, TeacherTuner, call
from quantize.insert import Settings
from quantize.schedule import Walk

from .adapter_fit import fit_adapters
from .dataset import Batch
from .distilling import DistillingNetwork, ask_directly, build_losses
from .model import Yolov8
from .quantise_processes import average, share_ranges
from .quantised_model import QuantisedYolov8
from .recipe import Recipe
from .supervised import batches_of, detection_loss, images_to_float, supervised_step, validator
from .teacher_student import Outputs, channels_of, run_network
from .trainer import Job, Step, choose_device, choose_precision

# What of a YOLOv8 is neck and head: its layers with parameters behind the backbone, by the beginnings of their names.
NECK_AND_HEAD = tuple(f"model.{number}." for number in (12, 15, 16, 18, 19, 21, 22))


# Figures about the teacher's tuning, beside the losses.
TOLD = "tuning_"


class Ladder:
    """The stages of a quantisation-aware training, for the loop: rung by rung, folding before the last one."""

    def __init__(self, recipe: Recipe, per_epoch: int, model: QuantisedYolov8, tuner: TeacherTuner | None) -> None:
        self.recipe, self.per_epoch, self.tuner = recipe, per_epoch, tuner
        self.walk = Walk(recipe.quantize.rungs(), early=recipe.quantize.early)
        self.model = model

    def begin_epoch(self, epoch: int, losses: dict[str, float], models: list[nn.Module]) -> str | None:
        """Step down where a rung begins; see `train.trainer.Stages`."""
        loss = sum(v for name, v in losses.items() if not name.startswith(TOLD)) if losses else None
        if not self.walk.next_epoch(epoch, loss):
            return None
        for model in models:
            self.enter(model)
        return f"from epoch {epoch + 1}: {self.told()}"

    @property
    def last(self) -> bool:
        """Whether the present rung is the one that is deployed."""
        return self.walk.last

    def enter(self, model: Any) -> None:
        """Bring a model to the present rung; what its grids represent stays."""
        if self.walk.last and not model.folded:
            model.fold()
        model.network.set_bits(self.walk.rung.weights, self.walk.rung.activations)

    def told(self) -> str:
        """Return the present rung in words."""
        rung = self.walk.rung
        folded = ", BatchNorm folded" if self.walk.last else ""
        return f"{rung.weights}-bit weights, {rung.activations}-bit activations{folded}"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a warm-up and half a cosine in every rung."""
        q = self.recipe.quantize
        low = self.recipe.train.final_learning_rate
        return self.walk.rate(step, self.per_epoch, peak=q.learning_rate, low=low, warmup_epochs=q.warmup_epochs)

    def after_step(self, model: Any) -> None:
        """Keep learnt zero points on their grids, and observed ranges equal in all processes."""
        for quantiser in model.network.quantisers().values():
            quantiser.keep_on_grid()
        if not self.recipe.quantize.learn:
            share_ranges(model.network.activation_quantisers().values())

    def describe(self) -> dict[str, Any]:
        """Return how the network is built now."""
        return self.model.describe()

    def state(self) -> dict[str, Any]:
        """Return where the ladder and the tuned teacher stand."""
        return {"walk": self.walk.state(), "tuner": self.tuner.state() if self.tuner else None}

    def restore(self, state: dict[str, Any], models: list[nn.Module]) -> None:
        """Take up what `state` gave."""
        self.walk.restore(state["walk"])
        for model in models:
            self.enter(model)
        if self.tuner and state["tuner"]:
            self.tuner.restore(state["tuner"])


def settings_of(recipe: Recipe, rung: int = 0) -> Settings:
    """Return what to insert for a rung of the recipe's ladder."""
    q = recipe.quantize
    bits = q.rungs()[rung]
    return Settings(bits.weights, bits.activations, q.observer, tuple(q.float16))


def quantised(recipe: Recipe, model: Yolov8, batches: Iterable[Batch]) -> QuantisedYolov8:
    """Return a copy of a float network with fake-quantisers whose ranges come from batches.

    It stands on the ladder's first rung, or on its last one where nothing is trained. Several processes that give it
    their shares of the same batches all get the ranges of the whole ones. Raises ValueError for a layer that cannot be
    quantised, or that never saw data.
    """
    q = recipe.quantize
    training = q.method == "train"
    found = QuantisedYolov8(copy.deepcopy(model).cpu(), settings_of(recipe, 0 if training else -1))
    if not training or len(q.rungs()) == 1:
        found.fold()
    device = choose_device(recipe.train.device)
    found.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    observe(found, itertools.islice(batches, q.observe_batches), device, share=True)
    if training and q.learn:
        found.network.learn()
    if not training:
        found.network.freeze()
    return found.eval()


@torch.no_grad()
def observe(model: QuantisedYolov8, batches: Iterable[Batch], device: torch.device, *, share: bool = False) -> None:
    """Let the observers see batches, in float32 and with the BatchNorm statistics that training left.

    share: every process does so with its share of the same batches, and all shall know the whole.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    # Observed without rounding: the ranges of the float network, not those of what rounding makes of it.
    for quantiser in model.network.quantisers().values():
        quantiser.rounding = False
    for batch in batches:
        model(images_to_float(batch.to(device).images))
        if share:
            share_ranges(model.network.activation_quantisers().values())
    for quantiser in model.network.quantisers().values():
        quantiser.rounding = True


def split_query(train: AnnotationSet, share: float, seed: int) -> tuple[AnnotationSet, AnnotationSet]:
    """Return (the rest, the query slice) of a training split; the slice has at least one image.

    Raises ValueError where nothing would be left to train on.
    """
    count = max(1, round(share * len(train.images)))
    if count >= len(train.images):
        raise ValueError(
            f"quantize.tuning.query_share takes {count} of {len(train.images)} train images and leaves none; lower it"
        )
    order = np.random.default_rng(seed).permutation(len(train.images))
    held = set(order[:count].tolist())
    rest = [image for i, image in enumerate(train.images) if i not in held]
    return replace(train, images=rest), replace(train, images=[train.images[i] for i in sorted(held)])


def stage_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with the training length and distillation of its quantised stage."""
    q = recipe.quantize
    own = {"epochs": q.epochs, "learning_rate": q.learning_rate, "warmup_epochs": q.warmup_epochs}
    # The float network is trained: its BatchNorm statistics are what will be folded, batches would only add noise.
    train = recipe.train.model_copy(update={**own, "freeze_batch_norm": True})
    augment = recipe.augment.model_copy(update={"mosaic": q.mosaic, "close_mosaic_epochs": 0})
    distill = recipe.distill.model_copy(update={"losses": q.losses, "cache": ""})
    return recipe.model_copy(update={"train": train, "augment": augment, "distill": distill})


def quantising_job(
    recipe: Recipe,
    train: AnnotationSet,
    val: AnnotationSet,
    describe: dict[str, Any],
    student: QuantisedYolov8,
    teacher: Yolov8 | None,
    *,
    fresh: bool = True,
) -> Job:
    """Put data, ladder, teacher and scoring together for the loop.

    recipe: of the stage (`stage_recipe`). teacher: what `recipe.distill.losses` compare with, None without losses; it
    is moved, where the recipe tunes it. fresh: the run begins now; its adapters then start from a fit (`adapter_fit`),
    a continued run brings its own.
    """
    q = recipe.quantize
    query: AnnotationSet | None = None
    if q.tuning.every:
        train, query = split_query(train, q.tuning.query_share, recipe.train.seed)
    batches, count = batches_of(recipe, train)
    criterion = detection_loss(recipe)
    device = choose_device(recipe.train.device)
    losses = nn.ModuleDict()
    tuner: TeacherTuner | None = None
    if teacher is not None:
        teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        losses = build_losses(recipe.distill, channels_of(student), channels_of(teacher)).to(device)
        if fresh and recipe.distill.fit_adapters:
            # Of several processes the first one's fit counts: the loop hands it to the others.
            first = itertools.islice(batches(0), recipe.distill.fit_adapters)
            precision = choose_precision(recipe.train.precision, device)
            fit_adapters(losses, student, ask_directly(teacher), first, precision, frozen=True)  # type: ignore[arg-type]
        if query is not None:
            tuner = make_tuner(recipe, student, teacher, criterion, losses)
    ladder = Ladder(recipe, count, student, tuner)

    asked = batches_of(recipe, query) if query is not None else None
    stream: list[Iterator[Batch]] = []

    def next_query() -> Batch:
        assert asked is not None
        assert tuner is not None
        if not stream:  # now, not before: a tuner that continues a run knows by now how many it has had
            stream.append(endless(*asked, tuner.steps // tuner.every - 1))
        return next(stream[0]).to(device)

    def make_step(network: nn.Module) -> Step:
        if teacher is None:
            return supervised_step(network, criterion)
        return quantising_step(network, teacher, tuner, next_query)

    return Job(
        make_step=make_step,
        batches=batches,
        steps_per_epoch=count,
        validate=validator(recipe, val),
        describe=describe,
        assemble=(lambda model: DistillingNetwork(model, criterion, losses)) if teacher is not None else None,  # type: ignore[arg-type]
        companion=losses if teacher is not None else None,
        stages=ladder,
    )


def quantising_step(
    network: nn.Module, teacher: Yolov8, tuner: TeacherTuner | None, next_query: Callable[[], Batch]
) -> Step:
    """Return the step of a distilled student: losses by name, and figures of the teacher's tuning where it is tuned.

    network: a `DistillingNetwork`, it may be wrapped. The tuning comes between the student's pass and the teacher's: it
    uses the one, and changes the other.
    """

    def step(batch: Batch) -> dict[str, Tensor]:
        images = images_to_float(batch.images)
        told: dict[str, Tensor] = {}

        def taught(ours: Outputs) -> Outputs:
            if tuner is None:
                with torch.no_grad():
                    return run_network(teacher, images)
            # In float32 but for what is said to be rough: small differences drown in bfloat16.
            with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
                seen = tuner.step(batch, next_query, ours)
            told.update({f"{TOLD}{name}": torch.tensor(v, device=images.device) for name, v in seen.items()})
            with torch.no_grad():
                said: Outputs = tuner.teacher(batch)
            tuner.teacher.forget()  # type: ignore[operator]
            return said

        return {**network(images, batch.targets, taught), **told}

    return step


def endless(batches: Callable[[int], Iterable[Batch]], per_epoch: int = 1, done: int = 0) -> Iterator[Batch]:
    """Return batches without end, epoch after epoch, those that are `done` left out."""
    first, inside = divmod(done, per_epoch)
    for epoch in itertools.count(first):
        yield from itertools.islice(batches(epoch), inside if epoch == first else 0, None)


class _MapsAndHeads(nn.Module):
    """A network whose forward is `maps_and_heads`, so that it can be called with other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[dict[int, Tensor], list[Tensor]]:
        return self.model.maps_and_heads(x)  # type: ignore[no-any-return, operator]


class TunedTeacher(nn.Module):
    """A teacher of which some parameters move: it looks at a batch several times, its backbone once where it may.

    steady: none of the backbone's parameters moves. The maps of the last batch are kept until `forget`.
    """

    def __init__(self, model: Yolov8, *, steady: bool) -> None:
        super().__init__()
        self.model, self.steady = model, steady
        self._kept: tuple[Batch, tuple[Tensor, ...]] | None = None

    def forward(self, batch: Batch) -> Outputs:
        """Return what it says about a batch."""
        maps = self.model.neck(*self._backbone(batch))
        return Outputs(maps, self.model.head(maps))

    def _backbone(self, batch: Batch) -> tuple[Tensor, ...]:
        if not self.steady:
            return self.model.backbone(images_to_float(batch.images))
        if self._kept is None or self._kept[0] is not batch:
            with torch.no_grad():
                self._kept = batch, self.model.backbone(images_to_float(batch.images))
        return self._kept[1]

    def forget(self) -> None:
        """Let go of the last batch."""
        self._kept = None


def make_tuner(
    recipe: Recipe, student: QuantisedYolov8, teacher: Yolov8, criterion: nn.Module, losses: nn.ModuleDict
) -> TeacherTuner:
    """Return what tunes the teacher: the recipe's distillation and detection losses as functions of parameters."""
    t = recipe.quantize.tuning
    parts = tuple(f"model.{name}" for name in (t.parts or NECK_AND_HEAD))
    behind = tuple(f"model.{name}" for name in NECK_AND_HEAD)
    ours, theirs = _MapsAndHeads(student), TunedTeacher(teacher, steady=all(name.startswith(behind) for name in parts))

    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)

    def roughly() -> torch.autocast:
        # Without its cache: the teacher's weights change before the loop's own autocast is over.
        dtype = precision or torch.bfloat16
        return torch.autocast(device.type, dtype, enabled=precision is not None, cache_enabled=False)

    def task(outputs: Outputs, batch: Batch) -> Tensor:
        return torch.stack(list(criterion(outputs.heads, batch.targets).values())).sum()

    def compare(mine: Outputs, other: Outputs, batch: Batch) -> Tensor:
        parts: dict[str, Tensor] = {}
        # The same draws in every call: a finite difference between two masks of MGD would be one of masks.
        with torch.random.fork_rng([mine.heads[0].device] if mine.heads[0].is_cuda else []):
            torch.manual_seed(recipe.train.seed)
            for loss in losses.values():
                parts.update(loss(mine, other, batch.targets))
        return torch.stack(list(parts.values())).sum()

    problem = Problem(
        student=lambda parameters, batch: Outputs(*call(ours, parameters, images_to_float(batch.images))),
        teacher=lambda parameters, batch: call(theirs, parameters, batch).float(),
        task=task,
        compare=compare,
        average=average,
        roughly=roughly,
    )
    return TeacherTuner(
        ours,
        theirs,
        problem,
        prefixes=parts,
        rate=t.rate,
        inner_rate=t.inner_rate,
        anchor=t.anchor,
        clip=recipe.train.clip_gradient,
        every=t.every,
        order=t.order,
    )
