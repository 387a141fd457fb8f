"""Milliseconds from cycles and bytes: a roofline with one fitted number, and an interval that says how good it is.

A layer takes the longer of its cycles at 1 GHz and its bytes over a bandwidth B, a network the sum of its layers
(Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009). The table's cycles alone give half to two thirds of
the published times. B is fitted so that the geometric mean of estimate over measurement is 1, on the points below; it
is no property of the memory, it also absorbs what a driver does between layers. So every result is an estimate, never a
measurement.

How the interval comes about (jackknife-minmax: Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the
jackknife+", Annals of Statistics 49(1), 2021): each point in turn is left out, B is fitted on the others, and the error
on the point left out is noted. The interval reaches from the smallest to the largest estimate of these fits, widened by
the largest of these errors. With n exchangeable points it holds the truth in at least n of n + 1 cases; four published
figures of one family are few, and a network that is very unlike them may lie outside.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .layer_costs import LayerCost, closed_form
from .network_shapes import yolov8

CLOCK_HZ = 1e9
SCHEMA_VERSION = 1
FILE_NAME = "npu_constants.json"

# (size, input in pixels, classes, milliseconds, what was published). One core of an RK3588, INT8.
PUBLISHED = (
    ("n", 640, 80, 1000 / 74.0, "published, one core: 74.0 frames/s"),
    ("s", 640, 80, 1000 / 35.2, "published, one core: 35.2 frames/s"),
    ("m", 640, 80, 1000 / 16.2, "published, one core: 16.2 frames/s"),
    ("n", 512, 10, 7.91, "published with the method that this project follows: 7.91 ms"),
)
# Bandwidths that a fit may find, in bytes a second: from a trickle to more than any board's memory.
_LOWEST, _HIGHEST = 1e7, 1e12

# (cycles, bytes) of each layer.
Work = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Point:
    """A network whose time is known. work: cycles and bytes of each layer; measured_ms: one core, one image."""

    name: str
    measured_ms: float
    work: Work
    source: str = ""

    @classmethod
    def of(cls, name: str, measured_ms: float, costs: Sequence[LayerCost], source: str = "") -> Point:
        """Return the point of a network whose layers cost this."""
        return cls(name, measured_ms, work_of(costs), source)


@dataclass(frozen=True)
class Fitted:
    """How one point came out. estimated_ms: with all points; left_out_ms: fitted on the others only."""

    name: str
    measured_ms: float
    estimated_ms: float
    left_out_ms: float
    source: str

    @property
    def error(self) -> float:
        """Estimate over measurement, less 1."""
        return self.estimated_ms / self.measured_ms - 1

    @property
    def left_out_error(self) -> float:
        """The same of the estimate that had not seen this point."""
        return self.left_out_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Constants:
    """What turns cycles into milliseconds.

    bytes_per_s: the fitted bandwidth; others_bytes_per_s: what is fitted without each point. source: "published
    figures", or which board was measured.
    """

    bytes_per_s: float
    others_bytes_per_s: tuple[float, ...]
    points: tuple[Fitted, ...]
    source: str

    @property
    def worst_error(self) -> float:
        """The largest error on the points that were fitted."""
        return max(abs(point.error) for point in self.points)

    @property
    def leave_one_out_error(self) -> float:
        """The largest error on a point that the fit had not seen."""
        return max(abs(point.left_out_error) for point in self.points)


@dataclass(frozen=True)
class Milliseconds:
    """An estimate of the time of one image on one core, not a measurement. low, high: see the module's first words."""

    estimated_ms: float
    low_ms: float
    high_ms: float


def work_of(costs: Sequence[LayerCost]) -> Work:
    """Return cycles and bytes of each layer: all that the roofline needs."""
    return tuple((cost.cycles, cost.read_bytes) for cost in costs)


def roofline_ms(work: Work, bytes_per_s: float) -> float:
    """Return the sum over layers of the longer of arithmetic and memory, in milliseconds."""
    return 1e3 * sum(max(cycles / CLOCK_HZ, size / bytes_per_s) for cycles, size in work)


def estimate_ms(costs: Sequence[LayerCost], constants: Constants) -> Milliseconds:
    """Return the time that layers of these costs should take, with its interval."""
    work = work_of(costs)
    around = [roofline_ms(work, bandwidth) for bandwidth in constants.others_bytes_per_s]
    middle = roofline_ms(work, constants.bytes_per_s)
    error = constants.leave_one_out_error
    return Milliseconds(middle, min(middle, *around) * (1 - error), max(middle, *around) * (1 + error))


