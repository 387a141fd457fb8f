"""Icons: the few signs of the player, drawn in the colour of the text, so that they show in every theme."""

from __future__ import annotations

from PyQt5.QtCore import QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QIcon, QPainter, QPixmap, QPolygonF

_SIDE = 64  # drawn large, shown small: sharp on every screen


def player_icon(sign: str, colour: QColor) -> QIcon:
    """Return a sign: "play", "pause" or "step". Raises ValueError for another."""
    pixmap = QPixmap(_SIDE, _SIDE)
    pixmap.fill(Qt.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.Antialiasing)
    painter.setPen(Qt.NoPen)
    painter.setBrush(colour)
    if sign == "play":
        painter.drawPolygon(QPolygonF([QPointF(16, 10), QPointF(54, 32), QPointF(16, 54)]))
    elif sign == "pause":
        painter.drawRect(QRectF(15, 10, 12, 44))
        painter.drawRect(QRectF(37, 10, 12, 44))
    elif sign == "step":
        painter.drawRect(QRectF(12, 10, 9, 44))
        painter.drawPolygon(QPolygonF([QPointF(28, 10), QPointF(56, 32), QPointF(28, 54)]))
    else:
        painter.end()
        raise ValueError(f"sign must be play, pause or step, got {sign!r}")
    painter.end()
    return QIcon(pixmap)
