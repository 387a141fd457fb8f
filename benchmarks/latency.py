"""Latency of single images: a clock on every stage, repeated until the median is known well enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.detector import Detector
from deploy.frames import STAGES
from deploy.images import read_image
from deploy.manifest import Head, Manifest, ModelFile

from .course import Course
from .statistics_of_time import Spread, quantile_of, spread_of
from .subject import Subject

WARM_UP, WARM_UP_S = 5, 0.3
# The least number of images: below it no interval of the median at 99 % would be worth its name.
LEAST = 20
# Between two looks at the interval the number of images grows by a quarter, so that looking costs nothing.
GROWTH = 1.25
OVERHEAD_SLEEP_MS = 5.0


@dataclass(frozen=True)
class Latency:
    """Times of single images, one after the other, in milliseconds.

    stages: read, preprocess, infer, postprocess and total, which includes reading. reached: whether the interval of the
    total's p50 came down to `precision` (half its width as a share); else the time limit ended it. overhead: what the
    loop around the stages took, as a share of its wall-clock time.
    """

    stages: dict[str, Spread]
    precision: float
    reached: bool
    warm_up: int
    seconds: float
    overhead: float

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "unit": "ms",
            "stages": {name.removesuffix("_ms"): spread.to_json() for name, spread in self.stages.items()},
            "precision_wanted": self.precision,
            "precision_found": _finite(self.stages["total_ms"].p50.half_width),
            "precision_reached": self.reached,
            "warm_up_images": self.warm_up,
            "seconds": self.seconds,
            "overhead_share": self.overhead,
        }


def measure_latency(subject: Subject, course: Course, *, seconds: float, precision: float) -> Latency:
    """Time single images on one context until the p50 of the total is known to `precision`, or `seconds` are over.

    Files are read from the page cache: each has been read before. Raises as `Subject.open`.
    """
    with Detector(subject.open(), subject.manifest) as detector:
        return timed(
            detector, [(path, None) for path in subject.pictures.paths], course, seconds=seconds, precision=precision
        )


def timed(
    detector: Detector,
    sources: list[tuple[Path | None, np.ndarray | None]],
    course: Course,
    *,
    seconds: float,
    precision: float,
    read: Callable[[Path], np.ndarray] = read_image,
) -> Latency:
    """Run the detector over sources in turn, each a file to read or an image; see `measure_latency`."""
    rows: list[tuple[float, float, float, float, float]] = []
    clock = time.perf_counter

    def one(number: int) -> None:
        path, image = sources[number % len(sources)]
        begin = clock()
        picture = read(path) if path is not None else image
        assert picture is not None
        read_ms = (clock() - begin) * 1e3
        detector.detect([picture])
        d = detector
        rows.append((read_ms, d.preprocess_ms, d.infer_ms, d.postprocess_ms, read_ms + d.total_ms))

    warm, until = 0, clock() + min(WARM_UP_S, seconds / 4)
    while (warm < WARM_UP or clock() < until) and not course.stopped:
        one(warm)
        warm += 1
    rows.clear()
    begin = clock()
    # Interval checks and sensors lie between images; their time is not the runner's overhead on any image.
    aside, check_at, reached = 0.0, LEAST, False
    while not course.stopped:
        one(len(rows))
        away = clock()
        course.tick()
        if len(rows) >= check_at:
            check_at = int(len(rows) * GROWTH) + 1
            reached = quantile_of([row[4] for row in rows], 0.5).half_width <= precision
        now = clock()
        aside += now - away
        if len(rows) >= LEAST and (reached or now - begin >= seconds):
            break
    wall = clock() - begin
    if not rows:
        raise KeyboardInterrupt
    table = np.array(rows)
    spent = table[:, 4].sum() / 1e3
    return Latency(
        {stage: spread_of(table[:, i]) for i, stage in enumerate(STAGES)},
        precision,
        reached,
        warm,
        wall,
        max(0.0, float((wall - aside - spent) / (wall - aside))),
    )


class Sleeper:
    """A backend that sleeps a known time and finds nothing; notes how long each sleep really was, in seconds."""

    name, batch_size = "sleeper", 1

    def __init__(self, sleep_ms: float) -> None:
        self.sleep_s, self.slept = sleep_ms / 1e3, 0.0
        self.slept_each: list[float] = []
        self._heads = [np.full((1, channels, 1, 1), -9, np.float32) for channels in (64, 1)]

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Sleep; see `Backend`."""
        begin = time.perf_counter()
        time.sleep(self.sleep_s)
        self.slept_each.append(time.perf_counter() - begin)
        return self._heads

    def close(self) -> None:
        """Nothing is open."""


def measure_overhead(course: Course, seconds: float = 0.5) -> dict[str, float]:
    """Measure the runner itself: its loop around a backend that sleeps a known time and finds nothing in 8 x 8 pixels.

    share: of the loop's wall-clock time that lies outside of the stage clocks, 0 to 1. product_ms: what the clocks
    enclose beside the sleep, the product's own work on an empty image.
    """
    manifest = Manifest(
        name="sleeper",
        class_names=["nothing"],
        input_hw=(8, 8),
        heads=[Head(stride=8, box_output="box", class_output="class")],
        precision="fp32",
        files={"onnx": ModelFile(name="none", sha256="0" * 64)},
    )
    sleeper = Sleeper(OVERHEAD_SLEEP_MS)
    found = timed(
        Detector(sleeper, manifest), [(None, np.zeros((8, 8, 3), np.uint8))], course, seconds=seconds, precision=0.0
    )
    slept_ms = float(np.median(sleeper.slept_each[found.warm_up :])) * 1e3
    return {
        "sleep_ms": OVERHEAD_SLEEP_MS,
        "images": found.stages["total_ms"].count,
        "share": found.overhead,
        "product_ms": found.stages["total_ms"].p50.value - slept_ms,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
