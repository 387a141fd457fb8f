"""Settings: what the app remembers from one start to the next."""

from __future__ import annotations

from pathlib import Path

from PyQt5.QtCore import QByteArray, QSettings

from .language import LANGUAGES
from .sifting import DEFAULT_IOU, DEFAULT_SCORE, FLOOR_SCORE, Filters
from .theme import THEMES

MOST_RECENT = 8


class Remembered:
    """Reads and writes a QSettings; values that make no sense count as absent."""

    def __init__(self, store: QSettings | None = None) -> None:
        self._store = store if store is not None else QSettings("rsedge", "gui")

    @property
    def theme(self) -> str:
        """One of `THEMES`."""
        value = str(self._store.value("theme", "desktop"))
        return value if value in THEMES else "desktop"

    @theme.setter
    def theme(self, value: str) -> None:
        self._store.setValue("theme", value)

    @property
    def language(self) -> str:
        """A code of `LANGUAGES`, or "" where the user has not chosen: the desktop's then."""
        value = str(self._store.value("language", ""))
        return value if value in LANGUAGES else ""

    @language.setter
    def language(self, value: str) -> None:
        self._store.setValue("language", value)

    @property
    def filters(self) -> Filters:
        """Score and overlap; classes belong to a bundle and are not remembered."""
        return Filters(
            self._number("score", DEFAULT_SCORE, FLOOR_SCORE, 1.0), self._number("iou", DEFAULT_IOU, 0.0, 1.0)
        )

    @filters.setter
    def filters(self, value: Filters) -> None:
        self._store.setValue("score", value.score)
        self._store.setValue("iou", value.iou)

    def flag(self, key: str, usual: bool) -> bool:
        """Return a yes or no."""
        return str(self._store.value(key, usual)).lower() in ("true", "1")

    def set_flag(self, key: str, value: bool) -> None:
        """Keep a yes or no."""
        self._store.setValue(key, value)

    def recent(self, kind: str) -> list[str]:
        """Return what was opened last, newest first. kind: "bundles" or "sources"."""
        value = self._store.value(f"recent_{kind}", [])
        entries = [value] if isinstance(value, str) else list(value or [])
        return [str(entry) for entry in entries][:MOST_RECENT]

    def add_recent(self, kind: str, entry: str) -> None:
        """Put an entry first; addresses that hold a password are not kept."""
        if "://" in entry and "@" in entry:
            return
        rest = [other for other in self.recent(kind) if other != entry]
        self._store.setValue(f"recent_{kind}", [entry, *rest][:MOST_RECENT])

    @property
    def folder(self) -> Path:
        """Where files were opened last."""
        path = Path(str(self._store.value("folder", "")) or Path.home())
        return path if path.is_dir() else Path.home()

    @folder.setter
    def folder(self, value: Path) -> None:
        self._store.setValue("folder", str(value))

    def layout(self, part: str) -> QByteArray | None:
        """Return the size and state of a part of the window, None at the first start."""
        value = self._store.value(f"layout_{part}")
        return value if isinstance(value, QByteArray) and not value.isEmpty() else None

    def set_layout(self, part: str, value: QByteArray) -> None:
        """Keep the size and state of a part of the window."""
        self._store.setValue(f"layout_{part}", value)

    def _number(self, key: str, usual: float, low: float, high: float) -> float:
        try:
            value = float(self._store.value(key, usual))
        except (TypeError, ValueError):
            return usual
        return value if low <= value <= high else usual
