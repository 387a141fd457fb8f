"""Ground of drawn scenes: texture bank, water field, and the painting of zones, strokes, water and shadows.

Everything is painted into 8-bit arrays with OpenCV so that a scene takes milliseconds. Two layers are kept apart until
the end: flat colour, and a brightness texture around 128 that is multiplied in once for the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

import cv2
import numpy as np

from .procedural_shapes import SHIFT, Colour, fill, fixed_point

_BANK_PX = 512
# Water depths are coded as 8-bit numbers, 128 at the shore line: 4 codes a metre on land, 2 codes a metre in water.
_SHORE = 128


def _filtered_noise(seed: int, spectrum: np.ndarray, contrast: float) -> np.ndarray:
    """Return periodic noise with the given amplitude spectrum as uint8 around 128."""
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal((_BANK_PX, _BANK_PX)))
    noise = np.fft.irfft2(white * spectrum, s=(_BANK_PX, _BANK_PX))
    return np.asarray(np.clip(128 + contrast * noise / noise.std(), 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def texture_bank() -> dict[str, np.ndarray]:
    """Return the periodic brightness textures by name, each (1024, 1024) uint8, neutral at 128.

    grain: cloudy noise; waves: short crests along y; canopy: tree crowns lit from +x; furrow: rows along x.
    """
    fy = np.fft.fftfreq(_BANK_PX)[:, None] * _BANK_PX
    fx = np.fft.rfftfreq(_BANK_PX)[None, :] * _BANK_PX
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0
    grain = _filtered_noise(1, radius**-0.9 * (radius > 2), 22)
    swell = np.exp(-(((np.abs(fx) - 40) / 22) ** 2) - (fy / 26) ** 2) + 0.25 * np.exp(-(((radius - 90) / 50) ** 2))
    waves = _filtered_noise(2, swell, 24)
    rng = np.random.default_rng(3)
    yy, xx = np.mgrid[0:_BANK_PX, 0:_BANK_PX].astype(np.float32)
    height = np.zeros((_BANK_PX, _BANK_PX), np.float32)
    for _ in range(900):
        cx, cy, r = rng.uniform(0, _BANK_PX), rng.uniform(0, _BANK_PX), rng.uniform(9, 19)
        # Only the crown's own columns and rows, wrapped: the whole grid for each crown would take seconds.
        ix = (np.arange(int(cx - r), int(cx + r) + 1)) % _BANK_PX
        iy = (np.arange(int(cy - r), int(cy + r) + 1)) % _BANK_PX
        dx = (xx[0, ix] - cx + _BANK_PX / 2) % _BANK_PX - _BANK_PX / 2
        dy = (yy[iy, 0] - cy + _BANK_PX / 2) % _BANK_PX - _BANK_PX / 2
        bump = np.sqrt(np.maximum(0, r * r - dx[None, :] ** 2 - dy[:, None] ** 2)) * rng.uniform(0.7, 1.3)
        window = np.ix_(iy, ix)
        height[window] = np.maximum(height[window], bump)
    rough = cv2.GaussianBlur(height + 0.05 * grain, (0, 0), 1.2)
    slope = np.roll(rough, 1, 1) - np.roll(rough, -1, 1)
    canopy = np.clip(104 + 26 * slope + 1.8 * (rough - rough.mean()), 20, 235).astype(np.uint8)
    rows = np.sin(2 * np.pi * yy / 16 + 0.02 * (grain.astype(np.float32) - 128))
    furrow = np.clip(128 + 26 * rows + 0.5 * (grain.astype(np.float32) - 128), 0, 255).astype(np.uint8)
    bank = {"grain": grain, "waves": waves, "canopy": canopy, "furrow": furrow}
    return {name: np.tile(texture, (2, 2)) for name, texture in bank.items()}


def sample_texture(name: str, size_hw: tuple[int, int], texel_px: float, angle: float, rnd: Random) -> np.ndarray:
    """Cut a (h, w) uint8 patch out of the bank, one texel `texel_px` pixels large, turned by `angle` radians."""
    h, w = size_hw
    k = 1.0 / max(texel_px, 1e-3)
    if angle == 0.0 and max(h, w) * k <= 2 * _BANK_PX - 8:  # the common case, without the cost of turning
        y, x = (int(rnd.uniform(0, min(_BANK_PX, 2 * _BANK_PX - math.ceil(n * k)))) for n in (h, w))
        patch = texture_bank()[name][y : y + math.ceil(h * k), x : x + math.ceil(w * k)]
        return patch.copy() if patch.shape == (h, w) else cv2.resize(patch, (w, h), interpolation=cv2.INTER_LINEAR)
    c, s = k * math.cos(angle), k * math.sin(angle)
    mx, my = _BANK_PX + rnd.uniform(-140, 140), _BANK_PX + rnd.uniform(-140, 140)
    inverse = np.array([[c, s, mx - c * w / 2 - s * h / 2], [-s, c, my + s * w / 2 - c * h / 2]])
    return cv2.warpAffine(
        texture_bank()[name], inverse, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP
    )


@dataclass(frozen=True)
class Water:
    """Say how far a point lies from the shore, in metres, positive in water.

    kind: "coast", "quay", "river", "lake" or "open". origin, normal: in pixels, normal of length 1 towards the water.
    waves: (amplitude m, radians per metre, phase) that bend the shore.
    piers: (origin px, along, half width m, length m).
    """

    kind: str
    origin: tuple[float, float]
    normal: tuple[float, float]
    px_per_m: float
    half_width_m: float = 0.0
    waves: tuple[tuple[float, float, float], ...] = ()
    piers: tuple[tuple[tuple[float, float], tuple[float, float], float, float], ...] = ()

    def distance_m(self, points: np.ndarray, *, piers: bool = True) -> np.ndarray:
        """Return the signed distances (...,) in metres of points (..., 2) in pixels; piers: count them as land."""
        x = (points[..., 0] - self.origin[0]) / self.px_per_m
        y = (points[..., 1] - self.origin[1]) / self.px_per_m
        if self.kind == "open":
            return np.full(x.shape, 200.0)
        across = x * self.normal[0] + y * self.normal[1]
        along = y * self.normal[0] - x * self.normal[1]
        if self.kind == "lake":
            turn = np.arctan2(across, along)
            bent = sum(a * np.sin(np.round(f * 100) * turn + p) for a, f, p in self.waves)
            return self.half_width_m + bent - np.hypot(x, y)
        bent = across + sum(a * np.sin(f * along + p) for a, f, p in self.waves)
        if self.kind == "river":
            return self.half_width_m - np.abs(bent)
        for (px, py), (dx, dy), half, length in self.piers if piers else ():
            qx, qy = (points[..., 0] - px) / self.px_per_m, (points[..., 1] - py) / self.px_per_m
            end = np.abs(qx * dx + qy * dy - length / 2) - length / 2
            side = np.abs(qy * dx - qx * dy) - half
            bent = np.minimum(bent, np.maximum(end, side))
        return bent

    def land_margin_m(self) -> float:
        """Return how far from the shore land things must stay: the width of the beach or of the river bank."""
        return {"coast": 10.0, "lake": 5.0, "river": 5.0, "quay": 3.0, "open": 0.0}[self.kind]


@dataclass
class Paint:
    """One flat polygon: colour, and optionally a texture (name, texel in px, angle, contrast 0 to 2)."""

    points: np.ndarray
    colour: Colour
    texture: tuple[str, float, float, float] | None = None


@dataclass
class Stroke:
    """Lines on the ground that look alike. segments: (k, 2, 2) px, start and end; dash and gap in px (0: solid).

    A line thinner than a pixel is drawn a pixel wide and as much fainter.
    """

    segments: np.ndarray
    colour: Colour
    width_px: float
    dash_px: float = 0.0


@dataclass
class Ground:
    """What lies flat on the ground, in painting order, with the scene's water."""

    base: Colour
    base_texture: tuple[str, float, float, float]
    paints: list[Paint | Stroke] = field(default_factory=list)
    water: Water | None = None
    water_colours: tuple[Colour, Colour] = ((70, 110, 110), (30, 60, 80))


