"""Choice menus: recent bundles and sources, theme and language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PyQt5.QtCore import QObject
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import QActionGroup, QMenu

from .language import LANGUAGES
from .theme import THEMES

if TYPE_CHECKING:
    from .dressing import Dressing
    from .main_window import MainWindow


THEME_KEYS = {"desktop": "Ctrl+Alt+1", "light": "Ctrl+Alt+2", "dark": "Ctrl+Alt+3"}
LANGUAGE_KEYS = {"en": "Ctrl+Alt+8", "zh_CN": "Ctrl+Alt+9"}


class ChoiceMenus(QObject):
    """Fills the menus whose entries are not fixed."""

    def __init__(self, window: MainWindow, menus: dict[str, QMenu]) -> None:
        super().__init__(window)
        self._window = window
        self.recent = {"bundles": QMenu(window), "sources": QMenu(window)}
        first = menus["file"].actions()[0]
        for kind, menu in self.recent.items():
            menus["file"].insertMenu(first, menu)
            menu.aboutToShow.connect(lambda kind=kind: self._fill(kind))
        menus["file"].insertSeparator(first)
        self.theme, self.language = QMenu(window), QMenu(window)
        menus["view"].addSeparator()
        for menu in (self.theme, self.language):
            menus["view"].addMenu(menu)
        self._themes, self._languages = QActionGroup(self), QActionGroup(self)
        for theme in THEMES:
            action = self.theme.addAction("")
            action.setData(theme)
            action.setShortcut(QKeySequence(THEME_KEYS[theme]))
            action.setCheckable(True)
            self._themes.addAction(action)
        for code, name in LANGUAGES.items():
            action = self.language.addAction(name)
            action.setData(code)
            action.setShortcut(QKeySequence(LANGUAGE_KEYS[code]))
            action.setCheckable(True)
            self._languages.addAction(action)
        self._themes.triggered.connect(lambda action: self.use_theme(action.data()))
        self._languages.triggered.connect(lambda action: self.use_language(action.data()))
        self.dressing: Dressing | None = None
        self.retranslate()

    def use_dressing(self, dressing: Dressing) -> None:
        """Take what changes theme and language of the application, and mark what is in use."""
        self.dressing = dressing
        for group, present in ((self._themes, dressing.theme), (self._languages, dressing.language)):
            for action in group.actions():
                action.setChecked(action.data() == present)

    def use_theme(self, theme: str) -> None:
        """Change the theme and remember it."""
        if self.dressing is not None:
            self.dressing.use_theme(theme)
            self._window.remembered.theme = theme
            self.use_dressing(self.dressing)

    def use_language(self, code: str) -> None:
        """Change the language and remember it."""
        if self.dressing is None:
            return
        try:
            self.dressing.use_language(code)
        except FileNotFoundError as error:
            self._window.messages.tell(str(error))
            self.use_dressing(self.dressing)
            return
        self._window.remembered.language = code
        self.use_dressing(self.dressing)

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.recent["bundles"].setTitle(self.tr("&Recent bundles"))
        self.recent["sources"].setTitle(self.tr("Recent so&urces"))
        self.theme.setTitle(self.tr("&Theme"))
        self.language.setTitle(self.tr("Lan&guage"))
        names = {"desktop": self.tr("As the &desktop"), "light": self.tr("&Light"), "dark": self.tr("D&ark")}
        for action in self._themes.actions():
            action.setText(names[action.data()])

    def _fill(self, kind: str) -> None:
        menu = self.recent[kind]
        menu.clear()
        for entry in self._window.remembered.recent(kind):
            action = menu.addAction(entry)
            if kind == "bundles":
                action.triggered.connect(lambda checked, e=entry: self._window.opening.bundle(Path(e)))
            else:
                action.triggered.connect(lambda checked, e=entry: self._window.opening.source(e))
        if menu.isEmpty():
            menu.addAction(self.tr("Nothing yet")).setEnabled(False)
