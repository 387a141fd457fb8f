"""Measure what a distillation step costs: against a student's step plus the teacher's forward pass, and in memory.

`python -m train.distilling_benchmark [RECIPE] [--losses NAME ...] [--set KEY=VALUE ...]`. The three are timed in
alternating rounds of one run on real batches; the ratio is the median over the rounds. Memory is the peak of one step:
of the device where it tells, otherwise of a process of its own for each. The last line on standard output is one JSON
document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
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
METHOD = "method"
KNOWN = [METHOD, *[name for name in DISTILLATION_LOSSES if name not in ("magnitude", "relation")]]

Once = Callable[[Batch], None]


def contenders(recipe: Recipe, losses: list[str], class_count: int, device: torch.device) -> dict[str, Once]:
    """Return what is timed by name: "student" (step), "teacher" (forward), and a whole distillation step for each loss.

    Optimiser and EMA are left out on all sides: they are the same.
    """
    precision = choose_precision(recipe.train.precision, device)
    student, _ = starting_model(recipe, class_count)
    student.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    teacher = Yolov8(recipe.teacher.size, class_count)
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, ask = detection_loss(recipe), ask_directly(teacher)

    def whole(step: Step, network: nn.Module) -> Once:
        def once(batch: Batch) -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
                found = step(batch)
            torch.stack(list(found.values())).sum().backward()

        return once

    def forward(batch: Batch) -> None:
        with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
            ask(batch)

    found: dict[str, Once] = {"student": whole(supervised_step(student, criterion), student), "teacher": forward}
    for name in losses:
        config = recipe.distill.model_copy(update={"losses": ["magnitude", "relation"] if name == METHOD else [name]})
        built = build_losses(config, channels_of(student), channels_of(teacher))
        network = DistillingNetwork(student, criterion, built).to(device)
        found[name] = whole(distilling_step(network, ask), network)
    return found


def prepare(recipe: Recipe, losses: list[str]) -> tuple[dict[str, Once], list[Batch], torch.device]:
    """Return the contenders, two real batches on the device, and the device."""
    train, _ = load_both(recipe)
    device = choose_device(recipe.train.device)
    batches = [b.to(device) for b in itertools.islice(batches_of(recipe, train)[0](0), 2)]
    return contenders(recipe, losses, len(train.class_names), device), batches, device


def measure(recipe: Recipe, losses: list[str], rounds: int) -> dict[str, Any]:
    """Return seconds and ratios of each loss, medians over `rounds`."""
    runs, batches, device = prepare(recipe, losses)
    peak: dict[str, float] = {}
    for name, run in runs.items():  # warm-up, and the peak of each where the device tells
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run(batches[0])
        if device.type == "cuda":
            peak[name] = torch.cuda.max_memory_allocated(device) / 1e6
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            times[name].append(_timed(run, batches[number % len(batches)], device))
    base = [s + t for s, t in zip(times["student"], times["teacher"], strict=True)]
    ratios = {name: [a / b for a, b in zip(times[name], base, strict=True)] for name in losses}
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios": ratios,
        "peak_mb": peak,
        "rounds": rounds,
        "student": recipe.model.size,
        "teacher": recipe.teacher.size,
        "batch": recipe.train.batch,
        "image_size": recipe.train.image_size,
        "precision": str(choose_precision(recipe.train.precision, device) or torch.float32),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "provenance": describe_run(recipe.train.seed, recipe.data.name).model_dump(),
    }


def peak_of_process(recipe: Recipe, name: str) -> float:
    """Run one step and return the largest resident size that this process ever had, MB."""
    runs, batches, _ = prepare(recipe, [] if name in ("student", "teacher") else [name])
    runs[name](batches[0])
    # Not getrusage: its maximum survives the exec, and would be that of the process that started this one.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e3
    raise OSError("/proc/self/status has no VmHWM; memory is measured on Linux only")


def peaks(arguments: list[str], names: list[str]) -> dict[str, float]:
    """Return the peak memory of each contender in MB, each measured in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, "-m", "train.distilling_benchmark", *arguments, "--memory-of", name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = float(told.splitlines()[-1])
    return found


def _timed(run: Once, batch: Batch, device: torch.device) -> float:
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
    parser.add_argument("--losses", nargs="+", default=[METHOD], choices=KNOWN, metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-of", choices=["student", "teacher", *KNOWN], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    try:
        recipe = load_recipe(options.recipe, options.set)
        if options.memory_of:
            print(peak_of_process(recipe, options.memory_of))
            return
        result = measure(recipe, options.losses, options.rounds)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not result["peak_mb"]:
        given = [options.recipe, *itertools.chain.from_iterable(("--set", item) for item in options.set)]
        result["peak_mb"] = peaks(given, ["student", "teacher", *options.losses])
    s, peak = result["seconds"], result["peak_mb"]
    print(f"student step {s['student']:.3f} s, {peak['student']:.0f} MB; teacher forward {s['teacher']:.3f} s")
    for name, ratio in result["ratio"].items():
        print(f"{name}: {s[name]:.3f} s a step, {ratio:.3f} times the two together; {peak[name]:.0f} MB")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
