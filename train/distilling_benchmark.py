"""Measure what a distillation step costs: against a student's step plus the teacher's forward pass, and in memory.

`python -m train.distilling_benchmark [RECIPE] [--losses NAME ...] [--set KEY=VALUE ...]`. The three are timed in
alternating rounds of one run on real batches; the ratio is the median over the rounds. The last line on standard output
is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .dataset import Batch
from .distilling import DistillingNetwork, ask_directly, build_losses, distilling_step
from .model import Yolov8
from .provenance import describe_run
from .recipe import DISTILLATION_LOSSES, Recipe, load_recipe
from .splits import load_both
from .stage import starting_model
from .supervised import batches_of, detection_loss, supervised_step
from .teacher_student import channels_of
from .trainer import Step, choose_device, choose_precision

ROUNDS = 7


def measure(recipe: Recipe, losses: list[str], rounds: int) -> dict[str, Any]:
    """Return seconds and ratios of each loss, medians over `rounds`, and the peak memory in MB.

    Optimiser and EMA are left out on both sides: they are the same.
    """
    train, _ = load_both(recipe)
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    student, _ = starting_model(recipe, len(train.class_names))
    student.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    teacher = Yolov8(recipe.teacher.size, len(train.class_names)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, ask = detection_loss(recipe), ask_directly(teacher)
    batches = [b.to(device) for b in itertools.islice(batches_of(recipe, train)[0](0), 2)]
    plain = supervised_step(student, criterion)
    chosen: dict[str, tuple[Step, nn.Module]] = {}
    for name in losses:
        names = ["magnitude", "relation"] if name == "method" else [name]
        config = recipe.distill.model_copy(update={"losses": names})
        network = DistillingNetwork(
            student, criterion, build_losses(config, channels_of(student), channels_of(teacher))
        )
        network.to(device)
        chosen[name] = (distilling_step(network, ask), network)

    def backward(step: Step, network: nn.Module) -> Callable[[Batch], None]:
        def once(batch: Batch) -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
                found = step(batch)
            torch.stack(list(found.values())).sum().backward()

        return once

    def forward(batch: Batch) -> None:
        with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
            ask(batch)

    contenders: dict[str, Callable[[Batch], None]] = {"student": backward(plain, student), "teacher": forward}
    contenders |= {name: backward(step, network) for name, (step, network) in chosen.items()}
    memory: dict[str, float | None] = {}
    for name, run in contenders.items():  # warm-up, and the peak of each where the device tells
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run(batches[0])
        memory[name] = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            times[name].append(_timed(run, batches[number % len(batches)], device))
    base = [s + t for s, t in zip(times["student"], times["teacher"], strict=True)]
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": {name: statistics.median([a / b for a, b in zip(times[name], base, strict=True)]) for name in losses},
        "ratios": {name: [a / b for a, b in zip(times[name], base, strict=True)] for name in losses},
        "peak_mb": memory if device.type == "cuda" else _peak_of_process(),
        "rounds": rounds,
        "student": recipe.model.size,
        "teacher": recipe.teacher.size,
        "batch": recipe.train.batch,
        "image_size": recipe.train.image_size,
        "precision": str(precision or torch.float32),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "provenance": describe_run(recipe.train.seed, recipe.data.name).model_dump(),
    }


def _peak_of_process() -> float:
    """Return the largest resident size of this process so far, MB: a CPU does not tell it by operation."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _timed(run: Callable[[Batch], None], batch: Batch, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m train.distilling_benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="distill_vhr10")
    known = ["method", *[n for n in DISTILLATION_LOSSES if n not in ("magnitude", "relation")]]
    parser.add_argument("--losses", nargs="+", default=["method"], choices=known, metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    result = measure(load_recipe(options.recipe, options.set), options.losses, options.rounds)
    s = result["seconds"]
    print(f"student step {s['student']:.3f} s, teacher forward {s['teacher']:.3f} s")
    for name, ratio in result["ratio"].items():
        print(f"{name}: {s[name]:.3f} s a step, {ratio:.3f} times the two together")
    peak = result["peak_mb"]
    print(f"peak memory: {peak if isinstance(peak, dict) else f'{peak:.0f} MB, the whole process'}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
