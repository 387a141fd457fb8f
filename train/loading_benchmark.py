"""Measure what data loading costs a training epoch: real batches against the same number of steps on one cached batch.

`python -m train.loading_benchmark [RECIPE] [--set KEY=VALUE ...]`. Both are timed in alternating passes of one run, and
the ratio is the median over the passes; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from .dataset import Batch
from .provenance import describe_run
from .recipe import Recipe, load_recipe
from .run_log import RunLog
from .splits import load_both
from .stage import starting_model
from .supervised import supervised_job
from .trainer import Trainer


def measure(recipe: Recipe, passes: int, steps: int) -> dict[str, object]:
    """Time `steps` steps per pass, once from the loader and once on a cached batch, `passes` times each."""
    train, val = load_both(recipe)
    model, _ = starting_model(recipe, len(train.class_names))
    describe = {"size": recipe.model.size, "class_names": train.class_names, "image_size": recipe.train.image_size}
    job = supervised_job(recipe, train, val, describe)
    with TemporaryDirectory() as scratch:
        log = RunLog(Path(scratch), Console(quiet=True), active=False)
        trainer = Trainer(model, recipe.train, job, Path(scratch), log=log)
        trainer.model.train()
        cached = next(iter(job.batches(0)))
        times: dict[str, list[float]] = {"loader": [], "cached": []}
        stream = _endless(job.batches)
        _timed(trainer, itertools.islice(stream, 3))  # warm-up: kernels are chosen, workers are running
        for _ in range(passes):
            times["loader"].append(_timed(trainer, itertools.islice(stream, steps)))
            times["cached"].append(_timed(trainer, itertools.repeat(cached, steps)))
    ratios = [a / b for a, b in zip(times["loader"], times["cached"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "loader_s_per_step": statistics.median(times["loader"]) / steps,
        "cached_s_per_step": statistics.median(times["cached"]) / steps,
        "workers": recipe.data.workers,
        "batch": recipe.train.batch,
        "image_size": recipe.train.image_size,
        "provenance": describe_run(recipe.train.seed, recipe.data.name).model_dump(),
    }


def _endless(batches: object) -> Iterable[Batch]:
    for epoch in itertools.count():
        yield from batches(epoch)  # type: ignore[operator]


def _timed(trainer: Trainer, batches: Iterable[Batch]) -> float:
    started = time.perf_counter()
    for batch in batches:
        trainer._one_step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m train.loading_benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    result = measure(load_recipe(options.recipe, options.set), options.passes, options.steps)
    loader, cached = result["loader_s_per_step"], result["cached_s_per_step"]
    print(f"a step from the loader {loader:.3f} s, on a cached batch {cached:.3f} s: {result['ratio']:.3f} times")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
