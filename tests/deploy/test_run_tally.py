"""Tally: counts by kind, rates, medians against statistics, and what failed, in words."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from deploy.detections import Detections
from deploy.frames import Frame, Record, Result
from deploy.run_tally import RunningMedian, Tally
from deploy.sources import ReadError


def boxes(*class_ids):
    n = len(class_ids)
    return Detections(np.zeros((n, 4)), np.ones(n), np.array(class_ids, int))


def record(name, *class_ids, hw=(512, 512), complete=True):
    return Record(name, hw, boxes(*class_ids), complete=complete)


def tally(**options):
    return Tally(["ship", "car"], (512, 512), **options)


def failure(name, number=0):
    return ReadError(number, name, ValueError("x"))


def result(read, pre, infer, post, error=None):
    frame = Frame(0, "a", np.empty((0, 0, 3), np.uint8), read_ms=read)
    return Result(frame, Detections.empty(), pre, infer, post, 99.0, error=error)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_a_short_median_is_exact(count):
    values = np.random.default_rng(count).random(count).tolist()
    median = RunningMedian(kept=9)
    for value in values:
        median.add(value)
    assert median.value == (statistics.median(values) if values else 0.0)


def test_a_long_median_stays_small_and_near():
    values = np.random.default_rng(0).normal(10, 1, 100_000)
    median = RunningMedian(kept=1000)
    for value in values.tolist():
        median.add(value)
    assert len(median._values) < 1000
    assert median.value == pytest.approx(np.median(values), abs=0.15)  # five standard errors of 500 values


def test_one_kind_has_its_rate_and_the_boxes_by_class():
    counts = tally()
    for name in "abc":
        counts.found(record(name, 0, 1, 1))
    assert counts.summary(1.5) == "3 images in 1.5 s (2 images/s); 9 boxes: 3 ship, 6 car"
    assert tally().summary(0.1) == "0 images in 0.1 s; 0 boxes"


def test_scenes_tell_tiles_pixels_and_empty_ones():
    counts = tally(scenes=frozenset({"s"}), tiles=25, empty_tiles=4)
    counts.found(record("s", 0, hw=(1000, 2000)))
    assert (
        counts.summary(2.0)
        == "1 scene with 25 tiles (4 without data) in 2.0 s (12.5 tiles/s, 1 MPixel/s); 1 box: 1 ship"
    )
    assert counts.shrunk == 0, "tiles are not shrunk, whatever the scene's size"


def test_several_kinds_have_their_own_clocks():
    counts = tally(scenes=frozenset({"s"}), moving=frozenset({"v"}), tiles=10)
    counts.seconds.update({"image": 2.0, "scene": 4.0, "frame": 1.0})
    for name, hw in (("a", (9, 9)), ("v", (9, 9)), ("v", (9, 9)), ("s", (2000, 2000))):
        counts.found(record(name, hw=hw))
    told = counts.summary(7.0)
    assert told == (
        "1 image in 2.0 s (0.5 images/s), 2 frames in 1.0 s (2 frames/s), "
        "1 scene with 10 tiles in 4.0 s (2.5 tiles/s, 1 MPixel/s); 0 boxes"
    )
    counts.seconds.clear()  # on a cluster they are done at the same time
    assert counts.summary(7.0) == "1 image, 2 frames, 1 scene with 10 tiles in 7.0 s; 0 boxes"


def test_clocks_are_medians_of_what_was_inferred():
    counts = tally(scenes=frozenset({"s"}))
    assert counts.clocks() == ""
    for read in (1.0, 2.0, 9.0):
        counts.clocked(result(read, read + 1, read + 2, read + 3))
    counts.clocked(result(500, 500, 500, 500, error=ValueError("x")))
    assert counts.clocks() == "medians of each tile: read 2.0, preprocess 3.0, infer 4.0, postprocess 5.0 ms"


def test_large_images_that_are_shrunk_are_counted():
    counts = tally()
    for hw in ((1536, 900), (1537, 900), (900, 1600)):
        counts.found(record("a", hw=hw))
    assert counts.shrunk == 2


def verdict(done, failed, scenes=(), moving=(), before=0):
    counts = tally(scenes=frozenset(scenes), moving=frozenset(moving))
    for name in failed:
        counts.failed(failure(name))
    for name in done:
        counts.found(record(name, complete=name not in failed))
    return counts.verdict(before)


def test_what_failed_is_counted_by_what_it_is():
    rest = "could not be read, all others are written; see above, and --resume tries only what is missing"
    assert verdict(["a", "b"], []) == ""
    assert verdict(["a", "b"], ["c"]) == f"1 of 3 images {rest}"
    assert verdict(["a", "s"], ["c", "s", "s", "s"], scenes="st") == f"1 of 2 images and 3 tiles of 1 scene {rest}"
    assert verdict(["a", "s"], ["t", "t"], scenes="st") == f"1 of 2 scenes {rest}"
    assert verdict(["v", "v"], ["v"], moving="v") == (
        "a part of 1 video could not be read, all others are written; see above"
    )
    assert verdict(["a"], ["w"], moving="vw") == f"1 video {rest}"
    nothing = "could not be read, nothing was written; see above, and --resume tries only what is missing"
    assert verdict([], ["a", "b"]) == f"all 2 images {nothing}"
    assert verdict([], ["s", "s"], scenes="s") == f"the scene {nothing}"
    assert verdict([], ["a"], before=3) == f"the image {rest}", "an earlier run has written"
    assert verdict([], ["a", "b"], before=3) == f"2 images {rest}", "they are not all"
