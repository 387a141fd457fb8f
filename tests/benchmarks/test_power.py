"""Power: integrals against known curves, what meters write, what hwmon shows, energy by its definition."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.course import Course
from benchmarks.power import PowerTrace, Window, energy_per_image, power_sensors, read_power_csv
from tests.benchmarks.test_sensors import tree

T = 1_700_000_000.0


def test_the_integral_of_a_ramp_and_of_a_sine():
    at = T + np.linspace(0, 10, 11)
    ramp = PowerTrace("ramp", at, at - T)
    # Between 2.5 and 7.25 s, ends between readings: (b^2 - a^2) / 2.
    assert ramp.energy_j(T + 2.5, T + 7.25) == pytest.approx((7.25**2 - 2.5**2) / 2)
    fine = T + np.linspace(0, np.pi, 2001)
    sine = PowerTrace("sine", fine, np.sin(fine - T))
    assert sine.energy_j(fine[0], fine[-1]) == pytest.approx(2, rel=1e-5)
    assert ramp.mean_w(T, T + 10) == pytest.approx(5)


def test_energy_is_what_the_images_cost_beyond_standby():
    """3 W at rest, 5 W for 4 seconds of 80 images: (20 J - 12 J) / 80."""
    at = T + np.arange(0, 21, 0.25)
    watts = np.where((at >= T + 10) & (at <= T + 14), 5.0, 3.0)
    found = energy_per_image(PowerTrace("meter", at, watts), Window(T + 10, T + 14, 80), Window(T, T + 8, 0))
    assert found["joules_per_image"] == pytest.approx(0.1)
    assert found["joules_per_image_with_standby"] == pytest.approx(0.25)
    assert (found["mean_w"], found["standby_w"]) == (pytest.approx(5), pytest.approx(3))
    assert found["label"] == "measured by meter"


def test_a_meter_that_was_not_there_all_the_time_is_told():
    trace = PowerTrace("meter.csv", T + np.arange(5.0), np.ones(5))
    with pytest.raises(ValueError, match=r"meter\.csv: its readings cover 1\.0 of 6\.0 seconds"):
        trace.energy_j(T + 3, T + 9)
    with pytest.raises(ValueError, match="at least one image"):
        energy_per_image(trace, Window(T, T + 1, 0), Window(T, T + 1, 0))


@pytest.mark.parametrize(
    ("text", "watts"),
    [
        ("time,power\n1700000000,5\n1700000001,6\n", [5, 6]),
        ("Timestamp, Voltage(V), Current(A)\n1700000000.0,5.0,1.0\n\n1700000001.0,5.0,1.5\n", [5, 7.5]),
        ("unix_s,Power (mW)\n1700000000,5000\n1700000000,5500\n1700000001,6000\n", [5, 6]),
        ("\ufefftime,voltage,current_ma\n2023-11-14T22:13:20+00:00,12,500\n2023-11-14T22:13:21Z,12,250\n", [6, 3]),
    ],
)
def test_what_meters_write(tmp_path, text, watts):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    found = read_power_csv(path)
    assert found.at_s.tolist() == [T, T + 1]
    assert found.watts.tolist() == pytest.approx(watts)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "needs columns time and power"),
        ("time,power\n1700000000,five\n", r"m\.csv:2: cannot be read"),
        ("time,power\n1700000000\n", r"m\.csv:2: cannot be read"),
        ("time,power\n0.1,5\n0.2,5\n", "a meter's own seconds do not say"),
        ("time,power\n1700000000,5\n", "two readings or more"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path, text, match):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_power_csv(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="let the meter write there"):
        read_power_csv(tmp_path / "none.csv")


def hwmon(tmp_path):
    return tree(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "cpu_fan",
            "sys/class/hwmon/hwmon0/power1_average": "9000000",
            "sys/class/hwmon/hwmon1/name": "ina226",
            "sys/class/hwmon/hwmon1/power1_input": "4250000",
            "sys/class/hwmon/hwmon1/power1_label": "supply",
            "sys/class/hwmon/hwmon2/name": "ina3221",
            "sys/class/hwmon/hwmon2/in1_input": "5000",
            "sys/class/hwmon/hwmon2/curr1_input": "600",
            "sys/class/hwmon/hwmon2/in3_input": "3300",
            "sys/class/hwmon/hwmon3/name": "nct6775",
            "sys/class/hwmon/hwmon3/in1_input": "1000",
            "sys/class/hwmon/hwmon3/curr1_input": "1000",
        },
    )


def test_what_the_kernel_shows(tmp_path):
    """Microwatts as they are; millivolts times milliamperes of an INA3221's whole pairs; no guess for other chips."""
    found = {sensor.name: sensor.read() for sensor in power_sensors(hwmon(tmp_path))}
    assert found == {
        "ina226 supply (hwmon1)": pytest.approx(4.25),
        "ina3221 channel 1 (hwmon2)": pytest.approx(3.0),
        "cpu_fan channel 1 (hwmon0)": pytest.approx(9.0),
    }
    assert next(iter(found)).startswith("ina")


def test_a_course_keeps_what_sensors_told(tmp_path):
    machine = hwmon(tmp_path)
    with Course(machine) as course:
        window = course.rest(0.25)
        (tmp_path / "sys/class/hwmon/hwmon1/power1_input").write_text("8250000\n")
        time.sleep(0.01)
        course.rest(0.25)
    traces = {trace.source: trace for trace in course.traces()}
    trace = traces["ina226 supply (hwmon1)"]
    assert trace.watts[0] == pytest.approx(4.25)
    assert trace.watts[-1] == pytest.approx(8.25)
    assert trace.mean_w(window.begin_s, window.end_s) == pytest.approx(4.25)
    assert not power_sensors(tree(tmp_path / "other", {"proc/loadavg": "0"}))
