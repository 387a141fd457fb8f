"""Airplanes, storage tanks, vehicles and courts of drawn scenes, as convex polygons in metres.

A local frame has x forward and y to the right, metres, origin in the middle. The outline parts come first and decide
the box; everything after them lies inside the outline and is only colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import numpy as np

from .procedural_shapes import Colour, box, disc, rounded, shade, vary

CLASS_NAMES = ["airplane", "ship", "storage_tank", "vehicle", "court"]
AIRPLANE, SHIP, STORAGE_TANK, VEHICLE, COURT = range(5)

_CAR_PAINT = [
    (236, 236, 234), (240, 240, 240), (205, 207, 210), (150, 153, 158), (92, 96, 102), (40, 42, 46), (28, 29, 32),
    (150, 28, 30), (178, 40, 34), (34, 62, 118), (52, 92, 150), (48, 84, 66), (196, 170, 120), (212, 176, 44),
    (110, 70, 50),
]  # fmt: skip
CONTAINER_COLOURS = [
    (176, 62, 44),
    (52, 86, 138),
    (70, 122, 84),
    (206, 204, 198),
    (198, 128, 50),
    (110, 112, 116),
    (132, 44, 50),
]
GLASS, _SIDE_GLASS = (38, 46, 56), (49, 59, 72)


@dataclass(frozen=True, eq=False)
class Body:
    """One object before it is placed. outline: how many leading parts make the silhouette.

    parts: [((k, 2) points in metres, RGB)]; shadow: [((k, 2) points in metres, height in metres)], cast from the ground
    up where solid, else the shape alone; wake_m: length of the wake behind a ship, 0 for none.
    """

    class_id: int
    size_m: tuple[float, float]
    parts: list[tuple[np.ndarray, Colour]]
    outline: int
    shadow: list[tuple[np.ndarray, float]] = field(default_factory=list)
    solid: bool = True
    wake_m: float = 0.0


# A car with half length and half width 1: body, bonnet to boot, windscreen, rear window, side windows, roof.
_CAR_SHAPES = [
    rounded(2.0, 2.0, 0.25), rounded(1.94, 1.8, 0.24),
    np.array([[0.42, -0.82], [0.42, 0.82], [0.1, 0.7], [0.1, -0.7]]),
    np.array([[-0.78, -0.74], [-0.78, 0.74], [-0.52, 0.7], [-0.52, -0.7]]),
    box(-0.52, -0.86, 0.14, -0.68), box(-0.52, 0.68, 0.14, 0.86), box(-0.52, -0.68, 0.1, 0.68),
]  # fmt: skip
_CAR = np.concatenate(_CAR_SHAPES)
_CAR_ENDS = np.cumsum([len(points) for points in _CAR_SHAPES]).tolist()
_CAR_SPANS = list(zip([0, *_CAR_ENDS[:-1]], _CAR_ENDS, strict=True))


def vehicle(rnd: Random, kind: str | None = None) -> Body:
    """Make a car, van, bus or truck."""
    kind = kind or rnd.choices(["car", "van", "truck", "bus"], [80, 11, 7, 2])[0]
    paint = vary(rnd.choice(_CAR_PAINT), rnd, 12)
    if kind == "car":
        ln, wd = rnd.uniform(3.9, 5.0), rnd.uniform(1.75, 2.0)
        tones = (shade(paint, 0.86), paint, GLASS, GLASS, _SIDE_GLASS, _SIDE_GLASS, shade(paint, 1.1))
        scaled = _CAR * (ln / 2, wd / 2)
        shapes = [scaled[start:stop] for start, stop in _CAR_SPANS]
        return Body(VEHICLE, (ln, wd), list(zip(shapes, tones, strict=True)), 1, [(shapes[0], 1.45)])
    if kind == "van":
        ln, wd = rnd.uniform(5.0, 6.4), rnd.uniform(2.0, 2.2)
        h, w = ln / 2, wd / 2
        paint = vary(rnd.choice([(238, 238, 236), (230, 230, 230), paint]), rnd, 8)
        parts = [
            (rounded(ln, wd, 0.3), shade(paint, 0.9)),
            (box(-h * 0.97, -w * 0.88, h * 0.5, w * 0.88), paint),
            (np.array([[h * 0.8, -w * 0.8], [h * 0.8, w * 0.8], [h * 0.55, w * 0.72], [h * 0.55, -w * 0.72]]), GLASS),
        ]
        return Body(VEHICLE, (ln, wd), parts, 1, [(parts[0][0], 2.2)])
    if kind == "bus":
        ln, wd = rnd.uniform(10.5, 13), 2.55
        h, w = ln / 2, wd / 2
        paint = vary(rnd.choice([(226, 226, 222), (200, 52, 46), (230, 190, 60), (60, 110, 170)]), rnd, 10)
        parts = [
            (rounded(ln, wd, 0.3), shade(paint, 0.85)),
            (box(-h * 0.97, -w * 0.84, h * 0.95, w * 0.84), paint),
            (box(h * 0.3, -w * 0.4, h * 0.5, w * 0.4), shade(paint, 0.75)),
            (box(-h * 0.7, -w * 0.6, -h * 0.4, w * 0.6), (214, 216, 218)),
        ]
        return Body(VEHICLE, (ln, wd), parts, 1, [(parts[0][0], 3.0)])
    ln, wd = rnd.uniform(7.5, 16.5), 2.55
    h, w = ln / 2, wd / 2
    load = vary(rnd.choice([(236, 236, 234), (228, 228, 226), (190, 192, 194), *CONTAINER_COLOURS]), rnd, 10)
    parts = [
        (box(-h, -w, h - 2.6, w), shade(load, 0.9)),
        (rounded(2.3, wd * 0.96, 0.25) + np.array([h - 1.15, 0.0]), shade(paint, 0.9)),
        (box(h - 2.9, -w * 0.5, h - 2.0, w * 0.5), (52, 52, 54)),
        (box(-h + 0.15, -w * 0.86, h - 2.75, w * 0.86), load),
        (box(h - 2.0, -w * 0.75, h - 0.75, w * 0.75), shade(paint, 1.08)),
        (box(h - 0.7, -w * 0.8, h - 0.25, w * 0.8), GLASS),
    ]
    parts += [(box(x, -w * 0.86, x + 0.12, w * 0.86), shade(load, 0.92)) for x in np.arange(-h + 2, h - 4, 2.0)]
    return Body(VEHICLE, (ln, wd), parts, 3, [(parts[0][0], 3.4), (parts[1][0], 2.6)])


def _fuselage(ln: float, wd: float) -> np.ndarray:
    nose = [(ln / 2 - ln * 0.13 * (1 - math.cos(t)), wd / 2 * math.sin(t)) for t in np.linspace(0.0, math.pi / 2, 7)]
    side = [*nose, (-ln * 0.14, wd / 2), (-ln * 0.34, wd * 0.34), (-ln / 2, wd * 0.07)]
    return np.array(side + [(x, -y) for x, y in reversed(side[1:])])


def _wing(root_x: float, chord: float, tip_chord: float, span: float, sweep: float, y0: float, side: int) -> np.ndarray:
    tip_x = root_x - sweep
    return np.array(
        [
            [root_x, side * y0],
            [tip_x, side * span / 2],
            [tip_x - tip_chord, side * span / 2],
            [root_x - chord, side * y0],
        ]
    )


def airplane(rnd: Random, kind: str | None = None) -> Body:
    """Make an airliner, a business jet or a light propeller plane."""
    kind = kind or rnd.choices(["liner", "jet", "light"], [62, 22, 16])[0]
    liner, light = kind == "liner", kind == "light"
    ln = rnd.uniform(30, 62) if liner else rnd.uniform(13, 22) if kind == "jet" else rnd.uniform(7, 11)
    span = ln * (
        rnd.uniform(0.9, 1.06) if liner else rnd.uniform(0.88, 1.0) if kind == "jet" else rnd.uniform(1.2, 1.4)
    )
    wd = ln * (rnd.uniform(0.095, 0.118) if not light else 0.13)
    hull = vary(rnd.choice([(242, 243, 245)] * 4 + [(205, 210, 216), (226, 230, 236), (170, 178, 186)]), rnd, 6)
    accent = vary(
        rnd.choice([(28, 52, 120), (182, 30, 38), (20, 98, 90), (228, 140, 30), (60, 60, 70), (70, 130, 196),
                    (240, 200, 40)]), rnd, 12,
    )  # fmt: skip
    wing_colour = shade(hull, rnd.uniform(0.8, 0.94))
    sweep = span / 2 * (rnd.uniform(0.42, 0.6) if not light else 0.03)
    chord, tip = ln * (0.2 if not light else 0.18), ln * (0.055 if not light else 0.13)
    root = ln * (0.17 if liner else 0.07 if kind == "jet" else 0.2)
    t_span, t_sweep, t_root = span * (0.36 if not light else 0.32), sweep * 0.4, -ln * (0.37 if not light else 0.38)
    outline: list[tuple[np.ndarray, Colour]] = []
    for side in (-1, 1):
        outline.append((_wing(root, chord, tip, span, sweep, wd * 0.2, side), wing_colour))
    if liner:
        stations = [0.32] if rnd.random() < 0.75 else [0.3, 0.58]
        for share in stations:
            for side in (-1, 1):
                y = side * share * span / 2
                x = root - sweep * share
                long = ln * 0.085
                engine = disc(x + long * 0.15, y, long / 2, ln * 0.023, 14)
                outline.insert(0, (engine, shade(hull, 0.72)))
    for side in (-1, 1):
        tail = _wing(t_root, ln * 0.1, ln * (0.045 if not light else 0.075), t_span, t_sweep, wd * 0.1, side)
        outline.append((tail, wing_colour))
    if kind == "jet":
        for side in (-1, 1):
            outline.append((disc(-ln * 0.22, side * wd * 0.78, ln * 0.085, wd * 0.27, 14), shade(hull, 0.75)))
    if light:
        outline.append((box(ln * 0.49, -ln * 0.1, ln * 0.5, ln * 0.1), (70, 70, 72)))
    body = _fuselage(ln, wd)
    outline.append((body, shade(hull, 0.9)))
    count = len(outline)
    details: list[tuple[np.ndarray, Colour]] = []
    if not light:
        for side in (-1, 1):  # flaps and the wing's leading edge
            wing = _wing(root, chord, tip, span, sweep, wd * 0.2, side)
            a, b, c, d = wing
            details.append((np.array([d * 0.72 + a * 0.28, c * 0.72 + b * 0.28, c, d]), shade(wing_colour, 0.86)))
            details.append((np.array([a, b, b * 0.9 + c * 0.1, a * 0.93 + d * 0.07]), shade(wing_colour, 1.12)))
    details.append((body * (0.985, 0.62), hull))
    details.append((body * (0.96, 0.22), shade(hull, 1.06)))
    style = rnd.random()
    if style < 0.35:  # painted rear
        details.append((np.array([[-ln * 0.2, wd * 0.42], [-ln * 0.2, -wd * 0.42], [-ln * 0.47, -wd * 0.1],
                                  [-ln * 0.47, wd * 0.1]]), accent))  # fmt: skip
    elif style < 0.55:
        details += [
            (box(-ln * 0.14, -wd * 0.5, ln * 0.3, -wd * 0.4), accent),
            (box(-ln * 0.14, wd * 0.4, ln * 0.3, wd * 0.5), accent),
        ]
    if style < 0.75:  # painted wing tips
        for side in (-1, 1):
            a, b, c, d = _wing(root, chord, tip, span, sweep, wd * 0.2, side)
            details.append((np.array([b * 0.94 + a * 0.06, b, c, c * 0.94 + d * 0.06]), accent))
    details.append((box(-ln * 0.49, -wd * 0.075, -ln * 0.33, wd * 0.075), accent))
    nose = ln * (0.43 if not light else 0.2)
    window = [(nose + wd * 0.13, wd * 0.1), (nose, wd * 0.2), (nose - wd * 0.1, wd * 0.24)]
    details.append((np.array(window + [(x, -y) for x, y in reversed(window)]), GLASS))
    height = ln * 0.07 if not light else 1.2
    shadow = [(points, height) for points, _ in outline]
    return Body(AIRPLANE, (ln, span), outline + details, count, shadow, solid=False)


def storage_tank(rnd: Random, radius: float, roof: str, paint: Colour, sun_angle: float) -> Body:
    """Make a round tank, radius in metres. roof: "cone" or "floating"; sun_angle: towards the sun, radians."""
    n = 48 if radius > 6 else 28
    parts: list[tuple[np.ndarray, Colour]] = [(disc(0, 0, radius, points=n), shade(paint, 0.74))]
    sx, sy = math.cos(sun_angle), math.sin(sun_angle)
    height = radius * rnd.uniform(0.7, 1.2)
    if roof == "cone":
        wedges = 20
        for k in range(wedges):
            a, b = 2 * math.pi * k / wedges, 2 * math.pi * (k + 1) / wedges
            lit = math.cos((a + b) / 2 - sun_angle)
            rim = 0.95 * radius
            points = np.array([[0, 0], [rim * math.cos(a), rim * math.sin(a)], [rim * math.cos(b), rim * math.sin(b)]])
            parts.append((points, shade(paint, 0.97 + 0.09 * lit)))
        parts.append((disc(0, 0, radius * 0.09), shade(paint, 0.72)))
        parts.append((box(radius * 0.1, -0.25, radius * 0.93, 0.25), shade(paint, 0.8)))
    else:
        deck = vary(rnd.choice([(150, 150, 148), (186, 184, 178), (120, 124, 124), paint]), rnd, 10)
        parts.append((disc(0, 0, radius * 0.95, points=n), shade(paint, 1.08)))
        parts.append((disc(0, 0, radius * 0.9, points=n), shade(deck, 0.5)))
        parts.append((disc(-sx * radius * 0.07, -sy * radius * 0.07, radius * 0.82, points=n), deck))
        parts.append((disc(-sx * radius * 0.07, -sy * radius * 0.07, radius * 0.62, points=n), shade(deck, 1.05)))
        parts.append((box(-radius * 0.06, -radius * 0.85, radius * 0.02, -radius * 0.1), shade(paint, 1.1)))
        parts.append((disc(radius * 0.3, radius * 0.2, radius * 0.05, points=10), shade(deck, 0.7)))
    return Body(STORAGE_TANK, (2 * radius, 2 * radius), parts, 1, [(parts[0][0], height)])


def court(rnd: Random, sport: str, pad: Colour, field_colour: Colour, line_m: float) -> Body:
    """Make a tennis or basketball court with its coloured surround. line_m: how wide its lines are drawn."""
    white, t = (238, 238, 234), line_m / 2
    if sport == "tennis":
        ln, wd, a, b = 34.5, 17.0, 11.885, 5.485
    else:
        ln, wd, a, b = 31.0, 18.0, 14.0, 7.5
    parts: list[tuple[np.ndarray, Colour]] = [
        (box(-ln / 2, -wd / 2, ln / 2, wd / 2), pad),
        (box(-a, -b, a, b), field_colour),
    ]

    def line(x0: float, y0: float, x1: float, y1: float) -> None:
        parts.append((box(min(x0, x1) - t, min(y0, y1) - t, max(x0, x1) + t, max(y0, y1) + t), white))

    if sport == "tennis":
        for y in (-4.115, 4.115):
            line(-a, y, a, y)
        for x in (-6.4, 6.4):
            line(x, -4.115, x, 4.115)
        line(-6.4, 0, 6.4, 0)
        parts.append((box(-0.25, -b - 0.6, 0.25, b + 0.6), (46, 50, 50)))
        parts.append((box(-0.1, -b - 0.6, 0.1, b + 0.6), (190, 192, 190)))
    else:
        key = shade(pad, 0.9)
        for side in (-1, 1):
            hoop = disc(side * (a - 1.6), 0, 6.75, points=32)
            inside = hoop[(np.abs(hoop[:, 0]) <= a) & (side * hoop[:, 0] >= 0)]
            order = np.argsort(inside[:, 1])
            arc = np.concatenate([[[side * a, -6.75]], inside[order], [[side * a, 6.75]]])
            parts.append((arc, white))
            inner = arc.copy()
            inner[:, 1] *= (6.75 - 2 * t) / 6.75
            inner[1:-1, 0] += side * 2 * t
            inner[:, 0] = np.clip(inner[:, 0], -a, a)
            parts.append((inner, field_colour))
            x0, x1 = sorted((side * (a - 5.8), side * a))
            parts.append((box(x0, -2.45, x1, 2.45), white))
            parts.append((box(x0 + 2 * t, -2.45 + 2 * t, x1 - 2 * t, 2.45 - 2 * t), key))
        parts += [(disc(0, 0, 1.8), white), (disc(0, 0, 1.8 - 2 * t), key)]
        line(0, -b, 0, b)
    for y in (-b, b):
        line(-a, y, a, y)
    for x in (-a, a):
        line(x, -b, x, b)
    return Body(COURT, (ln, wd), parts, 1)
