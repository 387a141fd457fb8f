"""Latency of single images: a clock on every stage, in several visits that are spread over the whole run.

One stretch of images is fast or slow as a whole: on a shared machine medians of a third of a second differed from each
other by twice what their own images explain, those of other processes or of contexts opened anew by no more than that.
So a visit is short, visits are many, other measurements lie between them, and the interval is made of the spread
between visits (`benchmarks.statistics_of_visits`). Their number is fixed before: an interval that may stop a run as
soon as it happens to be narrow holds less than it says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.detector import Detector
from deploy.frames import STAGES
from deploy.images import read_image
from deploy.manifest import Head, Manifest, ModelFile

from .course import Course
from .statistics_of_time import Spread
from .statistics_of_visits import spread_of_visits
from .subject import Subject

# Images before the first visit counts, and before each later one, whose caches the others' work has emptied.
WARM_UP, WARM_UP_AGAIN, WARM_UP_S = 5, 2, 0.3
# The least number of images in a visit: with fewer its median is one of its outliers too easily.
LEAST = 5
OVERHEAD_SLEEP_MS = 5.0


@dataclass(frozen=True, eq=False)
class Visit:
    """One stretch of single images, one after the other.

    at_s: when it began, in seconds since the first one. times: (n, 5) milliseconds of each image in the order of
    `STAGES`. warm_up: images before. seconds: wall-clock time of the n. aside_s: what sensors took of it, between
    images.
    """

    at_s: float
    times: np.ndarray
    warm_up: int
    seconds: float
    aside_s: float

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        p50 = np.median(self.times, axis=0)
        return {
            "at_s": self.at_s,
            "images": len(self.times),
            "p50": {name.removesuffix("_ms"): float(ms) for name, ms in zip(STAGES, p50, strict=True)},
        }


@dataclass(frozen=True)
class Latency:
    """Times of single images, in milliseconds.

    stages: read, preprocess, infer, postprocess and total, which includes reading. visits: where they come from.
    precision: half of the interval of the total's p50 that is wanted, as a share. overhead: what the loop around the
    stages took, as a share of its wall-clock time.
    """

    stages: dict[str, Spread]
    visits: tuple[Visit, ...]
    precision: float
    overhead: float

    @property
    def reached(self) -> bool:
        """Whether the total's p50 is known as well as wanted."""
        return self.stages["total_ms"].p50.half_width <= self.precision

    @property
    def warm_up(self) -> int:
        """Images that were run and not counted."""
        return sum(visit.warm_up for visit in self.visits)

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "unit": "ms",
            "stages": {name.removesuffix("_ms"): spread.to_json() for name, spread in self.stages.items()},
            "repeat": {name.removesuffix("_ms"): spread.p50.repeat().to_json() for name, spread in self.stages.items()},
            "visits": [visit.to_json() for visit in self.visits],
            "precision_wanted": self.precision,
            "precision_found": _finite(self.stages["total_ms"].p50.half_width),
            "precision_reached": self.reached,
            "warm_up_images": self.warm_up,
            "seconds": sum(visit.seconds for visit in self.visits),
            "overhead_share": self.overhead,
        }


def latency_of(visits: Sequence[Visit], precision: float) -> Latency:
    """Return what visits say together. Raises ValueError without any."""
    if not visits:
        raise ValueError("no visit was finished; measure again, and longer")
    stages = {stage: spread_of_visits([visit.times[:, i] for visit in visits]) for i, stage in enumerate(STAGES)}
    spent = sum(float(visit.times[:, 4].sum()) for visit in visits) / 1e3
    around = sum(visit.seconds - visit.aside_s for visit in visits)
    return Latency(stages, tuple(visits), precision, max(0.0, (around - spent) / around))


class SingleImages:
    """Visits to a subject, each on one context that is opened for it. seconds: of a visit.

    Files are read from the page cache: each has been read before. A visit goes on with the picture at which the last
    one ended, so that pictures count alike however short visits are.
    """

    def __init__(self, subject: Subject, *, seconds: float, precision: float) -> None:
        self.subject, self.seconds, self.precision = subject, seconds, precision
        self.visits: list[Visit] = []
        self._begun: float | None = None
        self._next = 0

    def visit(self, course: Course) -> bool:
        """Make one visit; returns whether it counts. One that was stopped early counts where it is long enough, or the
        first. Raises as `Subject.open`."""
        paths = self.subject.pictures.paths
        place = self._next % len(paths)
        sources = [(path, None) for path in (*paths[place:], *paths[:place])]
        self._begun = time.monotonic() if self._begun is None else self._begun
        at_s = time.monotonic() - self._begun
        with Detector(self.subject.open(), self.subject.manifest) as detector:
            found = timed(
                detector,
                sources,
                course,
                seconds=self.seconds,
                warm_up=WARM_UP_AGAIN if self.visits else WARM_UP,
                at_s=at_s,
            )
        if found is None or (self.visits and len(found.times) < LEAST):
            return False
        self.visits.append(found)
        self._next += len(found.times)
        return True

    def latency(self) -> Latency:
        """Return what the visits so far say together. Raises ValueError without any."""
        return latency_of(self.visits, self.precision)


def measure_latency(
    subject: Subject,
    course: Course,
    *,
    visits: int,
    seconds: float,
    precision: float,
    between: Callable[[], object] | None = None,
) -> Latency:
    """Time single images in so many visits that take `seconds` together. between: called between two visits.

    Raises as `Subject.open`, KeyboardInterrupt where the course was stopped before there was anything to report.
    """
    singles = SingleImages(subject, seconds=seconds / visits, precision=precision)
    for number in range(visits):
        if number and between is not None and not course.stopped:
            between()
        if course.stopped or not singles.visit(course):
            break
    if not singles.visits:
        raise KeyboardInterrupt
    return singles.latency()


def timed(
    detector: Detector,
    sources: Sequence[tuple[Path | None, np.ndarray | None]],
    course: Course,
    *,
    seconds: float,
    warm_up: int = WARM_UP,
    at_s: float = 0.0,
    read: Callable[[Path], np.ndarray] = read_image,
) -> Visit | None:
    """Run the detector over sources in turn, each a file to read or an image, for so long and `LEAST` images at least.

    seconds: with the warm-up, which takes a quarter of it at most unless `warm_up` images need more. Returns None
    where the course was stopped before any image.
    """
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

    warm, start = 0, clock()
    while (warm < warm_up or clock() < start + min(WARM_UP_S, seconds / 4)) and not course.stopped:
        one(warm)
        warm += 1
    rows.clear()
    begin, aside = clock(), 0.0
    while not course.stopped:
        one(len(rows))
        # Sensors are read between images; their time is not the runner's overhead on any image.
        away = clock()
        course.tick()
        now = clock()
        aside += now - away
        if len(rows) >= LEAST and now - start >= seconds:
            break
    return Visit(at_s, np.array(rows), warm, clock() - begin, aside) if rows else None


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
    visit = timed(Detector(sleeper, manifest), [(None, np.zeros((8, 8, 3), np.uint8))], course, seconds=seconds)
    if visit is None:
        raise KeyboardInterrupt
    found = latency_of([visit], 0.0)
    slept_ms = float(np.median(sleeper.slept_each[found.warm_up :])) * 1e3
    return {
        "sleep_ms": OVERHEAD_SLEEP_MS,
        "images": len(visit.times),
        "share": found.overhead,
        "product_ms": found.stages["total_ms"].p50.value - slept_ms,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
