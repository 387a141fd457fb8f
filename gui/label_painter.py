"""Label painter: class and score above each box that is wide enough, none over another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PyQt5.QtCore import QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPixmap

from deploy.detections import Detections
from deploy.palette import class_colour, text_colour

from .box_painter import inside

_MOST_LABELS = 400
# Narrower boxes are known by their colour; their labels would hide the picture.
_LABELLED_PX = 22.0
# Side of the cells in which it is noted where a label lies, in screen pixels.
_CELL_PX = 4
# Labels that are kept as pictures: a hundred scores of some ten classes.
_MOST_KEPT = 2000


class LabelPainter:
    """Draws each text once and copies it afterwards: text is the dearest thing that Qt draws."""

    def __init__(self) -> None:
        self.class_names: Sequence[str] = ()
        self._kept: dict[tuple[int, int], QPixmap] = {}
        self._kept_for: tuple[str, float, tuple[str, ...]] = ("", 0.0, ())

    def paint(
        self, painter: QPainter, found: Detections, view: QRectF, scale: float, font: QFont, ratio: float = 1.0
    ) -> None:
        """Write on the boxes that `view` (in pixels of the picture) shows; the painter is in screen pixels of it.

        scale: screen pixels per pixel of the picture. ratio: device pixels per screen pixel. The best boxes come first.
        """
        boxes = found.xyxy
        if not len(boxes):
            return
        rows = np.flatnonzero(inside(boxes, view) & ((boxes[:, 2] - boxes[:, 0]) * scale >= _LABELLED_PX))
        rows = rows[:_MOST_LABELS]
        self._forget_others(font, ratio)
        places = ((boxes[rows] - (view.x(), view.y(), view.x(), view.y())) * scale).tolist()
        percent = np.rint(100 * found.score[rows]).astype(int).tolist()
        taken = np.zeros((int(view.height() * scale) // _CELL_PX + 2, int(view.width() * scale) // _CELL_PX + 2), bool)
        for (x1, y1, _, y2), class_id, score in zip(places, found.class_id[rows].tolist(), percent, strict=True):
            label = self._kept.get((class_id, score)) or self._draw(class_id, score, font, ratio)
            width, height = label.width() / ratio, label.height() / ratio
            x, y = round(x1 - 1), round(y1 - height - 1)
            if y < 0:
                y = round(y2 + 1)
            left, top = max(0, x // _CELL_PX), max(0, y // _CELL_PX)
            cells = taken[top : int(y + height) // _CELL_PX + 1, left : max(0, int(x + width) // _CELL_PX + 1)]
            if cells.any():
                continue
            cells[:] = True
            painter.drawPixmap(QPointF(x, y), label)

    def _forget_others(self, font: QFont, ratio: float) -> None:
        now = (font.key(), ratio, tuple(self.class_names))
        if now != self._kept_for or len(self._kept) > _MOST_KEPT:
            self._kept.clear()
            self._kept_for = now

    def _draw(self, class_id: int, score: int, font: QFont, ratio: float) -> QPixmap:
        name = self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)
        text = f"{name} {score}"
        metrics = QFontMetricsF(font)
        width, height = metrics.horizontalAdvance(text) + 8, metrics.height()
        label = QPixmap(max(1, round(width * ratio)), max(1, round(height * ratio)))
        label.setDevicePixelRatio(ratio)
        rgb = class_colour(class_id)
        label.fill(QColor(*rgb))
        painter = QPainter(label)
        painter.setFont(font)
        painter.setPen(QColor(*text_colour(rgb)))
        painter.drawText(QRectF(0, 0, width, height), Qt.AlignCenter, text)
        painter.end()
        self._kept[class_id, score] = label
        return label
