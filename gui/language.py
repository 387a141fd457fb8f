"""Language: English and Simplified Chinese, switched while the app runs."""

from __future__ import annotations

from pathlib import Path

from PyQt5.QtCore import QLibraryInfo, QLocale, QTranslator
from PyQt5.QtWidgets import QApplication

FOLDER = Path(__file__).resolve().parent / "i18n"
# Code -> its own name, as its speakers look for it.
LANGUAGES = {"en": "English", "zh_CN": "简体中文"}


def desktop_language() -> str:
    """Return the desktop's language where the app speaks it, else "en"."""
    return "zh_CN" if QLocale.system().language() == QLocale.Chinese else "en"


class Languages:
    """Holds the translator in use; every window hears of a change by `QEvent.LanguageChange`."""

    def __init__(self, app: QApplication) -> None:
        self._app, self._translators = app, list[QTranslator]()
        self.present = "en"

    def use(self, code: str) -> None:
        """Speak another language. Raises ValueError for an unknown one, FileNotFoundError where its file is missing."""
        if code not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {code!r}")
        for translator in self._translators:
            self._app.removeTranslator(translator)
        self._translators = []
        if code != "en":
            own, qt = QTranslator(), QTranslator()
            file = FOLDER / f"rsedge_{code}.qm"
            if not own.load(str(file)):
                raise FileNotFoundError(f"{file} is missing; run lrelease on the .ts file beside it, or install again")
            # Qt's own words, of its file dialogue for one; a system may have left them out.
            qt.load(f"qtbase_{code}", QLibraryInfo.location(QLibraryInfo.TranslationsPath))
            self._translators = [qt, own]  # who comes later is asked first
            for translator in self._translators:
                self._app.installTranslator(translator)
        self.present = code
