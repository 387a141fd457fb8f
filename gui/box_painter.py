"""Box painter: thousands of boxes in one pass, in class colours, at any zoom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PyQt5.QtCore import QLineF, QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QPainter, QPen

from deploy.detections import Detections
from deploy.palette import class_colour

from .line_pool import LinePool

# What the boxes look like beside the truth: right, wrong, missed.
HIT, FALSE, MISSED = "hit", "false", "missed"
# Boxes further outside than the view's own size are not prepared.
_MARGIN = 1.0


@dataclass(eq=False)
class _Strokes:
    """The sides of all boxes of one class and kind, in pixels of the picture."""

    colour: QColor
    lines: list[QLineF]
    kind: str | None


class BoxPainter:
    """Prepares boxes once and draws them often: panning and zooming prepare nothing anew.

    Boxes are in pixels of the picture; pens keep their width on the screen.
    """

    def __init__(self) -> None:
        self._found = Detections.empty()
        self._kind: np.ndarray | None = None
        self._missed = np.empty((0, 4), np.float32)
        self._missed_id = np.empty(0, np.int32)
        self._strokes: list[_Strokes] = []
        self._covered: QRectF | None = None
        self._pool = LinePool()

    @property
    def found(self) -> Detections:
        """What is drawn."""
        return self._found

    def set_boxes(
        self,
        found: Detections,
        *,
        hit: np.ndarray | None = None,
        missed: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Take what is to be drawn. hit: (n,) bool, where there is truth to compare with; missed: boxes and classes."""
        self._found, self._kind = found, hit
        self._missed, self._missed_id = missed or (np.empty((0, 4), np.float32), np.empty(0, np.int32))
        self._covered = None

    def paint(self, painter: QPainter, view: QRectF, ratio: float = 1.0) -> None:
        """Draw the boxes that `view` (in pixels of the picture) shows; the painter is in pixels of the picture.

        ratio: device pixels per screen pixel.
        """
        self._prepare(view)
        painter.setRenderHint(QPainter.Antialiasing, False)
        halo = QPen(QColor(0, 0, 0, 150), 4.0 * ratio)
        halo.setCosmetic(True)
        halo.setCapStyle(Qt.FlatCap)
        painter.setPen(halo)
        for strokes in self._strokes:
            if strokes.kind != MISSED:
                painter.drawLines(strokes.lines)
        for strokes in self._strokes:
            painter.setPen(_pen(strokes.colour, strokes.kind, ratio))
            painter.drawLines(strokes.lines)

    def paint_selected(self, painter: QPainter, box: np.ndarray, class_id: int, ratio: float = 1.0) -> None:
        """Draw the selected box above all others: white, with its class colour inside. box: (4,)."""
        x1, y1, x2, y2 = box.tolist()
        rectangle = QRectF(QPointF(x1, y1), QPointF(x2, y2))
        for colour, width in ((QColor(0, 0, 0, 190), 8.0), (QColor(255, 255, 255), 5.0), (_colour(class_id), 2.0)):
            pen = QPen(colour, width * ratio)
            pen.setCosmetic(True)
            pen.setJoinStyle(Qt.MiterJoin)
            painter.setPen(pen)
            painter.drawRect(rectangle)

    def _prepare(self, view: QRectF) -> None:
        """Make the lines of what lies in and around the view, unless the last ones still cover it."""
        if self._covered is not None and self._covered.contains(view):
            return
        dx, dy = view.width() * _MARGIN, view.height() * _MARGIN
        self._covered = view.adjusted(-dx, -dy, dx, dy)
        rows = np.flatnonzero(inside(self._found.xyxy, self._covered))
        # The best boxes come first in Detections; painted last, they lie above the others.
        rows = rows[::-1]
        groups = 2 * self._found.class_id[rows]
        if self._kind is not None:
            groups += ~self._kind[rows]
        order = np.argsort(groups, kind="stable")
        groups, boxes = groups[order], self._found.xyxy[rows[order]]
        missed = np.argsort(self._missed_id, kind="stable")
        boxes = np.concatenate([boxes, self._missed[missed]])
        groups = np.concatenate([groups, -1 - self._missed_id[missed]])  # below 0, so that no class is another's
        starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist()] if len(groups) else []
        lines = self._pool.fill(_sides(boxes))
        self._strokes = []
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=False):
            group = int(groups[start])
            class_id = group // 2 if group >= 0 else -1 - group
            kind = MISSED if group < 0 else None if self._kind is None else (HIT, FALSE)[group % 2]
            self._strokes.append(_Strokes(_colour(class_id), lines[4 * start : 4 * end], kind))


def _pen(colour: QColor, kind: str | None, ratio: float) -> QPen:
    """Return how a box is drawn: solid for what is right (or unknown), dashed for wrong, white dots for missed."""
    if kind == MISSED:
        pen = QPen(QColor(255, 255, 255), 2.0 * ratio)
        pen.setDashPattern([1.0, 2.0])
    else:
        pen = QPen(colour, 2.0 * ratio)
        if kind == FALSE:
            pen.setDashPattern([4.0, 3.0])
    pen.setCosmetic(True)
    pen.setCapStyle(Qt.FlatCap)
    return pen


def _colour(class_id: int) -> QColor:
    return QColor(*class_colour(class_id))


def inside(boxes: np.ndarray, view: QRectF) -> np.ndarray:
    """Return which boxes (n, 4) touch a part of the picture, (n,) bool."""
    low, high = (view.left(), view.top()), (view.right(), view.bottom())
    return np.asarray(((boxes[:, :2] <= high) & (boxes[:, 2:] >= low)).all(axis=1))


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Return the four sides of each box (n, 4) as lines, (4 n, 4), box by box."""
    corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3, 0, 1, 0, 3, 2, 1, 2, 3]]  # above, below, left, right
    return np.asarray(corners.reshape(-1, 4))
