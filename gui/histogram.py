"""Histogram: how many boxes have which score, with the threshold as a line that can be dragged."""

from __future__ import annotations

from typing import Any

import numpy as np
from PyQt5.QtCore import QPointF, QRectF, QSize, Qt, pyqtSignal
from PyQt5.QtGui import QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from PyQt5.QtWidgets import QSizePolicy, QWidget

from .sifting import FLOOR_SCORE


class Histogram(QWidget):
    """Bars from the floor to 1. Signals: `moved` (score) while the line is dragged, `released` at the end."""

    moved = pyqtSignal(float)
    released = pyqtSignal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._counts = np.zeros(1, int)
        self._score = FLOOR_SCORE
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self.setCursor(Qt.SizeHorCursor)

    def sizeHint(self) -> QSize:
        """Return a flat strip."""
        return QSize(200, 64)

    def set_counts(self, counts: np.ndarray, score: float) -> None:
        """Take the boxes of each step from the floor to 1, and the threshold."""
        self._counts, self._score = counts, score
        self.update()

    def set_score(self, score: float) -> None:
        """Take the threshold alone."""
        self._score = score
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the bars, those below the threshold pale. Heights grow with the square root: one box is seen too."""
        painter = QPainter(self)
        area = QRectF(self.rect()).adjusted(8, 4, -8, -2)
        strong = self.palette().color(QPalette.Highlight)
        pale = self.palette().color(QPalette.Mid)
        heights = np.sqrt(self._counts / max(1, self._counts.max())) * area.height()
        width = area.width() / len(heights)
        edges = np.linspace(FLOOR_SCORE, 1.0, len(heights) + 1)
        for i, height in enumerate(heights.tolist()):
            if height:
                bar = QRectF(area.left() + i * width, area.bottom() - max(1.5, height), max(1.0, width - 1), height)
                painter.fillRect(bar, strong if edges[i + 1] > self._score + 1e-6 else pale)
        painter.setPen(QPen(pale, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        x = area.left() + (self._score - FLOOR_SCORE) / (1 - FLOOR_SCORE) * area.width()
        painter.setPen(QPen(self.palette().color(QPalette.WindowText), 1.5))
        painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Put the threshold there."""
        self.mouseMoveEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the threshold."""
        if event is not None and event.buttons() & Qt.LeftButton:
            share = (event.localPos().x() - 8) / max(1, self.width() - 16)
            self.moved.emit(min(1.0, max(FLOOR_SCORE, FLOOR_SCORE + share * (1 - FLOOR_SCORE))))

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """End a drag."""
        self.released.emit()
