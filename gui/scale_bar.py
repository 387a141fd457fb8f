"""Scale bar: a round length of the ground, or of pixels, as a line in the picture's corner."""

from __future__ import annotations

import math

from PyQt5.QtCore import QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QPainter, QPen

_WANTED_PX = 130.0


def round_length(longest: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, ... that is not above `longest`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


def bar_text(length: float, metres: bool) -> str:
    """Return what a bar of so many metres or pixels is called."""
    if not metres:
        return f"{length:g} px"
    if length >= 1000:
        return f"{length / 1000:g} km"
    return f"{length:g} m" if length >= 1 else f"{length * 100:g} cm"


def paint_scale_bar(painter: QPainter, height: float, scale: float, metres_per_px: float | None) -> None:
    """Draw the bar at the lower left of a view; the painter is in screen pixels. scale: screen per picture pixel."""
    unit = metres_per_px if metres_per_px is not None else 1.0
    length = round_length(max(_WANTED_PX / scale * unit, 1e-9))
    width = length / unit * scale
    x, y = 14.0, height - 14.0
    text = bar_text(length, metres_per_px is not None)
    metrics = painter.fontMetrics()
    box = QRectF(
        x - 6, y - 10 - metrics.height(), max(width, metrics.horizontalAdvance(text)) + 12, metrics.height() + 16
    )
    painter.setPen(Qt.NoPen)
    painter.setBrush(QColor(0, 0, 0, 130))
    painter.setRenderHint(QPainter.Antialiasing, True)
    painter.drawRoundedRect(box, 4, 4)
    painter.setPen(QPen(QColor(255, 255, 255), 2))
    painter.drawPolyline(QPointF(x, y - 6), QPointF(x, y), QPointF(x + width, y), QPointF(x + width, y - 6))
    painter.drawText(box.adjusted(6, 2, -6, 0), Qt.AlignLeft | Qt.AlignTop, text)
