"""What the machine tells about itself while it is measured: temperatures, clocks, limits, governors, pinned CPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.doctor_machine import Machine
from deploy.doctor_system import THROTTLE_C

# A clock that falls below this share of its highest while it is busy was taken back.
STEADY = 0.95


@dataclass(frozen=True)
class Snapshot:
    """One look at the machine. Keys are what the kernel calls the sensor, cluster or device; empty: it shows none.

    at_s: seconds since the epoch. limits_mhz: the highest clock that is allowed at present; tops_mhz: that the hardware
    has. trips_c: where the kernel begins to slow the chip down.
    """

    at_s: float
    temperatures_c: dict[str, float]
    trips_c: dict[str, float]
    clocks_mhz: dict[str, float]
    limits_mhz: dict[str, float]
    tops_mhz: dict[str, float]
    governors: dict[str, str]
    load: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "temperatures_c": self.temperatures_c,
            "clocks_mhz": self.clocks_mhz,
            "limits_mhz": self.limits_mhz,
            "governors": self.governors,
            "load_average": self.load,
        }


def look(machine: Machine) -> Snapshot:
    """Read every sensor below the machine's root once; what is not there is left out."""
    temperatures, trips = _temperatures(machine)
    clocks: dict[str, float] = {}
    limits: dict[str, float] = {}
    tops: dict[str, float] = {}
    governors: dict[str, str] = {}

    def note(name: str, folder: Path, now: str, limit: str, top: float | None, governor: str, unit: float) -> None:
        for values, file in ((clocks, now), (limits, limit)):
            read = machine.integer(folder / file)
            if read:
                values[name] = read * unit
        if top:
            tops[name] = top * unit
        told = machine.read(folder / governor)
        if told:
            governors[name] = told

    for policy in machine.glob("/sys/devices/system/cpu/cpufreq/policy*"):
        cpus = (machine.read(policy / "related_cpus") or policy.name.removeprefix("policy")).replace(" ", ",")
        top = machine.integer(policy / "cpuinfo_max_freq")
        note(f"cpu {cpus}", policy, "scaling_cur_freq", "scaling_max_freq", top, "scaling_governor", 1e-3)
    for kind in ("npu", "dmc"):
        for folder in machine.glob(f"/sys/class/devfreq/*{kind}*"):
            steps = [int(s) for s in (machine.read(folder / "available_frequencies") or "").split() if s.isdigit()]
            highest = max(steps, default=None)
            note(kind, folder, "cur_freq", "max_freq", highest, "governor", 1e-6)
    words = (machine.read("/proc/loadavg") or "").split()
    load = float(words[0]) if words else None
    return Snapshot(time.time(), temperatures, trips, clocks, limits, tops, governors, load)


def _temperatures(machine: Machine) -> tuple[dict[str, float], dict[str, float]]:
    found: dict[str, float] = {}
    trips: dict[str, float] = {}
    for zone in machine.glob("/sys/class/thermal/thermal_zone*"):
        milli = machine.integer(zone / "temp")
        if milli is None or milli <= 0:  # a sensor without power answers 0 or below
            continue
        name = (machine.read(zone / "type") or zone.name).removesuffix("-thermal")
        name = name if name not in found else f"{name} ({zone.name})"
        found[name] = milli / 1000
        passive = []
        for kind in machine.glob(f"{machine.shown(zone)}/trip_point_*_type"):
            value = machine.integer(kind.with_name(kind.name.replace("_type", "_temp")))
            if value and value > 0 and machine.read(kind) == "passive":
                passive.append(value / 1000)
        # Of the vendor's two passive points the first only wakes its regulator up.
        trips[name] = max(passive, default=THROTTLE_C)
    return found, trips


@dataclass(frozen=True)
class Throttling:
    """Whether the chip slowed itself down. seen: None where nothing here tells. told: why, one line each."""

    seen: bool | None
    told: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {"seen": self.seen, "told": list(self.told)}


