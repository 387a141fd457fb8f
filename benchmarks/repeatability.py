"""Does a second run agree with the first? The benchmark on the emulated NPU in pairs of fresh processes.

    python -m benchmarks.repeatability [BUNDLE] [--pairs 10] [--seconds S] [--json FILE]

Each run is a process of its own that measures single images as `rsedge bench` does, in as many visits, with a moment
at saturation between two of them, and states two intervals: one that holds the true p50, and one, sqrt(2) times as
wide, that holds the p50 of a second run (`Quantile.repeat`). A pair agrees where the second p50 lies within the latter;
beside it stands the verdict of `rsedge bench --compare`, which knows the intervals of both. Were visits all that
differs between two runs, 99 of 100 pairs would agree; what is wanted is nine of ten on an idle machine. How wide the
intervals are is told too: wide ones would agree for nothing. The runner's own overhead is measured in every run. The
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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.measured_on import hand_over, origin

from .course import Course
from .latency import measure_latency, measure_overhead
from .plan import FULL
from .statistics_of_time import CONFIDENCE, Quantile, verdict_of
from .subject import drawn_pictures, open_subject
from .throughput import saturate

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "deploy/zoo/procedural"
STAGES = ("total", "infer")
WANTED = 0.9
IMAGES, OVERHEAD_S = 4, 0.5
# Of the work between two visits.
BETWEEN_S = 0.2
OVERHEAD_LIMIT = 0.01


def one_run(bundle: Path, seconds: float, visits: int) -> dict[str, Any]:
    """Measure single images on the emulated NPU, for `seconds` in all visits together.

    Returns the p50 of total and infer, how many images and visits there were, the overhead and what all took.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rsedge-repeat-") as folder, Course() as course:
        subject = open_subject(bundle, "emulated", drawn_pictures(Path(folder), IMAGES))
        overhead = measure_overhead(course, OVERHEAD_S)["share"]
        found = measure_latency(
            subject,
            course,
            visits=visits,
            seconds=seconds,
            precision=FULL.precision,
            between=lambda: saturate(subject, subject.usual, course, seconds=BETWEEN_S),
        )
        if course.stopped:
            raise KeyboardInterrupt
    p50 = {stage: found.stages[f"{stage}_ms"].p50.to_json() for stage in STAGES}
    return {
        "p50": p50,
        "images": found.stages["total_ms"].count,
        "visits": len(found.visits),
        "reached": found.reached,
        "overhead": overhead,
        "took_s": round(time.monotonic() - begin, 2),
    }


def in_a_process(bundle: Path, seconds: float, visits: int = FULL.visits) -> dict[str, Any]:
    """Return `one_run` of a fresh process. Raises OSError with what it said where it fails."""
    command = [sys.executable, "-m", "benchmarks.repeatability", str(bundle.resolve()), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--once", str(visits)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"a run failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def agreement(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return of pairs (0 and 1, 2 and 3, ...) in how many the p50 agree, by stage.

    inside: the second p50 lies where the first run said that a second one would. same: the comparison of both finds no
    difference. Half intervals, as shares of the p50: half_interval of the true p50, half_repeat of a second run's.
    """
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    found = {}
    for stage in STAGES:
        both = [tuple(Quantile.from_json(run["p50"][stage]) for run in pair) for pair in pairs]
        told = [a.repeat() for a, _ in both]
        inside = [
            a.low is not None and a.high is not None and a.low <= b.value <= a.high
            for a, (_, b) in zip(told, both, strict=True)
        ]
        halves = [one.half_width for one in told]
        found[stage] = {
            "inside": sum(inside),
            "same": sum(verdict_of(a, b) == "same" for a, b in both),
            "largest_difference": max(abs(b.value / a.value - 1) for a, b in both),
            "median_half_interval": _finite(statistics.median(a.half_width for a, _ in both)),
            "median_half_repeat": _finite(statistics.median(halves)),
            "largest_half_repeat": _finite(max(halves)),
        }
    return {"pairs": len(pairs), "stages": found}


def measure(
    bundle: Path, pairs: int, seconds: float, run: Callable[[Path, float], dict[str, Any]] = in_a_process
) -> dict[str, Any]:
    """Run the pairs one after the other; see the module's text. Ctrl-C ends it with the pairs that are whole."""
    runs: list[dict[str, Any]] = []
    stopped = False
    for number in range(2 * pairs):
        try:
            runs.append(run(bundle, seconds))
        except KeyboardInterrupt:
            if len(runs) < 2:
                raise
            stopped = True
            runs = runs[: len(runs) // 2 * 2]
            break
        total = Quantile.from_json(runs[-1]["p50"]["total"])
        print(
            f"run {number + 1:>2} of {2 * pairs}: p50 {total.value:.3f} ms ± {100 * total.half_width:.2f} %, a second "
            f"run ± {100 * total.repeat().half_width:.2f} %, {runs[-1]['images']} images, overhead "
            f"{100 * runs[-1]['overhead']:.2f} %",
            flush=True,
        )
    found = agreement(runs)
    overheads = [one["overhead"] for one in runs]
    return {
        "benchmark": "repeatability",
        "bundle": bundle.name,
        **found,
        "stopped_early": stopped,
        "agree_share": found["stages"]["total"]["inside"] / found["pairs"],
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
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of single images in each run, all visits together (default 6)"
    )
    parser.add_argument("--json", type=Path, help="write the document here too")
    # What the child processes are told: to run once, with so many visits.
    parser.add_argument("--once", type=int, metavar="VISITS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.pairs < 1 or not options.seconds > 0:
        parser.error(f"--pairs and --seconds must be above 0, got {options.pairs} and {options.seconds:g}")
    try:
        if options.once:
            print(json.dumps(one_run(options.bundle, options.seconds, options.once)), flush=True)
            return 0
        document = measure(options.bundle, options.pairs, options.seconds)
    except (ValueError, OSError) as error:
        print(f"repeatability: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("repeatability: stopped before the first pair was whole", file=sys.stderr)
        return 130
    for stage, row in document["stages"].items():
        print(
            f"{stage}: {row['inside']} of {document['pairs']} pairs where the first run said that a second one lies, "
            f"{row['same']} the same by --compare; largest difference {100 * row['largest_difference']:.2f} %, "
            + (f"told ± {100 * row['median_half_repeat']:.2f} %" if row["median_half_repeat"] else "told no interval")
        )
    code = hand_over(document, options.json)
    return code or (130 if document["stopped_early"] else int(document["agree_share"] < WANTED))


if __name__ == "__main__":
    raise SystemExit(main())
