"""Detections: validation, and the operations on rows."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.detections import Detections


def three() -> Detections:
    xyxy = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(xyxy, np.array([0.9, 0.5, 0.1]), np.array([2, 0, 1]))


def test_dtypes_are_converted():
    found = three()
    assert (found.xyxy.dtype, found.score.dtype, found.class_id.dtype) == (np.float32, np.float32, np.int32)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("xyxy", "score", "class_id", "message"),
    [
        (np.zeros(4), np.zeros(1), np.zeros(1), r"xyxy must have shape \(n, 4\), got \(4,\)"),
        (np.zeros((2, 5)), np.zeros(2), np.zeros(2), r"xyxy must have shape \(n, 4\), got \(2, 5\)"),
        (np.zeros((2, 4)), np.zeros(3), np.zeros(2), r"score must have shape \(2,\).*got \(3,\)"),
        (np.zeros((2, 4)), np.zeros(2), np.zeros((2, 1)), r"class_id must have shape \(2,\).*got \(2, 1\)"),
    ],
)
def test_wrong_shapes_are_named(xyxy, score, class_id, message):
    with pytest.raises(ValueError, match=message):
        Detections(xyxy, score, class_id)


def test_frozen():
    with pytest.raises(AttributeError):
        three().score = np.zeros(3)  # type: ignore[misc]


def test_empty():
    found = Detections.empty()
    assert (found.xyxy.shape, found.score.shape, found.class_id.shape) == ((0, 4), (0,), (0,))
    assert len(found.shift(3, 4)) == len(Detections.concat([])) == len(Detections.concat([found, found])) == 0


@pytest.mark.parametrize("index", [np.array([True, False, True]), np.array([0, 2]), slice(0, 3, 2)])
def test_select(index):
    found = three().select(index)
    np.testing.assert_array_equal(found.xyxy, [[0, 1, 2, 3], [8, 9, 10, 11]])
    np.testing.assert_array_equal(found.class_id, [2, 1])


def test_shift_moves_corners_and_leaves_the_original():
    found = three()
    np.testing.assert_array_equal(found.shift(10, -1).xyxy[0], [10, 0, 12, 2])
    np.testing.assert_array_equal(found.xyxy[0], [0, 1, 2, 3])


def test_concat_keeps_order():
    both = Detections.concat([three(), Detections.empty(), three().shift(100, 0)])
    assert len(both) == 6
    np.testing.assert_array_equal(both.class_id, [2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(both.xyxy[3], [100, 1, 102, 3])
