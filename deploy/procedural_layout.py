"""Plan of a drawn scene: what fits where, and which space is taken already.

A Plan holds the scene's scale, street grid, sun and water, and collects ground paint, buildings, trees and labelled
items.
The districts that fill it are in procedural_districts.py; nothing here draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import cv2
import numpy as np

from .procedural_ground import Ground, Paint, Stroke, Water
from .procedural_objects import Body
from .procedural_shapes import Colour, clip_polygon, disc, place, polygon_area, vary

Rect = tuple[float, float, float, float]  # u0, v0, u1, v1 in metres in the street grid
_CELL = 2  # pixels per cell of the occupancy grid
_SHORE_STEP = 8  # pixels between the samples that answer most questions about water
_MIN_INSIDE = 0.35  # share of a body that must be inside the image


@dataclass(frozen=True, eq=False)
class Item:
    """A placed, labelled object: polygons in pixels, their colours, and the exact box of its visible outline."""

    class_id: int
    polygons: list[np.ndarray]
    colours: list[Colour]
    xyxy: tuple[float, float, float, float]
    shadow: list[tuple[np.ndarray, float]]
    solid: bool
    wake: list[tuple[np.ndarray, int]]


@dataclass(frozen=True, eq=False)
class Block:
    """An unlabelled thing that stands up: a building or a stack of containers."""

    polygons: list[np.ndarray]
    colours: list[Colour]
    shadow: list[tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Tree:
    """A crown: centre and radius in pixels, height in metres."""

    x: float
    y: float
    radius: float
    height_m: float
    colour: Colour


@dataclass
class Plan:
    """Everything that will be drawn.

    theta: direction of the street grid's u axis, radians clockwise. sun: shadow of one metre of height, in pixels.
    density: how full the scene is, 1 for usual.
    """

    size_hw: tuple[int, int]
    px_per_m: float
    theta: float
    sun: tuple[float, float]
    rnd: Random
    ground: Ground
    density: float = 1.0
    blocks: list[Block] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        h, w = self.size_hw
        self._taken = np.zeros((h // _CELL + 1, w // _CELL + 1), np.uint8)
        self._shore: np.ndarray | None = None

    def flood(self, water: Water) -> None:
        """Give the scene its water; before anything is placed."""
        h, w = self.size_hw
        self.ground.water = water
        yy, xx = np.mgrid[0 : h // _SHORE_STEP + 1, 0 : w // _SHORE_STEP + 1] * float(_SHORE_STEP) + _SHORE_STEP / 2
        self._shore = water.distance_m(np.stack([xx, yy], -1))

    # --- frames ---------------------------------------------------------------------------------------------------

    def to_px(self, u: float, v: float) -> tuple[float, float]:
        """Return the pixel of a point of the street grid, metres from the image centre."""
        c, s = math.cos(self.theta) * self.px_per_m, math.sin(self.theta) * self.px_per_m
        return self.size_hw[1] / 2 + u * c - v * s, self.size_hw[0] / 2 + u * s + v * c

    def rect_px(self, r: Rect) -> np.ndarray:
        """Return the corners of a rectangle of the street grid in pixels, (4, 2)."""
        u0, v0, u1, v1 = r
        return np.array([self.to_px(u0, v0), self.to_px(u1, v0), self.to_px(u1, v1), self.to_px(u0, v1)])

    def extent(self) -> Rect:
        """Return the rectangle of the street grid that covers the image."""
        h, w = self.size_hw[0] / self.px_per_m / 2, self.size_hw[1] / self.px_per_m / 2
        c, s = abs(math.cos(self.theta)), abs(math.sin(self.theta))
        return -(w * c + h * s), -(w * s + h * c), w * c + h * s, w * s + h * c

    def visible(self, points: np.ndarray, margin_px: float = 0.0) -> bool:
        """Tell whether the bounding box of the pixel points touches the image."""
        h, w = self.size_hw
        xs, ys = points[:, 0].tolist(), points[:, 1].tolist()  # a handful of numbers: lists are faster than arrays
        return max(xs) > -margin_px and max(ys) > -margin_px and min(xs) < w + margin_px and min(ys) < h + margin_px

    # --- space ----------------------------------------------------------------------------------------------------

    def _cells(self, points: np.ndarray, margin_m: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """Return the window of the occupancy grid under a polygon grown by the margin, and the polygon's mask in it."""
        corners = points.tolist()
        n = len(corners)
        cx, cy = sum(x for x, _ in corners) / n, sum(y for _, y in corners) / n
        cells = []
        for x, y in corners:
            grow = 1 + margin_m * self.px_per_m / max(math.hypot(x - cx, y - cy), 1e-6)
            cells.append(((cx + (x - cx) * grow) / _CELL, (cy + (y - cy) * grow) / _CELL))
        rows, columns = self._taken.shape
        x0, y0 = max(0, int(min(x for x, _ in cells))), max(0, int(min(y for _, y in cells)))
        x1 = min(columns, math.ceil(max(x for x, _ in cells)) + 1)
        y1 = min(rows, math.ceil(max(y for _, y in cells)) + 1)
        if x1 <= x0 or y1 <= y0:
            return None
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed = [[round((x - x0 - 0.5) * 16), round((y - y0 - 0.5) * 16)] for x, y in cells]
        cv2.fillConvexPoly(mask, np.array(fixed, np.int32), 1, cv2.LINE_8, 4)
        return (slice(y0, y1), slice(x0, x1)), mask

    def free(self, points: np.ndarray, margin_m: float = 0.5, *, afloat: bool = False) -> bool:
        """Tell whether a convex pixel polygon touches the image, lies on land (or water), and covers nothing taken."""
        if not self.visible(points):
            return False
        if not self._on_its_element(points, afloat):
            return False
        found = self._cells(points, margin_m)
        return found is not None and not cv2.countNonZero(cv2.bitwise_and(self._taken[found[0]], found[1]))

    def _on_its_element(self, points: np.ndarray, afloat: bool) -> bool:
        """Tell whether all corners are in water (afloat) or clear of it, with a quick answer far from the shore."""
        water = self.ground.water
        if water is None or self._shore is None:
            return not afloat
        h, w = self.size_hw
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        x, y = min(max((x0 + x1) / 2, 0.0), w - 1.0), min(max((y0 + y1) / 2, 0.0), h - 1.0)
        near = float(self._shore[int(y) // _SHORE_STEP, int(x) // _SHORE_STEP])
        # The field changes by at most about 1.3 m per metre; the reach also covers centres outside the image.
        reach = 1.3 * (math.hypot(x1 - x0, y1 - y0) + _SHORE_STEP) / self.px_per_m
        margin = water.land_margin_m()
        if near > reach + 0.2:
            return afloat
        if near < -reach - margin:
            return not afloat
        distance = water.distance_m(points)
        return bool(distance.min() >= 0.2 if afloat else distance.max() <= -margin)

    def claim(self, points: np.ndarray, margin_m: float = 0.0) -> None:
        """Mark a convex pixel polygon as taken."""
        found = self._cells(points, margin_m)
        if found is not None:
            self._taken[found[0]] |= found[1]

    # --- things ---------------------------------------------------------------------------------------------------

    def paint(
        self,
        r: Rect,
        colour: Colour,
        texture: str | None = None,
        texel_m: float = 0.3,
        strength: float = 1.0,
        turn: float = 0.0,
    ) -> None:
        """Lay a flat rectangle, texel_m metres of ground per texel of its texture."""
        points = self.rect_px(r)
        if self.visible(points):
            spec = None if texture is None else (texture, texel_m * self.px_per_m, self.theta + turn, strength)
            self.ground.paints.append(Paint(points, colour, spec))

    def paint_disc(self, u: float, v: float, radius: float, colour: Colour, squash: float = 1.0) -> None:
        """Lay a flat ellipse, radius in metres."""
        points = place([disc(0, 0, radius, radius * squash, 28)], self.to_px(u, v), self.theta, self.px_per_m)[0]
        if self.visible(points):
            self.ground.paints.append(Paint(points, colour))

    def stroke(
        self, u0: float, v0: float, u1: float, v1: float, width_m: float, colour: Colour, dash_m: float = 0.0
    ) -> None:
        """Lay a line."""
        self.strokes([(u0, v0, u1, v1)], width_m, colour, dash_m)

    def strokes(self, lines: list[Rect], width_m: float, colour: Colour, dash_m: float = 0.0) -> None:
        """Lay several lines (u0, v0, u1, v1) that look alike."""
        ends = [(self.to_px(u0, v0), self.to_px(u1, v1)) for u0, v0, u1, v1 in lines]
        seen = [pair for pair in ends if self.visible(np.array(pair), 4.0)]
        if seen:
            self.ground.paints.append(Stroke(np.array(seen), colour, width_m * self.px_per_m, dash_m * self.px_per_m))

    def add(
        self, body: Body, u: float, v: float, heading: float = 0.0, margin_m: float = 0.5, *, afloat: bool = False
    ) -> bool:
        """Place a labelled object at (u, v), heading relative to the street grid; False where it does not fit."""
        return self.add_px(body, self.to_px(u, v), self.theta + heading, margin_m, afloat=afloat)

    def add_px(
        self, body: Body, centre: tuple[float, float], heading: float, margin_m: float = 0.5, *, afloat: bool = False
    ) -> bool:
        """Place a labelled object at a pixel, heading clockwise from the x axis; False where it does not fit."""
        ln, wd = body.size_m
        c, s = math.cos(heading) * self.px_per_m / 2, math.sin(heading) * self.px_per_m / 2
        (ax, ay), (bx, by), (x, y) = (ln * c, ln * s), (-wd * s, wd * c), centre
        frame = np.array(
            [
                [x - ax - bx, y - ay - by],
                [x + ax - bx, y + ay - by],
                [x + ax + bx, y + ay + by],
                [x - ax + bx, y - ay + by],
            ]
        )
        if not self.free(frame, margin_m, afloat=afloat):
            return False
        polygons = place([p for p, _ in body.parts], centre, heading, self.px_per_m)
        outline = polygons[: body.outline]
        h, w = self.size_hw
        joined = np.concatenate(outline)
        low, high = joined.min(0), joined.max(0)
        if low[0] < 0 or low[1] < 0 or high[0] > w or high[1] > h:
            cut = [clip_polygon(p, self.size_hw) for p in outline]
            if sum(polygon_area(p) for p in cut) < _MIN_INSIDE * sum(polygon_area(p) for p in outline):
                return False
            joined = np.concatenate(cut)
            low, high = joined.min(0), joined.max(0)
        if min(high - low) < 2.0:
            return False
        shadow = place([p for p, _ in body.shadow], centre, heading, self.px_per_m) if body.shadow else []
        wake: list[tuple[np.ndarray, int]] = []
        if body.wake_m > 0:
            shapes, greys = _wake(ln, wd, body.wake_m)
            placed = place(shapes, centre, heading, self.px_per_m)
            water = self.ground.water
            if water is not None and water.distance_m(np.concatenate(placed)).min() > 2:  # no foam ashore
                wake = list(zip(placed, greys, strict=True))
        self.items.append(
            Item(
                class_id=body.class_id,
                polygons=polygons,
                colours=[c for _, c in body.parts],
                xyxy=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
                shadow=[(p, height) for p, (_, height) in zip(shadow, body.shadow, strict=True)],
                solid=body.solid,
                wake=wake,
            )
        )
        self.claim(frame, margin_m * 0.5)
        return True

    def block(
        self, r: Rect, parts: list[tuple[Rect | np.ndarray, Colour]], height_m: float, margin_m: float = 0.5
    ) -> bool:
        """Stand an unlabelled thing on r; parts are rectangles or points of the street grid, in drawing order."""
        frame = self.rect_px(r)
        if not self.free(frame, margin_m):
            return False
        polygons = []
        for shape, _ in parts:
            if isinstance(shape, tuple):
                polygons.append(self.rect_px(shape))
            else:
                polygons.append(np.array([self.to_px(float(u), float(v)) for u, v in shape]))
        self.blocks.append(Block(polygons, [c for _, c in parts], [(frame, height_m)]))
        self.claim(frame, margin_m)
        return True

    def tree(self, u: float, v: float, radius_m: float, colour: Colour) -> bool:
        """Plant a tree, radius of its crown in metres."""
        x, y = self.to_px(u, v)
        reach = radius_m * self.px_per_m
        h, w = self.size_hw
        if x < -reach or y < -reach or x > w + reach or y > h + reach:
            return False
        x0, y0 = max(0, int((x - reach) / _CELL)), max(0, int((y - reach) / _CELL))
        window = self._taken[y0 : int((y + reach) / _CELL) + 1, x0 : int((x + reach) / _CELL) + 1]
        corners = np.array([[x - reach, y - reach], [x + reach, y + reach]])
        if window.any() or not self._on_its_element(corners, False):
            return False
        window[:] = 1
        self.trees.append(Tree(x, y, reach, radius_m * self.rnd.uniform(1.3, 2.2), vary(colour, self.rnd, 12)))
        return True

    def lit(self, direction: float) -> float:
        """Return how much a slope facing `direction` (radians in the street grid) looks to the sun, -1 to 1."""
        angle = math.atan2(-self.sun[1], -self.sun[0])
        return math.cos(angle - direction - self.theta)

    def sun_uv(self) -> tuple[float, float]:
        """Return the shadow of one metre of height in metres of the street grid."""
        x, y = self.sun[0] / self.px_per_m, self.sun[1] / self.px_per_m
        c, s = math.cos(self.theta), math.sin(self.theta)
        return x * c + y * s, -x * s + y * c


def _wake(ln: float, wd: float, length: float) -> tuple[list[np.ndarray], list[int]]:
    """Return a ship's wake: two faint arms from the bow and a churned strip behind the stern, brighter towards it."""
    shapes, greys = [], []
    for side in (-1, 1):
        for share, grey in ((0.55, 26), (0.3, 44)):
            far = ln * 0.4 - (length + ln) * share
            out = side * (wd * 0.45 + (length + ln) * share * 0.2)
            thick = wd * 0.1 + length * share * 0.03
            shapes.append(np.array([[ln * 0.42, 0.0], [far, out - thick], [far, out + thick]]))
            greys.append(grey)
    for k in range(9):
        share = (1 - k / 9) ** 1.5
        half = wd * (0.3 + 0.22 * share)
        end = -ln / 2 - length * share
        shapes.append(np.array([[-ln * 0.3, -wd * 0.3], [-ln * 0.3, wd * 0.3], [end, half], [end, -half]]))
        greys.append(int(24 + 150 * (k / 8) ** 1.4))
    return shapes, greys
