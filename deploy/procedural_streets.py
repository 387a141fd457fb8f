"""Parts that several districts of drawn scenes share: roads, car parks, roofs, trees, palettes.

Rectangles and coordinates are metres of the street grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .procedural_layout import Plan, Rect
from .procedural_objects import vehicle
from .procedural_shapes import Colour, shade, vary

ASPHALT, CONCRETE, WHITE, YELLOW = (92, 93, 96), (172, 170, 164), (226, 226, 222), (214, 178, 62)
TREE_COLOURS: list[Colour] = [(58, 84, 44), (70, 96, 50), (48, 74, 46), (86, 104, 54), (64, 88, 62)]
ROOF_COLOURS: list[Colour] = [
    (190, 188, 182),
    (206, 206, 204),
    (150, 150, 150),
    (128, 132, 138),
    (172, 158, 140),
    (120, 140, 156),
]
CONTAINER_COLOURS: list[Colour] = [
    (176, 62, 44),
    (52, 86, 138),
    (70, 122, 84),
    (206, 204, 198),
    (198, 128, 50),
    (110, 112, 116),
]


def steps(start: float, stop: float, step: float) -> list[float]:
    """Return start, start + step, ... below stop."""
    return [start + k * step for k in range(max(0, math.ceil((stop - start) / step)))]


def seen(plan: Plan, u: float, v: float, reach_m: float = 12.0) -> bool:
    """Tell whether a point is near enough to the image to matter; saves the work of making what nobody sees."""
    x, y = plan.to_px(u, v)
    margin = reach_m * plan.px_per_m
    return -margin < x < plan.size_hw[1] + margin and -margin < y < plan.size_hw[0] + margin


def grow_trees(plan: Plan, r: Rect, per_m2: float, low_m: float = 1.8, high_m: float = 4.5) -> None:
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    palette = rnd.sample(TREE_COLOURS, 2)
    for _ in range(min(900, int((u1 - u0) * (v1 - v0) * per_m2))):
        u, v = rnd.uniform(u0, u1), rnd.uniform(v0, v1)
        if seen(plan, u, v, 5):
            plan.tree(u, v, rnd.uniform(low_m, high_m), rnd.choice(palette))


def road(plan: Plan, r: Rect, *, traffic: float, major: bool = False) -> None:
    """Lay a road along the longer side of r, with markings and, at `traffic` vehicles per 10 m and lane, vehicles."""
    u0, v0, u1, v1 = r
    along_u = (u1 - u0) >= (v1 - v0)
    rnd = plan.rnd
    tone = vary(ASPHALT, rnd, 12)
    if major:
        plan.paint((u0 - 1.5, v0 - 1.5, u1 + 1.5, v1 + 1.5), vary((150, 144, 128), rnd))
    plan.paint(r, tone)
    width = (v1 - v0) if along_u else (u1 - u0)
    middle = (v0 + v1) / 2 if along_u else (u0 + u1) / 2
    start, stop = (u0, u1) if along_u else (v0, v1)

    def line(offset: float, colour: Colour, dash: float = 0.0) -> None:
        at = middle + offset
        ends = (start, at, stop, at) if along_u else (at, start, at, stop)
        plan.stroke(*ends, 0.14, colour, dash)

    if width > 6 and (major or rnd.random() < 0.5):
        line(0, WHITE, 3.0)
    if major:
        line(-width / 2 + 0.5, WHITE)
        line(width / 2 - 0.5, WHITE)
    lanes = 2 if width > 12 else 1
    for side in (-1, 1):
        for lane in range(lanes):
            offset = side * width / 2 * ((lane + 0.5) / lanes) * 0.92
            if lanes == 2 and lane == 1:
                line(side * width / 4, WHITE, 3.0)
            at = start
            while at < stop:
                at += rnd.expovariate(traffic * plan.density / 10) + 6
                u, v = (at, middle + offset) if along_u else (middle + offset, at)
                if at < stop and seen(plan, u, v):
                    heading = (
                        (0.0 if along_u else math.pi / 2)
                        + (0.0 if side > 0 else math.pi)
                        + (0.0 if along_u else math.pi)
                    )
                    plan.add(vehicle(rnd), u, v, heading + rnd.gauss(0, 0.02), 0.7)


def _lot_row(plan: Plan, u0: float, u1: float, v: float, fill: float, facing: float) -> None:
    """Paint one row of stalls of 2.6 by 5.2 m from u0 to u1 at v and park vehicles in it."""
    rnd = plan.rnd
    stalls = steps(u0, u1 - 2.5, 2.6)
    plan.strokes([(u, v - 2.6, u, v + 2.6) for u in stalls], 0.12, (200, 200, 196))
    for u in stalls:
        if rnd.random() < fill and seen(plan, u, v, 5):
            heading = facing + (math.pi if rnd.random() < 0.3 else 0)
            kind = "van" if rnd.random() < 0.07 else "car"
            plan.add(
                vehicle(rnd, kind),
                u + 1.3 + rnd.gauss(0, 0.08),
                v + rnd.gauss(0, 0.2),
                heading + rnd.gauss(0, 0.03),
                0.15,
            )


def parking(plan: Plan, r: Rect) -> None:
    """Fill r with a car park: double rows, aisles, some tree islands."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary(rnd.choice([(104, 104, 106), (88, 89, 92), (134, 132, 128)]), rnd, 10), "grain", 0.25, 0.5)
    fill = rnd.choice([0.15, 0.4, 0.6, 0.8, 0.92]) * min(1.0, plan.density)
    v = v0 + 3.4
    while v < v1 - 2.6:
        _lot_row(plan, u0 + 2, u1 - 2, v, fill, math.pi / 2)
        if v + 5.4 < v1 - 2.6:
            plan.stroke(u0 + 2, v + 2.65, u1 - 2, v + 2.65, 0.12, (204, 204, 200))
            _lot_row(plan, u0 + 2, u1 - 2, v + 5.3, fill, -math.pi / 2)
        v += 5.3 * 2 + 6.4


