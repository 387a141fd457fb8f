"""Town districts of drawn scenes: housing, trade and industry, sports grounds.

A district is a function (plan, rectangle); rectangles are in metres of the street grid.
"""

from __future__ import annotations

import math

import numpy as np

from .procedural_layout import Plan, Rect
from .procedural_objects import court, vehicle
from .procedural_shapes import Colour, shade, vary
from .procedural_streets import (
    CONTAINER_COLOURS,
    ROOF_COLOURS,
    WHITE,
    flat_roof,
    gable_roof,
    grow_trees,
    parking,
    road,
    seen,
    split,
    steps,
)

TILE_COLOURS: list[Colour] = [
    (156, 92, 70),
    (170, 108, 84),
    (134, 84, 70),
    (112, 108, 106),
    (96, 92, 92),
    (150, 142, 132),
    (124, 98, 82),
]
_COURTS: list[tuple[Colour, Colour]] = [
    ((62, 112, 84), (58, 98, 138)), ((70, 118, 80), (150, 84, 62)), ((164, 92, 62), (176, 100, 68)),
    ((58, 92, 132), (74, 128, 150)),
    ((64, 108, 76), (72, 122, 86)), ((150, 76, 62), (66, 116, 82)), ((116, 116, 118), (128, 128, 130)),
    ((86, 80, 120), (60, 108, 120)),
]  # fmt: skip


