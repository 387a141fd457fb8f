"""Ships of drawn scenes, and where they lie: moored along piers and walls, at anchor or under way."""

from __future__ import annotations

import math
from random import Random

import cv2
import numpy as np

from .procedural_layout import Plan
from .procedural_objects import CONTAINER_COLOURS, GLASS, SHIP, Body
from .procedural_shapes import Colour, box, disc, shade, vary


def _hull(ln: float, wd: float, bow: float, stern: float) -> np.ndarray:
    """Return a ship's deck outline: round bow over `bow` of the length, stern `stern` of the width."""
    front = [
        (ln / 2 - bow * ln * (1 - math.sqrt(1 - u * u)) ** 0.9, wd / 2 * u)
        for u in (0.0, 0.25, 0.45, 0.65, 0.82, 0.94, 1.0)
    ]
    side = [*front, (-ln * 0.32, wd / 2), (-ln / 2, wd / 2 * stern)]
    points = np.array(side + [(x, -y) for x, y in reversed(side[1:])], np.float32)
    return cv2.convexHull(points)[:, 0].astype(np.float64)


def ship(rnd: Random, kind: str | None = None, moving: bool = False) -> Body:
    """Make a boat, yacht, fishing boat, tanker, bulk carrier or container ship."""
    kind = kind or rnd.choices(["boat", "yacht", "fishing", "tanker", "bulk", "container"], [34, 18, 14, 11, 12, 11])[0]
    small = kind in ("boat", "yacht")
    ln = {"boat": rnd.uniform(6, 12), "yacht": rnd.uniform(11, 26), "fishing": rnd.uniform(16, 34)}.get(
        kind, rnd.uniform(60, 125)
    )
    wd = ln * (
        rnd.uniform(0.27, 0.34) if small else rnd.uniform(0.22, 0.27) if kind == "fishing" else rnd.uniform(0.14, 0.175)
    )
    x, w = ln / 2, wd / 2
    bow = 0.42 if small else 0.3 if kind == "fishing" else 0.16
    hull_paint = vary(
        rnd.choice([(240, 240, 238)] * 5 + [(40, 60, 96), (196, 204, 210)] if small else
                   [(58, 60, 66), (120, 42, 38), (38, 56, 84), (150, 152, 154), (40, 74, 64), (200, 198, 190)]),
        rnd, 10,
    )  # fmt: skip
    shape = _hull(ln, wd, bow, 0.78)
    parts: list[tuple[np.ndarray, Colour]] = [(shape, hull_paint)]
    white = vary((236, 236, 232), rnd, 8)
    if small:
        deck = vary(rnd.choice([(226, 220, 206), (186, 150, 106), (214, 214, 212), (150, 120, 90)]), rnd, 10)
        parts.append((shape * (0.9, 0.78) - (ln * 0.02, 0), deck if kind == "boat" else white))
        if kind == "boat":
            parts.append((box(-x * 0.8, -w * 0.55, -x * 0.05, w * 0.55), shade(deck, 0.72)))
            parts.append(
                (
                    np.array([[x * 0.2, -w * 0.5], [x * 0.2, w * 0.5], [-x * 0.02, w * 0.64], [-x * 0.02, -w * 0.64]]),
                    GLASS,
                )
            )
            parts.append((box(-x * 0.62, -w * 0.45, -x * 0.42, w * 0.45), white))
        else:
            parts.append((box(-x * 0.88, -w * 0.7, -x * 0.5, w * 0.7), deck))
            parts.append((np.array([[x * 0.4, -w * 0.3], [x * 0.4, w * 0.3], [x * 0.1, w * 0.58], [-x * 0.5, w * 0.6],
                                    [-x * 0.5, -w * 0.6], [x * 0.1, -w * 0.58]]), shade(white, 0.9)))  # fmt: skip
            parts.append(
                (
                    np.array([[x * 0.3, -w * 0.3], [x * 0.3, w * 0.3], [x * 0.12, w * 0.48], [x * 0.12, -w * 0.48]]),
                    GLASS,
                )
            )
            parts.append((box(-x * 0.4, -w * 0.42, x * 0.08, w * 0.42), white))
        height = 1.2 if kind == "boat" else 2.6
    else:
        deck = vary(
            rnd.choice([(126, 78, 62), (96, 110, 100), (140, 142, 140), (158, 112, 86), (84, 96, 116)]), rnd, 10
        )
        parts.append((shape * (0.975, 0.86), deck))
        house = ln * (0.2 if kind == "fishing" else 0.12)
        front = kind == "fishing" and rnd.random() < 0.5
        hx = x * 0.35 if front else -x * 0.86
        lo, hi = (-x * 0.85, x * 0.3) if front else (hx + house + ln * 0.02, x * 0.72)
        if kind == "tanker":
            parts.append((box(lo, -w * 0.06, hi, w * 0.06), shade(deck, 1.35)))
            parts += [(box(lo, y - w * 0.02, hi, y + w * 0.02), shade(deck, 0.8)) for y in (-w * 0.35, w * 0.35)]
            middle = (lo + hi) / 2
            parts.append((box(middle - ln * 0.012, -w * 0.8, middle + ln * 0.012, w * 0.8), shade(deck, 1.4)))
            parts += [
                (disc(cx, cy, wd * 0.05), shade(deck, 1.25))
                for cx in np.linspace(lo, hi, 7)[1:-1]
                for cy in (-w * 0.55, w * 0.55)
            ]
        elif kind == "bulk":
            n = rnd.randint(4, 7)
            cover = vary(rnd.choice([(176, 150, 110), (120, 132, 120), (150, 92, 70), (186, 186, 180)]), rnd, 8)
            pitch = (hi - lo) / n
            for k in range(n):
                a = lo + k * pitch + pitch * 0.12
                parts.append((box(a, -w * 0.62, a + pitch * 0.72, w * 0.62), shade(cover, 0.72)))
                parts.append((box(a, -w * 0.62, a + pitch * 0.66, w * 0.54), cover))
        elif kind == "container":
            columns, rows = max(2, int((hi - lo) / 7.2)), max(3, int(wd * 0.84 / 2.6))
            px, py = (hi - lo) / columns, wd * 0.84 / rows
            for i in range(columns):
                narrow = 1 if i >= columns - 1 and rows > 4 else 0
                for j in range(narrow, rows - narrow):
                    colour = vary(rnd.choice(CONTAINER_COLOURS), rnd, 10)
                    y = -wd * 0.42 + j * py
                    parts.append((box(lo + i * px, y, lo + i * px + px * 0.93, y + py * 0.9), colour))
        else:
            parts.append((box(lo + ln * 0.03, -w * 0.5, hi - ln * 0.05, w * 0.5), shade(deck, 0.75)))
            parts.append((box(lo + ln * 0.05, -w * 0.06, hi, w * 0.06), (210, 190, 60)))
        parts.append((box(hx, -w * 0.8, hx + house, w * 0.8), shade(white, 0.82)))
        parts.append((box(hx, -w * 0.62, hx + house * 0.72, w * 0.62), white))
        parts.append((box(hx + house * 0.76, -w * 0.74, hx + house * 0.9, w * 0.74), GLASS))
        parts.append(
            (box(hx + house * 0.12, -w * 0.2, hx + house * 0.42, w * 0.2), vary(rnd.choice(CONTAINER_COLOURS), rnd))
        )
        height = 5.0 if kind == "fishing" else 9.0
    wake = ln * rnd.uniform(2.0, 4.5) if moving and small else ln * rnd.uniform(0.8, 1.6) if moving else 0.0
    return Body(SHIP, (ln, wd), parts, 1, [(shape, height)], wake_m=wake)


