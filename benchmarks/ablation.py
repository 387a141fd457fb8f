"""The ablation: what each measure of the runtime is worth, with it and without it, in turns within one run."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

import numpy as np

from deploy.decoding import decoder_of
from deploy.detector import Detector
from deploy.frames import Frame
from deploy.head_layout import HeadLayout
from deploy.pipeline import Pipeline
from deploy.postprocess import PostProcessor

from .course import Course
from .field import IOU, MOST, SCORE, SPINNING_S, dequantised
from .in_turns import Duel, duel, timed_in_turns
from .per_box_reference import per_box_detections
from .subject import Subject
from .throughput import Pace, due_times, saturate, timed_from_due

BATCH = 8
# The rate of the release comparison: that of a camera, below half of what most subjects can do.
CAMERA_PER_S = 30.0


def of_post_processing(subject: Subject, course: Course, *, rounds: int, seconds: float) -> list[Duel]:
    """Compare ways to decode the subject's own heads: vectorised, integer domain, batched. Empty for decoded models.

    Every contestant decodes the same `BATCH` pictures in a round, so that a round is one comparison of equals.
    """
    if subject.manifest.decoded is not None or not subject.heads:
        return []
    layout = HeadLayout.from_manifest(subject.manifest)
    options: dict[str, Any] = {"score_threshold": SCORE, "iou_threshold": IOU, "max_detections": MOST}
    decode = PostProcessor(layout, **options)
    all_boxes = subject.letterboxes()
    places = [i % len(all_boxes) for i in range(BATCH)]
    heads, boxes = [subject.heads[i] for i in places], [all_boxes[i] for i in places]
    joined = [np.concatenate(parts) for parts in zip(*heads, strict=True)]
    integers = heads[0][0].dtype == np.int8

    def one_by_one(of: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Callable[[], object]:
        def run() -> None:
            for one, box in zip(heads, boxes, strict=True):
                decode(of(one), [box])

        return run

    def loop() -> None:
        for one, box in zip(heads, boxes, strict=True):
            per_box_detections(one, layout, box)

    contestants: dict[str, Callable[[], object]] = {
        "vectorised": one_by_one(lambda one: one),
        "batched": lambda: decode(joined, boxes),
    }
    if integers:
        contestants["floats"] = one_by_one(lambda one: dequantised(one, layout))
    if not layout.activation_applied:
        contestants["loop"] = loop
    times = {
        name: [ms / BATCH for ms in spent]
        for name, spent in timed_in_turns(contestants, course, rounds=rounds, seconds=seconds).items()
    }
    kind = "int8" if integers else "float32"
    rows = [
        ("vectorised post-processing", f"NumPy over survivors, {kind} heads", "vectorised", "box by box", "loop"),
        ("integer-domain threshold", "int8 heads as they come", "vectorised", "dequantised first", "floats"),
        ("batched post-processing", f"{BATCH} images a call", "batched", "one image a call", "vectorised"),
    ]
    return [
        duel(measure, ours, other, "ms per image", list(zip(times[a], times[b], strict=True)), less_is_better=True)
        for measure, ours, a, other, b in rows
        if a in times and b in times
    ]


def of_contexts(subject: Subject, course: Course, *, rounds: int, seconds: float) -> list[Duel]:
    """Compare numbers of contexts and threads at saturation; images/s of each in every round.

    On an NPU: two contexts a core against one, and all of them against one thread. On the CPU: all of its cores against
    one thread of ONNX Runtime, image by image.
    """
    if not subject.has_cores:
        return _of_threads(subject, course, rounds=rounds, seconds=seconds)
    per_core, usual = subject.placed(subject.cores), subject.usual
    setups = {"two": usual, "one each": per_core, "one": per_core[:1]}
    rates: dict[str, list[float]] = {name: [] for name in setups}
    for number in range(rounds):
        course.pause()
        if number and course.stopped:
            break
        names = list(setups)
        place = number % len(names)
        found: dict[str, float] = {}
        try:
            for name in names[place:] + names[:place]:
                found[name] = saturate(subject, setups[name], course, seconds=seconds).images_per_s.value
                if course.stopped:
                    break
        except KeyboardInterrupt:  # a stop in the middle of a round: the whole rounds before it stand
            if not course.stopped:
                raise
        if len(found) == len(setups):
            for name, rate in found.items():
                rates[name].append(rate)
    if not rates["one"]:
        return []
    told = f"two contexts on each of {subject.cores} cores"
    return [
        duel(measure, told, other, "images/s", list(zip(rates["two"], rates[name], strict=True)), less_is_better=False)
        for measure, other, name in (
            ("two contexts per core", "one context per core", "one each"),
            ("several threads", "one thread, one core", "one"),
        )
    ]


def _of_threads(subject: Subject, course: Course, *, rounds: int, seconds: float) -> list[Duel]:
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2:
        return []
    image = subject.pictures.images[:1]
    many, one = (Detector(subject.open(threads=threads), subject.manifest) for threads in (cpus, 1))
    with many, one:
        times = timed_in_turns(
            {"many": lambda: many.detect(image), "one": lambda: one.detect(image)},
            course,
            rounds=max(rounds, 8),
            seconds=rounds * 2 * seconds,
            pause_s=SPINNING_S,
        )
    pairs = list(zip(times["many"], times["one"], strict=True))
    told = f"{cpus} threads of ONNX Runtime"
    return [duel("several threads", told, "one thread", "ms per image", pairs, less_is_better=True)]


def of_release(subject: Subject, course: Course, *, rounds: int, seconds: float, capacity_per_s: float) -> list[Duel]:
    """Compare when results leave: as soon as they are next in order, or when a pool's queue has filled, at camera rate.

    The other one is written as pools around NPUs are: a future per frame, and the oldest is asked for only when as many
    are under way as there are contexts. Unlike those it gives each thread a context of its own.
    """
    per_s = min(CAMERA_PER_S, 0.5 * capacity_per_s)
    count = max(12, round(per_s * seconds))
    pairs = []
    for number in range(rounds):
        course.pause()
        if number and course.stopped:
            break
        p50: dict[str, float] = {}
        try:
            for way in (("early", "filled"), ("filled", "early"))[number % 2]:
                pace = Pace(subject.pictures.images, due_times(per_s, count, "regular"), course)
                with subject.streaming(subject.usual) as detector:
                    if way == "early":
                        detector.prepare()
                        stream = detector.stream(pace, policy="block")
                    else:  # opens contexts of its own; the detector has none yet
                        stream = queue_filled(subject, pace, subject.usual)
                    limit = 4 * count / per_s
                    found = timed_from_due(stream, pace, per_s, "regular", subject.usual, course, limit_s=limit)
                p50[way] = found.latency.p50.value
        except KeyboardInterrupt:
            if not course.stopped:
                raise
        if course.stopped:  # a round that was cut short compares nothing; the whole ones before it stand
            break
        pairs.append((p50["early"], p50["filled"]))
    if not pairs:
        return []
    return [
        duel(
            "early release",
            "a result leaves when it is next",
            f"when {len(subject.usual)} are under way",
            f"ms p50 at {per_s:.0f} images/s",
            pairs,
            less_is_better=True,
        )
    ]


def queue_filled(subject: Subject, source: Pace, cores: Sequence[int]) -> Generator[Any, None, None]:
    """Yield a Result for each frame in order, as a pool does that waits for its queue to fill; see `of_release`."""
    own = local()
    decode = decoder_of(subject.manifest)
    open_context = subject.opener(len(cores))
    free = deque(cores)
    pipelines: list[Pipeline] = []

    def prepare() -> None:
        own.pipeline = Pipeline(open_context(free.popleft()), subject.manifest, decode)
        pipelines.append(own.pipeline)

    def run(frame: Frame) -> Any:
        return own.pipeline(frame)

    waiting: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(len(cores), initializer=prepare)
    try:
        # Every thread must have its context before the clock of the source begins.
        for future in [pool.submit(time.sleep, 0.05) for _ in cores]:
            future.result()
        for frame in source:
            waiting.append(pool.submit(run, frame))
            if len(waiting) >= len(cores):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for pipeline in pipelines:
            pipeline.close()
