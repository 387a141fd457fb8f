"""The report of a benchmark: one JSON document of a stated schema, written beside its Markdown page and plots."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.doctor_machine import Machine
from deploy.doctor_npu import driver_version, runtimes
from deploy.measured_on import origin

from .sensors import Snapshot, throttling
from .statistics_of_time import CONFIDENCE

SCHEMA = "rsedge bench"
SCHEMA_VERSION = 2
JSON_NAME, PAGE_NAME = "bench.json", "bench.md"
# Significant digits of every number in the file: what lies beyond is noise of the clock.
DIGITS = 7
_PACKAGES = ("opencv-python-headless", "onnxruntime", "rknn-toolkit-lite2", "rknn-toolkit2", "rsedge")


def provenance(machine: Machine) -> dict[str, Any]:
    """Return machine, versions and commit of this run. No host name, user or folder is among them."""
    found: dict[str, Any] = origin()
    cpuinfo = machine.read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    board = (machine.read("/proc/device-tree/model") or "").split("\n")[0]
    versions: dict[str, Any] = dict(found["versions"])
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    library = next((one for one in runtimes(machine) if one.version), None)
    if library and library.version:
        versions["librknnrt"] = ".".join(map(str, library.version))
    driver = driver_version(machine)
    if driver:
        versions["rknpu driver"] = ".".join(map(str, driver))
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": found["machine"],
        "cpu": model[1].strip() if model else machine.architecture,
        "board": board or None,
        "kernel": platform.release(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": versions,
        "commit": found["commit"],
    }


def conditions(looks: list[Snapshot], pinned: str, warnings: list[str]) -> dict[str, Any]:
    """Return what the machine was like: first, hottest and last look, and whether it slowed itself down."""
    during = looks[1:-1] or looks
    hottest = max(during, key=lambda one: max(one.temperatures_c.values(), default=0.0))
    slowest: dict[str, float] = {}
    for one in during:
        for name, mhz in one.clocks_mhz.items():
            slowest[name] = min(mhz, slowest.get(name, math.inf))
    return {
        "pinned": pinned,
        "before": looks[0].to_json(),
        "during": {"hottest": hottest.to_json(), "lowest_clocks_mhz": slowest, "looks": len(looks)},
        "after": looks[-1].to_json(),
        "throttling": throttling(looks).to_json(),
        "warnings": warnings,
    }


def new_document(machine: Machine, command: str, pictures: str, quick: bool) -> dict[str, Any]:
    """Return a document without measurements; docs/bench_schema.md describes its fields."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "quick": quick,
        "stopped_early": False,
        "provenance": provenance(machine),
        "method": {
            "confidence": CONFIDENCE,
            "intervals": "order statistics, number of values reduced by their autocorrelation; no distribution assumed",
            "single_images": "visits spread over the run; p50: mean of the visits' medians, Student's interval",
            "open_loop": "latency from the moment at which a frame was due",
            "images": pictures,
        },
        "conditions": {},
        "overhead": None,
        "bundles": [],
        "calibration": None,
        "notes": [],
        "plots": [],
    }


def tidy(value: Any) -> Any:
    """Return a document fit for JSON: `DIGITS` significant digits, nothing infinite, keys as text."""
    if isinstance(value, dict):
        return {str(key): tidy(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(part) for part in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OSError."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(folder: Path, document: dict[str, Any]) -> Path:
    """Write the document into a folder as `bench.json` and return where."""
    path = folder / JSON_NAME
    write_whole(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def read_report(path: Path) -> dict[str, Any]:
    """Read a report, or the one in a folder. Raises FileNotFoundError, or ValueError with the file and the cure."""
    path = path / JSON_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name a {JSON_NAME} that `rsedge bench` wrote, or its folder")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({str(error).splitlines()[0]}); measure again") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is no report of `rsedge bench` (schema must be {SCHEMA!r}); name its {JSON_NAME}")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version must be {SCHEMA_VERSION}, got {raw.get('schema_version')!r}; measure again with "
            "this rsedge, or read it with the one that wrote it"
        )
    return raw
