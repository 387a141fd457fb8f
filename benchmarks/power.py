"""Electric power while something runs, and the energy of one image: E = (integral of P dt - P_standby T) / n."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from deploy.doctor_machine import Machine

# What meters call their columns, in lower case and without blanks; the number makes seconds, watts, volts, amperes.
_TIME = {"time", "timestamp", "datetime", "date", "time_s", "time(s)", "unix_s", "unix"}
_POWER = {"power": 1.0, "power_w": 1.0, "power(w)": 1.0, "watts": 1.0, "w": 1.0, "power_mw": 1e-3, "power(mw)": 1e-3}
_VOLTS = {"voltage": 1.0, "voltage_v": 1.0, "voltage(v)": 1.0, "volts": 1.0, "v": 1.0, "voltage(mv)": 1e-3}
_AMPERES = {"current": 1.0, "current_a": 1.0, "current(a)": 1.0, "a": 1.0, "current_ma": 1e-3, "current(ma)": 1e-3}
# Seconds since the epoch are larger than this since 2001; a meter's own clock that starts at 0 is not.
_EPOCH = 1e9


@dataclass(frozen=True, eq=False)
class PowerTrace:
    """Power over time. source: the sensor's name. at_s: (n,) seconds since the epoch, ascending. watts: (n,)."""

    source: str
    at_s: np.ndarray
    watts: np.ndarray

    def __post_init__(self) -> None:
        if self.at_s.ndim != 1 or self.at_s.shape != self.watts.shape or len(self.at_s) < 2:
            raise ValueError(f"{self.source}: a trace needs two readings or more, got {len(self.at_s)}")
        if not (np.isfinite(self.at_s).all() and np.isfinite(self.watts).all()):
            raise ValueError(f"{self.source}: times and watts must be finite numbers")
        if (np.diff(self.at_s) <= 0).any():
            raise ValueError(f"{self.source}: times must ascend; sort the readings")

    def energy_j(self, begin_s: float, end_s: float) -> float:
        """Return the integral of the power between two moments, by trapezoids.

        Raises ValueError where the trace does not cover them.
        """
        if not begin_s < end_s:
            raise ValueError(f"{self.source}: the end must come after the begin, got {begin_s} and {end_s}")
        if begin_s < self.at_s[0] or end_s > self.at_s[-1]:
            there = min(end_s, self.at_s[-1]) - max(begin_s, self.at_s[0])
            raise ValueError(
                f"{self.source}: its readings cover {max(0.0, there):.1f} of {end_s - begin_s:.1f} seconds; let the "
                "meter run from before the measurement until after it, by the same clock"
            )
        inside = (self.at_s > begin_s) & (self.at_s < end_s)
        at = np.concatenate([[begin_s], self.at_s[inside], [end_s]])
        watts = np.interp(at, self.at_s, self.watts)
        return float(((watts[1:] + watts[:-1]) / 2 * np.diff(at)).sum())

    def mean_w(self, begin_s: float, end_s: float) -> float:
        """Return the mean power between two moments."""
        return self.energy_j(begin_s, end_s) / (end_s - begin_s)


@dataclass(frozen=True)
class Window:
    """What ran from when until when, in seconds since the epoch. images: that were finished in it; 0: standby."""

    begin_s: float
    end_s: float
    images: int


def energy_per_image(trace: PowerTrace, run: Window, standby: Window) -> dict[str, Any]:
    """Return joules per image above standby, and what they are made of. Raises ValueError where a part is not covered.

    run: finished at least one image. standby: the same machine at rest.
    """
    if run.images < 1:
        raise ValueError("energy needs at least one image, got none")
    rest = trace.mean_w(standby.begin_s, standby.end_s)
    seconds = run.end_s - run.begin_s
    whole = trace.energy_j(run.begin_s, run.end_s)
    return {
        "label": f"measured by {trace.source}",
        "joules_per_image": (whole - rest * seconds) / run.images,
        "joules_per_image_with_standby": whole / run.images,
        "mean_w": whole / seconds,
        "standby_w": rest,
        "images": run.images,
        "seconds": seconds,
    }


@dataclass(frozen=True)
class PowerSensor:
    """A sensor that the kernel shows below /sys/class/hwmon. read: watts now, None where it does not answer."""

    name: str
    read: Callable[[], float | None]


