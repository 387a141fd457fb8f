"""Box painter: thousands of boxes in one pass, in class colours, at any zoom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PyQt5.QtCore import QLineF, QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen

from deploy.detections import Detections
from deploy.palette import class_colour, text_colour

# What the boxes look like beside the truth: right, wrong, missed.
HIT, FALSE, MISSED = "hit", "false", "missed"
# Boxes further outside than the view's own size are not prepared.
_MARGIN = 1.0
_MOST_LABELS = 400
# Narrower boxes are known by their colour; their labels would hide the picture.
_LABELLED_PX = 22.0


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
        self.class_names: Sequence[str] = ()

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

    def paint(self, painter: QPainter, view: QRectF, scale: float, ratio: float = 1.0) -> None:
        """Draw the boxes that `view` (in pixels of the picture) shows; the painter is in pixels of the picture.

        scale: screen pixels per pixel of the picture. ratio: device pixels per screen pixel.
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

    def paint_labels(self, painter: QPainter, view: QRectF, scale: float, font: QFont) -> None:
        """Write class and score above boxes that are wide enough; the painter is in screen pixels of `view`."""
        boxes = self._found.xyxy
        if not len(boxes):
            return
        seen = _inside(boxes, view) & ((boxes[:, 2] - boxes[:, 0]) * scale >= _LABELLED_PX)
        rows = np.flatnonzero(seen)[:_MOST_LABELS]
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        height = metrics.height()
        widths: dict[str, float] = {}
        taken: list[QRectF] = []
        names, ids, scores = self.class_names, self._found.class_id, self._found.score
        for row in rows.tolist():
            class_id = int(ids[row])
            name = names[class_id] if class_id < len(names) else str(class_id)
            text = f"{name} {100 * float(scores[row]):.0f}"
            if text not in widths:
                widths[text] = metrics.horizontalAdvance(text) + 8
            x = (float(boxes[row, 0]) - view.x()) * scale - 1
            y = (float(boxes[row, 1]) - view.y()) * scale - height - 1
            if y < 0:
                y = (float(boxes[row, 3]) - view.y()) * scale + 1
            place = QRectF(x, y, widths[text], height)
            if any(place.intersects(other) for other in taken):
                continue
            taken.append(place)
            rgb = class_colour(class_id)
            painter.fillRect(place, QColor(*rgb))
            painter.setPen(QColor(*text_colour(rgb)))
            painter.drawText(place, Qt.AlignCenter, text)

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
        self._strokes = []
        rows = np.flatnonzero(_inside(self._found.xyxy, self._covered))
        boxes, ids = self._found.xyxy[rows], self._found.class_id[rows]
        # The best boxes come first in Detections; painted last, they lie above the others.
        boxes, ids = boxes[::-1], ids[::-1]
        hit = None if self._kind is None else self._kind[rows][::-1]
        for class_id in np.unique(ids).tolist():
            own = ids == class_id
            if hit is None:
                self._strokes.append(_Strokes(_colour(class_id), _sides(boxes[own]), None))
                continue
            for kind, which in ((HIT, own & hit), (FALSE, own & ~hit)):
                if which.any():
                    self._strokes.append(_Strokes(_colour(class_id), _sides(boxes[which]), kind))
        for class_id in np.unique(self._missed_id).tolist():
            own = self._missed_id == class_id
            self._strokes.append(_Strokes(_colour(class_id), _sides(self._missed[own]), MISSED))


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


def _inside(boxes: np.ndarray, view: QRectF) -> np.ndarray:
    low, high = (view.left(), view.top()), (view.right(), view.bottom())
    return np.asarray(((boxes[:, :2] <= high) & (boxes[:, 2:] >= low)).all(axis=1))


def _sides(boxes: np.ndarray) -> list[QLineF]:
    x1, y1, x2, y2 = (side.tolist() for side in boxes.astype(float).T)
    return [
        *map(QLineF, x1, y1, x2, y1),
        *map(QLineF, x1, y2, x2, y2),
        *map(QLineF, x1, y1, x1, y2),
        *map(QLineF, x2, y1, x2, y2),
    ]
