"""What is loaded late keeps nobody waiting: libraries in turns of the loop or without the interpreter lock, themes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PyQt5.QtCore import QTimer
from PyQt5.QtGui import QImage
from PyQt5.QtWidgets import QApplication

from gui import import_in_turns as turns
from gui.dressing import Dressing
from gui.import_in_turns import import_in_turns
from gui.main_window import MainWindow
from gui.theme import _STYLE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of ten modules, each of which takes 10 ms to import."""
    name = "slow_in_turns"
    folder = tmp_path / name
    folder.mkdir()
    for i in range(10):
        (folder / f"part{i}.py").write_text("import time\ntime.sleep(0.01)\n")
    (folder / "__init__.py").write_text("".join(f"from . import part{i}\n" for i in range(10)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def ticks_during(act: Any) -> int:
    """Return how often a timer of 1 ms fires while something is done that does not return to the loop."""
    count = [0]
    timer = QTimer()
    timer.timeout.connect(lambda: count.__setitem__(0, count[0] + 1))
    timer.start(1)
    act()
    timer.stop()
    return count[0]


def test_the_loop_goes_on_between_modules(qapp: Any, package: str) -> None:
    before = list(sys.meta_path)
    assert ticks_during(lambda: import_in_turns(package, [package])) >= 5
    assert sys.meta_path == before
    assert sys.modules[package].part9.__name__ == f"{package}.part9"


def test_only_between_modules_of_the_packages_that_were_named(qapp: Any, package: str) -> None:
    assert ticks_during(lambda: import_in_turns(package, ["another"])) == 0


def test_an_import_that_fails_says_so_and_leaves_nothing_behind(qapp: Any, package: str, tmp_path: Path) -> None:
    (tmp_path / package / "part5.py").write_text("raise RuntimeError('spoilt')\n")
    before = list(sys.meta_path)
    with pytest.raises(RuntimeError, match="spoilt"):
        import_in_turns(package, [package])
    with pytest.raises(ModuleNotFoundError):
        import_in_turns("not_there_at_all", [package])
    assert sys.meta_path == before
    assert turns.PATIENCE_S < 0.016


GAPS = """
    import json, sys, threading, time
    import numpy
    sys.setswitchinterval(0.0005)
    from gui.meet_gdal import meet_gdal

    def open_it():
        if sys.argv[2] == "meet":
            meet_gdal(sys.argv[1])
        import rasterio
        with rasterio.open(sys.argv[1]) as scene:
            told.append(scene.crs.to_epsg())

    told, gaps = [], []
    thread = threading.Thread(target=open_it)
    thread.start()
    last = time.perf_counter()
    while thread.is_alive():
        time.sleep(0.0003)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    print(json.dumps([told, max(gaps)]))
"""


def test_the_first_scene_holds_nobody_up(tmp_path: Path) -> None:
    """Processes of their own: what was loaded once stays."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", crs="EPSG:32631",
        transform=rasterio.Affine(1, 0, 500000, 0, -1, 100),
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 64, 64), np.uint8))
    longest = {}
    for how in ("plain", "meet", "plain", "meet"):
        command = [sys.executable, "-c", textwrap.dedent(GAPS), str(path), how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told, gap = json.loads(done.stdout)
        assert told == [32631]
        longest[how] = min(gap, longest.get(how, 1.0))
    assert longest["meet"] < longest["plain"]


def test_a_scene_that_is_none_is_left_to_rasterio(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    (tmp_path / "no.tif").write_text("nothing of the kind")
    program = "import sys; from gui.meet_gdal import meet_gdal; [meet_gdal(a) for a in sys.argv[1:]]"
    command = [sys.executable, "-c", program, str(tmp_path / "no.tif"), "/nowhere.tif"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def pixels(window: MainWindow) -> np.ndarray:
    image = window.grab().toImage().convertToFormat(QImage.Format_RGB32)
    bits = image.bits()
    bits.setsize(image.byteCount())
    return np.frombuffer(bits, np.uint8).reshape(image.height(), image.width(), 4).astype(int)


@pytest.mark.parametrize("tab", range(4))
def test_a_changed_theme_looks_as_if_it_had_been_there_from_the_start(
    seen: MainWindow, dressing: Dressing, qapp: QApplication, qtbot: Any, tab: int
) -> None:
    seen.messages.tell("a message")
    seen.side.setCurrentIndex(tab)
    qtbot.wait(300)
    light = pixels(seen)
    dressing.use_theme("dark")
    qtbot.wait(300)
    quick = pixels(seen)
    qapp.setStyleSheet("")
    qapp.setStyleSheet(_STYLE)  # everything anew, as a start does it
    qtbot.wait(300)
    assert (np.abs(light - quick).max(2) > 20).mean() > 0.2
    # The live panel's numbers go on; nothing else may differ.
    assert (np.abs(pixels(seen) - quick).max(2) > 8).mean() < (0.01 if tab == 2 else 0.0005)
