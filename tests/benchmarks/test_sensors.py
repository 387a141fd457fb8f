"""Sensors of captured machines: clocks, heat and limits read, throttling told from clocks that follow the load."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sensors import Snapshot, fast_cpus, look, pinned, throttling, warnings_of
from deploy.doctor_machine import Machine

CPU = "sys/devices/system/cpu"


def tree(root: Path, files: dict[str, str]) -> Machine:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Machine(root)


def board(root: Path) -> Machine:
    files = {
        "sys/class/thermal/thermal_zone0/type": "npu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "61500",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "75000",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "85000",
        "sys/class/thermal/thermal_zone1/type": "off",
        "sys/class/thermal/thermal_zone1/temp": "0",
        "sys/class/devfreq/fdab0000.npu/cur_freq": "1000000000",
        "sys/class/devfreq/fdab0000.npu/max_freq": "800000000",
        "sys/class/devfreq/fdab0000.npu/available_frequencies": "300000000 1000000000",
        "sys/class/devfreq/fdab0000.npu/governor": "rknpu_ondemand",
        f"{CPU}/cpufreq/policy4/related_cpus": "4 5",
        f"{CPU}/cpufreq/policy4/scaling_cur_freq": "2256000",
        f"{CPU}/cpufreq/policy4/scaling_max_freq": "2256000",
        f"{CPU}/cpufreq/policy4/cpuinfo_max_freq": "2256000",
        f"{CPU}/cpufreq/policy4/scaling_governor": "performance",
        "proc/loadavg": "0.10 0.20 0.30 1/200 999",
    }
    files |= {f"{CPU}/cpu{i}/cpu_capacity": "530" if i < 4 else "1024" if i < 6 else "1010" for i in range(8)}
    return tree(root, files)


def test_a_board_is_read(tmp_path):
    found = look(board(tmp_path))
    assert found.temperatures_c == {"npu": 61.5}
    assert found.trips_c == {"npu": 85.0}
    assert found.clocks_mhz == {"cpu 4,5": 2256.0, "npu": 1000.0}
    assert found.limits_mhz == {"cpu 4,5": 2256.0, "npu": 800.0}
    assert found.tops_mhz == {"cpu 4,5": 2256.0, "npu": 1000.0}
    assert found.governors == {"cpu 4,5": "performance", "npu": "rknpu_ondemand"}
    assert found.load == 0.1
    told = warnings_of(found)
    assert any("npu: rknpu_ondemand" in line for line in told)
    assert any("npu is held at 800 of 1000 MHz" in line for line in told)


def test_a_machine_that_shows_nothing(tmp_path):
    found = look(Machine(tmp_path))
    assert found.temperatures_c == found.clocks_mhz == found.governors == {}
    verdict = throttling([found])
    assert verdict.seen is None
    assert "cannot be told" in verdict.told[0]
    assert warnings_of(found) == []


STEADY = Snapshot(
    0.0, {"npu": 60.0}, {"npu": 85.0}, {"npu": 1000.0}, {"npu": 1000.0}, {"npu": 1000.0}, {"npu": "performance"}, 0.0
)


def test_a_steady_machine_was_not_throttled():
    verdict = throttling([STEADY, replace(STEADY, temperatures_c={"npu": 84.0}), STEADY])
    assert (verdict.seen, verdict.told) == (False, ())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"temperatures_c": {"npu": 86.0}}, "npu reached 86 °C, the kernel slows down from 85 °C"),
        ({"limits_mhz": {"npu": 600.0}}, "the limit of npu fell from 1000 to 600 MHz"),
        ({"clocks_mhz": {"npu": 700.0}}, "npu ran at 700 MHz of 1000 under the governor performance"),
    ],
)
def test_each_sign_of_throttling_is_seen_in_the_middle(changed, told):
    verdict = throttling([STEADY, replace(STEADY, **changed), STEADY])
    assert verdict.seen
    assert verdict.told == (told,)


def test_a_clock_that_follows_the_load_is_no_throttling():
    idle = replace(STEADY, clocks_mhz={"npu": 300.0}, governors={"npu": "simple_ondemand"})
    assert throttling([idle, replace(idle, clocks_mhz={"npu": 1000.0}), idle]).seen is False


def test_a_busy_machine_is_warned_of():
    told = warnings_of(replace(STEADY, load=100.0))
    assert any("take the figures again when it is idle" in line for line in told)


def test_the_fast_cpus(tmp_path):
    machine = board(tmp_path)
    assert fast_cpus(machine, set(range(8))) == {4, 5, 6, 7}
    assert fast_cpus(machine, {0, 1}) == {0, 1}
    assert fast_cpus(Machine(tmp_path / "none"), {0, 3}) == {0, 3}


def test_pinning_is_told_and_put_back(tmp_path, monkeypatch):
    before = os.sched_getaffinity(0)
    first = {min(before)}
    monkeypatch.setattr("benchmarks.sensors.fast_cpus", lambda machine, allowed: first)
    with pinned(Machine(Path("/"))) as told:
        assert os.sched_getaffinity(0) == first
        assert told.startswith("pinned to the fast CPUs" if first != before else "not pinned")
    assert os.sched_getaffinity(0) == before
    with pinned(Machine(tmp_path)) as told:  # a capture's CPUs are not ours
        assert told.startswith("not pinned")
