"""Districts of drawn scenes outside the town, and the choice among all districts.

A district is a function (plan, rectangle); rectangles are in metres of the street grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .procedural_layout import Plan, Rect
from .procedural_objects import airplane, storage_tank, vehicle
from .procedural_shapes import Colour, shade, vary
from .procedural_ships import ship
from .procedural_streets import (
    CONCRETE,
    CONTAINER_COLOURS,
    ROOF_COLOURS,
    TREE_COLOURS,
    WHITE,
    YELLOW,
    flat_roof,
    gable_roof,
    grow_trees,
    seen,
    split,
    steps,
)
from .procedural_town import TILE_COLOURS, commercial, residential, sports

_CROPS: list[Colour] = [
    (104, 126, 66), (86, 116, 58), (128, 142, 78), (168, 158, 98), (186, 168, 112), (142, 116, 84), (122, 98, 74),
    (96, 120, 74),
]  # fmt: skip


def _slabs(plan: Plan, r: Rect, colour: Colour, pitch: float) -> None:
    """Draw the joints of a concrete surface."""
    u0, v0, u1, v1 = r
    plan.strokes([(u, v0, u, v1) for u in steps(u0, u1, pitch)], 0.1, colour)
    plan.strokes([(u0, v, u1, v) for v in steps(v0, v1, pitch)], 0.1, colour)


def _apron_row(plan: Plan, u0: float, u1: float, v: float, kinds: list[str], heading: float) -> float:
    """Park a row of aircraft along u, nose at v; return the depth in metres that the row needed."""
    rnd = plan.rnd
    u, depth, tilt = u0, 20.0, rnd.choice([0.0, 0.0, 0.0, 0.35, -0.5])
    while u < u1:
        body = airplane(rnd, rnd.choice(kinds))
        ln, span = body.size_m
        pitch = span + rnd.uniform(3.5, 9)
        depth = max(depth, ln + 6)
        centre_v = v - math.copysign(ln / 2, math.sin(heading))
        stand = u + pitch / 2
        plan.stroke(stand, v, stand, v - math.copysign(ln + 16, math.sin(heading)), 0.3, YELLOW)
        if rnd.random() < 0.78 * plan.density and seen(plan, stand, centre_v, 40):
            plan.add(body, stand, centre_v, heading + tilt + rnd.gauss(0, 0.015), 0.5)
            for _ in range(rnd.randint(0, 3) if ln > 20 else 0):
                car = vehicle(rnd, rnd.choice(["car", "van", "van", "truck"]))
                plan.add(
                    car,
                    stand + rnd.uniform(-span, span) / 2,
                    centre_v + rnd.uniform(-ln, ln) / 2,
                    rnd.uniform(0, 6.28),
                    1.0,
                )
        u += pitch
    return depth


def airport(plan: Plan, r: Rect) -> None:
    """Fill r with a runway where there is room, a taxiway, and an apron with parked aircraft and a terminal."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((122, 128, 82), rnd, 14), "grain", 0.7, 0.7)
    v = v0
    if v1 - v0 > 230 or rnd.random() < 0.2:
        top = v + 14
        plan.paint((u0 - 40, top, u1 + 40, top + 45), vary((82, 83, 86), rnd, 10), "grain", 0.6, 0.3)
        for offset in (1.2, 43.8):
            plan.stroke(u0 - 40, top + offset, u1 + 40, top + offset, 0.9, WHITE)
        plan.stroke(u0 - 40, top + 22.5, u1 + 40, top + 22.5, 0.9, WHITE, 30)
        if rnd.random() < 0.5:
            for k in range(12):
                plan.paint((u0 + 30, top + 3 + k * 3.3, u0 + 60, top + 4.8 + k * 3.3), WHITE)
        if rnd.random() < 0.4:
            plan.add(airplane(rnd), rnd.uniform(u0, u1), top + 22.5, rnd.choice([0, math.pi]), 1.0)
        v = top + 45 + rnd.uniform(14, 26)
        across = rnd.uniform(u0, u1)
        plan.paint((across, top + 40, across + 23, v + 10), vary((112, 112, 112), rnd, 8))
    taxi = vary((118, 118, 118), rnd, 10)
    plan.paint((u0 - 40, v, u1 + 40, v + 25), taxi, "grain", 0.6, 0.25)
    plan.stroke(u0 - 40, v + 12.5, u1 + 40, v + 12.5, 0.35, YELLOW)
    if rnd.random() < 0.5 * plan.density:
        plan.add(airplane(rnd), rnd.uniform(u0, u1), v + 12.5, rnd.choice([0, math.pi]), 2.0)
    v += 25
    concrete = vary(rnd.choice([CONCRETE, CONCRETE, (150, 150, 150), (188, 182, 170)]), rnd, 10)
    apron = (u0, v, u1, v1)
    plan.paint(apron, concrete, "grain", 0.8, 0.32)
    _slabs(plan, apron, shade(concrete, 0.93), rnd.choice([6.0, 7.5, 10.0]))
    for _ in range(int((u1 - u0) * (v1 - v) / 500)):
        plan.paint_disc(
            rnd.uniform(u0, u1), rnd.uniform(v, v1), rnd.uniform(0.6, 3), shade(concrete, rnd.uniform(0.85, 0.95)), 0.6
        )
    terminal = v1 - rnd.uniform(18, 40)
    roof = rnd.choice(ROOF_COLOURS)
    u = u0
    while u < u1:
        long = rnd.uniform(35, 90)
        flat_roof(
            plan, (u, terminal + rnd.uniform(0, 4), min(u + long, u1), v1), vary(roof, rnd, 8), rnd.uniform(8, 14)
        )
        u += long + rnd.choice([3, 8, 20])
    kinds = rnd.choice([["liner"], ["liner"], ["liner", "liner", "jet"], ["jet", "light"], ["light"]])
    row = terminal - 5
    plan.paint((u0, row - 3, u1, row + 4), shade(concrete, 0.82))
    facing = math.pi / 2
    while row > v + 18:
        row -= _apron_row(plan, u0, u1, row - 4, kinds, facing) + rnd.uniform(4, 12)
        if rnd.random() < 0.5:
            plan.stroke(u0, row, u1, row, 0.35, YELLOW)
            row -= rnd.uniform(8, 26)


