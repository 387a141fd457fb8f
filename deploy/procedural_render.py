"""Drawing of a planned scene: ground, wakes, shadows, buildings, bodies, trees, and what lens, air and sensor add."""

from __future__ import annotations

import math
from functools import lru_cache
from random import Random

import cv2
import numpy as np

from .procedural_ground import paint_ground, sample_texture
from .procedural_layout import Item, Plan, Tree
from .procedural_shapes import draw_body, fill, fixed_point, shade


def _draw_tree(image: np.ndarray, tree: Tree, sun: tuple[float, float], rnd: Random) -> None:
    scale = max(1e-6, math.hypot(*sun))
    lx, ly = -sun[0] / scale, -sun[1] / scale

    def blob(x: float, y: float, radius: float, tone: float) -> None:
        at = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(image, at, max(1, round(radius * 16)), shade(tree.colour, tone), -1, cv2.LINE_AA, 4)

    r = tree.radius
    blob(tree.x, tree.y, r * 0.86, 0.72)
    if r < 2.5:
        blob(tree.x + lx * r * 0.25, tree.y + ly * r * 0.25, r * 0.5, 1.05)
        return
    clumps = 6 if r < 9 else 11
    for k in range(clumps):
        turn = 2.4 * k + rnd.random()
        reach = r * (0.62 if k < clumps * 0.6 else 0.3)
        dx, dy = math.cos(turn), math.sin(turn)
        lit = dx * lx + dy * ly
        blob(
            tree.x + dx * reach,
            tree.y + dy * reach,
            r * rnd.uniform(0.28, 0.42),
            0.9 + 0.2 * lit + rnd.uniform(-0.05, 0.05),
        )
    blob(tree.x + lx * r * 0.3, tree.y + ly * r * 0.3, r * 0.3, 1.16)


def _shadow_mask(plan: Plan, items: list[Item]) -> np.ndarray:
    """Return (h, w) uint8, 255 in full shadow."""
    mask = np.zeros(plan.size_hw, np.uint8)
    sun = np.array(plan.sun)
    for block in plan.blocks:
        for points, height in block.shadow:
            _cast(mask, points, sun * height, True)
    for item in items:
        for points, height in item.shadow:
            _cast(mask, points, sun * height, item.solid)
    for tree in plan.trees:
        at = np.array([tree.x, tree.y]) + sun * tree.height_m * 0.6
        centre = tuple(int(v) for v in fixed_point(at))
        cv2.circle(mask, centre, max(1, round(tree.radius * 13)), (255,), -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.12 * plan.px_per_m))


def _cast(mask: np.ndarray, points: np.ndarray, offset: np.ndarray, solid: bool) -> None:
    moved = points + offset
    if solid:
        both = np.concatenate([points, moved]).astype(np.float32)
        moved = cv2.convexHull(both)[:, 0].astype(np.float64)
    fill(mask, moved, 255)


def _wakes(image: np.ndarray, items: list[Item], px_per_m: float, rnd: Random) -> None:
    if not any(item.wake for item in items):
        return
    trail = np.zeros(image.shape[:2], np.uint8)
    for item in items:
        for points, grey in item.wake:
            fill(trail, points, grey)
    foam = cv2.GaussianBlur(trail, (0, 0), max(0.8, 0.35 * px_per_m))
    churn = sample_texture("grain", (image.shape[0], image.shape[1]), 1.1, 0.0, rnd)
    foam = cv2.multiply(foam, cv2.convertScaleAbs(churn, alpha=2.2, beta=-150), scale=1 / 140)
    cover = cv2.cvtColor(foam, cv2.COLOR_GRAY2RGB)
    white = cv2.merge([cv2.convertScaleAbs(foam, alpha=k) for k in (0.9, 0.93, 0.93)])
    image[:] = cv2.add(cv2.multiply(image, 255 - cover, scale=1 / 255), white)


@lru_cache(maxsize=64)
def _noise_table(sigma: int) -> np.ndarray:
    """Return 256 noise values around 32 with standard deviation sigma / 4, one for each equally likely byte."""
    sample = np.sort(np.random.default_rng(7).standard_normal(256 * 64)).reshape(256, 64).mean(1)
    return np.clip(np.rint(32 + sample * sigma / 4), 0, 64).astype(np.uint8)


def _sensor(image: np.ndarray, rnd: Random) -> np.ndarray:
    """Add what lies between the ground and the file: blur, haze, colour cast, vignette, noise."""
    h, w = image.shape[:2]
    image = cv2.GaussianBlur(image, (5, 5), rnd.uniform(0.35, 0.8))
    haze = max(0.0, rnd.gauss(0.07, 0.07))
    veil = (rnd.uniform(185, 215), rnd.uniform(195, 220), rnd.uniform(205, 235))
    gamma, gain = rnd.uniform(0.82, 1.1), rnd.uniform(0.92, 1.2)
    ramp = np.arange(256) / 255
    table = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        tone = 255 * gain * rnd.uniform(0.95, 1.05) * ramp**gamma
        table[0, :, channel] = np.clip(tone * (1 - haze) + veil[channel] * haze, 0, 255)
    image = cv2.LUT(image, table)
    fall = rnd.uniform(0.0, 0.16)
    yy, xx = np.mgrid[-1:1:17j, -1:1:17j]
    vignette = (255 * (1 - fall * (xx**2 + yy**2) / 2)).astype(np.uint8)
    shade_map = cv2.cvtColor(cv2.resize(vignette, (w, h), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2RGB)
    image = cv2.multiply(image, shade_map, scale=1 / 255)
    raw = np.frombuffer(np.random.default_rng(rnd.getrandbits(32)).bytes(h * w * 3), np.uint8).reshape(h, w, 3)
    noise = cv2.LUT(raw, _noise_table(rnd.randint(4, 22)))
    return cv2.addWeighted(image, 1.0, noise, 1.0, -32.0)


def render(
    plan: Plan, seed: int, *, without: frozenset[int] = frozenset(), shadows: bool = True, sensor: bool = True
) -> np.ndarray:
    """Draw the plan. without: items to leave out; shadows, sensor: switches, so that a test can see single bodies."""
    rnd = Random(f"{seed} ground")
    items = [item for k, item in enumerate(plan.items) if k not in without]
    image = paint_ground(plan.ground, plan.size_hw, rnd)
    if shadows:
        _wakes(image, items, plan.px_per_m, rnd)
        strength = Random(f"{seed} sun").uniform(0.42, 0.66)
        dark = _shadow_mask(plan, items)
        tables = [np.clip(255 - np.arange(256) * strength * k, 0, 255).astype(np.uint8) for k in (1.0, 0.96, 0.86)]
        light = cv2.LUT(cv2.merge([dark, dark, dark]), np.stack(tables, -1)[None])
        image = cv2.multiply(image, light, scale=1 / 255)
    for block in plan.blocks:
        for points, colour in zip(block.polygons, block.colours, strict=True):
            fill(image, points, colour)
    for item in items:
        draw_body(image, item.polygons, item.colours)
    rnd = Random(f"{seed} trees")
    for tree in plan.trees:
        _draw_tree(image, tree, plan.sun, rnd)
    return _sensor(image, Random(f"{seed} sensor")) if sensor else image
