"""Two fingers and one: real touch events through Qt's own gesture recogniser, on the picture."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from PyQt5 import sip
from PyQt5.QtCore import QPoint, QPointF, Qt
from PyQt5.QtGui import QTouchDevice
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import QApplication

from gui.main_window import MainWindow

KEPT: list[QTouchDevice] = []


@pytest.fixture(scope="module")
def panel(qapp: Any) -> QTouchDevice:
    """A touch screen that Qt knows of; lives as long as Qt does.

    PyQt5 leaves out QTest::createTouchDevice, which does just this.
    """
    device = QTouchDevice()
    device.setType(QTouchDevice.TouchScreen)
    device.setCapabilities(QTouchDevice.Position)
    name = "_ZN22QWindowSystemInterface19registerTouchDeviceEPK12QTouchDevice"
    library = next(
        (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libQt5Gui.so" in line), ""
    )
    register = getattr(ctypes.CDLL(library), name, None) if library else None
    if register is None:
        pytest.skip("this Qt does not let a program make a touch screen")
    register.argtypes, register.restype = [ctypes.c_void_p], None
    register(sip.unwrapinstance(device))
    KEPT.append(device)
    return device


def test_two_fingers_zoom_where_they_are_and_move(seen: MainWindow, panel: QTouchDevice) -> None:
    view = seen.pane.view
    middle = QPoint(view.width() // 2 + 40, view.height() // 2 - 30)
    place = view.to_picture(QPointF(middle))
    scale = view.scale

    def fingers(apart: int, shift: int = 0) -> tuple[QPoint, QPoint]:
        return middle + QPoint(shift - apart, 0), middle + QPoint(shift + apart, 0)

    one, two = fingers(50)
    QTest.touchEvent(view, panel).press(0, one, view).press(1, two, view).commit()
    for apart in range(55, 105, 5):
        one, two = fingers(apart)
        QTest.touchEvent(view, panel).move(0, one, view).move(1, two, view).commit()
        QApplication.processEvents()
    assert view.scale == pytest.approx(scale * 2, rel=0.15)
    assert (view.to_screen(place) - QPointF(middle)).manhattanLength() < 12  # it stayed between the fingers
    for shift in range(10, 70, 10):
        one, two = fingers(100, shift)
        QTest.touchEvent(view, panel).move(0, one, view).move(1, two, view).commit()
        QApplication.processEvents()
    assert view.to_screen(place).x() - middle.x() == pytest.approx(60, abs=15)
    QTest.touchEvent(view, panel).release(0, one, view).release(1, two, view).commit()
    QApplication.processEvents()
    assert seen.session.selected is None  # fingers that pinch select nothing


def test_one_finger_drags_and_a_tap_selects(seen: MainWindow, panel: QTouchDevice, qtbot: Any) -> None:
    """Qt makes a mouse of one finger where a widget does not take touch itself."""
    view = seen.pane.view
    start = QPoint(200, 200)
    place = view.to_picture(QPointF(start))
    QTest.touchEvent(view, panel).press(0, start, view).commit()
    for step in range(1, 9):
        QTest.touchEvent(view, panel).move(0, start + QPoint(10 * step, 5 * step), view).commit()
        QApplication.processEvents()
    end = start + QPoint(80, 40)
    QTest.touchEvent(view, panel).release(0, end, view).commit()
    QApplication.processEvents()
    assert (view.to_screen(place) - QPointF(end)).manhattanLength() < 3
    assert seen.session.selected is None
    inside = view.to_screen(QPointF(25, 60)).toPoint()
    QTest.touchEvent(view, panel).press(0, inside, view).commit()
    QTest.touchEvent(view, panel).release(0, inside, view).commit()
    QApplication.processEvents()
    assert seen.session.selected is not None
    assert seen.session.found.class_id[seen.session.selected] == 0
    assert Qt.NoButton == QApplication.mouseButtons()
