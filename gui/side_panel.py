"""Side panel: filters, table, pictures of a folder, machine and bundle, one tab each."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QEvent, pyqtSignal
from PyQt5.QtWidgets import QListWidget, QTabWidget

from .bundle_card import BundleCard
from .detection_table import DetectionTable
from .filter_panel import FilterPanel
from .live_panel import LivePanel
from .session import Session


class SidePanel(QTabWidget):
    """Holds the panels. Signal: `entry_chosen` (name of an image of the folder)."""

    entry_chosen = pyqtSignal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.filters, self.table, self.live, self.card = (
            FilterPanel(self), DetectionTable(self), LivePanel(self), BundleCard(self),
        )  # fmt: skip
        self.album = QListWidget(self)
        self.album.setUniformItemSizes(True)
        self.album.currentRowChanged.connect(self._chosen)
        for panel in (self.filters, self.table, self.live, self.card, self.album):
            self.addTab(panel, "")
        self.setTabVisible(4, False)
        self.setMinimumWidth(300)
        self.setUsesScrollButtons(False)
        self.setDocumentMode(True)
        self._names: list[str] = []
        self._quiet = False
        self.retranslate()

    def show_session(self, session: Session) -> None:
        """Show what the session holds; hidden panels are filled when they are seen."""
        self._show_album(session)
        now = self.currentWidget()
        if now is self.filters:
            self.filters.show_session(session)
        elif now is self.table:
            picture = session.picture
            place = picture.georeference if picture else None
            metres = place.ground_sample_distance_m(picture.size_hw) if picture and place else None
            self.table.show_detections(
                session.selected, session.found, session.rows, session.class_names, place, metres
            )

    def retranslate(self) -> None:
        """Say everything in the present language."""
        names = (self.tr("Filters"), self.tr("Table"), self.tr("Machine"), self.tr("Bundle"), self.tr("Pictures"))
        for i, name in enumerate(names):
            self.setTabText(i, name)
        self.album.setAccessibleName(names[4])

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        super().changeEvent(event)

    def _show_album(self, session: Session) -> None:
        names = list(session.album)
        self.setTabVisible(4, len(names) > 1)
        if names[: len(self._names)] != self._names:
            self._quiet = True
            self.album.clear()
            self._quiet = False
            self._names = []
        self._quiet = True
        for name in names[len(self._names) :]:
            self.album.addItem(name.rsplit("/", 1)[-1])
            self.album.item(self.album.count() - 1).setToolTip(name)
        self._names = names
        if session.picture is not None and session.picture.name in session.album:
            row = names.index(session.picture.name)
            if row != self.album.currentRow():
                self.album.setCurrentRow(row)
        self._quiet = False

    def _chosen(self, row: int) -> None:
        if not self._quiet and 0 <= row < len(self._names):
            self.entry_chosen.emit(self._names[row])
