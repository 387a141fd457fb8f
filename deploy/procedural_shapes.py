"""Polygons of drawn scenes: make, place, clip and fill them; colours to go with them.

Pixel coordinates have pixel edges at integers, so that a polygon from 2 to 5 covers exactly the pixels 2, 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import cv2
import numpy as np

Colour = tuple[int, int, int]
SHIFT = 4  # OpenCV's fixed-point drawing: 1/16 pixel


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour made lighter (factor > 1) or darker."""
    r, g, b = colour
    return min(255, int(r * factor)), min(255, int(g * factor)), min(255, int(b * factor))


def vary(colour: Colour, rnd: Random, spread: int = 10) -> Colour:
    """Return the colour with a little random brightness and hue."""
    both, each = (2 * rnd.random() - 1) * spread, spread * 0.66
    r, g, b = (min(255, max(0, int(v + both + (rnd.random() - 0.5) * each))) for v in colour)
    return r, g, b


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the rectangle from (x0, y0) to (x1, y1) as (4, 2) points."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def disc(x: float, y: float, rx: float, ry: float | None = None, points: int = 24) -> np.ndarray:
    """Return an ellipse as (points, 2) corners."""
    t = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


def rounded(length: float, width: float, corner: float) -> np.ndarray:
    """Return a rectangle around the origin with its corners cut off, (8, 2)."""
    a, b, c = length / 2, width / 2, corner
    return np.array(
        [[a - c, -b], [a, -b + c], [a, b - c], [a - c, b], [-a + c, b], [-a, b - c], [-a, -b + c], [-a + c, -b]]
    )


def place(
    points: Sequence[np.ndarray], centre: tuple[float, float], heading: float, px_per_m: float
) -> list[np.ndarray]:
    """Return local polygons as pixel polygons: scaled, turned by `heading` radians (clockwise on screen) and moved."""
    c, s = math.cos(heading) * px_per_m, math.sin(heading) * px_per_m
    turned = np.concatenate(points) @ np.array([[c, s], [-s, c]]) + centre
    polygons, start = [], 0
    for p in points:
        polygons.append(turned[start : start + len(p)])
        start += len(p)
    return polygons


def clip_polygon(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Cut a convex polygon (k, 2) at the image border (Sutherland and Hodgman 1974); (0, 2) where nothing is left."""
    for axis, limit, sign in ((0, 0.0, 1), (0, float(size_hw[1]), -1), (1, 0.0, 1), (1, float(size_hw[0]), -1)):
        if len(points) == 0:
            break
        depth = sign * (points[:, axis] - limit)
        kept = []
        for i in range(len(points)):
            j = (i + 1) % len(points)
            if depth[i] >= 0:
                kept.append(points[i])
            if (depth[i] >= 0) != (depth[j] >= 0):
                cut = points[i] + (points[j] - points[i]) * (depth[i] / (depth[i] - depth[j]))
                cut[axis] = limit  # exactly on the border, whatever the rounding
                kept.append(cut)
        points = np.array(kept).reshape(-1, 2)
    return points


def polygon_area(points: np.ndarray) -> float:
    """Return the area of a polygon (k, 2), whatever its direction."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2) if len(points) > 2 else 0.0


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Return (k, 2) pixel coordinates as OpenCV's integers: 1/16 pixel, pixel centres at whole pixels."""
    return np.rint((points - 0.5) * (1 << SHIFT)).astype(np.int32)


def fill(image: np.ndarray, points: np.ndarray, colour: Colour | int, *, smooth: bool = True) -> None:
    """Fill a convex polygon, points: (k, 2) in pixels, into an 8-bit image in place."""
    value = colour if isinstance(colour, tuple) else (colour,)
    cv2.fillConvexPoly(image, fixed_point(points), value, cv2.LINE_AA if smooth else cv2.LINE_8, SHIFT)


def draw_body(image: np.ndarray, polygons: Sequence[np.ndarray], colours: Sequence[Colour]) -> None:
    """Draw pixel polygons into a (h, w, 3) uint8 image in place, supersampled so that edges do not grow."""
    joined = np.concatenate(polygons)
    h, w = image.shape[:2]
    x0, y0 = np.maximum(np.floor(joined.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(joined.max(0)).astype(int), (w, h))
    if x1 <= x0 or y1 <= y0:
        return
    factor = 4 if max(x1 - x0, y1 - y0) <= 96 else 2
    sprite = np.zeros(((y1 - y0) * factor, (x1 - x0) * factor, 4), np.uint8)
    fixed = np.rint(((joined - (x0, y0)) * factor - 0.5) * (1 << SHIFT)).astype(np.int32)
    start = 0
    for points, colour in zip(polygons, colours, strict=True):
        cv2.fillConvexPoly(sprite, fixed[start : start + len(points)], (*colour, 255), cv2.LINE_8, SHIFT)
        start += len(points)
    small = cv2.resize(sprite, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    under = image[y0:y1, x0:x1]
    cover = cv2.cvtColor(255 - small[..., 3], cv2.COLOR_GRAY2RGB)
    image[y0:y1, x0:x1] = cv2.add(cv2.multiply(under, cover, scale=1 / 255), small[..., :3])