def fit(points: Sequence[Point], source: str) -> Constants:
    """Fit the bandwidth to networks whose times are known, and measure how well that foretells one of them.

    Raises ValueError for fewer than two points, for a time that is no positive number, and for times that no bandwidth
    explains (below the cycles at 1 GHz, or hours).
    """
    if len(points) < 2:
        raise ValueError(
            f"a fit needs at least 2 measured networks, or nothing tells how good it is; got {len(points)}"
        )
    for point in points:
        if not (math.isfinite(point.measured_ms) and point.measured_ms > 0):
            raise ValueError(f"{point.name}: measured_ms must be a positive number, got {point.measured_ms!r}")
        if not point.work:
            raise ValueError(f"{point.name}: has no layers; give the costs of its layer table")
    bandwidth = _bandwidth(points)
    others = tuple(_bandwidth([*points[:left], *points[left + 1 :]]) for left in range(len(points)))
    fitted = tuple(
        Fitted(p.name, p.measured_ms, roofline_ms(p.work, bandwidth), roofline_ms(p.work, other), p.source)
        for p, other in zip(points, others, strict=True)
    )
    return Constants(bandwidth, others, fitted, source)


def _bandwidth(points: Sequence[Point]) -> float:
    """Return the bandwidth at which the mean of log(estimate / measurement) is 0: it only falls as bandwidth grows."""

    def mean_log(bandwidth: float) -> float:
        return sum(math.log(roofline_ms(p.work, bandwidth) / p.measured_ms) for p in points) / len(points)

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    if mean_log(_HIGHEST) > 0 or mean_log(_LOWEST) < 0:
        told = ", ".join(f"{p.name} {p.measured_ms:.3g} ms" for p in points)
        raise ValueError(
            f"no bandwidth explains these times on one core: {told}; they must lie above the cycles at 1 GHz, measure "
            "with one core and one image"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_log(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2)


@functools.cache
def published() -> Constants:
    """Return the constants fitted to the published figures."""
    points = [
        Point.of(f"yolov8{size} {side} x {side}, {classes} classes", ms, costs, source)
        for size, side, classes, ms, source in PUBLISHED
        for costs in [closed_form(yolov8(size, (side, side), classes), "int8")]
    ]
    return fit(points, "published figures")


def constants_path() -> Path:
    """Return where a calibrated board's constants are kept: below XDG_CONFIG_HOME, or ~/.config."""
    # The XDG base directory specification: a relative path there is to be ignored.
    home = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    return base / "rsedge" / FILE_NAME


def save_constants(constants: Constants, path: Path | None = None) -> Path:
    """Write constants for `load_constants`, whole or not at all, and return where. Raises OSError."""
    path = path or constants_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(constants_json(constants), indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_constants(path: Path | None = None) -> Constants:
    """Return the constants of this user's calibrated board, or those of the published figures where none were saved.

    path: another file, which must exist. Raises FileNotFoundError, or ValueError for a file that is something else.
    """
    given, path = path is not None, path or constants_path()
    if not given and not path.is_file():
        return published()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {raw['schema_version']!r}")
        names = ("name", "measured_ms", "estimated_ms", "left_out_ms", "source")
        points = tuple(Fitted(**{name: row[name] for name in names}) for row in raw["points"])
        constants = Constants(
            float(raw["bytes_per_s"]), tuple(float(b) for b in raw["others_bytes_per_s"]), points, str(raw["source"])
        )
        numbers = [constants.bytes_per_s, *constants.others_bytes_per_s]
        numbers += [ms for point in points for ms in (point.measured_ms, point.estimated_ms, point.left_out_ms)]
        if len(points) < 2 or len(constants.others_bytes_per_s) != len(points):
            raise ValueError("it must hold at least 2 points and a bandwidth without each")
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError("every bandwidth and time must be a positive number")
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(
            f"{path}: not the constants of a calibrated board ({why}); delete it, or calibrate again"
        ) from error
    return constants


def constants_json(constants: Constants) -> dict[str, Any]:
    """Return what the file and every report hold about the constants."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": constants.source,
        "clock_hz": CLOCK_HZ,
        "bytes_per_s": constants.bytes_per_s,
        "others_bytes_per_s": list(constants.others_bytes_per_s),
        "worst_error": constants.worst_error,
        "leave_one_out_error": constants.leave_one_out_error,
        "points": [
            {
                "name": point.name,
                "measured_ms": point.measured_ms,
                "estimated_ms": point.estimated_ms,
                "error": point.error,
                "left_out_ms": point.left_out_ms,
                "left_out_error": point.left_out_error,
                "source": point.source,
            }
            for point in constants.points
        ],
    }
