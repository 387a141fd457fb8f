"""Measure what a quantisation-aware step costs: against the float step, against a distillation step, and in memory.

`python -m train.quantising_benchmark [RECIPE] [--set KEY=VALUE ...] [--out FILE]`. The steps are timed in alternating
rounds of one run on real batches; each ratio is the median over the rounds. Memory is the peak of one step: of the
device where it tells, otherwise of a process of its own for each; a step that does not fit is left out of the rest.
The last line on standard output is one JSON document, which `--out` writes into a file as well.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoint import write_atomically
from .dataset import Batch
from .distilling import DistillingNetwork, ask_directly, build_losses, distilling_step
from .distilling_benchmark import Once, _timed
from .model import Yolov8
from .provenance import describe_run
from .quantised_model import QuantisedYolov8
from .quantising import make_tuner, quantised, quantising_step, stage_recipe
from .recipe import Recipe, load_recipe
from .splits import load_both
from .stage import starting_model
from .supervised import batches_of, detection_loss, supervised_step
from .teacher_student import channels_of
from .trainer import Step, choose_device, choose_precision

ROUNDS = 7
# What is timed, by name: what it is told as, what it is measured against, and how many times that it may cost.
STEPS: dict[str, tuple[str, str, float | None]] = {
    "float": ("float step", "", None),
    "quantised": ("fake-quantised step, with BatchNorm", "float", 2.0),
    "quantised_folded": ("fake-quantised step, folded", "float", 2.0),
    "distilling": ("distillation step of the float network", "", None),
    "quantised_distilling": ("distillation step, fake-quantised", "distilling", None),
    "bilevel_first": ("the same with the teacher tuned, finite difference", "distilling", 5.0),
    "bilevel_second": ("the same with the teacher tuned, second order", "distilling", None),
}
# Where a recipe distils nothing, its step is measured with the method's own losses.
DEFAULT_LOSSES = ["magnitude", "relation"]


class Bench:
    """A recipe's networks, two real batches, and the steps that are timed. Each call of `step` builds its own copies.

    Optimiser and EMA are left out on all sides: they are the same. The teacher's own optimiser is part of its tuning.
    """

    def __init__(self, recipe: Recipe) -> None:
        q = recipe.quantize
        changes = {"losses": q.losses or DEFAULT_LOSSES, "method": "train"}
        self.recipe = stage_recipe(recipe.model_copy(update={"quantize": q.model_copy(update=changes)}))
        self.device = choose_device(recipe.train.device)
        self.precision = choose_precision(recipe.train.precision, self.device)
        train, _ = load_both(recipe)
        self.class_count = len(train.class_names)
        # One batch may be all that there is; then it is its own query.
        found = list(itertools.islice(batches_of(self.recipe, train)[0](0), 2))
        self.batches = [batch.to(self.device) for batch in found]
        self.plain, _ = starting_model(recipe, self.class_count)
        self.criterion = detection_loss(recipe)

    def step(self, name: str) -> Once:
        """Return one whole step of a name in `STEPS`: forward, losses, backward."""
        if name == "float":
            return self._whole(supervised_step(model := self._float(), self.criterion), model)
        if name in ("quantised", "quantised_folded"):
            student = self._student(folded=name == "quantised_folded")
            return self._whole(supervised_step(student, self.criterion), student)
        learner = self._float() if name == "distilling" else self._student(folded=False)
        return self._distilling(learner, name.removeprefix("bilevel_") if name.startswith("bilevel_") else None)

    def _float(self) -> Yolov8:
        model, _ = starting_model(self.recipe, self.class_count)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.train()

    @cached_property
    def observed(self) -> QuantisedYolov8:
        """A student as its training begins."""
        return quantised(self.recipe, self.plain, iter(self.batches))

    def _student(self, *, folded: bool) -> QuantisedYolov8:
        """Return a student in the middle of its training: ranges learnt, BatchNorm kept still."""
        student = copy.deepcopy(self.observed)
        if folded and not student.folded:
            student.fold()
            rung = self.recipe.quantize.rungs()[-1]
            student.network.set_bits(rung.weights, rung.activations)
        student.train()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return student

    def _distilling(self, student: Any, order: str | None) -> Once:
        """Return a distillation step; `order`: how the teacher is tuned in it, None: not at all."""
        q = self.recipe.quantize
        teacher = Yolov8(self.recipe.teacher.size if q.teacher == "teacher" else self.plain.size, self.class_count)
        teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ask = ask_directly(teacher)
        losses = build_losses(self.recipe.distill, channels_of(student), channels_of(teacher)).to(self.device)
        network = DistillingNetwork(student, self.criterion, losses)
        if order is None:
            return self._whole(distilling_step(network, ask), network)
        tuning = q.tuning.model_copy(update={"every": 1, "order": order})
        recipe = self.recipe.model_copy(update={"quantize": q.model_copy(update={"tuning": tuning})})
        tuner = make_tuner(recipe, student, teacher, self.criterion, losses)

        return self._whole(quantising_step(network, teacher, tuner, lambda: self.batches[-1]), network)

    def _whole(self, step: Step, network: nn.Module) -> Once:
        def once(batch: Batch) -> None:
            network.zero_grad(set_to_none=True)
            dtype = self.precision or torch.bfloat16
            with torch.autocast(self.device.type, dtype, enabled=self.precision is not None):
                found = step(batch)
            torch.stack([value for value in found.values() if value.requires_grad]).sum().backward()

        return once


def measure(bench: Bench, names: Iterable[str], rounds: int) -> dict[str, Any]:
    """Return seconds, ratios (medians over `rounds`) and, on a GPU, peak memory of the named steps.

    A step that does not fit into the device's memory is left out.
    """
    runs: dict[str, Once] = {}
    peak: dict[str, float] = {}
    cuda = bench.device.type == "cuda"
    for name in names:  # warm-up, and the peak of each where the device tells
        if cuda:
            torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated(bench.device) if cuda else 0
        try:
            run = bench.step(name)
            if cuda:
                torch.cuda.reset_peak_memory_stats(bench.device)
            run(bench.batches[0])
        except torch.OutOfMemoryError:
            continue
        runs[name] = run
        if cuda:  # without the networks of the steps before
            peak[name] = (torch.cuda.max_memory_allocated(bench.device) - held) / 1e6
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            times[name].append(_timed(run, bench.batches[number % len(bench.batches)], bench.device))
    ratios = {
        name: [a / b for a, b in zip(times[name], times[base], strict=True)]
        for name in runs
        if (base := STEPS[name][1]) in runs
    }
    recipe, q = bench.recipe, bench.recipe.quantize
    rungs = q.rungs()
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios": ratios,
        "bilevel_against_the_step_without": {
            name: statistics.median(a / b for a, b in zip(times[name], times["quantised_distilling"], strict=True))
            for name in runs
            if name.startswith("bilevel") and "quantised_distilling" in runs
        },
        "against": {name: STEPS[name][1] for name in ratios},
        "target": {name: STEPS[name][2] for name in ratios if STEPS[name][2] is not None},
        "peak_mb": peak,
        "rounds": rounds,
        "student": recipe.model.size,
        "teacher": recipe.teacher.size if q.teacher == "teacher" else recipe.model.size,
        "losses": recipe.distill.losses,
        "bits": {"quantised": [rungs[0].weights, rungs[0].activations]}
        | {"quantised_folded": [rungs[-1].weights, rungs[-1].activations]},
        "batch": recipe.train.batch,
        "image_size": recipe.train.image_size,
        "precision": str(bench.precision or torch.float32),
        "device": torch.cuda.get_device_name(bench.device) if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "provenance": describe_run(recipe.train.seed, recipe.data.name).model_dump(),
    }


def peak_of_process(bench: Bench, name: str) -> float:
    """Run one step and return the largest resident size that this process ever had, MB."""
    bench.step(name)(bench.batches[0])
    # Not getrusage: its maximum survives the exec, and would be that of the process that started this one.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e3
    raise OSError("/proc/self/status has no VmHWM; memory is measured on Linux only")


def peaks(arguments: list[str], names: Iterable[str]) -> dict[str, float]:
    """Return the peak memory of each step in MB, each in a process of its own; one that was killed is left out.

    Raises ValueError with the last line of a process that failed.
    """
    found = {}
    for name in names:
        command = [sys.executable, "-m", "train.quantising_benchmark", *arguments, "--memory-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[name] = float(done.stdout.splitlines()[-1])
        elif done.returncode > 0:  # below 0: the system stopped it, there was no memory left
            raise ValueError(f"{STEPS[name][0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return found


def table(result: dict[str, Any]) -> list[str]:
    """Return the lines to print: seconds, ratio, target and memory of each step."""
    width = max(len(STEPS[name][0]) for name in result["seconds"])
    lines = []
    for name, seconds in result["seconds"].items():
        told = f"{STEPS[name][0]:<{width}}  {seconds:8.3f} s"
        told += f"  {result['peak_mb'][name]:7.0f} MB" if name in result["peak_mb"] else " " * 12
        if name in result["ratio"]:
            told += f"  {result['ratio'][name]:6.3f} times the {STEPS[result['against'][name]][0]}"
        if name in result["target"]:
            kept = "kept" if result["ratio"][name] <= result["target"][name] else "missed"
            told += f" (at most {result['target'][name]:g}: {kept})"
        if name in result["bilevel_against_the_step_without"]:
            told += f", {result['bilevel_against_the_step_without'][name]:.3f} times the one without"
        lines.append(told)
    lines += [f"{STEPS[name][0]}: does not fit into memory" for name in STEPS if name not in result["seconds"]]
    return lines


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m train.quantising_benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="quantise_vhr10")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    parser.add_argument("--memory-of", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    try:
        recipe = load_recipe(options.recipe, options.set)
        if options.memory_of:
            print(peak_of_process(Bench(recipe), options.memory_of))
            return
        names, memory = list(STEPS), {}
        if choose_device(recipe.train.device).type != "cuda":
            given = [options.recipe, *itertools.chain.from_iterable(("--set", item) for item in options.set)]
            memory = peaks(given, names)
            names = [name for name in names if name in memory]
        result = measure(Bench(recipe), names, options.rounds)
        result["peak_mb"] = result["peak_mb"] or memory
        document = json.dumps(result)
        if options.out:
            write_atomically(options.out, document.encode())
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("\n".join(table(result)))
    print(document)


if __name__ == "__main__":
    main()
