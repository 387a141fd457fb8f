"""Single images: stages that add up, visits and what their interval is made of, a stop, the runner's own share."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from benchmarks.course import Course
from benchmarks.latency import (
    LEAST,
    WARM_UP,
    WARM_UP_AGAIN,
    SingleImages,
    Sleeper,
    Visit,
    latency_of,
    measure_latency,
    measure_overhead,
    timed,
)
from deploy.detector import Detector
from tests.benchmarks.emulated import HW, emulated_subject, manifest_of


def test_every_stage_has_its_clock(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=4.0)
    with Course() as course:
        found = measure_latency(subject, course, visits=3, seconds=0.3, precision=0.5)
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
    """A detector whose total is drawn, so that numbers alone decide."""

    preprocess_ms = infer_ms = postprocess_ms = 0.0

    def __init__(self, draw):
        self.draw, self.calls = draw, 0

    def detect(self, images):
        self.calls += 1
        self.total_ms = self.draw()


IMAGE = [(None, np.zeros((8, 8, 3), np.uint8))]


def visit_of(times):
    return Visit(0.0, np.tile(np.asarray(times, float)[:, None], 5), 2, 1.0, 0.0)


def test_a_visit_lasts_as_long_as_asked_for_and_has_enough_images():
    with Course() as course:
        short = timed(Clockwork(lambda: 1.0), IMAGE, course, seconds=0.0)
        clockwork = Clockwork(lambda: 1.0)
        longer = timed(clockwork, IMAGE, course, seconds=0.1)
    assert len(short.times) == LEAST
    assert short.warm_up == WARM_UP
    assert clockwork.calls == len(longer.times) + longer.warm_up
    assert longer.seconds == pytest.approx(0.075, abs=0.05)  # a quarter of it was warm-up
    assert longer.times.shape[1] == 5


def test_the_interval_comes_from_what_differs_between_visits():
    """Within each visit hardly anything varies; the interval must not be taken from there."""
    found = latency_of([visit_of(level + 0.001 * np.arange(50)) for level in (10, 11, 12)], 0.01)
    total = found.stages["total_ms"].p50
    assert total.value == pytest.approx(11.0245)
    # Student's t of two degrees at 99 %: 9.925, the deviation 1 over sqrt(3).
    assert total.high - total.value == pytest.approx(9.925 / 3**0.5, rel=1e-3)
    assert not found.reached
    document = found.to_json()
    assert document["repeat"]["total"]["high"] - total.value == pytest.approx(9.925 * (2 / 3) ** 0.5, rel=1e-3)
    assert [row["p50"]["total"] for row in document["visits"]] == pytest.approx([10.0245, 11.0245, 12.0245])
    assert latency_of([visit_of(10 + 0.001 * i + np.zeros(9)) for i in range(3)], 0.01).reached
    with pytest.raises(ValueError, match="no visit was finished"):
        latency_of([], 0.01)


def test_visits_open_anew_and_go_through_all_pictures(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=0.1, pictures=7)
    opened, between = [], []
    open_subject = type(subject).open

    class Noting(type(subject)):
        def open(self, core=0, *, threads=0):
            opened.append(open_subject(self, core, threads=threads))
            return opened[-1]

    noting = Noting(**{field.name: getattr(subject, field.name) for field in fields(subject)})
    with Course() as course:
        found = measure_latency(
            noting, course, visits=4, seconds=0.0, precision=0.5, between=lambda: between.append(len(opened))
        )
    assert [len(visit.times) for visit in found.visits] == [LEAST] * 4
    assert [visit.warm_up for visit in found.visits] == [WARM_UP] + [WARM_UP_AGAIN] * 3
    assert between == [1, 2, 3]
    assert len({id(backend) for backend in opened}) == 4
    assert all(backend._closed for backend in opened)
    at = [visit.at_s for visit in found.visits]
    assert at == sorted(at)


def test_visits_take_the_pictures_in_turn(tmp_path, monkeypatch):
    subject = emulated_subject(tmp_path, latency_ms=0.1, pictures=3)
    seen = []

    def noting(detector, sources, course, **options):
        seen.append([path.name for path, _ in sources])
        return visit_of(np.ones(5))

    monkeypatch.setattr("benchmarks.latency.timed", noting)
    with Course() as course:
        measure_latency(subject, course, visits=3, seconds=1.0, precision=0.5)
    assert seen == [["0.png", "1.png", "2.png"], ["2.png", "0.png", "1.png"], ["1.png", "2.png", "0.png"]]


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
            course.stopped = calls > WARM_UP + 2
            return np.zeros((*HW, 3), np.uint8)

        sources = [(path, None) for path in subject.pictures.paths]
        found = timed(detector, sources, course, seconds=0.0, read=read)
        assert len(found.times) == 3 < LEAST
        course.stopped = True
        assert timed(detector, sources, course, seconds=0.0, read=read) is None
        with pytest.raises(KeyboardInterrupt):
            measure_latency(subject, course, visits=3, seconds=0.1, precision=0.5)


def test_a_later_visit_that_was_cut_short_does_not_count(tmp_path):
    """Its median of a few images would pass for a visit's; the first one is all there is and stays."""
    subject = emulated_subject(tmp_path, latency_ms=1.0)
    with Course() as course:
        singles = SingleImages(subject, seconds=0.0, precision=0.5)
        tick = course.tick
        course.tick = lambda: setattr(course, "stopped", True)
        assert singles.visit(course)
        assert len(singles.visits[0].times) == 1
        assert singles.latency().stages["total_ms"].p50.low is None
        course.stopped, course.tick = False, tick
        assert singles.visit(course)
        course.tick = lambda: setattr(course, "stopped", True)
        assert not singles.visit(course)
    assert [len(visit.times) for visit in singles.visits] == [1, LEAST]