def fleet(plan: Plan, rnd: Random) -> None:
    """Put ships on the water: moored along walls and piers, the others under way or at anchor."""
    water = plan.ground.water
    assert water is not None
    s = plan.px_per_m
    h, w = plan.size_hw
    reach = 40 * s
    for (px, py), (dx, dy), half, length in water.piers:
        along = math.atan2(dy, dx)
        for side in (-1, 1):
            at = 4.0
            while at < length - 2:
                if half < 3:  # a pontoon: boats lie across
                    body = ship(rnd, rnd.choice(["boat", "boat", "yacht"]))
                    out = half + 0.9 + body.size_m[0] / 2
                    heading, step = (
                        along + side * math.pi / 2 + (math.pi if rnd.random() < 0.3 else 0),
                        body.size_m[1] + 1.2,
                    )
                else:
                    body = ship(rnd, rnd.choice(["fishing", "tanker", "bulk", "container"]))
                    out = half + 1.4 + body.size_m[1] / 2
                    heading, step = along + (math.pi if rnd.random() < 0.5 else 0), body.size_m[0] + rnd.uniform(5, 20)
                mid = at + step / 2
                x = px + s * (dx * mid - dy * side * out)
                y = py + s * (dy * mid + dx * side * out)
                inside = -reach < x < w + reach and -reach < y < h + reach
                if rnd.random() < 0.72 * plan.density and inside:
                    plan.add_px(body, (x, y), heading, 0.3, afloat=True)
                at += step
    area = h * w / s**2
    tries = int(min(900, max(5, area / 1500)) * plan.density)
    course = rnd.uniform(0, 2 * math.pi)
    wanted = rnd.choice(
        [["boat", "yacht"], ["boat", "yacht", "fishing"], ["tanker", "bulk", "container", "boat"], None]
    )
    if water.kind in ("lake", "river"):
        wanted = ["boat", "boat", "yacht"]
    if wanted is not None and "tanker" in wanted:
        tries = math.ceil(tries * 0.3)
    spots = np.array([(rnd.uniform(0, w), rnd.uniform(0, h)) for _ in range(tries)])
    for x, y in spots[water.distance_m(spots) > 3]:
        body = ship(rnd, None if wanted is None else rnd.choice(wanted), moving=rnd.random() < 0.45)
        heading = (
            course + rnd.choice([0, math.pi]) + rnd.gauss(0, 0.3) if body.wake_m == 0 else rnd.uniform(0, 2 * math.pi)
        )
        plan.add_px(body, (float(x), float(y)), heading, 3.0 + body.size_m[0] / 8, afloat=True)
