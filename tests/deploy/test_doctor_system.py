"""The doctor and the rest of the machine: clocks, heat, memory, threads, decoders, Qt, and the reading of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import doctor_system
from deploy.doctor_machine import Machine, version_in
from tests.deploy import boards
from tests.deploy.boards import Tree, found_on, plant, wheel, without, zone


def test_an_npu_on_demand_at_its_top_clock_is_no_warning(tmp_path: Path) -> None:
    tree = boards.untuned_board() | {"sys/class/devfreq/fdab0000.npu/cur_freq": "1000000000\n"}
    assert found_on(tree, tmp_path)["NPU clock"].level == "ok"


def test_a_capped_clock_is_told_whatever_the_governor(tmp_path: Path) -> None:
    tree = boards.healthy_board() | {
        "sys/class/devfreq/fdab0000.npu/max_freq": "600000000\n",
        "sys/class/devfreq/fdab0000.npu/cur_freq": "600000000\n",
    }
    clock = found_on(tree, tmp_path)["NPU clock"]
    assert clock.level == "warning"
    assert clock.cure == "echo 1000000000 | sudo tee /sys/class/devfreq/fdab0000.npu/max_freq"


# --- the rest of the machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milli", "level"),
    [(79_900, "ok"), (80_000, "warning"), (104_900, "warning"), (105_000, "error"), (-274_000, "ok")],
)
def test_heat(tmp_path: Path, milli: int, level: str) -> None:
    assert found_on(boards.healthy_board() | zone(1, "bigcore0-thermal", milli), tmp_path)["temperature"].level == level


def test_a_zone_is_judged_by_its_own_limits(tmp_path: Path) -> None:
    tree = boards.healthy_board() | zone(9, "battery", 58_000, ("passive", 60_000), ("critical", 70_000))
    found = found_on(tree, tmp_path)["temperature"]
    assert (found.level, found.told) == ("warning", "58 °C at battery, slows down at 60 °C")


@pytest.mark.parametrize(("mib", "level"), [(299, "error"), (300, "warning"), (1023, "warning"), (1024, "ok")])
def test_memory(tmp_path: Path, mib: int, level: str) -> None:
    tree = boards.healthy_board() | {"proc/meminfo": f"MemTotal:  7927000 kB\nMemAvailable:   {mib * 1024} kB\n"}
    assert found_on(tree, tmp_path)["memory"].level == level


@pytest.mark.parametrize(("cpus", "level"), [("0-7", "ok"), ("4-7", "ok"), ("0-3", "warning"), ("0-4", "warning")])
def test_pinning_away_from_the_big_cores(tmp_path: Path, cpus: str, level: str) -> None:
    tree = boards.healthy_board() | {"proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{cpus}\n"}
    found = found_on(tree, tmp_path)["threads"]
    assert found.level == level
    assert "the big ones are 4-7" in found.told


@pytest.mark.parametrize(
    ("threads", "level"), [("4", "ok"), ("8", "ok"), ("9", "warning"), ("0", "warning"), ("all", "warning")]
)
def test_omp_threads(tmp_path: Path, threads: str, level: str) -> None:
    found = found_on(boards.healthy_board(), tmp_path, OMP_NUM_THREADS=threads)["threads"]
    assert found.level == level
    assert f"OMP_NUM_THREADS={threads}" in found.told


def test_big_cores_by_clock_where_the_kernel_tells_no_capacity(tmp_path: Path) -> None:
    tree = {p: c for p, c in boards.healthy_board().items() if not p.endswith("cpu_capacity")}
    clocks = {
        f"sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq": f"{c}\n"
        for i, c in enumerate([1800000] * 4 + [2400000] * 4)
    }
    assert "the big ones are 4-7" in found_on(tree | clocks, tmp_path)["threads"].told


@given(st.sets(st.integers(0, 200), max_size=40))
def test_lists_of_cpus_go_round(cpus: set[int]) -> None:
    text = doctor_system._short_list(sorted(cpus))
    assert doctor_system._cpus(text) == sorted(cpus)


def test_a_busy_npu(tmp_path: Path) -> None:
    load = {"sys/kernel/debug/rknpu/load": "NPU load:  Core0: 63%, Core1: 65%, Core2:  4%,\n"}
    found = found_on(boards.healthy_board() | load, tmp_path)["NPU load"]
    assert (found.level, found.told) == ("warning", "core 0 63 %, core 1 65 %, core 2 4 %")


@pytest.mark.parametrize(
    ("files", "environ", "told"),
    [
        (wheel("opencv-python", "4.12.0.88"), {}, "both write the folder cv2"),
        (
            {},
            {"QT_QPA_PLATFORM_PLUGIN_PATH": "/venv/lib/python3.11/site-packages/cv2/qt/plugins"},
            "points into OpenCV",
        ),
    ],
)
def test_qt_clashes(tmp_path: Path, files: Tree, environ: dict[str, str], told: str) -> None:
    found = found_on(boards.healthy_board() | files, tmp_path, **environ)["Qt"]
    assert found.level == "warning"
    assert told in found.told


def test_opencv_with_qt_hurts_only_beside_pyqt(tmp_path: Path) -> None:
    tree = without(boards.healthy_board(), "usr/lib/python3/dist-packages/opencv") | wheel("opencv-python", "4.12.0.88")
    assert "pip uninstall -y opencv-python," in found_on(tree, tmp_path / "a")["Qt"].cure
    alone = without(tree, "usr/lib/python3/dist-packages/PyQt5")
    assert found_on(alone, tmp_path / "b")["Qt"].level == "ok"
    other = found_on(boards.healthy_board(), tmp_path / "c", QT_QPA_PLATFORM_PLUGIN_PATH="/usr/lib/qt5/plugins")
    assert other["Qt"].level == "ok"


def test_a_decoder_that_nothing_drives(tmp_path: Path) -> None:
    tree = without(boards.healthy_board(), "usr/lib/aarch64-linux-gnu/gstreamer-1.0")
    decoders = found_on(tree, tmp_path)["decoders"]
    assert decoders.level == "warning"
    assert "gstreamer1.0-rockchip1" in decoders.cure


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"gst-inspect-1.0": ""}, "GStreamer mppvideodec on"),
        ({"ffmpeg": " V..... h264_rkmpp  Rockchip MPP H264 decoder\n"}, "ffmpeg rkmpp on"),
        ({"ffmpeg": " V....D h264  H.264\n"}, "no program drives it"),
        ({}, "no program drives it"),
    ],
)
def test_a_live_board_asks_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(Machine, "live", True)
    machine = Machine(plant(boards.healthy_board(), tmp_path), {}, run=lambda command: answers.get(command[0]))
    assert told in doctor_system.check_decoders(machine).told


def test_commands_that_fail_or_are_missing_answer_nothing() -> None:
    machine = Machine(Path("/"))
    assert machine.run(["sh", "-c", "echo out; echo err >&2"]) == "out\n"
    assert machine.run(["sh", "-c", "echo out; exit 3"]) is None
    assert machine.run(["/nowhere/at-all"]) is None


@pytest.mark.parametrize(
    ("node", "rule"),
    [("mpp_service", 'KERNEL=="mpp_service"'), ("system", 'SUBSYSTEM=="dma_heap"'), ("rga", 'KERNEL=="rga"')],
)
def test_a_closed_decoder_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, rule: str) -> None:
    monkeypatch.setattr(Machine, "group_of", lambda self, node: None)
    machine = Machine(plant(boards.healthy_board(), tmp_path), {}, may_use=lambda path: path.name != node)
    decoders = doctor_system.check_decoders(machine)
    assert decoders.level == "warning"
    assert rule in decoders.cure


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("RKNPU driver: v0.9.8", (0, 9, 8)),
        ("2.0.0b0 (35a6@2024-03-24)", (2, 0, 0)),
        ("v2.3", (2, 3, 0)),
        ("x", None),
        (None, None),
    ],
)
def test_versions(text: str | None, version: tuple[int, int, int] | None) -> None:
    assert version_in(text) == version
