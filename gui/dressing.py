"""Dressing: theme and language of the whole application, together."""

from __future__ import annotations

from PyQt5.QtWidgets import QApplication

from .language import Languages
from .theme import apply_theme, desktop_is_dark


class Dressing:
    """What the application wears. theme: of `THEMES`; language: of `LANGUAGES`."""

    def __init__(self, app: QApplication) -> None:
        self._app, self._languages = app, Languages(app)
        self._desktop_dark = desktop_is_dark(app)
        self.theme = "desktop"

    @property
    def language(self) -> str:
        """The code of the language in use."""
        return self._languages.present

    def use_theme(self, theme: str) -> None:
        """Change the theme. Raises ValueError for an unknown one."""
        apply_theme(self._app, theme, self._desktop_dark)
        self.theme = theme

    def use_language(self, code: str) -> None:
        """Change the language. Raises ValueError for an unknown one, FileNotFoundError where its file is missing."""
        self._languages.use(code)
