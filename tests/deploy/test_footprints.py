"""Boxes on the earth: orientation by a literal shoelace, corners by the transform itself, cuts by area."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.detections import Detections
from deploy.footprints import footprints
from deploy.georeference import Georeference


@dataclass(frozen=True)
class Degrees:
    """A scene whose CRS is degrees, wrapped to -180 (with it) to 180 (without it)."""

    transform: tuple[float, ...]

    def to_lonlat(self, xy: np.ndarray) -> np.ndarray:
        a, b, c, d, e, f = self.transform
        lon, lat = a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f
        return np.stack([(lon + 180) % 360 - 180, lat], axis=1)


@dataclass(frozen=True)
class Polar:
    """Polar stereographic on a sphere, pixels of 1 m, the pole at pixel (0, 0)."""

    north: bool

    def to_lonlat(self, xy: np.ndarray) -> np.ndarray:
        radius = np.hypot(xy[:, 0], xy[:, 1])
        lat = 90 - np.degrees(2 * np.arctan(radius / (2 * 6371000)))
        lon = np.degrees(np.arctan2(xy[:, 0], xy[:, 1]))
        return np.stack([lon, lat if self.north else -lat], axis=1)


def found_at(*xyxy: list[float]) -> Detections:
    n = len(xyxy)
    return Detections(np.array(xyxy, np.float32), np.full(n, 0.5, np.float32), np.zeros(n, np.int32))


def area(ring: np.ndarray) -> float:
    total = 0.0
    base = ring[0]
    for (x1, y1), (x2, y2) in zip(ring[:-1] - base, ring[1:] - base, strict=True):
        total += x1 * y2 - x2 * y1
    return total / 2


@given(
    turn=st.floats(0, 2 * math.pi),
    shear=st.floats(-0.5, 0.5),
    mirror=st.booleans(),
    lon=st.floats(-150, 150),
    lat=st.floats(-60, 60),
)
def test_rings_are_right_handed_and_are_the_corners(turn, shear, mirror, lon, lat):
    step = 3e-6
    a, d = step * math.cos(turn), step * math.sin(turn)
    b, e = -d + shear * a, a + shear * d
    if mirror:
        b, e = -b, -e
    scene = Degrees((a, b, lon, d, e, lat))
    boxes = [10.25, 20.5, 40, 31], [0, 0, 1000, 3], [5, 5, 9, 900]
    found = footprints(found_at(*boxes), scene)
    assert found.parts == {}
    for (x1, y1, x2, y2), ring in zip(boxes, found.rings, strict=True):
        assert area(ring) > 0
        assert ring[0].tolist() == ring[4].tolist()
        truth = scene.to_lonlat(np.array([[x1, y1], [x1, y2], [x2, y2], [x2, y1]]))
        # Begins at the top left corner, and then runs around one way or the other.
        assert np.abs(ring[:4] - truth).max() <= 6e-9 or np.abs(ring[[0, 3, 2, 1]] - truth).max() <= 6e-9


@pytest.mark.parametrize("scene_of", [Degrees, lambda transform: Georeference("EPSG:4326", transform)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_box_over_the_antimeridian_is_cut_there(scene_of, turned):
    step = 1e-5
    transform = (step, step, 179.995, step, -step, -17.0) if turned else (step, 0, 179.995, 0, -step, -17.0)
    scene = scene_of(transform)
    # Left of it, across it, right of it; the meridian is at column 500 where the scene is not turned.
    found = footprints(found_at([10, 0, 100, 50], [450, 0, 650, 100], [1800, 0, 1900, 50]), scene)
    assert list(found.parts) == [1]
    parts = found.parts[1]
    assert len(parts) == 2
    for part in parts:
        assert part[0].tolist() == part[-1].tolist()
        assert area(part) > 0
        assert np.abs(part[:, 0]).max() == 180.0
        assert np.ptp(part[:, 0]) < 1
    assert parts[0][:, 0].min() > 0 > parts[1][:, 0].max() or parts[1][:, 0].min() > 0 > parts[0][:, 0].max()
    whole = 200 * 100 * step * step * (2 if turned else 1)
    assert sum(area(part) for part in parts) == pytest.approx(whole, rel=1e-3)
    assert all(np.abs(ring[:, 0]).max() <= 180 and area(ring) > 0 for ring in found.rings[[0, 2]])


def test_a_box_that_only_touches_the_antimeridian_stays_whole():
    scene = Degrees((1e-5, 0, 179.995, 0, -1e-5, 10.0))  # wraps 180 to -180
    found = footprints(found_at([400, 0, 500, 100]), scene)
    (part,) = found.parts.get(0, [found.rings[0]])
    assert part[:, 0].max() == 180.0
    assert part[:, 0].min() == pytest.approx(179.999)
    assert area(part) == pytest.approx(100 * 100 * 1e-10, rel=1e-3)


@pytest.mark.parametrize("north", [True, False])
def test_a_box_around_a_pole_reaches_it(north):
    found = footprints(found_at([-30, -20, 40, 50]), Polar(north))
    parts = found.parts[0]
    assert all(area(part) > 0 and np.abs(part[:, 0]).max() <= 180 for part in parts)
    # Together once around the earth, and up to the pole.
    assert {round(float(np.abs(part[:, 1]).max()), 8) for part in parts} == {90.0}
    edges = sum(np.ptp(part[:, 0]) for part in parts)
    assert edges == pytest.approx(360)


def test_a_box_outside_of_what_the_crs_covers_is_told():
    with pytest.raises(ValueError, match="has no place on the earth"):
        footprints(found_at([0, 0, 10, 10], [0, 0, 10, 95]), Georeference("EPSG:4326", (1, 0, 0, 0, -1, 0)))


def test_no_boxes():
    found = footprints(Detections.empty(), Georeference("EPSG:4326", (1, 0, 0, 0, -1, 0)))
    assert found.rings.shape == (0, 5, 2)
    assert found.parts == {}
