"""Single images: stages that add up, a stop at the asked precision or at the limit, the runner's own share."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.course import Course
from benchmarks.latency import LEAST, Sleeper, measure_latency, measure_overhead, timed
from deploy.detector import Detector
from tests.benchmarks.emulated import HW, emulated_subject, manifest_of


def test_every_stage_has_its_clock(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=4.0)
    with Course() as course:
        found = measure_latency(subject, course, seconds=0.3, precision=0.5)
    stages = found.stages
    assert list(stages) == ["read_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "total_ms"]
    assert stages["infer_ms"].curve[0] >= 4.0
    assert all(spread.p50.value > 0 for spread in stages.values())
    parts = sum(stages[name].mean for name in list(stages)[:4])
    # Means add up where medians need not; what the detector does around its stages is the rest.
    assert parts <= stages["total_ms"].mean <= parts + 1.0
    assert found.warm_up >= 5
    document = found.to_json()
    assert set(document["stages"]) == {"read", "preprocess", "infer", "postprocess", "total"}


class Clockwork:
    """A detector whose total is drawn, so that when to stop is decided by numbers alone."""

    preprocess_ms = infer_ms = postprocess_ms = 0.0

    def __init__(self, draw):
        self.draw, self.calls = draw, 0

    def detect(self, images):
        self.calls += 1
        self.total_ms = self.draw()


def test_it_stops_when_the_median_is_known_and_says_so():
    rng = np.random.default_rng(0)
    detector = Clockwork(lambda: rng.normal(10, 1))
    with Course() as course:
        found = timed(detector, [(None, np.zeros((8, 8, 3), np.uint8))], course, seconds=20, precision=0.02)
    assert found.reached
    assert found.stages["total_ms"].p50.half_width <= 0.02
    # A normal's median: 2.58 * 1.2533 / sqrt(n) = 0.2 of 10 asks for 261 of them.
    assert 100 < found.stages["total_ms"].count < 700
    assert found.seconds < 10


def test_the_limit_ends_what_cannot_be_known_and_says_so():
    rng = np.random.default_rng(0)
    detector = Clockwork(lambda: rng.lognormal(0, 3))
    with Course() as course:
        found = timed(detector, [(None, np.zeros((8, 8, 3), np.uint8))], course, seconds=0.1, precision=1e-6)
    assert not found.reached
    assert found.stages["total_ms"].count >= LEAST
    assert found.to_json()["precision_reached"] is False


def test_the_runner_costs_less_than_a_hundredth():
    """Around a known sleep; medians of several tries, since a busy machine may stop any one of them."""
    with Course() as course:
        shares = [measure_overhead(course, 0.3)["share"] for _ in range(3)]
    assert min(shares) < 0.01
    assert all(share >= 0 for share in shares)


def test_the_sleeper_notes_what_it_slept():
    sleeper = Sleeper(3.0)
    sleeper.infer(np.zeros((1, 8, 8, 3), np.uint8))
    assert sleeper.slept_each[0] >= 0.003


def test_a_stop_keeps_what_there_is(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=1.0)
    with Course() as course, Detector(subject.open(), manifest_of()) as detector:
        calls = 0

        def read(path):
            nonlocal calls
            calls += 1
            course.stopped = calls > 12
            return np.zeros((*HW, 3), np.uint8)

        sources = [(path, None) for path in subject.pictures.paths]
        found = timed(detector, sources, course, seconds=0.04, precision=0.001, read=read)
        assert 1 <= found.stages["total_ms"].count < LEAST
        course.stopped = True
        with pytest.raises(KeyboardInterrupt):
            timed(detector, sources, course, seconds=0.04, precision=0.001, read=read)