def tank_farm(plan: Plan, r: Rect) -> None:
    """Fill r with groups of storage tanks inside bunds, pipe racks and service roads."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    soil = vary(
        rnd.choice([(168, 152, 126), (150, 146, 136), (178, 166, 142), (138, 136, 124), (120, 124, 92)]), rnd, 8
    )
    plan.paint(r, soil, "grain", 0.5, 0.5)
    if max(u1 - u0, v1 - v0) > rnd.uniform(110, 170):
        split(plan, r, tank_farm, 6.5, traffic=0.06)
        return
    bund = (u0 + 4, v0 + 4, u1 - 4, v1 - 4)
    wall = vary((196, 190, 178), rnd, 8)
    plan.paint(bund, wall)
    plan.paint(
        (bund[0] + 1.1, bund[1] + 1.1, bund[2] - 1.1, bund[3] - 1.1),
        shade(soil, rnd.uniform(0.88, 1.05)),
        "grain",
        0.4,
        0.5,
    )
    radius = min(
        rnd.choice([rnd.uniform(3.5, 8), rnd.uniform(8, 15), rnd.uniform(13, 26)]), (u1 - u0) / 2 - 8, (v1 - v0) / 2 - 8
    )
    if radius < 3:
        return
    pitch = 2 * radius + rnd.uniform(3, 3 + radius * 0.7)
    roof = rnd.choice(["cone", "floating"])
    paint = vary(
        rnd.choice(
            [(238, 238, 234), (236, 236, 232), (214, 216, 212), (196, 180, 146), (170, 176, 172), (150, 110, 86)]
        ),
        rnd,
        6,
    )
    toward_sun = math.atan2(-plan.sun[1], -plan.sun[0]) - plan.theta
    columns, rows = int((u1 - u0 - 12) / pitch), int((v1 - v0 - 12) / pitch)
    shift_u, shift_v = (u1 - u0 - columns * pitch) / 2, (v1 - v0 - rows * pitch) / 2
    for j in range(rows):
        cv = v0 + shift_v + (j + 0.5) * pitch
        plan.stroke(bund[0], cv + radius * 0.3, bund[2], cv + radius * 0.3, 0.5, (186, 188, 188))
        plan.stroke(bund[0], cv + radius * 0.3 + 0.8, bund[2], cv + radius * 0.3 + 0.8, 0.35, (140, 142, 142))
        for i in range(columns):
            cu = u0 + shift_u + (i + 0.5) * pitch
            if not seen(plan, cu, cv, radius * 1.5):
                continue
            if rnd.random() < 0.1:
                plan.paint_disc(cu, cv, radius, shade(soil, 0.85))
                continue
            size = radius * rnd.choice([1, 1, 1, rnd.uniform(0.7, 0.95)])
            kind = roof if rnd.random() < 0.85 else rnd.choice(["cone", "floating"])
            plan.paint_disc(cu, cv, size * 1.13 + 0.5, shade(soil, 1.1))
            plan.add(storage_tank(rnd, size, kind, vary(paint, rnd, 5), toward_sun), cu, cv, 0.0, 0.8)
    if rnd.random() < 0.5:
        flat_roof(plan, (u0 + 7, v1 - 12, u0 + 17, v1 - 6), vary(rnd.choice(ROOF_COLOURS), rnd), 4)


def rural(plan: Plan, r: Rect) -> None:
    """Fill r with parcels, hedgerows, a farm, ponds and woods."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    plan.paint(r, vary((110, 124, 72), rnd, 12), "grain", 0.6, 0.8)
    if max(u1 - u0, v1 - v0) > rnd.uniform(70, 190):
        split(plan, r, rural, rnd.choice([0.8, 1.2, 1.5, 7.0]), traffic=0.12)
        return
    pick = rnd.random()
    gap = rnd.uniform(0.3, 2.5)
    inner = (u0 + gap, v0 + gap, u1 - gap, v1 - gap)
    if pick < 0.68:
        colour = vary(rnd.choice(_CROPS), rnd, 12)
        turn = rnd.choice([0.0, math.pi / 2])
        plan.paint(inner, colour, "furrow", rnd.choice([0.05, 0.09, 0.14, 0.25]), rnd.uniform(0.35, 1.0), turn)
        if rnd.random() < 0.4:
            ruts = [u + rut for u in steps(u0 + 6, u1, rnd.uniform(14, 24)) for rut in (0.0, 1.8)]
            plan.strokes([(u, inner[1], u, inner[3]) for u in ruts], 0.4, shade(colour, 0.86))
        if rnd.random() < 0.06:
            plan.paint_disc((u0 + u1) / 2, (v0 + v1) / 2, rnd.uniform(6, 14), (150, 140, 110))
            plan.paint_disc((u0 + u1) / 2, (v0 + v1) / 2, rnd.uniform(4, 6), (62, 84, 84), rnd.uniform(0.6, 1))
    elif pick < 0.8:
        forest(plan, inner)
    else:
        plan.paint(inner, vary((122, 132, 80), rnd, 14), "grain", 0.5, 0.7)
        for _ in range(rnd.randint(1, 4)):
            u, v = rnd.uniform(u0, max(u0, u1 - 30)), rnd.uniform(v0, max(v0, v1 - 20))
            gable_roof(
                plan,
                (u, v, u + rnd.uniform(12, 28), v + rnd.uniform(9, 14)),
                vary(rnd.choice(TILE_COLOURS), rnd, 12),
                6,
            )
            plan.add(vehicle(rnd), u + rnd.uniform(-8, 20), v + rnd.uniform(18, 24), rnd.uniform(0, 6.28), 1.0)
        grow_trees(plan, r, 0.004)
    if rnd.random() < 0.35:
        palette = rnd.choice(TREE_COLOURS)
        for u in steps(u0, u1, rnd.uniform(4, 9)):
            if seen(plan, u, v0, 5):
                plan.tree(u + rnd.uniform(-1, 1), v0 + rnd.uniform(-1, 1), rnd.uniform(1.8, 3.8), palette)