def _contrast(texture: np.ndarray, strength: float) -> np.ndarray:
    return cv2.convertScaleAbs(texture, alpha=strength, beta=128 * (1 - strength))


def _stroke(image: np.ndarray, stroke: Stroke) -> None:
    """Draw the segments (or their dashes) as one batch of rectangles."""
    start, end = stroke.segments[:, 0], stroke.segments[:, 1]
    along = end - start
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    along = along / length[:, None]
    if stroke.dash_px > 0:
        pitch = max(2 * stroke.dash_px, 3.0)
        count = np.ceil(length / pitch).astype(int)
        which = np.repeat(np.arange(len(length)), count)
        at = (np.concatenate([np.arange(n) for n in count]) * pitch)[:, None]
        start, along = start[which] + along[which] * at, along[which]
        end = start + along * np.minimum(pitch / 2, length[which, None] - at)
    # Smooth drawing adds about half a pixel on each side.
    half = np.stack([-along[:, 1], along[:, 0]], 1) * max(stroke.width_px - 0.8, 0.1) / 2
    quads = np.stack([start - half, end - half, end + half, start + half], 1)
    colour = stroke.colour
    cover = min(1.0, stroke.width_px / 0.8)
    if cover < 0.95:  # mix with what lies under the lines
        middle = ((start + end) / 2).astype(int)
        inside = (middle >= 0).all(1) & (middle < image.shape[1::-1]).all(1)
        if inside.any():
            under = image[middle[inside, 1], middle[inside, 0]].mean(0)
            r, g, b = (int(cover * new + (1 - cover) * old) for new, old in zip(colour, under.tolist(), strict=True))
            colour = (r, g, b)
    cv2.fillPoly(image, list(fixed_point(quads)), colour, cv2.LINE_AA, SHIFT)


