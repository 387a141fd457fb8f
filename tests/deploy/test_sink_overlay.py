"""Overlay sink: a reduced image has its boxes at its own scale, and a large picture a pen that fits its boxes."""

from __future__ import annotations

import cv2
import numpy as np

from deploy.detections import Detections
from deploy.frames import Record
from deploy.palette import class_colour
from deploy.sink_overlay import OverlaySink


def drawn(tmp_path, image, size_hw, xyxy):
    boxes = Detections(np.array(xyxy, np.float32), np.full(len(xyxy), 0.5), np.zeros(len(xyxy)))
    sink = OverlaySink(tmp_path / "overlays", [""])
    sink.add(Record("a/s.tif", size_hw, boxes, image=image))
    return cv2.cvtColor(cv2.imread(str(tmp_path / "overlays/s.jpg")), cv2.COLOR_BGR2RGB).astype(int)


def coloured(picture):
    """Where a picture has about the colour of class 0; JPEG changes it a little."""
    return np.abs(picture - class_colour(0)).max(axis=-1) < 60


def test_boxes_of_a_reduced_scene_are_drawn_at_its_scale(tmp_path):
    # A scene of 4000 x 8000 pixels at a tenth of its size; widths and heights scale on their own.
    picture = drawn(tmp_path, np.zeros((400, 800, 3), np.uint8), (4000, 8000), [[1000, 500, 3000, 1500]])
    ys, xs = np.nonzero(coloured(picture))
    assert abs(ys.max() - 150) <= 3
    assert abs(xs.min() - 100) <= 3
    assert abs(xs.max() - 300) <= 3
    assert coloured(picture)[100, 98:103].any()


def test_small_boxes_on_a_large_picture_stay_open(tmp_path):
    corners = [(200 + 100 * i, 300) for i in range(5)]
    boxes = [[x, y, x + 20, y + 20] for x, y in corners]
    picture = drawn(tmp_path, np.zeros((3000, 3000, 3), np.uint8), (3000, 3000), boxes)
    for x, y in corners:
        assert picture[y + 10, x + 10].max() < 40, "the middle of a box of 20 pixels is not drawn over"
        assert coloured(picture)[y + 10, x - 3 : x + 4].any()


def test_large_boxes_on_a_large_picture_keep_the_pictures_pen(tmp_path):
    picture = drawn(tmp_path, np.zeros((3000, 3000, 3), np.uint8), (3000, 3000), [[500, 500, 1500, 1500]])
    assert coloured(picture)[1000, 490:510].sum() >= 5  # 3000 / 500 pixels wide


def test_a_record_without_an_image_is_counted(tmp_path):
    sink = OverlaySink(tmp_path / "overlays", [""])
    sink.add(Record("s.tif", (9, 9), Detections.empty()))
    assert sink.skipped == 1
