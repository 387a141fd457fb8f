"""Boxes and class names drawn into an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .annotations import AnnotatedImage
from .detections import Detections
from .palette import class_colour, text_colour

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # OpenCV draws in sixteenths of a pixel
_HALO = (16, 16, 16)
_HIDDEN_SHARE = 0.25  # a label may cover this much of a box

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Pen:
    """Sizes that follow the image. line_px, halo_px: widths. text_scale: of the font. margin_px: inside a label."""

    line_px: int
    halo_px: int
    text_scale: float
    text_px: int
    margin_px: int

    @classmethod
    def for_image(cls, h: int, w: int) -> _Pen:
        side = max(h, w)
        line = max(2 if side >= 400 else 1, round(side / 500))
        scale = min(max(0.38, side / 2200), 2.0)
        return cls(line, line + 2, scale, max(1, round(scale * 1.3)), max(2, round(scale * 5)))


def draw_boxes(
    image: np.ndarray,
    boxes: Detections | AnnotatedImage,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    pen_side: int | None = None,
) -> np.ndarray:
    """Return a copy of the image with every box and its label.

    image: (h, w, 3) uint8 RGB. boxes: in pixels of this image; Detections also show their score in percent. scores:
    (n,) to show instead. pen_side: lines and letters as for an image of that longer side; None: of its own. A class_id
    beyond class_names is shown as its number. Labels stay inside the image, avoid each other and the boxes; where there
    is no room only the first of a class is labelled, colours say the rest.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (h, w, 3) uint8, got {image.dtype} {image.shape}")
    if scores is None and isinstance(boxes, Detections):
        scores = boxes.score
    if scores is not None and len(scores) != len(boxes.xyxy):
        raise ValueError(f"scores must have one value per box ({len(boxes.xyxy)}), got {len(scores)}")
    canvas = np.ascontiguousarray(image).copy()
    pen = _Pen.for_image(*image.shape[:2]) if pen_side is None else _Pen.for_image(pen_side, pen_side)
    ids = boxes.class_id.tolist()
    corners = boxes.xyxy.tolist()
    # The halo of all boxes first: it must never run over the line of a neighbour.
    for box in corners:
        _rectangle(canvas, box, _HALO, pen.halo_px)
    for box, class_id in zip(corners, ids, strict=True):
        _rectangle(canvas, box, class_colour(class_id), pen.line_px)
    labels = _Labels(canvas, boxes.xyxy, pen)
    named: set[int] = set()
    # Large boxes get their label first: they have room for it, and small ones crowd around them.
    for i in np.argsort(-labels.area_px, kind="stable").tolist():
        name = class_names[ids[i]] if ids[i] < len(class_names) else str(ids[i])
        text = name if scores is None else f"{name} {100 * float(scores[i]):.0f}"
        if labels.draw(i, text, class_colour(ids[i]), even_over_boxes=ids[i] not in named):
            named.add(ids[i])
    return canvas


def _rectangle(canvas: np.ndarray, box: Sequence[float], colour: tuple[int, int, int], width: int) -> None:
    """Draw one box, anti-aliased; a coordinate is the edge of a pixel here and its centre in OpenCV."""
    h, w = canvas.shape[:2]
    x1, y1, x2, y2 = np.clip(np.asarray(box, float), -1, [w + 1, h + 1, w + 1, h + 1]) - 0.5
    first = (round(float(x1) * 2**_SHIFT), round(float(y1) * 2**_SHIFT))
    second = (round(float(x2) * 2**_SHIFT), round(float(y2) * 2**_SHIFT))
    cv2.rectangle(canvas, first, second, colour, width, cv2.LINE_AA, _SHIFT)


class _Labels:
    """Find a free place for each label and draw it there."""

    def __init__(self, canvas: np.ndarray, xyxy: np.ndarray, pen: _Pen) -> None:
        self._canvas, self._pen = canvas, pen
        self._boxes = xyxy.astype(np.float64)
        self._placed = np.empty((0, 4))
        self.area_px = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1)

    def draw(self, index: int, text: str, colour: tuple[int, int, int], *, even_over_boxes: bool) -> bool:
        """Draw the label of box `index` beside or in it where it hides no other label and no box; say whether it fits.

        even_over_boxes: take a place that hides boxes where there is no other, so that each class is named once.
        """
        pen = self._pen
        (tw, th), baseline = cv2.getTextSize(text, _FONT, pen.text_scale, pen.text_px)
        w, h = tw + 2 * pen.margin_px, th + baseline + pen.margin_px
        spots = [spot for spot in self._spots(index, w, h) if not (_shared(spot, self._placed) > 0).any()]
        clear = [spot for spot in spots if not (_shared(spot, self._boxes) > self.area_px * _HIDDEN_SHARE).any()]
        if not clear and not (spots and even_over_boxes):
            return False
        spot = (clear or spots)[0]
        self._placed = np.vstack([self._placed, spot])
        left, top, right, bottom = spot
        cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
        origin = (left + pen.margin_px, top + pen.margin_px // 2 + th)
        cv2.putText(self._canvas, text, origin, _FONT, pen.text_scale, text_colour(colour), pen.text_px, cv2.LINE_AA)
        return True

    def _spots(self, index: int, w: int, h: int) -> list[Rectangle]:
        """List places for a label of w x h pixels that lie inside the image, the best first."""
        image_h, image_w = self._canvas.shape[:2]
        if w > image_w:
            return []
        x1, y1, x2, y2 = (round(side) for side in self._boxes[index].tolist())
        half = self._pen.line_px // 2 + 1
        above, below, inside = y1 - half - h, y2 + half, y1 + half
        starts = [(x1 - half, above), (x1 - half, below), (x2 + half - w, above), (x2 + half - w, below)]
        starts += [(x1 + half, inside), (x2 + half, y1), (x1 - half - w, y1)]
        spots = [(min(max(left, 0), image_w - w), top) for left, top in starts]  # sideways a label may slide
        return [(left, top, left + w, top + h) for left, top in spots if 0 <= top <= image_h - h]


def _shared(spot: Rectangle, rectangles: np.ndarray) -> np.ndarray:
    """Return the area that a place shares with each of (n, 4) rectangles."""
    low = np.maximum(rectangles[:, :2], spot[:2])
    high = np.minimum(rectangles[:, 2:], spot[2:])
    return np.clip(high - low, 0, None).prod(axis=1)
