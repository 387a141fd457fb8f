"""What the tests of the app share: no screen, own settings, a quick detector that answers without a network."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PyQt5.QtWidgets", reason="PyQt5 is not installed")
pytest.importorskip("pytestqt", reason="pytest-qt is not installed")

from PyQt5.QtCore import QSettings

from gui.dressing import Dressing
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.settings import Remembered
from gui.worker import DetectorShelf
from tests.gui.squares import SQUARES, draw, quick_detector, save


@pytest.fixture
def remembered(tmp_path: Path) -> Remembered:
    return Remembered(QSettings(str(tmp_path / "settings.ini"), QSettings.IniFormat))


@pytest.fixture
def dressing(qapp: Any) -> Iterator[Dressing]:
    dressing = Dressing(qapp)
    dressing.use_theme("light")
    yield dressing
    dressing.use_language("en")
    dressing.use_theme("light")


@pytest.fixture
def make_window(qtbot: Any, remembered: Remembered, dressing: Dressing) -> Iterator[Callable[..., MainWindow]]:
    windows = []

    def make(latency_s: float = 0.0, shelf: DetectorShelf | None = None) -> MainWindow:
        kept = shelf or DetectorShelf(lambda bundle, backend, workers: quick_detector(bundle, latency_s))
        window = MainWindow(remembered, kept)
        window.choices.use_dressing(dressing)
        window.resize(1024, 600)
        window.show()
        qtbot.waitExposed(window)
        windows.append(window)
        return window

    yield make
    for window in windows:
        window.close()
        window.deleteLater()  # a test of how long something takes must not find the windows of all tests before


@pytest.fixture
def window(make_window: Callable[..., MainWindow], qtbot: Any) -> MainWindow:
    """A window with the drawn-scene bundle open, that looks at nothing yet."""
    window = make_window()
    window.opening.bundle(PROCEDURAL)
    qtbot.waitUntil(lambda: window.session.bundle is not None, timeout=10000)
    return window


@pytest.fixture
def see(qtbot: Any) -> Callable[[MainWindow, Path | str], None]:
    """Open a source and wait until the run has ended."""

    def see(window: MainWindow, what: Path | str) -> None:
        window.opening.source(str(what))
        qtbot.waitUntil(lambda: not window.pane.running, timeout=20000)

    return see


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save(tmp_path / "pictures" / "a.png", draw((256, 300), SQUARES))


@pytest.fixture
def seen(window: MainWindow, see: Callable[[MainWindow, Path | str], None], picture: Path) -> MainWindow:
    see(window, picture)
    assert len(window.session.found) == 8
    return window