def _paint_all(image: np.ndarray, light: np.ndarray, things: Sequence[Paint | Stroke], rnd: Random) -> None:
    h, w = light.shape
    for thing in things:
        if isinstance(thing, Stroke):
            _stroke(image, thing)
            continue
        fill(image, thing.points, thing.colour)
        low, high = thing.points.min(0), thing.points.max(0)
        x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
        x1, y1 = min(w, int(high[0]) + 2), min(h, int(high[1]) + 2)
        if x1 <= x0 or y1 <= y0:
            continue
        if thing.texture is None:
            fill(light, thing.points, 128)
            continue
        name, texel_px, angle, strength = thing.texture
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fill(mask, thing.points - (x0, y0), 255, smooth=False)
        angle = 0.0 if name == "grain" else angle  # it looks the same from all sides
        patch = _contrast(sample_texture(name, (y1 - y0, x1 - x0), texel_px, angle, rnd), strength)
        cv2.copyTo(patch, mask, light[y0:y1, x0:x1])


def _water_table(kind: str, shallow: Colour, deep: Colour, sand: Colour) -> np.ndarray:
    """Return the (256, 3) uint8 colours by depth code: beach or quay on the land side, foam, then shallow to deep."""
    table = np.zeros((256, 3), np.float32)
    codes = np.arange(256)
    wet = np.clip((codes - _SHORE) / 2.0, 0, None)  # metres from the shore
    reach = {"quay": 6.0, "river": 14.0, "lake": 12.0}.get(kind, 32.0)
    blend = (1 - np.exp(-wet / reach))[:, None]
    table[:] = np.array(shallow) * (1 - blend) + np.array(deep) * blend
    land = codes < _SHORE
    if kind == "quay":
        table[land] = (168, 164, 156)
        table[_SHORE - 5 : _SHORE] = (196, 192, 184)
        table[_SHORE : _SHORE + 3] = np.array(deep) * 0.55
    else:
        dry = np.clip((_SHORE - codes[land]) / 24.0, 0, 1)[:, None]
        table[land] = np.array(sand) * (0.72 + 0.3 * dry)
        if kind == "coast":
            foam = np.array([0.15, 0.4, 0.55, 0.5, 0.4, 0.3, 0.15, 0.05, 0.1, 0.25, 0.2, 0.05])[:, None]
            band = slice(_SHORE, _SHORE + len(foam))
            table[band] = table[band] * (1 - foam) + np.array([232, 236, 232]) * foam
    return np.clip(table, 0, 255).astype(np.uint8)


