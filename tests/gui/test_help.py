"""Every command can be found: in a menu, by a shortcut, on the page of shortcuts; panels come by keys."""

from __future__ import annotations

import re
from typing import Any

import pytest
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import QAction, QApplication, QDialog, QMenu, QTextBrowser

from gui.dressing import Dressing
from gui.help_dialogs import shortcut_page
from gui.main_window import MainWindow


def actions_of(menu: QMenu) -> list[QAction]:
    found = []
    for action in menu.actions():
        found += actions_of(action.menu()) if action.menu() is not None else [action]
    return [action for action in found if not action.isSeparator()]


def page_shown(window: MainWindow, act: Any) -> str:
    """Open a dialogue by `act`, close it, and return what it says."""
    told: list[str] = []

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, QDialog)
        told.append(dialog.findChild(QTextBrowser).toPlainText())
        dialog.reject()

    QTimer.singleShot(50, look)
    act()
    return told[0]


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_every_entry_of_a_menu_has_a_shortcut_of_its_own(
    window: MainWindow, dressing: Dressing, qtbot: Any, language: str
) -> None:
    dressing.use_language(language)
    qtbot.wait(50)
    shortcuts = []
    for menu in window.actions_.menus.values():
        letters = [found[1].lower() for a in menu.actions() if (found := re.search(r"&(\w)", a.text()))]
        assert len(letters) == len(set(letters)), (menu.title(), sorted(letters))
        for action in actions_of(menu):
            if action.parent() in window.choices.recent.values():
                continue  # what was opened lately is chosen by the arrow keys
            assert not action.shortcut().isEmpty(), action.text()
            shortcuts.append(action.shortcut().toString())
    assert len(shortcuts) == len(set(shortcuts))
    assert len(shortcuts) > 45


def test_the_page_of_shortcuts_names_all_of_them(window: MainWindow, dressing: Dressing, qtbot: Any) -> None:
    told = page_shown(window, window.actions_.by_key["shortcuts"].trigger)
    for action in window.actions_.by_key.values():
        assert action.text().replace("&", "") in told
        assert action.shortcut().toString(QKeySequence.NativeText) in told
    assert "Ctrl+Alt+3" in told
    dressing.use_language("zh_CN")
    qtbot.wait(50)
    page = shortcut_page(window.actions_.menus)
    assert "打开模型包…" in page
    assert "(&" not in page


def test_about_tells_the_version_and_the_licence(window: MainWindow) -> None:
    told = page_shown(window, window.actions_.by_key["about"].trigger)
    assert re.search(r"rsedge \d+\.\d+", told)
    assert "Apache" in told


def test_panels_come_to_the_front_by_keys(window: MainWindow, qtbot: Any) -> None:
    side = window.side
    window.actions_.by_key["panel"].setChecked(False)
    assert not side.isVisible()
    for key, panel in ((Qt.Key_2, side.table), (Qt.Key_3, side.live), (Qt.Key_4, side.card), (Qt.Key_1, side.filters)):
        qtbot.keyClick(window, key, Qt.AltModifier)
        assert side.isVisible()
        assert side.currentWidget() is panel
        focus = window.focusWidget()
        assert focus is panel or panel.isAncestorOf(focus)


def test_examining_brings_the_machine_panel(window: MainWindow, qtbot: Any) -> None:
    qtbot.keyClick(window, Qt.Key_F6)
    assert window.side.currentWidget() is window.side.live
    qtbot.waitUntil(lambda: "chip" in window.side.live.findings.toPlainText(), timeout=20000)
