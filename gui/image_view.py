"""Image view: the picture with its boxes; pan and zoom by mouse, wheel, touch and keys."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PyQt5.QtCore import QEvent, QPointF, QRectF, QSize, Qt, pyqtSignal
from PyQt5.QtGui import QColor, QFont, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QResizeEvent, QWheelEvent
from PyQt5.QtWidgets import QPinchGesture, QSizePolicy, QWidget

from .box_painter import BoxPainter
from .label_painter import LabelPainter
from .minimap import SIDE_PX, Minimap
from .picture_layer import PictureLayer
from .scale_bar import paint_scale_bar

BACKGROUND = QColor(28, 30, 33)
MOST_SCALE = 32.0
_CLICK_PX = 4
_KEY_STEP = 0.15  # of the view's side that an arrow key moves it
_WHEEL_STEP = 1.2  # zoom of one notch


class ImageView(QWidget):
    """Shows what it is given and keeps only where it looks: a centre in pixels of the picture, and a scale.

    Signals: `hovered` (x, y in pixels of the picture; NaN outside), `clicked` (x, y, pixels of slack), `view_changed`
    (centre x, y as fractions of the picture, scale against fitting), `tiles_wanted`, `painted` (milliseconds).
    """

    hovered = pyqtSignal(float, float)
    clicked = pyqtSignal(float, float, float)
    view_changed = pyqtSignal(float, float, float)
    tiles_wanted = pyqtSignal(object)
    painted = pyqtSignal(float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WA_OpaquePaintEvent)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.StrongFocus)
        self.setMinimumSize(160, 120)
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Expanding)
        self.grabGesture(Qt.PinchGesture)
        self.layer, self.boxes, self.labels = PictureLayer(), BoxPainter(), LabelPainter()
        self.minimap = Minimap(self)
        self.minimap.moved.connect(self._jump)
        self.minimap.hide()
        self.show_labels, self.show_boxes = True, True
        self.hint = ""
        self.metres_per_px: float | None = None
        self._selected: tuple[np.ndarray, int] | None = None
        self._centre, self._scale, self._fitted = QPointF(0, 0), 1.0, True
        self._pressed: QPointF | None = None
        self._dragging = False
        self._thumbnail_of = -1

    # What is shown.

    def refresh_picture(self, *, keep_view: bool) -> None:
        """Take note that `layer` shows something else. keep_view: another frame of the same video."""
        if not keep_view:
            self._fitted = True
        if self._fitted:
            self._fit()
        self._update_minimap(anew=True)
        self.update()

    def select(self, box: np.ndarray | None, class_id: int = 0, *, centre: bool = False) -> None:
        """Mark one box, (4,) in pixels of the picture, or none. centre: bring it to the middle where it is not seen."""
        self._selected = None if box is None else (box, class_id)
        if box is not None and centre:
            x1, y1, x2, y2 = box.tolist()
            # A box smaller than a finger is brought closer.
            wanted = min(MOST_SCALE, 0.25 * min(self.width(), self.height()) / max(x2 - x1, y2 - y1, 1))
            self._look(QPointF((x1 + x2) / 2, (y1 + y2) / 2), max(self._scale, min(wanted, 4.0)))
        self.update()

    # Where it looks.

    @property
    def scale(self) -> float:
        """Screen pixels per pixel of the picture."""
        return self._scale

    @property
    def view_rect(self) -> QRectF:
        """What is seen, in pixels of the picture."""
        w, h = self.width() / self._scale, self.height() / self._scale
        return QRectF(self._centre.x() - w / 2, self._centre.y() - h / 2, w, h)

    def to_picture(self, at: QPointF) -> QPointF:
        """Return the place in the picture, in its pixels, that a place of the widget shows."""
        view = self.view_rect
        return QPointF(view.x() + at.x() / self._scale, view.y() + at.y() / self._scale)

    def to_screen(self, at: QPointF) -> QPointF:
        """Return where a place of the picture is seen."""
        view = self.view_rect
        return QPointF((at.x() - view.x()) * self._scale, (at.y() - view.y()) * self._scale)

    def fit(self) -> None:
        """Show the whole picture."""
        self._fitted = True
        self._fit()
        self._changed()

    def zoom_to(self, scale: float) -> None:
        """Zoom around the middle. scale: screen pixels per pixel of the picture."""
        self._look(self._centre, scale)

    def zoom_by(self, factor: float, around: QPointF | None = None) -> None:
        """Zoom so that the place under `around` (of the widget; None: its middle) stays where it is."""
        at = around if around is not None else QPointF(self.width() / 2, self.height() / 2)
        place = self.to_picture(at)
        scale = min(max(self._scale * factor, self._least()), MOST_SCALE)
        shift = QPointF(at.x() - self.width() / 2, at.y() - self.height() / 2) / scale
        self._look(place - shift, scale)

    def pan_by(self, dx: float, dy: float) -> None:
        """Move the picture by so many screen pixels."""
        self._look(self._centre - QPointF(dx, dy) / self._scale, self._scale)

    def follow(self, x: float, y: float, zoom: float) -> None:
        """Look where another view looks; see `view_changed`. Emits nothing."""
        height, width = self.layer.size_hw
        self._fitted = abs(zoom - 1) < 1e-6
        self._scale = zoom * self._fit_scale()
        self._centre = QPointF(x * width, y * height)
        self._update_minimap()
        self.update()

    def _look(self, centre: QPointF, scale: float) -> None:
        height, width = self.layer.size_hw
        self._scale = min(max(scale, self._least()), MOST_SCALE)
        self._fitted = False
        # The picture's edge never passes the middle of the view.
        self._centre = QPointF(min(max(centre.x(), 0), width), min(max(centre.y(), 0), height))
        self._changed()

    def _changed(self) -> None:
        height, width = self.layer.size_hw
        self._update_minimap()
        self.update()
        if width and height:
            zoom = self._scale / self._fit_scale()
            self.view_changed.emit(self._centre.x() / width, self._centre.y() / height, zoom)

    def _fit(self) -> None:
        height, width = self.layer.size_hw
        self._scale, self._centre = self._fit_scale(), QPointF(width / 2, height / 2)

    def _fit_scale(self) -> float:
        height, width = self.layer.size_hw
        if not width or not height or not self.width() or not self.height():
            return 1.0
        return min(self.width() / width, self.height() / height, 8.0)

    def _least(self) -> float:
        return min(1.0, self._fit_scale() / 2)

    def _jump(self, x: float, y: float) -> None:
        height, width = self.layer.size_hw
        self._look(QPointF(x * width, y * height), self._scale)

    def _update_minimap(self, *, anew: bool = False) -> None:
        height, width = self.layer.size_hw
        pyramid = self.layer.pyramid
        needed = bool(width and height) and self._scale > self._fit_scale() * 1.05
        if needed and (anew or not self.minimap.isVisible() or (pyramid and pyramid.version != self._thumbnail_of)):
            self._thumbnail_of = pyramid.version if pyramid else -1
            self.minimap.set_image(self.layer.thumbnail(SIDE_PX))
            self.minimap.move(self.width() - self.minimap.width() - 10, 10)
        self.minimap.setVisible(needed)
        if needed:
            view = self.view_rect
            frame = QRectF(view.x() / width, view.y() / height, view.width() / width, view.height() / height)
            self.minimap.set_frame(frame)

    # Events.

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw picture, boxes, labels and scale bar."""
        begin = time.perf_counter()
        painter = QPainter(self)
        painter.fillRect(self.rect(), BACKGROUND)
        height, width = self.layer.size_hw
        if not width or not height:
            painter.setPen(QColor(150, 155, 160))
            painter.drawText(self.rect().adjusted(20, 20, -20, -20), Qt.AlignCenter | Qt.TextWordWrap, self.hint)
            return
        ratio = self.devicePixelRatioF()
        view = self.view_rect
        painter.save()
        painter.scale(self._scale, self._scale)
        self.layer.paint(painter, view, self._scale * ratio)
        if self.show_boxes:
            painter.translate(-view.x(), -view.y())
            self.boxes.paint(painter, view, ratio)
            if self._selected is not None:
                self.boxes.paint_selected(painter, *self._selected, ratio)
        painter.restore()
        if self.show_boxes and self.show_labels:
            font = QFont(self.font())
            font.setPointSizeF(max(7.0, self.font().pointSizeF() - 1))
            self.labels.paint(painter, self.boxes.found, view, self._scale, font, ratio)
        painter.setFont(self.font())
        paint_scale_bar(painter, self.height(), self._scale, self.metres_per_px)
        painter.end()
        if self.layer.wanted:
            self.tiles_wanted.emit(self.layer.wanted)
        self.painted.emit((time.perf_counter() - begin) * 1e3)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Keep the whole picture in view where it was; else keep the middle, and fill a view that became larger."""
        if self._fitted or (event is not None and event.oldSize().isValid() and self._outgrown(event.oldSize())):
            self._fitted = True
            self._fit()
        self.minimap.move(self.width() - self.minimap.width() - 10, 10)
        self._update_minimap()

    def _outgrown(self, before: QSize) -> bool:
        """Whether the picture filled the view before and no longer does."""
        height, width = self.layer.size_hw
        if not width or not height:
            return False
        filled = min(before.width() / width, before.height() / height) <= self._scale
        return filled and self._scale < self._fit_scale()

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Zoom around the cursor; touchpads that scroll in pixels zoom as smoothly."""
        if event is not None and self.layer.size_hw[0]:
            notches = event.angleDelta().y() / 120
            self.zoom_by(_WHEEL_STEP**notches, event.position())
            event.accept()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Begin a click or a drag."""
        if event is not None and event.button() in (Qt.LeftButton, Qt.MiddleButton):
            self._pressed, self._dragging = event.localPos(), False

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the picture along, or tell what lies under the cursor."""
        if event is None:
            return
        at = event.localPos()
        if self._pressed is not None:
            moved = at - self._pressed
            if self._dragging or moved.manhattanLength() >= _CLICK_PX:
                self._dragging = True
                self.setCursor(Qt.ClosedHandCursor)
                self._pressed = at
                self.pan_by(moved.x(), moved.y())
        place = self.to_picture(at)
        height, width = self.layer.size_hw
        inside = 0 <= place.x() < width and 0 <= place.y() < height
        self.hovered.emit(*((place.x(), place.y()) if inside else (float("nan"), float("nan"))))

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """End a drag, or tell of a click."""
        if event is None or self._pressed is None:
            return
        if not self._dragging and event.button() == Qt.LeftButton:
            place = self.to_picture(event.localPos())
            self.clicked.emit(place.x(), place.y(), 6 / self._scale)
        self._pressed, self._dragging = None, False
        self.unsetCursor()

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:
        """Zoom in there."""
        if event is not None:
            self.zoom_by(2.0, event.localPos())

    def leaveEvent(self, event: QEvent | None) -> None:
        """Say that nothing is under the cursor."""
        self.hovered.emit(float("nan"), float("nan"))

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Move by the arrow keys; zooming has shortcuts of the window."""
        if event is None:
            return
        step = _KEY_STEP * min(self.width(), self.height())
        ways = {Qt.Key_Left: (step, 0), Qt.Key_Right: (-step, 0), Qt.Key_Up: (0, step), Qt.Key_Down: (0, -step)}
        if event.key() in ways and event.modifiers() in (Qt.NoModifier, Qt.KeypadModifier):
            self.pan_by(*ways[event.key()])  # type: ignore[index]
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent | None) -> bool:
        """Zoom and move by two fingers."""
        if event is not None and event.type() == QEvent.Gesture:
            pinch = event.gesture(Qt.PinchGesture)  # type: ignore[attr-defined]
            if isinstance(pinch, QPinchGesture):
                middle = QPointF(self.mapFromGlobal(pinch.centerPoint().toPoint()))
                self.zoom_by(pinch.scaleFactor(), middle)
                moved = pinch.centerPoint() - pinch.lastCenterPoint()
                self.pan_by(moved.x(), moved.y())
                self._pressed = None
                return True
        return bool(super().event(event))
