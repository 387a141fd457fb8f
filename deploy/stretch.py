"""Stretch: choose a scene's bands and bring their values to 8 bits, alike in every one of its tiles.

The limits are found once for a whole scene. Limits of each tile on its own would turn quiet water into noise, and one
roof into two colours on the two sides of a tile border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .images import STRETCH_PERCENTILES


@dataclass(frozen=True, eq=False)
class Stretch:
    """Map values linearly to 0..255, `low` to 0 and `high` to 255, one pair of limits for each band read.

    low, high: as many finite numbers as bands, in the file's own units. A band whose two limits are equal becomes 0.
    Raises ValueError where a limit is not finite or `high` is below `low`.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    _tables: dict[tuple[str, float, float], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(f"a stretch needs a low and a high for each band, got {self.low} and {self.high}")
        for low, high in zip(self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"low_high must be finite, the low one first, got ({low}, {high})")

    def __call__(self, bands: np.ndarray) -> np.ndarray:
        """Return bands as 8 bits. bands: (bands, h, w) integers or floats. Returns that shape, uint8; NaN gives 0."""
        if len(bands) != len(self.low):
            raise ValueError(f"bands must have shape ({len(self.low)}, h, w), got {bands.shape}")
        out = np.empty(bands.shape, np.uint8)
        for band, low, high, slot in zip(bands, self.low, self.high, out, strict=True):
            gain = 255.0 / (high - low) if high > low else 0.0
            if band.dtype.kind in "iu" and band.dtype.itemsize <= 2:
                # A table of all values is several times faster than arithmetic on every pixel.
                np.take(self._table(band.dtype, low, gain), band.view(f"u{band.dtype.itemsize}"), out=slot, mode="clip")
            else:
                slot[:] = _scaled(band, low, gain)
        return out

    def _table(self, dtype: np.dtype, low: float, gain: float) -> np.ndarray:
        key = (dtype.str, low, gain)
        if key not in self._tables:
            bits = 8 * dtype.itemsize
            # In the order of the bits, so that a signed value may be looked up by its unsigned twin.
            values = np.arange(1 << bits, dtype=f"u{dtype.itemsize}").view(dtype)
            self._tables[key] = _scaled(values, low, gain)
        return self._tables[key]


def find_limits(values: np.ndarray, percentiles: tuple[float, float] = STRETCH_PERCENTILES) -> tuple[float, float]:
    """Return two percentiles of all values together: bands share their limits, so that colours keep their balance.

    values: any shape, integers or floats, without those that are no data. Returns (0, 0) where there are none.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(values, check_percentiles(percentiles))
    return float(low), float(high)


def find_stretch(
    dtype: np.dtype,
    count: int,
    percentiles: tuple[float, float] | None,
    low_high: Sequence[Sequence[float]] | None,
    sample: Callable[[], np.ndarray],
) -> Stretch | None:
    """Return the stretch of a scene by `low_high`, else by percentiles of what `sample` returns; None for 8 bits as is.

    dtype, count: of the bands read. low_high: one pair for all bands or one for each. Raises ValueError for others.
    """
    if low_high is not None:
        pairs = [tuple(float(v) for v in pair) for pair in low_high]
        if len(pairs) not in (1, count) or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"low_high must be one pair (low, high) or {count}, one for each band read, got {pairs}")
        pairs *= count // len(pairs)
        return Stretch(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
    if percentiles is None and dtype == np.uint8:
        return None
    low, high = find_limits(sample(), percentiles or STRETCH_PERCENTILES)
    return Stretch((low,) * count, (high,) * count)


def check_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    """Return percentiles as a pair. Raises ValueError unless they are two, from 0 to 100, the lower one first."""
    values = tuple(float(v) for v in percentiles)
    if len(values) != 2 or not 0 <= values[0] < values[1] <= 100:
        raise ValueError(f"percentiles must be two numbers from 0 to 100, the lower one first, got {values}")
    return values[0], values[1]


def choose_bands(name: str, interpretation: Sequence[str], bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands to read, from 1: those asked for, else red, green and blue, else the first three, or first."""
    count = len(interpretation)
    if bands is not None:
        chosen = tuple(int(band) for band in bands)
        if len(chosen) not in (1, 3) or not all(1 <= band <= count for band in chosen):
            came = ",".join(map(str, chosen))
            raise ValueError(f"{name}: bands must name three or one of its {count}, counted from 1, got {came}")
        return chosen
    if "cyan" in interpretation:
        raise ValueError(f"{name}: its colours are CMYK, RGB is needed; convert it, or choose bands")
    if {"red", "green", "blue"} <= set(interpretation):
        red, green, blue = (interpretation.index(colour) + 1 for colour in ("red", "green", "blue"))
        return red, green, blue
    seen = [i for i, kind in enumerate(interpretation, 1) if kind != "alpha"]
    if not seen:
        raise ValueError(f"{name}: holds a mask and nothing else; name the image that it belongs to")
    return (seen[0], seen[1], seen[2]) if len(seen) >= 3 else (seen[0],)


def colour_table(entries: dict[int, tuple[int, ...]]) -> np.ndarray:
    """Return a file's colour table as (values, 4) uint8 RGBA. entries: rasterio's, value -> (r, g, b, a)."""
    table = np.zeros((max(entries) + 1, 4), np.uint8)
    for value, colour in entries.items():
        table[value] = colour
    return table


def is_no_data(band: np.ndarray, value: float) -> np.ndarray:
    """Where a band has its no-data value; NaN counts as equal to NaN, and float32 is compared in its own precision."""
    if np.isnan(value):
        return np.isnan(band) if band.dtype.kind == "f" else np.zeros(band.shape, bool)
    return band == (band.dtype.type(value) if band.dtype.kind == "f" else value)


def _scaled(values: np.ndarray, low: float, gain: float) -> np.ndarray:
    """Return rint((values - low) * gain) within 0..255 as uint8, what is not finite as 0."""
    scaled = values.astype(np.float64)
    if values.dtype.kind == "f":
        scaled[~np.isfinite(scaled)] = low
    scaled -= low
    scaled *= gain
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
