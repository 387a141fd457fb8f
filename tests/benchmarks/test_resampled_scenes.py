"""Resampled figures against the kept library, scene by scene and with scenes repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.resampled_scenes import average_precision, match
from benchmarks.tiled_accuracy import interval, mosaic
from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import score_detections

NAMES = ["a", "b", "c", "never there"]


def drawn(seed, scenes=6, noise_px=2.0):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(scenes):
        n = int(rng.integers(3, 12))
        corner = rng.uniform(0, 150, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 50, (n, 2))], axis=1).astype(np.float32)
        ids = rng.integers(0, 3, n).astype(np.int32)
        truth.append(AnnotatedImage(Path(f"{number}.png"), (200, 200), boxes, ids, np.zeros(n, bool)))
        seen = rng.random(n) < 0.8
        stray = np.sort(rng.uniform(0, 200, (4, 2, 2)), axis=1).reshape(4, 4)
        moved = np.concatenate(
            [boxes[seen] + rng.normal(0, noise_px, (int(seen.sum()), 4)), stray + np.array([0, 0, 1, 1])]
        )
        kinds = np.concatenate([ids[seen], rng.integers(0, 3, 4)]).astype(np.int32)
        found.append(Detections(moved.astype(np.float32), rng.random(len(kinds)).astype(np.float32), kinds))
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_each_scene_once_is_the_librarys_figure(seed):
    truth, found = drawn(seed)
    wanted = score_detections(truth, found, NAMES, max_detections=50)
    map50, map50_95 = average_precision(match(truth, found, len(NAMES), 50), np.ones(len(truth), int))
    assert map50 == pytest.approx(wanted.map50, abs=1e-9)
    assert map50_95 == pytest.approx(wanted.map50_95, abs=1e-9)


def test_repeated_scenes_are_the_librarys_figure_of_a_list_that_repeats_them():
    truth, found = drawn(7)
    draw = np.array([2, 0, 1, 3, 0, 1])
    rows = np.repeat(np.arange(6), draw)
    wanted = score_detections([truth[i] for i in rows], [found[i] for i in rows], NAMES, max_detections=5)
    map50, map50_95 = average_precision(match(truth, found, len(NAMES), 5), draw)
    assert map50 == pytest.approx(wanted.map50, abs=1e-9)
    assert map50_95 == pytest.approx(wanted.map50_95, abs=1e-9)


def test_nothing_at_all():
    truth, _ = drawn(1, scenes=2)
    assert average_precision(match(truth, [Detections.empty()] * 2, 4, 5), np.ones(2, int)) == (0.0, 0.0)
    assert average_precision(match(truth, [Detections.empty()] * 2, 4, 5), np.zeros(2, int)) == (0.0, 0.0)


def test_what_it_does_not_know_is_refused():
    truth, found = drawn(2, scenes=2)
    with pytest.raises(ValueError, match="one per scene, got 1 for 2"):
        match(truth, found[:1], 4, 5)
    hard = AnnotatedImage(truth[0].path, (200, 200), truth[0].xyxy, truth[0].class_id, truth[0].class_id == 0)
    with pytest.raises(ValueError, match="difficult"):
        match([hard, truth[1]], found, 4, 5)


def test_the_interval_of_a_difference():
    """The same detections differ by nothing; worse ones lie below zero with all of the interval."""
    truth, found = drawn(3, scenes=12, noise_px=1.0)
    same = interval(truth, found, found, len(NAMES))
    assert same == {"map50": [0.0, 0.0], "map50_95": [0.0, 0.0]}
    worse = [Detections(one.xyxy + np.float32(6), one.score, one.class_id) for one in found]
    low, high = interval(truth, found, worse, len(NAMES))["map50_95"]
    assert low < high < 0


def test_a_mosaic_keeps_every_box():
    image, boxes, classes = mosaic([1, 2, 3, 4], 256)
    assert image.shape == (512, 512, 3)
    assert len(boxes) == len(classes) > 0
    assert boxes[:, 2:].max() > 256