def flat_roof(plan: Plan, r: Rect, colour: Colour, height_m: float) -> bool:
    """Stand a flat-roofed building with parapet, machinery and skylights."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    rim = min(0.6, (u1 - u0) / 12)
    parts: list[tuple[Rect | np.ndarray, Colour]] = [
        (r, shade(colour, 1.12)),
        ((u0 + rim, v0 + rim, u1 - rim, v1 - rim), colour),
    ]
    su, sv = plan.sun_uv()
    for _ in range(min(14, int((u1 - u0) * (v1 - v0) / 90))):
        a, b = rnd.uniform(1.2, 3.2), rnd.uniform(1.2, 3.2)
        u, v = (
            rnd.uniform(u0 + 1.5, max(u0 + 1.6, u1 - a - 1.5)),
            rnd.uniform(v0 + 1.5, max(v0 + 1.6, v1 - b - 1.5)),
        )
        if rnd.random() < 0.6:
            parts.append(((u + su * 0.9, v + sv * 0.9, u + a + su * 0.9, v + b + sv * 0.9), shade(colour, 0.62)))
            parts.append(((u, v, u + a, v + b), shade((186, 190, 194), rnd.uniform(0.75, 1.15))))
        else:
            parts.append(((u, v, u + a * 1.5, v + b * 0.6), vary((150, 170, 186), rnd, 15)))
    inside = [p for p in parts if not isinstance(p[0], tuple) or _within(p[0], r)]
    return plan.block(r, inside, height_m)


def _within(inner: Rect, outer: Rect) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def gable_roof(plan: Plan, r: Rect, colour: Colour, height_m: float) -> bool:
    """Stand a house with a pitched or hipped roof, its sides lit by the sun."""
    u0, v0, u1, v1 = r
    along_u = (u1 - u0) >= (v1 - v0)
    um, vm = (u0 + u1) / 2, (v0 + v1) / 2
    hip = plan.rnd.choice([0.0, 0.0, 0.5]) * min(u1 - u0, v1 - v0)
    slope = 0.2
    parts: list[tuple[Rect | np.ndarray, Colour]] = []
    if along_u:
        a, b = (u0 + hip, vm), (u1 - hip, vm)
        sides = [([(u0, v0), (u1, v0), b, a], -math.pi / 2), ([(u0, v1), (u1, v1), b, a], math.pi / 2)]
        ends = [([(u0, v0), a, (u0, v1)], math.pi), ([(u1, v0), b, (u1, v1)], 0.0)]
    else:
        a, b = (um, v0 + hip), (um, v1 - hip)
        sides = [([(u0, v0), (u0, v1), b, a], math.pi), ([(u1, v0), (u1, v1), b, a], 0.0)]
        ends = [([(u0, v0), a, (u1, v0)], -math.pi / 2), ([(u0, v1), b, (u1, v1)], math.pi / 2)]
    for shape, facing in sides + (ends if hip else []):
        parts.append((np.array(shape), shade(colour, 0.98 + slope * plan.lit(facing))))
    ridge = (a[0] - 0.15, a[1] - 0.15, b[0] + 0.15, b[1] + 0.15)
    parts.append((ridge, shade(colour, 1.15)))
    if plan.rnd.random() < 0.5:
        cu, cv = plan.rnd.uniform(u0 + 1.5, u1 - 1.5), plan.rnd.uniform(v0 + 1.5, v1 - 1.5)
        parts.append(((cu - 0.5, cv - 0.5, cu + 0.5, cv + 0.5), (120, 96, 86)))
    return plan.block(r, parts, height_m)


def split(plan: Plan, r: Rect, then: Callable[[Plan, Rect], None], street: float, traffic: float) -> None:
    """Cut r in two across its longer side, with a street between where it is wide enough, and fill both halves."""
    u0, v0, u1, v1 = r
    share, half = plan.rnd.uniform(0.36, 0.64), street / 2
    if u1 - u0 > v1 - v0:
        cut = u0 + (u1 - u0) * share
        parts = [(u0, v0, cut - half, v1), (cut + half, v0, u1, v1)]
        lane = (cut - half, v0, cut + half, v1)
    else:
        cut = v0 + (v1 - v0) * share
        parts = [(u0, v0, u1, cut - half), (u0, cut + half, u1, v1)]
        lane = (u0, cut - half, u1, cut + half)
    if street > 4 and plan.visible(plan.rect_px(lane)):
        road(plan, lane, traffic=traffic)
    for part in parts:
        if plan.visible(plan.rect_px(part)):
            then(plan, part)
