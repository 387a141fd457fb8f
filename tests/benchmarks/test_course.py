"""The course of a benchmark: what is spread over a run comes in the pauses, and the step goes on where it was."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from benchmarks.course import Course


def test_a_pause_lets_come_what_waits_and_takes_no_time_of_the_step():
    out = io.StringIO()
    with Course(console=Console(file=out)) as course:
        course.step("contexts", 10.0)
        begin = course._begin

        def visit():
            course.step("a visit", 1.0)
            time.sleep(0.02)

        course.between = visit
        course.pause()
        assert (course._told, course._limit_s) == ("contexts", 10.0)
        assert course._begin - begin == pytest.approx(0.02, abs=0.02)
        assert course._progress.tasks[0].description == "contexts"
        assert course._progress.tasks[0].total == 10.0
        assert out.getvalue().split("\n") == ["contexts", "a visit", ""]


def test_a_stopped_course_and_one_without_visits_pause_for_nothing():
    with Course(console=Console(file=io.StringIO())) as course:
        course.pause()
        called = []
        course.between = lambda: called.append(1)
        course.stopped = True
        course.pause()
        assert called == []
