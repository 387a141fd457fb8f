"""Throughput: as fast as the contexts go, at an offered rate, and the sweep of rates that finds the knee.

The offered rate is an open loop: frames are due at moments that do not depend on what became of earlier ones, and a
latency counts from the moment at which its frame was due. A closed loop would wait for a slow answer before it asked
again, and so leave out just the waiting that a camera's user sees ("coordinated omission").
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.frames import Frame, Result

from .course import Course
from .power import Window
from .statistics_of_time import Quantile, Spread, quantile_of, spread_of
from .subject import Subject

Arrivals = Literal["regular", "poisson"]
# Equal parts of a run whose rates give the interval; with 8 it is from the least to the largest at 99.2 %.
PARTS = 10
# A run keeps up while its backlog grows by less than this share of the time that it lasts.
BACKLOG = 0.05
LEAST = 24
# However slow the subject: no point of the sweep takes longer than so many times what was asked for.
PATIENCE = 4


@dataclass(frozen=True)
class Saturation:
    """Images per second with always enough to do. cores: one entry per context. window: for the energy of it."""

    cores: tuple[int, ...]
    postprocess_batch: int
    images_per_s: Quantile
    images: int
    seconds: float
    window: Window

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "contexts": len(self.cores),
            "cores": list(self.cores),
            "postprocess_batch": self.postprocess_batch,
            "images_per_s": self.images_per_s.to_json(),
            "images": self.images,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Offered:
    """What became of frames that were due at a rate. Milliseconds.

    achieved_per_s: results per second from the first to the last. latency: from when a frame was due until its result
    was handed out in order. service: the frame's own stages. waiting: latency less service. kept_up: the backlog did
    not grow. late_p99: how much too late the runner itself handed a frame over that it had not to wait for.
    """

    offered_per_s: float
    arrivals: Arrivals
    cores: tuple[int, ...]
    achieved_per_s: float
    latency: Spread
    service: Spread
    waiting_mean: float
    growth_ms_per_s: float
    kept_up: bool
    late_p99: float

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "offered_per_s": self.offered_per_s,
            "arrivals": self.arrivals,
            "contexts": len(self.cores),
            "cores": list(self.cores),
            "achieved_per_s": self.achieved_per_s,
            "kept_up": self.kept_up,
            "growth_ms_per_s": self.growth_ms_per_s,
            "unit": "ms",
            "latency": self.latency.to_json(),
            "service": self.service.to_json(),
            "waiting_mean": self.waiting_mean,
            "pacing_late_p99": self.late_p99,
        }


class Pace:
    """A source of frames that are due at given moments; `Frame.timestamp_s` says when, by `time.perf_counter`.

    due_s: ascending seconds from its start. late_s: how much after its moment each frame was given out that the reader
    had not kept waiting. It never goes faster than due, and catches up where the reader was slow.
    """

    live = False

    def __init__(self, images: Sequence[np.ndarray], due_s: np.ndarray, course: Course) -> None:
        self.images, self.due_s, self.course = images, due_s, course
        self.late_s: list[float] = []
        self.given = 0

    def __iter__(self) -> Iterator[Frame]:
        begin = time.perf_counter() + 0.01
        for number, after in enumerate(self.due_s.tolist()):
            if self.course.stopped:
                return
            due = begin + after
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
                self.late_s.append(time.perf_counter() - due)
            self.given = number + 1
            yield Frame(number, "offered", self.images[number % len(self.images)], timestamp_s=due)


def due_times(per_s: float, count: int, arrivals: Arrivals, seed: int = 0) -> np.ndarray:
    """Return when `count` frames are due, in seconds from the first moment.

    regular: like a camera. poisson: independent of each other, like requests of many users; so many of them in exactly
    count / per_s seconds, where a Poisson process of a known number is uniform (Kingman, "Poisson Processes", 2.4).
    """
    if not per_s > 0 or not np.isfinite(per_s):
        raise ValueError(f"--rate must be above 0 images/s, got {per_s}")
    if arrivals == "regular":
        return np.arange(count) / per_s
    return np.sort(np.random.default_rng(seed).uniform(0, count / per_s, count))


def saturate(
    subject: Subject, cores: Sequence[int], course: Course, *, seconds: float, postprocess_batch: int = 1
) -> Saturation:
    """Give frames as fast as they are taken, for `seconds` but until `LEAST` images are through.

    The images that fill the contexts and queues come first and are not counted. Raises what opening a context raises,
    and ValueError for a frame that fails.
    """
    stamps: list[float] = []
    moments: list[float] = []
    images = subject.pictures.images
    fill = 2 * len(cores)
    over = False

    def frames() -> Iterator[Frame]:
        number = 0
        while not over and not course.stopped:
            yield Frame(number, "saturation", images[number % len(images)])
            number += 1

    until = 0.0
    with (
        subject.streaming(cores) as detector,
        closing(detector.stream(frames(), policy="block", postprocess_batch=postprocess_batch)) as stream,
    ):
        for number, result in enumerate(stream):
            now = time.perf_counter()
            _check(result)
            course.tick()
            if number < fill:
                until = now + seconds
                continue
            stamps.append(now)
            moments.append(time.time())
            if (now >= until and len(stamps) >= LEAST) or now >= until + seconds * (PATIENCE - 1):
                over = True
                break
    if len(stamps) < 3:
        if course.stopped:
            raise KeyboardInterrupt
        raise ValueError(
            f"only {len(stamps)} images came through in {seconds * PATIENCE:.0f} s; give --seconds a larger number"
        )
    window = Window(moments[0], moments[-1], len(stamps) - 1)
    return Saturation(
        tuple(cores),
        postprocess_batch,
        rate_of(np.array(stamps), 3 * len(cores)),
        len(stamps) - 1,
        stamps[-1] - stamps[0],
        window,
    )


def rate_of(stamps: np.ndarray, least_each: int = 3) -> Quantile:
    """Return events per second of their moments (n,) in seconds, with an interval from `PARTS` equal shares of them.

    least_each: of events in a share. Results that leave in order come in bursts, up to one of each context at once, so
    a share has to be longer than those; the interval stays open where there are too few events for it.
    """
    whole = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    edges = np.linspace(0, len(stamps) - 1, min(PARTS, max(1, (len(stamps) - 1) // least_each)) + 1).astype(int)
    parts = np.diff(edges) / np.maximum(np.diff(stamps[edges]), 1e-9)
    spread = quantile_of(parts, 0.5, independent=True)
    if spread.low is None or spread.high is None:
        return Quantile(float(whole), None, None)
    # The mean rate is what was measured; a pause in one part can lie outside of what the parts' median spans.
    return Quantile(float(whole), min(spread.low, float(whole)), max(spread.high, float(whole)))


def offer(
    subject: Subject,
    cores: Sequence[int],
    course: Course,
    *,
    per_s: float,
    seconds: float,
    arrivals: Arrivals = "regular",
    seed: int = 0,
    least: int = LEAST,
) -> Offered:
    """Offer frames at a rate for so many seconds, at least `least` of them, and time each from when it was due."""
    due = due_times(per_s, max(least, round(per_s * seconds)), arrivals, seed)
    pace = Pace(subject.pictures.images, due, course)
    limit = PATIENCE * max(seconds, due[-1])
    with subject.streaming(cores) as detector:
        detector.prepare()  # opening contexts is no waiting of the first frames
        stream = detector.stream(pace, policy="block")
        return timed_from_due(stream, pace, per_s, arrivals, tuple(cores), course, limit_s=limit)


def timed_from_due(
    stream: Generator[Result, None, None],
    pace: Pace,
    per_s: float,
    arrivals: Arrivals,
    cores: tuple[int, ...],
    course: Course,
    *,
    limit_s: float,
) -> Offered:
    """Read a stream that is fed by `pace` to its end and return what became of its frames; see `offer`."""
    rows: list[tuple[float, float, float]] = []
    begin = time.perf_counter()
    with closing(stream):
        for result in stream:
            now = time.perf_counter()
            _check(result)
            course.tick()
            assert result.frame.timestamp_s is not None
            own = result.preprocess_ms + result.infer_ms + result.postprocess_ms
            rows.append((result.frame.timestamp_s, now, own))
            if now - begin > limit_s:
                break
    # The first answers find threads that were never run and caches that are cold.
    rows = rows[min(len(cores), len(rows) // 10) :]
    if len(rows) < 3:
        if course.stopped:
            raise KeyboardInterrupt
        raise ValueError(f"only {len(rows)} images came back at {per_s:g} images/s; give --seconds a larger number")
    due, done, service = (np.array(part) for part in zip(*rows, strict=True))
    latency = (done - due) * 1e3
    span = due[-1] - due[0]
    growth = float(np.polyfit(due - due[0], latency, 1)[0]) if span > 0 else 0.0
    backlog = (done[-1] - done[0]) - span
    return Offered(
        per_s,
        arrivals,
        cores,
        (len(rows) - 1) / float(done[-1] - done[0]),
        spread_of(latency),
        spread_of(service),
        float((latency - service).mean()),
        growth,
        bool(backlog <= BACKLOG * span or growth <= 1e3 * BACKLOG),
        float(np.quantile(pace.late_s, 0.99)) * 1e3 if pace.late_s else 0.0,
    )


def knee_of(points: Sequence[Offered]) -> Offered | None:
    """Return the point with the largest throughput over mean latency, among those that kept up; None without any.

    Kleinrock calls this ratio power, and where it is largest the knee of the curve ("Power and deterministic rules of
    thumb for probabilistic problems in computer communications", ICC 1979): beyond it waiting grows faster than
    throughput.
    """
    steady = [point for point in points if point.kept_up]
    return max(steady, key=lambda point: point.achieved_per_s / point.latency.mean, default=None)


def sweep(
    subject: Subject,
    cores: Sequence[int],
    course: Course,
    *,
    capacity_per_s: float,
    shares: Sequence[float],
    seconds: float,
    refine: int = 0,
) -> list[Offered]:
    """Offer shares of the capacity, Poisson arrivals, ascending; then `refine` times the middle beside the knee.

    A stop ends it with the points that were measured until then.
    """
    points: list[Offered] = []

    def at(per_s: float) -> None:
        course.step(f"{subject.manifest.name}: {per_s:.0f} images/s offered", seconds)
        try:
            found = offer(subject, cores, course, per_s=per_s, seconds=seconds, arrivals="poisson", seed=len(points))
        except KeyboardInterrupt:
            if not course.stopped:
                raise
            return  # stopped before this point had anything to report; the others stand
        points.append(found)
        points.sort(key=lambda point: point.offered_per_s)

    for share in shares:
        course.pause()
        if not course.stopped:
            at(share * capacity_per_s)
    for _ in range(refine):
        knee = knee_of(points)
        if knee is None or course.stopped:
            break
        place = points.index(knee)
        near = [points[i].offered_per_s for i in (place - 1, place + 1) if 0 <= i < len(points)]
        at((max(near) + knee.offered_per_s) / 2 if len(near) < 2 or max(near) > knee.offered_per_s else near[0])
    return points


def _check(result: Result) -> None:
    if result.error is not None:
        raise ValueError(f"frame {result.frame.number} failed while it was measured: {result.error}")