def power_sensors(machine: Machine) -> list[PowerSensor]:
    """Return the machine's power sensors; those of the INA2xx family, which sit in a board's supply, first.

    A channel with power in microwatts is taken as it is. INA219 and INA226 give the bus as in1 in millivolts and the
    current as curr1 in milliamperes; an INA3221 three pairs of them (kernel documentation, ina2xx and ina3221).
    """
    found: list[tuple[bool, PowerSensor]] = []
    for folder in machine.glob("/sys/class/hwmon/hwmon*"):
        chip = machine.read(folder / "name") or folder.name
        ina = chip.startswith("ina")
        files = [p for kind in ("input", "average") for p in machine.glob(f"{machine.shown(folder)}/power*_{kind}")]
        seen = set()
        for file in files:
            number = re.sub(r"\D", "", file.name)
            if number in seen:
                continue
            seen.add(number)
            found.append((ina, PowerSensor(_named(machine, folder, chip, "power", number), _microwatts(machine, file))))
        if files or not ina:
            continue
        for current in machine.glob(f"{machine.shown(folder)}/curr*_input"):
            number = re.sub(r"\D", "", current.name)
            volts = folder / f"in{number}_input"
            if volts.exists():
                name = _named(machine, folder, chip, "in", number)
                found.append((ina, PowerSensor(name, _product(machine, volts, current))))
    return [sensor for _, sensor in sorted(found, key=lambda entry: not entry[0])]


def _named(machine: Machine, folder: Path, chip: str, kind: str, number: str) -> str:
    label = machine.read(folder / f"{kind}{number}_label")
    return f"{chip} {label or f'channel {number}'} ({folder.name})"


def _microwatts(machine: Machine, file: Path) -> Callable[[], float | None]:
    def read() -> float | None:
        value = machine.integer(file)
        return None if value is None else value * 1e-6

    return read


def _product(machine: Machine, volts: Path, current: Path) -> Callable[[], float | None]:
    def read() -> float | None:
        millivolts, milliamperes = machine.integer(volts), machine.integer(current)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes * 1e-6

    return read


def read_power_csv(path: Path) -> PowerTrace:
    """Read what a USB meter wrote: a line of column names, then one reading a line.

    Needed: a time (seconds since the epoch, or date and time as in ISO 8601) and power, or voltage and current; units
    in brackets, "Power(mW)". Raises FileNotFoundError, or ValueError with the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; let the meter write there before the benchmark begins")
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as handle:
        rows = list(csv.reader(handle))
    if not rows:
        raise ValueError(f"{path}: is empty; the first line must name its columns")
    names = [re.sub(r"\s", "", name.lower()).replace("[", "(").replace("]", ")") for name in rows[0]]
    time_at = next((i for i, name in enumerate(names) if name in _TIME), None)
    factors = _columns(names)
    if time_at is None or factors is None:
        raise ValueError(
            f"{path}: needs columns time and power (W), or time, voltage (V) and current (A); got "
            f"{', '.join(rows[0]) or 'none'}"
        )
    times: list[float] = []
    watts: list[float] = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            at = _seconds(row[time_at])
            value = 1.0
            for column, factor in factors:
                value *= float(row[column]) * factor
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}:{number}: cannot be read ({error}); each line needs time and power") from error
        if at < _EPOCH:
            raise ValueError(
                f"{path}:{number}: time must be seconds since 1970 or an ISO date and time, got {row[time_at]!r}; a "
                "meter's own seconds do not say when it was switched on"
            )
        if not times or at > times[-1]:  # meters repeat a stamp when their clock has whole seconds only
            times.append(at)
            watts.append(value)
    return PowerTrace(path.name, np.array(times), np.array(watts))


def _columns(names: Sequence[str]) -> list[tuple[int, float]] | None:
    """Return which columns to multiply, each with its unit's factor; None where the power cannot be had."""
    for i, name in enumerate(names):
        if name in _POWER:
            return [(i, _POWER[name])]
    volts = next(((i, _VOLTS[name]) for i, name in enumerate(names) if name in _VOLTS), None)
    amperes = next(((i, _AMPERES[name]) for i, name in enumerate(names) if name in _AMPERES), None)
    return [volts, amperes] if volts and amperes else None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # A stamp without a zone is local time, as a meter beside the board shows it.
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
