"""Progress: lines off a terminal at their times, with a rate and what is left; bars on one."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.console import Console

from deploy.progress import Steps, duration, progress_line


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(items, clock, terminal=False):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return Steps(console, items, clock), out


def test_a_log_gets_a_line_after_ten_seconds_and_fewer_later():
    clock = Clock()
    told, out = steps(10_000, clock)
    times = []
    with told:
        told.begin("images", "images", 10_000, inside=False)
        for _ in range(10_000):  # one a second
            clock.now += 1
            before = len(out.getvalue())
            told.step()
            if len(out.getvalue()) > before:
                times.append(clock.now - 100)
    gaps = [b - a for a, b in pairwise(times)]
    assert times[:3] == [10, 20, 30]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60
    lines = out.getvalue().splitlines()
    assert lines[0] == "10 of 10000 images (0 %), 1 images/s, 2.8 h left"
    assert lines[-1].startswith("9")


def test_a_short_run_leaves_the_log_alone():
    clock = Clock()
    told, out = steps(5, clock)
    with told:
        told.begin("images", "images", 5, inside=False)
        for _ in range(5):
            clock.now += 1.9
            told.item()
            told.step()
    assert out.getvalue() == ""


def test_a_scene_among_others_is_named_with_its_place():
    clock = Clock()
    told, out = steps(3, clock)
    with told:
        told.item()
        told.begin("b.tif", "tiles", 400)
        clock.now += 20
        told.step(100, 400)
    assert out.getvalue() == "2 of 3: b.tif: 100 of 400 tiles (25 %), 5 tiles/s, 60 s left\n"


def test_the_rate_counts_what_this_run_did():
    clock = Clock()
    told, out = steps(1, clock)
    with told:
        told.begin("v.mp4", "frames", 1000, 900)
        clock.now += 10
        for _ in range(20):
            told.step()
    assert out.getvalue() == "v.mp4: 901 of 1000 frames (90 %), 0.1 frames/s, 16 min left\n"


def test_the_end_of_a_source_is_no_progress():
    clock = Clock()
    told, out = steps(1, clock)
    with told:
        told.begin("b.tif", "tiles", 4)
        clock.now += 20
        told.step(4, 4)
    assert out.getvalue() == ""


def test_bars_on_a_terminal():
    clock = Clock()
    told, out = steps(3, clock, terminal=True)
    with told:
        told.begin("b.tif", "tiles", 400)
        clock.now += 20
        told.step(100, 400)
        told._bars.refresh()
    assert "100/400" in out.getvalue()
    assert "0/3" in out.getvalue()
    assert "tiles/s," not in out.getvalue()


@pytest.mark.parametrize(
    ("total", "counted", "seconds", "told"),
    [
        (None, 50, 10.0, "50 frames, 5 frames/s"),
        (200, 50, 10.0, "50 of 200 frames (25 %), 5 frames/s, 30 s left"),
        (200, 0, 10.0, "50 of 200 frames (25 %), 0 frames/s"),
        (200, 0, 0.0, "50 of 200 frames (25 %), 0 frames/s"),
    ],
)
def test_lines(total, counted, seconds, told):
    assert progress_line("frames", 50, total, counted, seconds) == told


def test_durations():
    assert [duration(s) for s in (0, 89, 91, 3600, 5500, 36_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "1.5 h",
        "10.0 h",
    ]
