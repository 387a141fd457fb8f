"""What is drawn of boxes and labels, against pictures made pixel by pixel and against plain loops."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PyQt5.QtCore import QLineF, QRectF
from PyQt5.QtGui import QColor, QFont, QImage, QPainter

from deploy.detections import Detections
from deploy.palette import class_colour
from gui.box_painter import BoxPainter
from gui.label_painter import LabelPainter
from gui.line_pool import LinePool
from gui.picture_layer import PictureLayer
from gui.scale_bar import bar_text, paint_scale_bar, round_length

WIDTH, HEIGHT = 400, 300
VIEW = QRectF(0, 0, WIDTH, HEIGHT)


@pytest.fixture
def canvas(qapp: Any) -> QImage:
    image = QImage(WIDTH, HEIGHT, QImage.Format_RGB32)
    image.fill(QColor(90, 90, 90))
    return image


def pixels(image: QImage) -> np.ndarray:
    """Return (h, w, 3) uint8 RGB."""
    rgb = image.convertToFormat(QImage.Format_RGB888)  # held: its memory is what is looked at
    bits = rgb.bits()
    bits.setsize(image.height() * image.width() * 3)  # 400 and 300 need no padding
    return np.frombuffer(bits, np.uint8).reshape(image.height(), image.width(), 3).copy()


def test_a_pool_lends_the_same_lines_with_new_ends() -> None:
    pool = LinePool()
    rng = np.random.default_rng(0)
    for n in (0, 3, 5000, 2048, 2049, 1):
        ends = rng.uniform(-1e4, 1e4, (n, 4))
        lines = pool.fill(ends)
        assert [(line.x1(), line.y1(), line.x2(), line.y2()) for line in lines] == [tuple(row) for row in ends.tolist()]
    first = pool.fill(np.zeros((1, 4)))[0]
    before = len([o for o in gc.get_objects() if isinstance(o, QLineF)])
    pool.fill(rng.uniform(0, 1, (4000, 4)))
    assert len([o for o in gc.get_objects() if isinstance(o, QLineF)]) == before
    assert pool.fill(np.ones((1, 4)))[0] is first


def test_each_side_of_each_box_has_its_colour(canvas: QImage) -> None:
    boxes = np.array([[20, 30, 120, 90], [150, 40, 260, 200], [30, 150, 100, 260], [500, 500, 600, 600]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([2, 0, 2, 1]))
    painter = BoxPainter()
    painter.set_boxes(found)
    with_boxes = QPainter(canvas)
    painter.paint(with_boxes, VIEW)
    with_boxes.end()
    seen = pixels(canvas)
    for (x1, y1, x2, y2), class_id in zip(boxes[:3].astype(int).tolist(), (2, 0, 2), strict=True):
        middle = ((x1 + x2) // 2, (y1 + y2) // 2)
        for x, y in ((x1, middle[1]), (x2, middle[1]), (middle[0], y1), (middle[0], y2)):
            around = seen[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
            assert class_colour(class_id) in {tuple(rgb) for rgb in around.tolist()}
        assert tuple(seen[middle[1], middle[0]]) == (90, 90, 90)


def test_right_and_wrong_and_missed_are_told_apart(canvas: QImage) -> None:
    boxes = np.array([[20, 20, 120, 120], [160, 20, 260, 120]], np.float32)
    painter = BoxPainter()
    missed = (np.array([[20, 160, 120, 260]], np.float32), np.array([3], np.int32))
    painter.set_boxes(
        Detections(boxes, np.array([0.9, 0.8]), np.array([1, 1])), hit=np.array([True, False]), missed=missed
    )
    with_boxes = QPainter(canvas)
    painter.paint(with_boxes, VIEW)
    with_boxes.end()
    seen = pixels(canvas)

    def share(y: int, x: int, colour: tuple[int, int, int]) -> float:
        """How much of a box's upper side has the colour."""
        rows = (seen[y - 2 : y + 2, x + 4 : x + 96] == colour).all(axis=2)
        return float(rows.any(axis=0).mean())

    assert share(20, 20, class_colour(1)) == 1.0
    assert 0.4 < share(20, 160, class_colour(1)) < 0.8  # dashed
    assert 0.2 < share(160, 20, (255, 255, 255)) < 0.5  # dotted


def test_no_label_lies_over_another_and_the_best_come_first(canvas: QImage) -> None:
    rng = np.random.default_rng(1)
    at = rng.uniform(0, 250, (60, 2))
    found = Detections(np.hstack([at, at + 40]), np.sort(rng.uniform(0.3, 1, 60))[::-1].copy(), np.full(60, 1))
    painter = LabelPainter()
    painter.class_names = ["a", "ship"]
    drawn: list[QRectF] = []

    class Note(QPainter):
        def drawPixmap(self, place: Any, pixmap: Any) -> None:  # type: ignore[override]
            drawn.append(QRectF(place.x(), place.y(), pixmap.width(), pixmap.height()))
            super().drawPixmap(place, pixmap)

    with_labels = Note(canvas)
    painter.paint(with_labels, found, VIEW, 1.0, QFont())
    with_labels.end()
    assert 10 < len(drawn) < 60
    assert not any(one.intersects(other) for i, one in enumerate(drawn) for other in drawn[:i])
    assert (abs(drawn[0].x() - found.xyxy[0, 0])) < 3
    assert class_colour(1) in {tuple(rgb) for rgb in pixels(canvas).reshape(-1, 3).tolist()}


