"""Comparing: a second bundle beside the first, on the same source, looking where the first one looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PyQt5.QtCore import QObject, QTimer, pyqtSignal
from PyQt5.QtWidgets import QSplitter

from deploy.manifest import Manifest

from .pane import Pane
from .running import Options
from .session import Session
from .worker import DetectorShelf


class Comparing(QObject):
    """Holds the second pane while there is one. Signal: `failed` (one line)."""

    failed = pyqtSignal(str)

    def __init__(self, first: Pane, shelf: DetectorShelf, splitter: QSplitter, parent: Any = None) -> None:
        super().__init__(parent)
        self._first, self._shelf, self._splitter = first, shelf, splitter
        self.second: Pane | None = None
        # The second picture follows in the loop's next turn: both in one would take twice as long.
        self._moved: tuple[float, float, float] | None = None
        self._next_turn = QTimer(self)
        self._next_turn.setSingleShot(True)
        self._next_turn.timeout.connect(self._follow)
        first.view.view_changed.connect(self._first_moved)
        first.sifted.connect(self._next_turn.start)
        for pane_signal in (first.shown, first.sifted):
            pane_signal.connect(self._entitle)

    def open(self, bundle: Path, manifest: Manifest, options: Options, backend: str, workers: str) -> None:
        """Put a bundle beside the first one and run it over the present source."""
        if self.second is None:
            self.second = Pane(Session(), self._shelf, self._splitter)
            self._splitter.addWidget(self.second)
            self._splitter.setSizes([1000, 1000])
            self.second.view.view_changed.connect(self._first.view.follow)
            self.second.failed.connect(self.failed)
            self.second.shown.connect(self._entitle)
            self.second.sifted.connect(self._entitle)
        self.second.session.use_bundle(bundle, manifest)
        self.run(options, backend, workers)

    def run(self, options: Options, backend: str, workers: str) -> None:
        """Run the second bundle over what the first one looks at."""
        first, second = self._first.session, self.second
        if second is None or second.session.bundle is None or first.source is None:
            return
        second.session.set_filters(first.filters, undoable=False)
        second.start(second.session.bundle, first.source, options, backend, workers)
        self.share_truth()

    def share_truth(self) -> None:
        """Lay the first one's annotations over the second, where its classes are the same."""
        if self.second is None:
            return
        first, second = self._first.session, self.second.session
        second.use_truth(first.truth if first.class_names == second.class_names else None)
        self.second.refresh_truth()

    def show_entry(self, name: str) -> None:
        """Look at the same image of a folder."""
        if self.second is not None:
            self.second.show_entry(name)

    def close(self) -> None:
        """Take the second bundle away."""
        if self.second is None:
            return
        pane, self.second = self.second, None
        pane.stop()
        pane.hide()
        pane.setParent(None)
        pane.close_down()
        pane.deleteLater()
        self._first.title.hide()

    def _first_moved(self, x: float, y: float, zoom: float) -> None:
        if self.second is not None:
            self._moved = (x, y, zoom)
            self._next_turn.start()

    def _follow(self) -> None:
        if self.second is not None and self._moved is not None:
            self.second.view.follow(*self._moved)
        self._moved = None
        self._sifted()

    def _sifted(self) -> None:
        """Filters count for both, by class name where the bundles' classes differ."""
        if self.second is None:
            return
        first, second = self._first.session, self.second.session
        hidden = {first.class_names[i] for i in first.filters.hidden}
        own = frozenset(i for i, name in enumerate(second.class_names) if name in hidden)
        filters = type(first.filters)(first.filters.score, first.filters.iou, own)
        if filters != second.filters:
            self.second.set_filters(filters)

    def _entitle(self) -> None:
        """Say above each picture whose it is, and how many boxes it shows."""
        if self.second is None:
            return
        for pane in (self._first, self.second):
            session = pane.session
            name = session.manifest.name if session.manifest else ""
            text = self.tr("<b>{name}</b> · {count} boxes").format(name=name, count=len(session.rows))
            compared = session.comparison
            if compared is not None:
                values = ["–" if v is None else f"{v:.3f}" for v in (compared.precision, compared.recall)]
                text += self.tr(" · precision {precision}, recall {recall}").format(
                    precision=values[0], recall=values[1]
                )
            pane.title.setText(text)
            pane.title.show()
