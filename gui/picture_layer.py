"""Picture layer: the pixels below the boxes, of an image held in memory or of a scene's pyramid."""

from __future__ import annotations

import cv2
import numpy as np
from PyQt5.QtCore import QRectF, Qt
from PyQt5.QtGui import QImage, QPainter

from .scene_pyramid import ScenePyramid, TileKey


def screen_image(pixels: np.ndarray) -> QImage:
    """Wrap pixels (h, w, 4) uint8, blue first, without a copy; the array must outlive the image."""
    h, w = pixels.shape[:2]
    return QImage(pixels.data, w, h, pixels.strides[0], QImage.Format_RGB32)


class PictureLayer:
    """Draws what is looked at. size_hw: of the whole, in pixels; (0, 0) without a picture. moving: a video's frame."""

    def __init__(self) -> None:
        self.size_hw, self.moving = (0, 0), False
        self.pyramid: ScenePyramid | None = None
        self.levels: list[np.ndarray] = []
        self.wanted: list[TileKey] = []

    def set_levels(self, size_hw: tuple[int, int], levels: list[np.ndarray], *, moving: bool = False) -> None:
        """Show an image: (h, w, 4) uint8, blue first, each level half of the one before."""
        self.size_hw, self.levels, self.pyramid, self.wanted = size_hw, levels, None, []
        self.moving = moving

    def set_pyramid(self, pyramid: ScenePyramid) -> None:
        """Show a scene."""
        self.size_hw, self.levels, self.pyramid, self.moving = pyramid.size_hw, [], pyramid, False

    def clear(self) -> None:
        """Show nothing."""
        self.set_levels((0, 0), [])

    def paint(self, painter: QPainter, view: QRectF, scale: float) -> None:
        """Draw what `view` (in pixels of the picture) shows; the painter is in screen pixels of the view.

        scale: screen pixels (of the device) per pixel of the picture. Leaves in `wanted` the tiles that it missed.
        """
        painter.setRenderHint(QPainter.SmoothPixmapTransform, scale < 2)
        if self.pyramid is not None:
            self._paint_scene(painter, view, scale, self.pyramid)
        elif self.levels:
            level = 0
            while level + 1 < len(self.levels) and scale * (2 << level) <= 1.0:
                level += 1
            self._paint_part(painter, self.levels[level], (0.0, 0.0), _per(self.levels[level], self.size_hw), view)

    def thumbnail(self, side: int) -> QImage:
        """Return the whole picture, at most `side` pixels long; of a scene as far as it was read."""
        if self.pyramid is not None:
            source = self.pyramid.overview
        elif self.levels:
            source = self.levels[-1]
        else:
            return QImage()
        return screen_image(source).scaled(side, side, Qt.KeepAspectRatio, Qt.SmoothTransformation)

    def _paint_scene(self, painter: QPainter, view: QRectF, scale: float, pyramid: ScenePyramid) -> None:
        overview = pyramid.overview
        per = _per(overview, pyramid.size_hw)
        level = pyramid.level_for(scale)
        if level is None:
            self.wanted = []
            self._paint_part(painter, overview, (0.0, 0.0), per, view)
            return
        keys = pyramid.visible(level, view.left(), view.top(), view.right(), view.bottom())
        self.wanted = pyramid.missing(keys)
        # The overview only where a tile is missing: under all of them it would double what a large screen costs.
        tiles = [(QRectF(*pyramid.bounds(key)), pyramid.tile(key)) for key in keys]
        for bounds, tile in tiles:
            if tile is None:
                self._paint_part(painter, overview, (0.0, 0.0), per, view, bounds)
        for bounds, tile in tiles:
            if tile is not None:
                each = (bounds.width() / tile.shape[1], bounds.height() / tile.shape[0])
                self._paint_part(painter, tile, (bounds.x(), bounds.y()), each, view)

    def _paint_part(
        self,
        painter: QPainter,
        pixels: np.ndarray,
        corner: tuple[float, float],
        per: tuple[float, float],
        view: QRectF,
        only: QRectF | None = None,
    ) -> None:
        """Draw pixels whose top left lies at `corner` and whose pixels are `per` pixels of the picture large.

        only: the part of the picture to draw, None for all that is seen.
        """
        h, w = pixels.shape[:2]
        whole = QRectF(corner[0], corner[1], w * per[0], h * per[1])
        part = whole.intersected(view if only is None else only.intersected(view))
        if part.isEmpty():
            return
        # Whole pixels of the source, so that zooming does not shift them, and no seam between tiles.
        left, top = int((part.left() - corner[0]) / per[0]), int((part.top() - corner[1]) / per[1])
        right = min(w, int(np.ceil((part.right() - corner[0]) / per[0])) + 1)
        bottom = min(h, int(np.ceil((part.bottom() - corner[1]) / per[1])) + 1)
        transform = painter.worldTransform()
        zoom = transform.m11()
        x1 = round((corner[0] + left * per[0] - view.left()) * zoom)
        y1 = round((corner[1] + top * per[1] - view.top()) * zoom)
        x2 = round((corner[0] + right * per[0] - view.left()) * zoom)
        y2 = round((corner[1] + bottom * per[1] - view.top()) * zoom)
        painter.save()
        painter.resetTransform()
        target = QRectF(x1, y1, x2 - x1, y2 - y1)
        source = QRectF(left, top, right - left, bottom - top)
        if self.moving and zoom < 1 and x2 > x1 and y2 > y1 and painter.device().devicePixelRatioF() == 1:
            # QPainter keeps the interpreter lock while it shrinks, and every thread of the run waits; OpenCV does not.
            pixels = cv2.resize(pixels[top:bottom, left:right], (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
            source = QRectF(0, 0, x2 - x1, y2 - y1)
        painter.drawImage(target, screen_image(pixels), source)
        painter.restore()


def _per(pixels: np.ndarray, size_hw: tuple[int, int]) -> tuple[float, float]:
    return size_hw[1] / pixels.shape[1], size_hw[0] / pixels.shape[0]