def residential(plan: Plan, r: Rect) -> None:
    """Fill r with streets of houses, gardens, pools and parked cars."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((112, 122, 80), rnd, 14), "grain", 0.5, 0.7)
    depth, street = rnd.uniform(24, 32), 8.0
    roofs = rnd.sample(TILE_COLOURS, 3)
    cross = rnd.uniform(u0 + 30, u1) if rnd.random() < 0.6 else None
    for v in steps(v0 + rnd.uniform(-20, 10), v1, 2 * depth + street):
        middle = v + depth
        for side in (-1, 1):
            house_v = middle + street / 2 + side * 0 + depth / 2 if side > 0 else middle - street / 2 - depth / 2
            u = u0 + rnd.uniform(0, 8)
            while u < u1 - 10:
                lot = rnd.uniform(14, 22)
                garden = (u, house_v - depth / 2, u + lot, house_v + depth / 2)
                clear = cross is None or not (cross - 2 < u + lot and u < cross + 10)
                if clear and seen(plan, u + lot / 2, house_v, 25):
                    plan.paint(garden, vary((108, 122, 76), rnd, 18), "grain", 0.35, 0.6)
                    _house(plan, u, house_v, lot, side, rnd.choice(roofs), depth)
                u += lot
        plan.paint((u0, middle - 6, u1, middle + 6), vary((170, 166, 156), rnd, 8))
        road(plan, (u0, middle - street / 2, u1, middle + street / 2), traffic=0.05)
        for side in (-1, 1):
            for u in steps(u0, u1, 6.6):
                if rnd.random() < 0.24 * plan.density and seen(plan, u, middle):
                    plan.add(vehicle(rnd), u, middle + side * (street / 2 - 1.2), 0.0 if side > 0 else math.pi, 0.4)
    if cross is not None:
        plan.paint((cross - 2, v0, cross + 10, v1), vary((170, 166, 156), rnd, 8))
        road(plan, (cross, v0, cross + 8, v1), traffic=0.08)
    grow_trees(plan, r, 0.006, 1.5, 4.2)


def _house(plan: Plan, u: float, v: float, lot: float, side: int, roof: Colour, depth: float) -> None:
    rnd = plan.rnd
    wide, deep = rnd.uniform(8.5, min(13.5, lot - 2)), rnd.uniform(7.5, 11)
    hu, hv = u + (lot - wide) / 2, v - side * depth * 0.12 - deep / 2
    front = v - side * depth / 2
    drive = (hu - 0.5, min(front, v), hu + 3.0, max(front, v))
    plan.paint(drive, vary((176, 172, 164), rnd, 14))
    if rnd.random() < 0.45 * plan.density:
        plan.add(vehicle(rnd, "car"), hu + 1.25, front + side * 3.4, side * math.pi / 2, 0.3)
    gable_roof(plan, (hu, hv, hu + wide, hv + deep), vary(roof, rnd, 14), rnd.uniform(4, 6.5))
    back = v + side * depth * 0.32
    if rnd.random() < 0.16:
        if rnd.random() < 0.5:
            plan.paint((u + 4, back - 2, u + 10, back + 2), (190, 186, 178))
            plan.paint((u + 4.8, back - 1.4, u + 9.2, back + 1.4), (92, 170, 190))
        else:
            plan.paint_disc(u + lot / 2, back, 3.0, (196, 192, 184))
            plan.paint_disc(u + lot / 2, back, 2.3, (86, 166, 190))
    elif rnd.random() < 0.3:
        flat_roof(plan, (u + 2, back - 1.5, u + 5.5, back + 1.5), vary(rnd.choice(ROOF_COLOURS), rnd, 12), 2.4)


def commercial(plan: Plan, r: Rect) -> None:
    """Fill r with halls, car parks, loading docks and container yards."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((132, 130, 124), rnd, 14), "grain", 0.5, 0.4)
    limit = rnd.uniform(70, 110)
    if max(u1 - u0, v1 - v0) > limit:
        split(plan, r, commercial, 8.0, traffic=0.16)
        return
    inner = (u0 + 3, v0 + 3, u1 - 3, v1 - 3)
    pick = rnd.random()
    if pick < 0.42:
        parking(plan, inner)
    elif pick < 0.6:
        _container_yard(plan, inner)
    else:
        share = rnd.uniform(0.4, 0.65)
        edge = v0 + 4 + (v1 - v0) * share
        hall = (u0 + 5, v0 + 5, u1 - 5, edge)
        flat_roof(plan, hall, vary(rnd.choice(ROOF_COLOURS), rnd, 10), rnd.uniform(6, 12))
        if rnd.random() < 0.5:
            for u in steps(u0 + 9, u1 - 8, 4.6):
                if rnd.random() < 0.5 * plan.density and seen(plan, u, edge + 9):
                    body = vehicle(rnd, "truck")
                    plan.add(body, u, edge + 1.2 + body.size_m[0] / 2, math.pi / 2 + rnd.gauss(0, 0.015), 0.4)
            if v1 - edge > 40:
                parking(plan, (u0 + 4, edge + 24, u1 - 4, v1 - 4))
        else:
            parking(plan, (u0 + 4, edge + 4, u1 - 4, v1 - 4))
    grow_trees(plan, r, 0.0012, 1.4, 3.2)


def _container_yard(plan: Plan, r: Rect) -> None:
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((140, 136, 130), rnd, 10), "grain", 0.3, 0.6)
    v = v0 + 2
    while v < v1 - 12:
        for u in steps(u0 + 2, u1 - 13, 13.0):
            if rnd.random() < 0.25 or not seen(plan, u, v, 20):
                continue
            n = rnd.randint(2, 5)
            parts: list[tuple[Rect | np.ndarray, Colour]] = []
            for k in range(n):
                colour = vary(rnd.choice(CONTAINER_COLOURS), rnd, 14)
                top = v + k * 2.6
                parts.append(((u, top, u + 12.2, top + 2.44), shade(colour, 0.85)))
                parts.append(((u + 0.15, top + 0.2, u + 12.05, top + 2.2), colour))
            plan.block((u, v, u + 12.2, v + n * 2.6 - 0.16), parts, rnd.choice([2.6, 5.2]))
        for _ in range(2):
            body = vehicle(rnd, rnd.choice(["truck", "truck", "car", "van"]))
            plan.add(
                body,
                rnd.uniform(u0, u1),
                v + 18 + rnd.uniform(-2, 2),
                rnd.choice([0, math.pi]) + rnd.gauss(0, 0.03),
                0.6,
            )
        v += rnd.uniform(20, 24)