def forest(plan: Plan, r: Rect) -> None:
    """Fill r with a wood whose edge is ragged."""
    rnd = plan.rnd
    u0, v0, u1, v1 = r
    colour = rnd.choice(TREE_COLOURS)
    sun = math.atan2(-plan.sun[1], -plan.sun[0])
    plan.paint(
        (u0 + 1, v0 + 1, u1 - 1, v1 - 1), shade(colour, 0.95), "canopy", rnd.uniform(0.14, 0.2), 0.9, sun - plan.theta
    )
    for a, b, c, d in ((u0, v0, u1, v0), (u0, v1, u1, v1), (u0, v0, u0, v1), (u1, v0, u1, v1)):
        count = int(math.hypot(c - a, d - b) / 3.2)
        for k in range(count):
            t = (k + rnd.random()) / count
            u, v = a + (c - a) * t, b + (d - b) * t
            if seen(plan, u, v, 5):
                plan.tree(u + rnd.gauss(0, 1), v + rnd.gauss(0, 1), rnd.uniform(1.8, 3.6), colour)
    plan.claim(plan.rect_px(r))


def bare(plan: Plan, r: Rect) -> None:
    """Fill r with a building site: bare soil, tracks, heaps, containers, lorries."""
    u0, v0, u1, v1 = r
    rnd = plan.rnd
    soil = vary(rnd.choice([(178, 150, 112), (160, 132, 100), (190, 172, 138)]), rnd, 10)
    plan.paint(r, soil, "grain", 0.6, 0.7)
    for _ in range(rnd.randint(2, 5)):
        v, w = rnd.uniform(v0, v1), rnd.uniform(v0, v1)
        plan.stroke(u0, v, u1, w, rnd.uniform(2.5, 5), shade(soil, rnd.uniform(0.88, 1.1)))
    for _ in range(int((u1 - u0) * (v1 - v0) / 700)):
        u, v = rnd.uniform(u0, u1), rnd.uniform(v0, v1)
        pick = rnd.random()
        if not seen(plan, u, v, 20):
            continue
        if pick < 0.3:
            a = rnd.uniform(2, 5)
            su, sv = plan.sun_uv()
            scale = 1 / max(1e-6, math.hypot(su, sv))
            for k in range(6):
                t = k / 6
                spot = (u - su * scale * a * 0.35 * t, v - sv * scale * a * 0.35 * t)
                plan.paint_disc(*spot, a * (1 - 0.8 * t), shade(soil, 0.78 + 0.36 * t), 0.85)
        elif pick < 0.5:
            colour = vary(rnd.choice(CONTAINER_COLOURS), rnd)
            plan.block((u, v, u + 6.1, v + 2.44), [((u, v, u + 6.1, v + 2.44), colour)], 2.6)
        elif pick < 0.8:
            plan.add(vehicle(rnd, rnd.choice(["truck", "truck", "car", "van"])), u, v, rnd.uniform(0, 6.28), 1.0)
        else:
            flat_roof(plan, (u, v, u + rnd.uniform(8, 24), v + rnd.uniform(8, 18)), rnd.choice(ROOF_COLOURS), 6)


