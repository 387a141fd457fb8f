"""Actions: every command of the window, its menu, its shortcut and its name, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PyQt5.QtCore import QT_TRANSLATE_NOOP, QCoreApplication, QObject
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import QAction, QMainWindow, QMenu

CONTEXT = "Actions"


@dataclass(frozen=True)
class Command:
    """One line of the table. key: its name in code. text: in English, & before the letter for the keyboard.

    short: for the tool bar.
    """

    menu: str
    key: str
    text: str
    shortcut: str = ""
    checkable: bool = False
    short: str = ""


# A line without a key is a separator.
COMMANDS = (
    Command(
        "file",
        "open_bundle",
        QT_TRANSLATE_NOOP("Actions", "Open &bundle…"),
        "Ctrl+B",
        short=QT_TRANSLATE_NOOP("Actions", "Bundle…"),
    ),
    Command(
        "file",
        "open_file",
        QT_TRANSLATE_NOOP("Actions", "&Open image, scene or video…"),
        "Ctrl+O",
        short=QT_TRANSLATE_NOOP("Actions", "Open…"),
    ),
    Command(
        "file",
        "open_folder",
        QT_TRANSLATE_NOOP("Actions", "Open &folder…"),
        "Ctrl+Shift+O",
        short=QT_TRANSLATE_NOOP("Actions", "Folder…"),
    ),
    Command(
        "file",
        "open_address",
        QT_TRANSLATE_NOOP("Actions", "Open &camera or stream…"),
        "Ctrl+L",
        short=QT_TRANSLATE_NOOP("Actions", "Camera…"),
    ),
    Command("file", "open_drawn", QT_TRANSLATE_NOOP("Actions", "Open &drawn scene"), "Ctrl+D"),
    Command("file", "", ""),
    Command(
        "file",
        "export",
        QT_TRANSLATE_NOOP("Actions", "&Export…"),
        "Ctrl+E",
        short=QT_TRANSLATE_NOOP("Actions", "Export…"),
    ),
    Command("file", "", ""),
    Command("file", "quit", QT_TRANSLATE_NOOP("Actions", "&Quit"), "Ctrl+Q"),
    Command("edit", "undo", QT_TRANSLATE_NOOP("Actions", "&Undo filter"), "Ctrl+Z"),
    Command("edit", "redo", QT_TRANSLATE_NOOP("Actions", "&Redo filter"), "Ctrl+Shift+Z"),
    Command("edit", "reset_filters", QT_TRANSLATE_NOOP("Actions", "Re&set filters"), "Ctrl+R"),
    Command("edit", "", ""),
    Command("edit", "next_box", QT_TRANSLATE_NOOP("Actions", "&Next box"), "N"),
    Command("edit", "previous_box", QT_TRANSLATE_NOOP("Actions", "&Previous box"), "Shift+N"),
    Command("edit", "deselect", QT_TRANSLATE_NOOP("Actions", "&Deselect"), "Esc"),
    Command("edit", "more_score", QT_TRANSLATE_NOOP("Actions", "&Higher score"), "]"),
    Command("edit", "less_score", QT_TRANSLATE_NOOP("Actions", "&Lower score"), "["),
    Command(
        "view", "zoom_in", QT_TRANSLATE_NOOP("Actions", "Zoom &in"), "Ctrl++", short=QT_TRANSLATE_NOOP("Actions", "+")
    ),
    Command(
        "view", "zoom_out", QT_TRANSLATE_NOOP("Actions", "Zoom &out"), "Ctrl+-", short=QT_TRANSLATE_NOOP("Actions", "−")
    ),
    Command(
        "view", "fit", QT_TRANSLATE_NOOP("Actions", "&Fit picture"), "Ctrl+0", short=QT_TRANSLATE_NOOP("Actions", "Fit")
    ),
    Command("view", "actual", QT_TRANSLATE_NOOP("Actions", "&Actual pixels"), "Ctrl+1"),
    Command("view", "", ""),
    Command("view", "boxes", QT_TRANSLATE_NOOP("Actions", "Show &boxes"), "B", checkable=True),
    Command("view", "labels", QT_TRANSLATE_NOOP("Actions", "Show &labels"), "L", checkable=True),
    Command("view", "panel", QT_TRANSLATE_NOOP("Actions", "Show &side panel"), "F9", checkable=True),
    Command("view", "", ""),
    Command("view", "tab_filters", QT_TRANSLATE_NOOP("Actions", "Filte&rs"), "Alt+1"),
    Command("view", "tab_table", QT_TRANSLATE_NOOP("Actions", "Table of bo&xes"), "Alt+2"),
    Command("view", "tab_machine", QT_TRANSLATE_NOOP("Actions", "&Machine"), "Alt+3"),
    Command("view", "tab_bundle", QT_TRANSLATE_NOOP("Actions", "Bun&dle"), "Alt+4"),
    Command("view", "tab_pictures", QT_TRANSLATE_NOOP("Actions", "Pi&ctures of the folder"), "Alt+5"),
    Command("view", "", ""),
    Command("view", "full_screen", QT_TRANSLATE_NOOP("Actions", "F&ull screen"), "F11", checkable=True),
    Command("run", "run_again", QT_TRANSLATE_NOOP("Actions", "&Run again"), "F5"),
    Command("run", "cancel", QT_TRANSLATE_NOOP("Actions", "&Cancel"), "Shift+F5"),
    Command("run", "", ""),
    Command("run", "pause", QT_TRANSLATE_NOOP("Actions", "&Play or pause"), "P"),
    Command("run", "step", QT_TRANSLATE_NOOP("Actions", "&Step one frame"), "."),
    Command("run", "back", QT_TRANSLATE_NOOP("Actions", "Five seconds &back"), "Alt+Left"),
    Command("run", "forward", QT_TRANSLATE_NOOP("Actions", "Five seconds &on"), "Alt+Right"),
    Command("run", "full_speed", QT_TRANSLATE_NOOP("Actions", "&Full speed, every frame"), "Ctrl+F", checkable=True),
    Command("run", "loop", QT_TRANSLATE_NOOP("Actions", "&Loop"), "Ctrl+Shift+L", checkable=True),
    Command("run", "", ""),
    Command("run", "next_picture", QT_TRANSLATE_NOOP("Actions", "&Next picture"), "Ctrl+PgDown"),
    Command("run", "previous_picture", QT_TRANSLATE_NOOP("Actions", "Pre&vious picture"), "Ctrl+PgUp"),
    Command("run", "", ""),
    Command("run", "examine", QT_TRANSLATE_NOOP("Actions", "E&xamine this machine"), "F6"),
    Command("compare", "open_truth", QT_TRANSLATE_NOOP("Actions", "Open &annotations…"), "Ctrl+T"),
    Command("compare", "open_truth_folder", QT_TRANSLATE_NOOP("Actions", "Open annotations &folder…"), "Ctrl+Shift+T"),
    Command("compare", "no_truth", QT_TRANSLATE_NOOP("Actions", "&Remove annotations"), "Ctrl+Shift+R"),
    Command("compare", "", ""),
    Command("compare", "compare_bundle", QT_TRANSLATE_NOOP("Actions", "&Second bundle beside…"), "Ctrl+2"),
    Command("compare", "no_second", QT_TRANSLATE_NOOP("Actions", "&Close second bundle"), "Ctrl+Shift+2"),
    Command("help", "shortcuts", QT_TRANSLATE_NOOP("Actions", "&Keyboard shortcuts"), "F1"),
    Command("help", "about", QT_TRANSLATE_NOOP("Actions", "&About rsedge"), "Shift+F1"),
)
MENUS = {
    "file": QT_TRANSLATE_NOOP("Actions", "&File"),
    "edit": QT_TRANSLATE_NOOP("Actions", "&Edit"),
    "view": QT_TRANSLATE_NOOP("Actions", "&View"),
    "run": QT_TRANSLATE_NOOP("Actions", "&Run"),
    "compare": QT_TRANSLATE_NOOP("Actions", "&Compare"),
    "help": QT_TRANSLATE_NOOP("Actions", "&Help"),
}


class Actions(QObject):
    """Makes the menus of a window. `by_key` holds each QAction, `menus` each QMenu."""

    def __init__(self, window: QMainWindow, slots: Mapping[str, Callable[..., object]]) -> None:
        super().__init__(window)
        self.by_key: dict[str, QAction] = {}
        self.menus: dict[str, QMenu] = {}
        bar = window.menuBar()
        for key in MENUS:
            menu = QMenu(window)
            bar.addMenu(menu)
            self.menus[key] = menu
        for command in COMMANDS:
            if not command.key:
                self.menus[command.menu].addSeparator()
                continue
            action = QAction(window)
            action.setObjectName(command.key)
            action.setCheckable(command.checkable)
            if command.shortcut:
                action.setShortcut(QKeySequence(command.shortcut))
            slot = slots[command.key]
            (action.toggled if command.checkable else action.triggered).connect(_without_argument(slot, command))
            self.menus[command.menu].addAction(action)
            self.by_key[command.key] = action
        self.retranslate()

    def retranslate(self) -> None:
        """Name everything in the present language."""
        for key, text in MENUS.items():
            self.menus[key].setTitle(QCoreApplication.translate(CONTEXT, text))
        for command in COMMANDS:
            if command.key:
                action = self.by_key[command.key]
                action.setText(QCoreApplication.translate(CONTEXT, command.text))
                shortcut = action.shortcut().toString(QKeySequence.NativeText)
                action.setToolTip(action.text().replace("&", "") + (f" ({shortcut})" if shortcut else ""))
                if command.short:
                    action.setIconText(QCoreApplication.translate(CONTEXT, command.short))

    def enable(self, **states: bool) -> None:
        """Enable or disable actions by key."""
        for key, state in states.items():
            self.by_key[key].setEnabled(state)

    def check(self, key: str, state: bool) -> None:
        """Set a checkable action without telling anybody."""
        action = self.by_key[key]
        action.blockSignals(True)
        action.setChecked(state)
        action.blockSignals(False)


def _without_argument(slot: Callable[..., object], command: Command) -> Callable[[bool], None]:
    def call(checked: bool = False) -> None:
        slot(checked) if command.checkable else slot()

    return call
