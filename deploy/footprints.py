"""Footprints: boxes of a georeferenced scene as polygons on the earth, by the rules of RFC 7946."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .detections import Detections

if TYPE_CHECKING:
    from .georeference import Georeference

DECIMALS = 8  # of a degree: 1.1 mm on the ground at most


@dataclass(frozen=True, eq=False)
class Footprints:
    """Polygons of n boxes in WGS 84, longitude before latitude, degrees rounded to `DECIMALS`.

    rings: (n, 5, 2) float64, the corners of each box and the first of them again, counter-clockwise. They follow the
    scene's rotation. parts: rings (m, 2) of the boxes that reach over the antimeridian or around a pole, by their row;
    they stand in place of that row of `rings`, one polygon each (RFC 7946, 3.1.9).
    """

    rings: np.ndarray
    parts: dict[int, list[np.ndarray]]


@lru_cache(maxsize=1)  # several sinks ask in turn for the same record
def footprints(found: Detections, georeference: Georeference) -> Footprints:
    """Return where boxes lie on the earth; they are in pixels of the scene.

    Raises ValueError where they have no place in the scene's CRS.
    """
    x1, y1, x2, y2 = found.xyxy.astype(np.float64).T
    # Top left, bottom left, bottom right, top right: counter-clockwise where north is up.
    corners = np.stack([x1, y1, x1, y2, x2, y2, x2, y1], axis=1).reshape(-1, 2)
    lonlat = georeference.to_lonlat(corners).reshape(-1, 4, 2).round(DECIMALS)
    crossing = np.flatnonzero(np.ptp(lonlat[:, :, 0], axis=1) > 180)
    # A mirrored scene, or one with south up, turns the corners the other way round.
    turned = np.flatnonzero(_twice_area(lonlat) < 0)
    lonlat[turned] = lonlat[turned][:, [0, 3, 2, 1]]
    rings = np.concatenate([lonlat, lonlat[:, :1]], axis=1)
    return Footprints(rings, {int(row): _cut(rings[row]) for row in crossing})


def _twice_area(corners: np.ndarray) -> np.ndarray:
    """Return twice the signed area of (..., m, 2) polygons, positive where they run counter-clockwise."""
    corners = corners - corners[..., :1, :]  # small polygons far from the origin would lose their digits
    x, y = corners[..., 0], corners[..., 1]
    return np.asarray((x * np.roll(y, -1, axis=-1) - np.roll(x, -1, axis=-1) * y).sum(axis=-1))


def _cut(ring: np.ndarray) -> list[np.ndarray]:
    """Cut a closed ring (5, 2) that reaches over the antimeridian into rings that stay on one side each."""
    steps = np.diff(ring[:, 0])
    lon = ring[0, 0] + np.concatenate([[0.0], np.cumsum(steps - 360 * np.round(steps / 360))])
    polygon = np.stack([lon, ring[:, 1]], axis=1)
    if abs(lon[-1] - lon[0]) > 180:  # once around: a pole lies inside, and the polygon ends there
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        polygon = np.concatenate([polygon, [[lon[-1], pole], [lon[0], pole]]])
    else:
        polygon = polygon[:-1]
    if _twice_area(polygon) < 0:
        polygon = polygon[::-1]
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        part = _half(_half(polygon, -180.0 + turn, 1.0), 180.0 + turn, -1.0) - [turn, 0.0]
        part = part.round(DECIMALS)
        if len(part) >= 3 and _twice_area(part) > 0:
            parts.append(np.concatenate([part, part[:1]]))
    return parts


def _half(polygon: np.ndarray, meridian: float, side: float) -> np.ndarray:
    """Return what of a polygon (m, 2) lies east (side 1) or west (side -1) of a meridian (Sutherland and Hodgman)."""
    kept: list[np.ndarray] = []
    for i in range(len(polygon)):
        before, here = polygon[i - 1], polygon[i]
        first, second = side * (before[0] - meridian), side * (here[0] - meridian)
        if first * second < 0:
            share = first / (first - second)
            kept.append(np.array([meridian, before[1] + share * (here[1] - before[1])]))
        if second >= 0:
            kept.append(here)
    return np.array(kept).reshape(-1, 2)
