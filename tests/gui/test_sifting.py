"""Sifting against a run at the same thresholds, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.detections import Detections
from deploy.nms import nms
from deploy.tiling import merge, plan_tiles
from gui.sifting import FLOOR_SCORE, MOST_BOXES, Candidates, Filters, class_counts, passing, score_histogram, settle


def random_boxes(seed: int, n: int, side: float = 200.0, classes: int = 3) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side, (n, 2))
    xyxy = np.hstack([corner, corner + rng.uniform(5, 60, (n, 2))])
    return Detections(xyxy, rng.uniform(FLOOR_SCORE, 1, n), rng.integers(0, classes, n))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 120), iou=st.floats(0, 1), score=st.floats(FLOOR_SCORE, 1))
def test_filters_give_what_a_run_at_these_thresholds_gives(seed: int, n: int, iou: float, score: float) -> None:
    found = random_boxes(seed, n)
    # A run first drops what is below the score, then suppresses.
    above = found.select(found.score >= np.float32(score))
    wanted = above.select(nms(above.xyxy, above.score, above.class_id, iou, MOST_BOXES))
    settled = settle(Candidates((found,), (300, 300)), iou)
    got = settled.select(passing(settled, Filters(score, iou)))
    np.testing.assert_array_equal(got.xyxy, wanted.xyxy)
    np.testing.assert_array_equal(got.score, wanted.score)


def test_tiles_are_suppressed_one_by_one_and_merged() -> None:
    tiles = plan_tiles((300, 500), (200, 200), 0.2)
    parts = [random_boxes(i, 40, 140) for i in range(len(tiles))]
    kept = [p.select(nms(p.xyxy, p.score, p.class_id, 0.5, MOST_BOXES)) for p in parts]
    wanted = merge(kept, tiles, (300, 500))
    got = settle(Candidates(tuple(parts), (300, 500), tuple(tiles)), 0.5)
    np.testing.assert_array_equal(got.xyxy, wanted.xyxy)


def test_hidden_classes_are_left_out_and_still_counted() -> None:
    found = random_boxes(3, 90)
    filters = Filters(0.4, 0.7, frozenset({1}))
    rows = passing(found, filters)
    wanted = [i for i in range(90) if found.score[i] >= np.float32(0.4) and found.class_id[i] != 1]
    assert rows.tolist() == wanted
    counts = class_counts(found, 5, 0.4)
    assert counts.tolist() == [
        sum(found.class_id[i] == c and found.score[i] >= np.float32(0.4) for i in range(90)) for c in range(5)
    ]


def test_the_histogram_holds_every_wanted_box_once() -> None:
    found = random_boxes(4, 200)
    assert score_histogram(found, frozenset()).sum() == 200
    assert score_histogram(found, frozenset({0})).sum() == (found.class_id != 0).sum()
    one = Detections(np.array([[0, 0, 1, 1]]), np.array([1.0]), np.array([0]))
    assert score_histogram(one, frozenset())[-1] == 1


@pytest.mark.parametrize("values", [{"score": 1.2}, {"iou": -0.1}])
def test_filters_refuse_what_is_no_share(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Filters(**values)