def throttling(looks: Sequence[Snapshot]) -> Throttling:
    """Judge looks before, while and after something was measured, in the order of time."""
    if not any(one.temperatures_c or one.clocks_mhz for one in looks):
        return Throttling(None, ("this machine shows neither temperatures nor clocks: throttling cannot be told",))
    reasons = []
    for name in sorted({name for one in looks for name in one.temperatures_c}):
        hottest = max((one for one in looks if name in one.temperatures_c), key=lambda one: one.temperatures_c[name])
        if hottest.temperatures_c[name] >= hottest.trips_c[name]:
            reasons.append(
                f"{name} reached {hottest.temperatures_c[name]:.0f} °C, the kernel slows down from "
                f"{hottest.trips_c[name]:.0f} °C"
            )
    for name in sorted({name for one in looks for name in one.limits_mhz}):
        limits = [one.limits_mhz[name] for one in looks if name in one.limits_mhz]
        if min(limits) < STEADY * limits[0]:
            reasons.append(f"the limit of {name} fell from {limits[0]:.0f} to {min(limits):.0f} MHz")
        # A clock that follows the load says nothing; one that is held at its top and falls was taken back.
        held = [one for one in looks if name in one.clocks_mhz and one.governors.get(name) == "performance"]
        lowest = min((one.clocks_mhz[name] for one in held), default=None)
        top = max((one.limits_mhz.get(name, 0.0) for one in held), default=0.0)
        if lowest is not None and min(limits) >= STEADY * limits[0] and lowest < STEADY * top:
            reasons.append(f"{name} ran at {lowest:.0f} MHz of {top:.0f} under the governor performance")
    return Throttling(bool(reasons), tuple(reasons))


def warnings_of(look: Snapshot) -> list[str]:
    """Return what makes times of this machine uneven, one line each, with the cure."""
    told = []
    moving = {name: governor for name, governor in look.governors.items() if governor != "performance"}
    if moving:
        named = ", ".join(f"{name}: {governor}" for name, governor in sorted(moving.items()))
        told.append(f"clocks follow the load ({named}); for even times set the governor performance (rsedge doctor)")
    for name, top in sorted(look.tops_mhz.items()):
        limit = look.limits_mhz.get(name)
        if limit and limit < STEADY * top:
            told.append(f"{name} is held at {limit:.0f} of {top:.0f} MHz")
    cpus = len(os.sched_getaffinity(0))
    if look.load is not None and look.load > 0.5 * cpus:
        told.append(
            f"the machine was busy before it was measured (load {look.load:.1f} on {cpus} CPUs): take the figures "
            "again when it is idle"
        )
    return told


def fast_cpus(machine: Machine, allowed: set[int]) -> set[int]:
    """Return the CPUs of the fastest kind among those allowed, by capacity or top clock; all where they are alike.

    The RK3588's two big clusters may differ by a few per cent, hence the margin.
    """
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speed = {cpu: machine.integer(f"/sys/devices/system/cpu/cpu{cpu}/{name}") or 0 for cpu in allowed}
        if speed and min(speed.values()) > 0:
            return {cpu for cpu, value in speed.items() if value >= 0.9 * max(speed.values())}
    return set(allowed)


@contextmanager
def pinned(machine: Machine) -> Iterator[str]:
    """Keep this thread, and those that it starts, on the fast CPUs; yields what was done, in words.

    Where all CPUs are alike nothing is changed: the scheduler may move threads among them. What the caller was allowed
    before is put back at the end.
    """
    before = os.sched_getaffinity(0)
    fast = fast_cpus(machine, before) if machine.live else set(before)
    shown = ", ".join(map(str, sorted(fast)))
    if fast == before:
        yield f"not pinned: the CPUs {shown} are alike"
        return
    os.sched_setaffinity(0, fast)
    try:
        yield f"pinned to the fast CPUs {shown}"
    finally:
        os.sched_setaffinity(0, before)
