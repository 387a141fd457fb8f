"""Minimap: the whole picture in a corner, with a frame around what the view shows."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QPointF, QRectF, QSize, Qt, pyqtSignal
from PyQt5.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PyQt5.QtWidgets import QWidget

SIDE_PX = 150


class Minimap(QWidget):
    """Shows a thumbnail and a frame. Signal: `moved` (x, y), fractions of the picture that the user points at."""

    moved = pyqtSignal(float, float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setCursor(Qt.PointingHandCursor)
        self._image = QImage()
        self._frame = QRectF(0, 0, 1, 1)

    def set_image(self, image: QImage) -> None:
        """Take the thumbnail; the widget becomes as large."""
        self._image = image
        self.resize((image.size() + QSize(4, 4)) if not image.isNull() else QSize(0, 0))
        self.update()

    def set_frame(self, frame: QRectF) -> None:
        """Take what the view shows, in fractions of the picture."""
        if frame != self._frame:
            self._frame = frame
            self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the thumbnail, darkened outside of the frame."""
        if self._image.isNull():
            return
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(0, 0, 0, 170))
        inside = QRectF(self.rect()).adjusted(2, 2, -2, -2)
        painter.drawImage(inside, self._image)
        frame = QRectF(
            inside.x() + self._frame.x() * inside.width(),
            inside.y() + self._frame.y() * inside.height(),
            max(3.0, self._frame.width() * inside.width()),
            max(3.0, self._frame.height() * inside.height()),
        ).intersected(inside)
        painter.setPen(QPen(QColor(0, 0, 0, 200), 3))
        painter.drawRect(frame)
        painter.setPen(QPen(QColor(255, 255, 255), 1))
        painter.drawRect(frame)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Move the view there."""
        self._point(event)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the view along."""
        self._point(event)

    def _point(self, event: QMouseEvent | None) -> None:
        if event is None or not event.buttons() & Qt.LeftButton or self._image.isNull():
            return
        at = QPointF(event.pos())
        self.moved.emit((at.x() - 2) / self._image.width(), (at.y() - 2) / self._image.height())
        event.accept()
