"""Settings: what the app remembers from one start to the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PyQt5.QtCore import QByteArray, QSettings

from .language import LANGUAGES
from .sifting import DEFAULT_IOU, DEFAULT_SCORE, FLOOR_SCORE, Filters
from .theme import THEMES

MOST_RECENT = 8


class Remembered:
    """Reads a QSettings and keeps what changes until it is written; values that make no sense count as absent.

    Writing takes a disk's time, so that the window leaves it to a thread; see `take_changes`.
    """

    def __init__(self, store: QSettings | None = None) -> None:
        self._store = store if store is not None else QSettings("rsedge", "gui")
        self._changes: dict[str, Any] = {}  # not taken yet
        self._known: dict[str, Any] = {}  # since the start

    @property
    def changed(self) -> bool:
        """Whether there is something to write."""
        return bool(self._changes)

    def take_changes(self) -> Callable[[], None]:
        """Return what writes the changes so far; may be called in any thread."""
        changes, self._changes = self._changes, {}
        name, form = self._store.fileName(), self._store.format()

        def write() -> None:
            store = QSettings(name, form)  # a QSettings of its own: one that changes writes in its own thread's loop
            for key, value in changes.items():
                store.setValue(key, value)
            store.sync()

        return write

    @property
    def theme(self) -> str:
        """One of `THEMES`."""
        value = str(self._value("theme", "desktop"))
        return value if value in THEMES else "desktop"

    @theme.setter
    def theme(self, value: str) -> None:
        self._keep("theme", value)

    @property
    def language(self) -> str:
        """A code of `LANGUAGES`, or "" where the user has not chosen: the desktop's then."""
        value = str(self._value("language", ""))
        return value if value in LANGUAGES else ""

    @language.setter
    def language(self, value: str) -> None:
        self._keep("language", value)

    @property
    def filters(self) -> Filters:
        """Score and overlap; classes belong to a bundle and are not remembered."""
        return Filters(
            self._number("score", DEFAULT_SCORE, FLOOR_SCORE, 1.0), self._number("iou", DEFAULT_IOU, 0.0, 1.0)
        )

    @filters.setter
    def filters(self, value: Filters) -> None:
        self._keep("score", value.score)
        self._keep("iou", value.iou)

    def flag(self, key: str, usual: bool) -> bool:
        """Return a yes or no."""
        return str(self._value(key, usual)).lower() in ("true", "1")

    def set_flag(self, key: str, value: bool) -> None:
        """Keep a yes or no."""
        self._keep(key, value)

    def recent(self, kind: str) -> list[str]:
        """Return what was opened last, newest first. kind: "bundles" or "sources"."""
        value = self._value(f"recent_{kind}", [])
        entries = [value] if isinstance(value, str) else list(value or [])
        return [str(entry) for entry in entries][:MOST_RECENT]

    def add_recent(self, kind: str, entry: str) -> None:
        """Put an entry first; addresses that hold a password are not kept."""
        if "://" in entry and "@" in entry:
            return
        rest = [other for other in self.recent(kind) if other != entry]
        self._keep(f"recent_{kind}", [entry, *rest][:MOST_RECENT])

    @property
    def folder(self) -> Path:
        """Where files were opened last."""
        path = Path(str(self._value("folder", "")) or Path.home())
        return path if path.is_dir() else Path.home()

    @folder.setter
    def folder(self, value: Path) -> None:
        self._keep("folder", str(value))

    def layout(self, part: str) -> QByteArray | None:
        """Return the size and state of a part of the window, None at the first start."""
        value = self._value(f"layout_{part}")
        return value if isinstance(value, QByteArray) and not value.isEmpty() else None

    def set_layout(self, part: str, value: QByteArray) -> None:
        """Keep the size and state of a part of the window."""
        self._keep(f"layout_{part}", value)

    def _value(self, key: str, usual: Any = None) -> Any:
        return self._known[key] if key in self._known else self._store.value(key, usual)

    def _keep(self, key: str, value: Any) -> None:
        self._known[key] = self._changes[key] = value

    def _number(self, key: str, usual: float, low: float, high: float) -> float:
        try:
            value = float(self._value(key, usual))
        except (TypeError, ValueError):
            return usual
        return value if low <= value <= high else usual