def _paint_water(image: np.ndarray, light: np.ndarray, ground: Ground, rnd: Random) -> None:
    water = ground.water
    assert water is not None
    h, w = light.shape
    step = 8
    gy, gx = np.mgrid[0 : h // step + 2, 0 : w // step + 2].astype(np.float32) * step
    coarse = water.distance_m(np.stack([gx, gy], -1), piers=False).astype(np.float32)
    if not (coarse > -12).any():
        return
    shape = (coarse.shape[1] * step, coarse.shape[0] * step)
    # cv2.resize takes samples for cell centres, these sit at cell corners: take the half cell back.
    metres = cv2.resize(coarse, shape, interpolation=cv2.INTER_LINEAR)[
        step // 2 : step // 2 + h, step // 2 : step // 2 + w
    ]
    if water.kind not in ("quay", "open"):
        jitter = cv2.blur(sample_texture("grain", (h, w), 0.4 * water.px_per_m, 0.0, rnd), (5, 5))
        metres = metres + (jitter.astype(np.float32) - 128) * (1.5 / 22)
    code = np.clip(_SHORE + np.where(metres > 0, 2.0 * metres, 4.0 * metres), 0, 255).astype(np.uint8)
    sand = (205 + rnd.randint(-18, 14), 190 + rnd.randint(-18, 12), 155 + rnd.randint(-20, 15))
    table = _water_table(water.kind, *ground.water_colours, sand)
    colours = cv2.LUT(cv2.merge([code, code, code]), table[None])
    shore = {"coast": 34, "lake": 10, "river": 12, "quay": 30, "open": 0}[water.kind]
    mask = cv2.threshold(code, _SHORE - shore, 255, cv2.THRESH_BINARY)[1]
    cv2.copyTo(colours, mask, image)
    wet = cv2.threshold(code, _SHORE, 255, cv2.THRESH_BINARY)[1]
    dry = cv2.subtract(mask, wet)
    cv2.copyTo(_contrast(sample_texture("grain", (h, w), 0.8, 0.0, rnd), 0.35), dry, light)
    angle = rnd.uniform(0, 2 * math.pi)
    texel = min(max(rnd.uniform(0.1, 0.2) * water.px_per_m, 0.25), 1.2)
    waves = cv2.addWeighted(
        sample_texture("waves", (h, w), texel, angle, rnd), rnd.uniform(0.12, 0.4),
        sample_texture("grain", (h, w), 3.0, angle, rnd), 0.25, 0,
    )  # fmt: skip
    mean = int(cv2.mean(waves)[0])
    cv2.copyTo(cv2.convertScaleAbs(waves, alpha=1.0, beta=128.0 - mean), wet, light)


def _piers(water: Water) -> list[Paint | Stroke]:
    """Return the piers as paint: planks for pontoons, concrete with a pale rim for wide ones, a dark edge."""
    things: list[Paint | Stroke] = []
    for (x, y), (dx, dy), half, length in water.piers:
        corners = np.array([[-2.0, -half], [length, -half], [length, half], [-2.0, half]])
        along, across = np.array([dx, dy]), np.array([-dy, dx])

        def at(
            local: np.ndarray, x: float = x, y: float = y, a: np.ndarray = along, b: np.ndarray = across
        ) -> np.ndarray:
            return (x, y) + water.px_per_m * (local[:, :1] * a + local[:, 1:] * b)

        things.append(Paint(at(corners + np.sign(corners) * (0.5, 0.5)), (24, 34, 42)))
        if half < 3:
            things.append(Paint(at(corners), (164, 150, 130)))
            continue
        things.append(Paint(at(corners), (190, 186, 178)))
        inner = at(corners * (1, (half - 0.8) / half) - (0.8, 0))
        things.append(Paint(inner, (160, 157, 150), ("grain", 0.6 * water.px_per_m, 0.0, 0.4)))
    return things


def paint_ground(ground: Ground, size_hw: tuple[int, int], rnd: Random) -> np.ndarray:
    """Paint everything that lies flat. Returns (h, w, 3) uint8 RGB, lit evenly, without shadows."""
    h, w = size_hw
    image = np.empty((h, w, 3), np.uint8)
    image[:] = ground.base
    name, texel_px, angle, strength = ground.base_texture
    light = _contrast(sample_texture(name, (h, w), texel_px, angle, rnd), strength)
    _paint_all(image, light, ground.paints, rnd)
    # Close to the ground the cloudy textures are stretched; this one keeps its detail at any scale.
    light = cv2.addWeighted(light, 1.0, sample_texture("grain", (h, w), 1.0, 0.0, rnd), 0.22, -28.0)
    if ground.water is not None:
        _paint_water(image, light, ground, rnd)
        _paint_all(image, light, _piers(ground.water), rnd)
    # Slow drifts of colour keep large areas from looking filled in.
    drift = np.array([[rnd.gauss(128, 1.6) for _ in range(3)] for _ in range(49)], np.float32).reshape(7, 7, 3)
    slow = cv2.resize(np.clip(drift, 100, 156).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)
    texture = cv2.multiply(slow, cv2.cvtColor(light, cv2.COLOR_GRAY2RGB), scale=1 / 128)
    return cv2.multiply(image, texture, scale=1 / 128)
