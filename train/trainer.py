"""The loop: optimiser, warm-up, cosine, EMA, mixed precision, checkpoints, resume, several processes.

It exists once. What a training *is* (supervised, distilling, quantisation-aware) is the step that is handed in:
`step(batch) -> {name: scalar loss}`; the loop adds the losses up, steps, logs, scores and saves.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .checkpoint import load_checkpoint, save_checkpoint
from .dataset import Batch
from .ema import Ema
from .recipe import Train
from .resume import check_same_run
from .run_log import RunLog

Step = Callable[[Batch], dict[str, Tensor]]


class Stages(Protocol):
    """A training whose network changes on the way: stepped bit widths."""

    def begin_epoch(self, epoch: int, losses: dict[str, float], models: list[nn.Module]) -> str | None:
        """Change the models (the trained one, its average) where a stage begins; returns a line about it, or None.

        epoch: counted from 0. losses: means of the epoch before, empty at the start.
        """

    @property
    def last(self) -> bool:
        """Whether this is the stage whose network is kept."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""

    def after_step(self, model: nn.Module) -> None:
        """Mend parameters that the optimiser's step may have moved where they must not be."""

    def describe(self) -> dict[str, Any]:
        """Return how the network is built now, for checkpoints."""

    def state(self) -> dict[str, Any]:
        """Return what a stopped run needs to continue."""

    def restore(self, state: dict[str, Any], models: list[nn.Module]) -> None:
        """Take up what `state` gave, and give the models the structure that they had."""


@dataclass(frozen=True)
class Job:
    """What the loop is given besides the model.

    make_step: wraps the (possibly distributed) network into a step. batches: epoch -> batches of that epoch.
    steps_per_epoch: their number. validate: model -> {"map50": ..., "map50_95": ...}. describe: kept in each checkpoint
    (size, class_names, image_size, recipe, provenance). assemble: what is trained around the model; the model itself
    where None. companion: what is trained along and thrown away at the end (adapters); part of what `assemble` returns.
    stages: what changes the model on the way and sets the learning rate; only the last one's scores count.
    """

    make_step: Callable[[nn.Module], Step]
    batches: Callable[[int], Iterable[Batch]]
    steps_per_epoch: int
    validate: Callable[[nn.Module], dict[str, float]]
    describe: dict[str, Any]
    assemble: Callable[[nn.Module], nn.Module] | None = None
    companion: nn.Module | None = None
    stages: Stages | None = None


class NonFiniteLoss(ValueError):
    """A loss became infinite or NaN."""


