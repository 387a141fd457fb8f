"""Does a second run agree with the first? The benchmark on the emulated NPU in pairs of fresh processes.

    python -m benchmarks.repeatability [BUNDLE] [--pairs 10] [--seconds S] [--json FILE]

Each run is a process of its own that measures single images as `rsedge bench` does, until the p50 is known to 1 % or
the time is over, and states its interval. A pair agrees where the second p50 lies within the interval that the first
one stated; beside it stands the verdict of `rsedge bench --compare`, which knows both intervals. What is wanted is nine
of ten on an idle machine; a busy one differs from itself. The runner's own overhead is measured in every run too. The
last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.measured_on import hand_over, origin

from .course import Course
from .latency import measure_latency, measure_overhead
from .statistics_of_time import CONFIDENCE, Quantile, verdict_of
from .subject import drawn_pictures, open_subject

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "deploy/zoo/procedural"
STAGES = ("total", "infer")
WANTED = 0.9
PRECISION, IMAGES = 0.01, 4
OVERHEAD_LIMIT = 0.01


def one_run(bundle: Path, seconds: float) -> dict[str, Any]:
    """Measure single images on the emulated NPU; returns the p50 of total and infer, their count and the overhead."""
    with tempfile.TemporaryDirectory(prefix="rsedge-repeat-") as folder, Course() as course:
        subject = open_subject(bundle, "emulated", drawn_pictures(Path(folder), IMAGES))
        overhead = measure_overhead(course, 0.5)["share"]
        found = measure_latency(subject, course, seconds=seconds, precision=PRECISION)
    p50 = {stage: found.stages[f"{stage}_ms"].p50.to_json() for stage in STAGES}
    return {"p50": p50, "images": found.stages["total_ms"].count, "reached": found.reached, "overhead": overhead}


def in_a_process(bundle: Path, seconds: float) -> dict[str, Any]:
    """Return `one_run` of a fresh process. Raises OSError with what it said where it fails."""
    command = [sys.executable, "-m", "benchmarks.repeatability", str(bundle.resolve()), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--once"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"a run failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def agreement(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return of pairs (0 and 1, 2 and 3, ...) in how many the p50 agree, by stage.

    inside: the second p50 lies within the first one's interval. same: the comparison of both finds no difference.
    """
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    found = {}
    for stage in STAGES:
        both = [tuple(Quantile.from_json(run["p50"][stage]) for run in pair) for pair in pairs]
        inside = [a.low is not None and a.high is not None and a.low <= b.value <= a.high for a, b in both]
        found[stage] = {
            "inside": sum(inside),
            "same": sum(verdict_of(a, b) == "same" for a, b in both),
            "largest_difference": max(abs(b.value / a.value - 1) for a, b in both),
            "largest_half_interval": _finite(max(a.half_width for a, _ in both)),
        }
    return {"pairs": len(pairs), "stages": found}


def measure(
    bundle: Path, pairs: int, seconds: float, run: Callable[[Path, float], dict[str, Any]] = in_a_process
) -> dict[str, Any]:
    """Run the pairs one after the other; see the module's text."""
    runs = []
    for number in range(2 * pairs):
        runs.append(run(bundle, seconds))
        total = Quantile.from_json(runs[-1]["p50"]["total"])
        print(
            f"run {number + 1:>2} of {2 * pairs}: p50 {total.value:.3f} ms ± {100 * total.half_width:.2f} %, "
            f"{runs[-1]['images']} images, overhead {100 * runs[-1]['overhead']:.2f} %",
            flush=True,
        )
    found = agreement(runs)
    overheads = [one["overhead"] for one in runs]
    return {
        "benchmark": "repeatability",
        "bundle": bundle.name,
        **found,
        "agree_share": found["stages"]["total"]["inside"] / pairs,
        "wanted": WANTED,
        "confidence": CONFIDENCE,
        "overhead_median": statistics.median(overheads),
        "overhead_worst": max(overheads),
        "overhead_limit": OVERHEAD_LIMIT,
        "seconds": seconds,
        "runs": runs,
        **origin(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print; exit code 1 where fewer pairs agree than wanted."""
    text = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repeatability", description=text)
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--pairs", type=int, default=10, help="of runs (default 10)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run at most (default 4)")
    parser.add_argument("--json", type=Path, help="write the document here too")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)  # what the child processes are told
    options = parser.parse_args(arguments)
    if options.pairs < 1 or not options.seconds > 0:
        parser.error(f"--pairs and --seconds must be above 0, got {options.pairs} and {options.seconds:g}")
    try:
        if options.once:
            print(json.dumps(one_run(options.bundle, options.seconds)), flush=True)
            return 0
        document = measure(options.bundle, options.pairs, options.seconds)
    except (ValueError, OSError) as error:
        print(f"repeatability: {error}", file=sys.stderr)
        return 2
    for stage, row in document["stages"].items():
        print(
            f"{stage}: {row['inside']} of {document['pairs']} pairs within the first one's interval, {row['same']} the "
            f"same by --compare; largest difference {100 * row['largest_difference']:.2f} %"
        )
    code = hand_over(document, options.json)
    return code or int(document["agree_share"] < WANTED)


if __name__ == "__main__":
    raise SystemExit(main())
