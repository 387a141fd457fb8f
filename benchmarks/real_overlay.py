"""A picture of what a detector got right and wrong: hits, misses and false alarms in strokes of their own.

Stroke and colour say the same, so that a print in grey and colour-blind eyes tell them apart: a hit is a full line, a
miss a dashed one around the true box, a false alarm a full line with its diagonals.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections

# Okabe and Ito (2008), "Color Universal Design"; RGB.
HIT, MISS, FALSE_ALARM = (0, 158, 115), (240, 228, 66), (213, 94, 0)
_HALO = (16, 16, 16)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_judged(
    image: np.ndarray, truth: AnnotatedImage, found: Detections, right: np.ndarray, was_found: np.ndarray
) -> np.ndarray:
    """Return a copy of an RGB image (h, w, 3) uint8 with all boxes, and a line that counts them.

    right: (n,) bool, which detections are hits. was_found: (g,) bool, which true boxes were. Difficult true boxes are
    not drawn.
    """
    canvas = np.ascontiguousarray(image).copy()
    line = max(2, round(max(image.shape[:2]) / 1400))
    missed = truth.xyxy[~was_found & ~truth.difficult]
    for width, colours in ((line + 2, (_HALO, _HALO, _HALO)), (line, (HIT, MISS, FALSE_ALARM))):
        for box in found.xyxy[right]:
            _rectangle(canvas, box, colours[0], width)
        for box in missed:
            _dashed(canvas, box, colours[1], width, 5 * line)
        for box in found.xyxy[~right]:
            _rectangle(canvas, box, colours[2], width)
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.line(canvas, (x1, y1), (x2, y2), colours[2], max(1, width // 2), cv2.LINE_AA)
            cv2.line(canvas, (x1, y2), (x2, y1), colours[2], max(1, width // 2), cv2.LINE_AA)
    _legend(canvas, (int(right.sum()), len(missed), int((~right).sum())), line)
    return canvas


def write_judged(
    path: Path, image: np.ndarray, truth: AnnotatedImage, found: Detections, right: np.ndarray, was_found: np.ndarray
) -> None:
    """Write `draw_judged` as a JPEG, whole or not at all. Raises OSError."""
    drawn = draw_judged(image, truth, found, right, was_found)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _rectangle(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width, cv2.LINE_AA)


def _dashed(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], width: int, dash_px: int) -> None:
    """Draw a rectangle in dashes; each side begins and ends with one, so that corners show."""
    x1, y1, x2, y2 = (float(v) for v in box)
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])
    for begin, end in pairwise(corners):
        length = float(np.abs(end - begin).sum())
        dashes = max(2, round(length / (2 * dash_px)))
        edges = np.linspace(0, 1, 2 * dashes)
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            a, b = (begin + (end - begin) * share for share in (low, high))
            cv2.line(canvas, _point(a), _point(b), colour, width, cv2.LINE_AA)


def _point(xy: np.ndarray) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def _legend(canvas: np.ndarray, counts: tuple[int, int, int], line: int) -> None:
    """Write the three counts on a dark strip at the lower left, each behind a sample of its stroke."""
    scale, gap = max(0.5, max(canvas.shape[:2]) / 2600), max(6, max(canvas.shape[:2]) // 130)
    words = [f"{count} {name}" for count, name in zip(counts, ("hits", "misses", "false alarms"), strict=True)]
    sizes = [cv2.getTextSize(word, _FONT, scale, max(1, line // 2))[0] for word in words]
    height = sizes[0][1] + 2 * gap
    width = sum(w for w, _ in sizes) + len(words) * (sizes[0][1] + 2 * gap) + gap
    top = canvas.shape[0] - height
    strip = canvas[max(0, top) :, : min(width, canvas.shape[1])]
    strip[:] = (strip * 0.25).astype(np.uint8)
    x, side = gap, sizes[0][1]
    for place, (word, (w, _)) in enumerate(zip(words, sizes, strict=True)):
        box = np.array([x, top + gap, x + side, top + gap + side], float)
        colour = (HIT, MISS, FALSE_ALARM)[place]
        if place == 1:
            _dashed(canvas, box, colour, line, 2 * line)
        else:
            _rectangle(canvas, box, colour, line)
        if place == 2:
            cv2.line(canvas, _point(box[:2]), _point(box[2:]), colour, max(1, line // 2), cv2.LINE_AA)
            cv2.line(canvas, _point(box[[0, 3]]), _point(box[[2, 1]]), colour, max(1, line // 2), cv2.LINE_AA)
        cv2.putText(
            canvas, word, (x + side + gap // 2, top + gap + side), _FONT, scale, (240, 240, 240), max(1, line // 2),
            cv2.LINE_AA,
        )  # fmt: skip
        x += side + 2 * gap + w