DISTRICTS: dict[str, Callable[[Plan, Rect], None]] = {
    "airport": airport, "residential": residential, "commercial": commercial, "tank_farm": tank_farm, "sports": sports,
    "rural": rural, "forest": forest, "bare": bare,
}  # fmt: skip


def fill_district(plan: Plan, r: Rect, names: list[str], weights: list[float], limit_m: float) -> None:
    """Cut r by main roads into districts of at most limit_m metres and fill each with one kind, drawn by weight."""
    if max(r[2] - r[0], r[3] - r[1]) > limit_m:
        split(
            plan,
            r,
            lambda p, part: fill_district(p, part, names, weights, limit_m),
            plan.rnd.choice([9.0, 15.0]),
            traffic=0.22,
        )
        return
    DISTRICTS[plan.rnd.choices(names, weights)[0]](plan, r)


def stragglers(plan: Plan, count: int) -> None:
    """Put up to `count` single vehicles or boats anywhere, for scenes that came out empty."""
    rnd = plan.rnd
    h, w = plan.size_hw
    for _ in range(count * 6):
        afloat = plan.ground.water is not None and rnd.random() < 0.7
        body = (
            ship(rnd, rnd.choice(["boat", "yacht", "fishing"]), moving=rnd.random() < 0.5) if afloat else vehicle(rnd)
        )
        spot = (rnd.uniform(0.05, 0.95) * w, rnd.uniform(0.05, 0.95) * h)
        if plan.add_px(body, spot, rnd.uniform(0, 2 * math.pi), 1.0, afloat=afloat) and len(plan.items) >= count:
            return