def test_narrow_boxes_have_no_label_and_renamed_classes_are_drawn_anew(canvas: QImage) -> None:
    found = Detections(np.array([[10, 50, 25, 70], [100, 50, 180, 90]]), np.array([0.9, 0.8]), np.array([0, 0]))
    painter = LabelPainter()
    shown = []
    for names in (["ship"], ["boat of another kind"]):
        painter.class_names = names
        picture = canvas.copy()
        with_labels = QPainter(picture)
        painter.paint(with_labels, found, VIEW, 1.0, QFont())
        with_labels.end()
        shown.append((pixels(picture) != 90).any(axis=2))
    assert not shown[0][:, :90].any()
    assert shown[1].sum() > shown[0].sum() > 0


class HalfRead:
    """A scene of 1000 x 600 whose tiles are white, every second one not read yet, above a red overview."""

    size_hw = (600, 1000)
    overview = np.full((150, 250, 4), (0, 0, 255, 255), np.uint8)

    def level_for(self, scale: float) -> int:
        return 0

    def visible(self, level: int, x1: float, y1: float, x2: float, y2: float) -> list[tuple[int, int]]:
        return [(x, y) for y in range(0, 600, 100) for x in range(0, 1000, 100)]

    def missing(self, keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [key for key in keys if self.tile(key) is None]

    def bounds(self, key: tuple[int, int]) -> tuple[int, int, int, int]:
        return (*key, 100, 100)

    def tile(self, key: tuple[int, int]) -> np.ndarray | None:
        return None if (key[0] // 100 + key[1] // 100) % 2 else np.full((100, 100, 4), 255, np.uint8)


@pytest.mark.parametrize("zoom", [0.4, 0.37, 0.41])
def test_a_scene_shows_its_tiles_and_the_overview_between_them_without_a_gap(canvas: QImage, zoom: float) -> None:
    layer = PictureLayer()
    layer.set_pyramid(HalfRead())  # type: ignore[arg-type]
    painter = QPainter(canvas)
    painter.scale(zoom, zoom)
    view = QRectF(0, 0, WIDTH / zoom, HEIGHT / zoom)
    layer.paint(painter, view, zoom)
    painter.end()
    assert len(layer.wanted) == 30
    shown = pixels(canvas)[: int(600 * zoom) - 1, : int(1000 * zoom) - 1]
    assert not (shown == 90).all(2).any()  # nothing of the canvas is left
    for x in range(50, 1000, 100):
        for y in range(50, 600, 100):
            if y * zoom < HEIGHT and x * zoom < WIDTH:
                wanted = (255, 0, 0) if (x // 100 + y // 100) % 2 else (255, 255, 255)
                assert tuple(shown[int(y * zoom), int(x * zoom)]) == wanted


@pytest.mark.parametrize("zoom", [0.31, 0.7, 1.0, 1.7])
def test_a_frame_of_a_video_is_drawn_like_a_still_picture(canvas: QImage, zoom: float) -> None:
    """It is shrunk by another library, which may differ by a little at edges and nowhere else."""
    ys, xs = np.mgrid[:400, :500]
    waves = (127 + 120 * np.sin(np.stack([xs / 9, ys / 7, (xs + ys) / 13, xs * 0], -1))).astype(np.uint8)
    shown = []
    for moving in (False, True):
        layer = PictureLayer()
        layer.set_levels((400, 500), [waves], moving=moving)
        canvas.fill(QColor(90, 90, 90))
        painter = QPainter(canvas)
        painter.scale(zoom, zoom)
        layer.paint(painter, QRectF(11.3, 7.7, WIDTH / zoom, HEIGHT / zoom), zoom)
        painter.end()
        shown.append(pixels(canvas).astype(int))
    apart = np.abs(shown[0] - shown[1])
    assert apart.mean() < 1.0
    assert np.percentile(apart, 99) <= 8


@given(st.floats(1e-3, 1e7))
def test_the_scale_bar_is_the_longest_round_length(longest: float) -> None:
    length = round_length(longest)
    assert length <= longest * (1 + 1e-9)
    digits = f"{length:.0e}"
    assert digits[0] in "125"
    following = {"1": 2.0, "2": 2.5, "5": 2.0}[digits[0]]
    assert length * following > longest  # the next one does not fit


@pytest.mark.parametrize(
    ("scale", "metres_per_px", "wanted"),
    [(1.0, None, "100 px"), (1.0, 0.5, "50 m"), (0.01, 0.5, "5 km"), (32.0, 0.05, "20 cm"), (0.4, 0.3, "50 m")],
)
def test_the_scale_bar_is_as_long_as_it_says(
    canvas: QImage, scale: float, metres_per_px: float | None, wanted: str
) -> None:
    length = round_length(130 / scale * (metres_per_px or 1.0))
    assert bar_text(length, metres_per_px is not None) == wanted
    canvas.fill(QColor(0, 0, 0))
    painter = QPainter(canvas)
    paint_scale_bar(painter, HEIGHT, scale, metres_per_px)
    painter.end()
    row = (pixels(canvas)[HEIGHT - 14] > 200).all(1)
    drawn = np.flatnonzero(row)
    assert abs((drawn[-1] - drawn[0]) - length / (metres_per_px or 1.0) * scale) <= 3