def choose_device(name: str) -> torch.device:
    """Resolve "auto", "cpu", "cuda" or "cuda:N"; under torchrun "auto" and "cuda" take the GPU of the local rank.

    Raises ValueError where the machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"train.device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not count:
        raise ValueError(f"train.device is {name!r}, but torch sees no CUDA device here; set it to cpu or auto")
    number = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        raise ValueError(f"train.device is cuda:{number}, but torch sees only {count} CUDA devices here")
    return torch.device("cuda", number)


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype, None for float32. On a CPU "auto" takes bfloat16 where it has the instructions."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None
    if name == "float16" and device.type == "cpu":
        raise ValueError("train.precision float16 needs a GPU; set it to bfloat16, float32 or auto")
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def seed_everything(seed: int) -> None:
    """Seed torch, and Python for libraries; our own NumPy randomness comes from generators with seeds of their own."""
    torch.manual_seed(seed)
    random.seed(seed)


class Trainer:
    """Run `Train.epochs` epochs over a job, from scratch or from `out/last.pt`."""

    def __init__(self, model: nn.Module, config: Train, job: Job, out: Path, *, log: RunLog) -> None:
        self.config, self.job, self.out, self.log = config, job, out, log
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.device = choose_device(config.device)
        self.autocast = choose_precision(config.precision, self.device)
        # channels-last is what the convolution kernels of both CPU and GPU want: a third less time per step.
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ramp = config.ema_ramp_steps or max(1.0, config.epochs * job.steps_per_epoch / 4)
        self.ema = Ema(self.model, config.ema_decay, ramp)
        self.companion = (job.companion or nn.Module()).to(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast is torch.float16)
        self.epoch, self.steps, self.best, self.stale, self.seconds = 0, 0, -1.0, 0, 0.0
        self.losses: dict[str, float] = {}
        self._assemble()

    def _assemble(self) -> None:
        """Put optimiser, step and processes around the model as it is now."""
        job, config = self.job, self.config
        network = job.assemble(self.model) if job.assemble else self.model
        parameters = [p for p in network.parameters() if p.requires_grad]
        own = {id(p) for p in self.model.parameters()}
        self.clipped = [[p for p in parameters if (id(p) in own) is inside] for inside in (True, False)]
        self.optimiser = torch.optim.AdamW(_parameter_groups(parameters, config.weight_decay), lr=config.learning_rate)
        if self.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=ids)
        self.step = job.make_step(network)

    def fit(self) -> dict[str, float]:
        """Train to the end and return the best validation scores. Raises NonFiniteLoss, KeyboardInterrupt."""
        scores: dict[str, float] = {}
        while self.epoch < self.config.epochs:
            started = time.perf_counter()
            self._enter_stage()
            losses = self._epoch()
            self.losses = losses
            self.epoch += 1
            last = self.epoch == self.config.epochs
            due = last or self.epoch % self.config.validate_every == 0
            if due:
                self._save("last.pt", full=True)  # should scoring fail, the epoch is not lost
            scores = self._score() if due else {}
            self.seconds += time.perf_counter() - started
            row = {"epoch": self.epoch, "learning_rate": self._rate(), "seconds": time.perf_counter() - started}
            self.log.epoch(
                {**row, **{f"loss/{k}": v for k, v in losses.items()}, **{f"val/{k}": v for k, v in scores.items()}}
            )
            self._save("last.pt", full=True)
            if self._should_stop():
                self.log.say(f"stopped early: no better mAP50-95 in {self.config.patience} validations")
                break
        if self.best < 0:  # stopped after the last epoch and before its scoring
            self._score()
        return {"map50_95": self.best}

    def _enter_stage(self) -> None:
        """Let the job change the network before an epoch; what the stage before scored does not count."""
        stages = self.job.stages
        told = stages.begin_epoch(self.epoch, self.losses, [self.model, self.ema.model]) if stages else None
        if told is not None:
            self.log.say(told)
            self._assemble()
            self.best, self.stale = -1.0, 0

    def _epoch(self) -> dict[str, float]:
        self.model.train()
        self.companion.train()
        if self.config.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        total: dict[str, float] = {}
        count = 0
        with self.log.steps(self.epoch, self.config.epochs, self.job.steps_per_epoch) as tick:
            for batch in self.job.batches(self.epoch):
                losses = self._one_step(batch)
                count += 1
                for name, value in losses.items():
                    total[name] = total.get(name, 0.0) + value
                tick({name: value / count for name, value in total.items()})
        return self._over_processes({name: value / max(count, 1) for name, value in total.items()})

    def _over_processes(self, losses: dict[str, float]) -> dict[str, float]:
        """Return the mean of each figure over all processes."""
        if self.world == 1:
            return losses
        values = torch.tensor(list(losses.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(losses, (values / self.world).tolist(), strict=True))

    def _one_step(self, batch: Batch) -> dict[str, float]:
        self._set_rate()
        with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            losses = self.step(batch.to(self.device))
        told = torch.stack([value.detach().float() for value in losses.values()]).tolist()  # one wait for the device
        values = dict(zip(losses, told, strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"loss component {name!r} became {value} in epoch {self.epoch + 1}, step {self.steps + 1}; lower "
                    f"train.learning_rate or set train.precision=float32, then --resume from the last whole epoch"
                )
        self.optimiser.zero_grad(set_to_none=True)
        # A figure that is only told carries no gradient.
        total = torch.stack([v for v in losses.values() if v.requires_grad]).sum()
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimiser)
        # Apart: large gradients of an adapter must not shrink the model's step.
        norms = [nn.utils.clip_grad_norm_(group, self.config.clip_gradient) for group in self.clipped if group]
        norm = float(torch.stack(norms).norm())
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler skips such steps by itself
            raise NonFiniteLoss(
                f"the gradient became {norm} in epoch {self.epoch + 1}, step {self.steps + 1}, with finite losses; "
                "lower train.learning_rate or set train.precision=float32, then --resume from the last whole epoch"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.job.stages:
            self.job.stages.after_step(self.model)
        self.ema.update(self.model)
        self.steps += 1
        return values

    def _rate(self) -> float:
        """Return the learning rate of the current step: linear warm-up, then half a cosine."""
        if self.job.stages:
            return self.job.stages.rate(self.steps)
        c, per_epoch = self.config, self.job.steps_per_epoch
        total = c.epochs * per_epoch
        warm = min(c.warmup_epochs * per_epoch, total / 2)
        if self.steps < warm:
            return c.learning_rate * (self.steps + 1) / (warm + 1)
        done = min(1.0, (self.steps - warm) / max(1.0, total - warm))
        low = c.final_learning_rate
        return c.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)

    def _set_rate(self) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()

    def _score(self) -> dict[str, float]:
        """Score the averaged model in the first process and tell the others what came out."""
        found = torch.zeros(2, dtype=torch.float64, device=self.device if self.world > 1 else "cpu")
        if self.rank == 0:
            scores = self.job.validate(self.ema.model)
            found[0], found[1] = scores["map50"], scores["map50_95"]
        if self.world > 1:
            dist.broadcast(found, 0)
        scores = {"map50": float(found[0]), "map50_95": float(found[1])}
        if scores["map50_95"] > self.best:
            self.best, self.stale = scores["map50_95"], 0
            self._save("best.pt", full=False, scores=scores)
        else:
            self.stale += 1
        return scores

    def _should_stop(self) -> bool:
        if self.job.stages and not self.job.stages.last:
            return False  # only the last stage is deployed
        return self.config.patience > 0 and self.stale >= self.config.patience and self.epoch < self.config.epochs

    def _save(self, name: str, *, full: bool, scores: dict[str, float] | None = None) -> None:
        if self.rank:
            return
        content = {
            **self.job.describe,
            "model": self.ema.model.state_dict(),
            "epoch": self.epoch,
            "scores": scores or {},
        }
        if self.job.companion is not None:
            content["companion"] = self.companion.state_dict()
        if self.job.stages:
            content["quantised"] = self.job.stages.describe()
        if full:
            content["resume"] = {
                "raw_model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema_steps": self.ema.steps,
                "steps": self.steps,
                "best": self.best,
                "stale": self.stale,
                "seconds": self.seconds,
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
                "world": self.world,
                "losses": self.losses,
                "stages": self.job.stages.state() if self.job.stages else None,
            }
        save_checkpoint(self.out / name, content)

    def resume(self) -> None:
        """Continue from `out/last.pt`. Raises ValueError where it belongs to another recipe or is damaged."""
        path = self.out / "last.pt"
        content = load_checkpoint(path)
        state = content.get("resume")
        if not isinstance(state, dict):
            raise ValueError(
                f"{path}: holds no optimiser state, it cannot be continued; start again with another --out"
            )
        check_same_run(content, self.job.describe, str(path))
        try:
            if self.job.stages:
                self.job.stages.restore(state["stages"], [self.model, self.ema.model])
                self._assemble()
            self.losses = state.get("losses", {})
            self.model.load_state_dict(state["raw_model"])
            self.companion.load_state_dict(content.get("companion", {}))
            self.ema.model.load_state_dict(content["model"])
            self.ema.steps = state["ema_steps"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            self.epoch, self.steps = content["epoch"], state["steps"]
            self.best, self.stale, self.seconds = state["best"], state["stale"], state["seconds"]
            torch.set_rng_state(state["torch_rng"])
            if self.device.type == "cuda" and state.get("cuda_rng") is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: damaged ({type(error).__name__}: {error}); start again with another --out"
            ) from error
        self.log.truncate(self.epoch)


def _parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Decay the convolution weights only: shrinking biases and normalisation gains helps nothing."""
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
