"""Bundle card: what a bundle is, in one page: classes, size, precision, accuracy, proof, licence."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PyQt5.QtCore import QEvent
from PyQt5.QtGui import QColor, QShowEvent
from PyQt5.QtWidgets import QTextBrowser

from deploy.backends.availability import BackendReport, explain_backends
from deploy.manifest import Manifest
from deploy.palette import class_colour


@dataclass(frozen=True, eq=False)
class Card:
    """Everything that the page tells. megabytes: by file of the bundle. proof: its checks as (name, passed, told)."""

    bundle: Path
    manifest: Manifest
    megabytes: dict[str, float] = field(default_factory=dict)
    proof: tuple[tuple[str, bool, str], ...] = ()
    backends: tuple[BackendReport, ...] = ()


def read_card(bundle: Path, manifest: Manifest) -> Card:
    """Collect a bundle's card from its files; what is missing is left out."""
    sizes = {}
    for file in manifest.files.values():
        path = bundle / file.name
        if path.is_file():
            sizes[file.name] = path.stat().st_size / 1e6
    return Card(bundle, manifest, sizes, _proof(bundle / "proof.json"), tuple(explain_backends(bundle, manifest)))


def _proof(path: Path) -> tuple[tuple[str, bool, str], ...]:
    try:
        told: Any = json.loads(path.read_text("utf-8"))
        checks = [(str(c["name"]), bool(c["passed"]), str(c.get("told", ""))) for c in told["checks"]]
    except (OSError, ValueError, KeyError, TypeError):  # no proof, or one of another kind: the card does without
        return ()
    return tuple(checks)


class BundleCard(QTextBrowser):
    """Shows a `Card`; laid out when it is seen. backend: the one that runs it, "" before anything ran."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setOpenExternalLinks(False)
        self._stale = True
        self._card: Card | None = None
        self.backend = ""

    def show_card(self, card: Card | None, backend: str = "") -> None:
        """Take a card. backend: the one that runs it, "" before anything ran."""
        self._card, self.backend = card, backend
        self._lay_out()

    def show_backend(self, backend: str) -> None:
        """Mark the backend that runs it."""
        self.show_card(self._card, backend)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language or theme."""
        if event is not None and event.type() in (QEvent.LanguageChange, QEvent.PaletteChange):
            self._lay_out()
        super().changeEvent(event)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Lay out what has changed while the card was hidden."""
        if self._stale:
            self.setHtml(self._page())
            self._stale = False
        super().showEvent(event)

    def _lay_out(self) -> None:
        self._stale = not self.isVisible()
        if not self._stale:
            self.setHtml(self._page())

    def _page(self) -> str:
        card = self._card
        if card is None:
            return self.tr("No bundle is open.")
        manifest = card.manifest
        height, width = manifest.input_hw
        rows = [
            (self.tr("Folder"), str(card.bundle)),
            (self.tr("Model input"), self.tr("{width} × {height} pixels").format(width=width, height=height)),
            (self.tr("Precision"), manifest.precision),
            (self.tr("Files"), ", ".join(f"{name} {_size(size)}" for name, size in card.megabytes.items())),
            (self.tr("Chip"), manifest.target),
            (self.tr("Licence"), manifest.licence or self.tr("not stated")),
        ]
        parts = [f"<h3>{html.escape(manifest.name)}</h3>", _table(rows)]
        parts.append(_section(self.tr("Classes") + f" ({len(manifest.class_names)})", f"<p>{_classes(manifest)}</p>"))
        parts.append(self._accuracy(manifest))
        if card.proof:
            lines = "".join(
                f"<p>{'✓' if passed else '✗'} <b>{html.escape(name.replace('_', ' '))}</b> {html.escape(told)}</p>"
                for name, passed, told in card.proof
            )
            parts.append(_section(self.tr("Proof"), lines))
        if card.backends:
            lines = ""
            for report in card.backends:
                mark = "▶" if report.kind == self.backend else ("✓" if report.usable else "–")
                lines += f"<p>{mark} <b>{report.kind}</b>: {html.escape(report.reason)}</p>"
            parts.append(_section(self.tr("Backends"), lines))
        return "".join(parts)

    def _accuracy(self, manifest: Manifest) -> str:
        if not manifest.accuracy:
            return _section(self.tr("Accuracy"), self.tr("not measured"))
        rows = []
        for backend, values in manifest.accuracy.items():
            told = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
            rows.append((backend, told))
        return _section(self.tr("Accuracy"), f"{_table(rows)}<p>{html.escape(manifest.accuracy_data)}</p>")


def _section(name: str, content: str) -> str:
    return f"<h4>{html.escape(name)}</h4>{content}"


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td style='padding-right:12px'>{html.escape(name)}</td><td><b>{html.escape(value)}</b></td></tr>"
        for name, value in rows
    )
    return f"<table cellspacing='0' cellpadding='2'>{cells}</table>"


def _size(megabytes: float) -> str:
    return f"{megabytes:.1f} MB" if megabytes >= 0.1 else f"{megabytes * 1e3:.0f} kB"


def _classes(manifest: Manifest) -> str:
    colours = [QColor(*class_colour(i)).name() for i in range(len(manifest.class_names))]
    names = [html.escape(name).replace(" ", "&nbsp;") for name in manifest.class_names]  # a name stays by its colour
    return " &nbsp;".join(
        f"<span style='color:{colour}'>■</span>&nbsp;{name}" for colour, name in zip(colours, names, strict=True)
    )
