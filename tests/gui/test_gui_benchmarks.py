"""The app's measurements end to end, short: the figures are there, and the window that was measured is the app's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gui.memory_benchmark import growth_of

ROOT = Path(__file__).resolve().parents[2]


def measured(module: str, tmp_path: Path, *options: str) -> dict[str, Any]:
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed; apt-get install xvfb")
    command = [sys.executable, "-m", f"gui.{module}", *options, "--json", str(tmp_path / "told.json")]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode and "platform plugin" in done.stderr:
        pytest.skip("Qt's xcb plugin does not start here")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == json.loads(done.stdout.splitlines()[-1])
    assert {"machine", "versions", "commit", "targets", "screen"} <= set(told)
    return dict(told)


def test_speed(tmp_path: Path) -> None:
    told = measured("speed_benchmark", tmp_path, "--rounds", "1", "--seconds", "0.8")
    for kind in ("decoded", "file"):
        assert told[kind]["headless_images_per_s"] < told["bound_images_per_s"] * 1.1
        # Wide, for a machine that does other things too.
        assert told[kind]["share_of_headless"] > 0.4
        assert told[kind]["pictures_per_s"] > 10
    assert set(told["input"]) == {"still", "saturated", "video"}
    for late in told["input"].values():
        assert 0 < late["pan_p50_ms"] <= late["pan_p99_ms"]
        assert 0 < late["slider_p50_ms"] <= late["slider_p99_ms"]


def test_memory(tmp_path: Path) -> None:
    told = measured("memory_benchmark", tmp_path, "--frames", "3000")
    assert told["frames"] == 3000
    assert told["threads_left"] == []
    assert told["growth_mib"] < 40  # so short a run still warms up; the whole half hour grew by 8


def test_turns(tmp_path: Path) -> None:
    told = measured("turns_benchmark", tmp_path, "--rounds", "1")
    assert {"open: scene", "panel: machine", "dark", "Chinese", "video"} <= set(told["actions"])
    for times in told["actions"].values():
        assert 0 < times["first"] < 200  # as above: the benchmark says what it is on a quiet machine
        assert 0 < times["again"] < 200


def test_growth_is_taken_from_tenths() -> None:
    assert growth_of([100.0] * 10 + [103.0] * 10) == 3
    assert growth_of([100.0, 500.0, *[100.0] * 18]) == pytest.approx(-200)
    assert growth_of([7.0]) == 0