def sports(plan: Plan, r: Rect) -> None:
    """Fill r with a park: groups of courts, sometimes a pitch, paths, trees."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((102, 126, 72), rnd, 14), "grain", 0.6, 0.65)
    limit = rnd.uniform(100, 150)
    if max(u1 - u0, v1 - v0) > limit:
        split(plan, r, sports, 6.0, traffic=0.08)
        return
    pick = rnd.random()
    if pick < 0.1 and u1 - u0 > 80 and v1 - v0 > 60:
        _pitch(plan, r)
    elif pick < 0.19:
        parking(plan, (u0 + 4, v0 + 4, u1 - 4, v1 - 4))
    else:
        sport = rnd.choice(["tennis", "tennis", "basketball"])
        pad, inner = rnd.choice(_COURTS)
        turned = rnd.random() < 0.5
        du, dv = (37.0, 19.5) if not turned else (19.5, 37.0)
        columns, rows = int((u1 - u0 - 8) / du), int((v1 - v0 - 8) / dv)
        columns, rows = min(columns, rnd.randint(1, 5)), min(rows, rnd.randint(1, 4))
        au, av = rnd.uniform(u0 + 4, u1 - 4 - columns * du), rnd.uniform(v0 + 4, v1 - 4 - rows * dv)
        if columns * rows > 0:
            apron = rnd.choice([shade(pad, 0.8), (140, 138, 134), (116, 130, 92)])
            plan.paint((au - 1, av - 1, au + columns * du + 1, av + rows * dv + 1), apron)
        for i in range(columns):
            for j in range(rows):
                cu, cv = au + (i + 0.5) * du, av + (j + 0.5) * dv
                if rnd.random() < 0.1 or not seen(plan, cu, cv, 24):
                    continue
                body = court(rnd, sport, vary(pad, rnd, 4), vary(inner, rnd, 4), max(0.1, 0.8 / plan.px_per_m))
                plan.add(body, cu, cv, math.pi / 2 if turned else 0.0, 0.2)
        _park_paths(plan, r)
    grow_trees(plan, r, rnd.choice([0.002, 0.006, 0.01]), 1.8, 5.0)


def _park_paths(plan: Plan, r: Rect) -> None:
    u0, v0, u1, v1 = r
    tone = vary((190, 178, 150), plan.rnd, 10)
    plan.stroke(u0, v0 + 1.5, u1, v0 + 1.5, 2.2, tone)
    plan.stroke(u0 + 1.5, v0, u0 + 1.5, v1, 2.2, tone)


def _pitch(plan: Plan, r: Rect) -> None:
    """Lay a football pitch: grass, so not one of the classes, and a thing that a detector must learn to leave alone."""
    u, v = (r[0] + r[2]) / 2, (r[1] + r[3]) / 2
    a, b = min(50.0, (r[2] - r[0]) / 2 - 8), min(32.0, (r[3] - r[1]) / 2 - 6)
    green = vary((86, 130, 66), plan.rnd, 10)
    for k in range(10):
        plan.paint((u - a + k * a / 5, v - b, u - a + (k + 1) * a / 5, v + b), shade(green, 1.0 if k % 2 else 1.08))
    plan.claim(plan.rect_px((u - a, v - b, u + a, v + b)))
    for x in (-a, 0, a):
        plan.stroke(u + x, v - b, u + x, v + b, 0.15, WHITE)
    for y in (-b, b):
        plan.stroke(u - a, v + y, u + a, v + y, 0.15, WHITE)
    for side in (-1, 1):
        plan.stroke(u + side * (a - 16), v - 20, u + side * (a - 16), v + 20, 0.15, WHITE)
        for y in (-20, 20):
            plan.stroke(u + side * (a - 16), v + y, u + side * a, v + y, 0.15, WHITE)
