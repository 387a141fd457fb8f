"""`rsedge bench --calibrate`: refit the estimator's constants to what this board's NPU measures, and store them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .estimates import costs_of
from .latency import Latency

NPU_BACKENDS = ("rknn-capi", "rknn-lite")


def check_calibration(bundles: Sequence[Path], backends: Sequence[str]) -> None:
    """Raise ValueError unless these can calibrate: two bundles or more, on a real NPU."""
    other = [name for name in backends if name not in NPU_BACKENDS]
    if other:
        raise ValueError(
            f"--calibrate needs the NPU itself ({' or '.join(NPU_BACKENDS)}), got {other[0]}; run it on the board"
        )
    if len(bundles) < 2:
        raise ValueError(
            f"--calibrate needs two bundles or more, of different size, or nothing tells how good the fit is; got "
            f"{len(bundles)}"
        )


def calibrate(measured: Sequence[tuple[Path, str, Latency]], machine: str, path: Path | None = None) -> dict[str, Any]:
    """Fit the roofline's bandwidth to bundles measured on one core, one image at a time, and store it.

    measured: bundle, its name, its times; the p50 of `infer` counts, which holds the transfer of image and heads too.
    path: where to store; default: where the estimator looks. Returns what the report holds. Raises ValueError where no
    bandwidth explains the times, ImportError with the package's name where the estimator is not installed.
    """
    from deploy.convert.roofline import Point, constants_json, fit, save_constants

    points = []
    for bundle, name, latency in measured:
        p50 = latency.stages["infer_ms"].p50
        told = f"measured, p50 of {latency.stages['infer_ms'].count} images on one core"
        points.append(Point.of(name, p50.value, costs_of(bundle), told))
    constants = fit(points, f"calibrated on {machine}")
    stored = save_constants(constants, path)
    home = Path.home()
    # A report goes to others: it names the file, not whose machine it is on.
    told = f"~/{stored.relative_to(home).as_posix()}" if stored.is_relative_to(home) else stored.name
    return {"stored": told, "constants": constants_json(constants)}
