"""Detection table: what is shown as rows, sortable and filterable; a row and a box are one selection."""

from __future__ import annotations

from typing import Any

import numpy as np
from PyQt5.QtCore import QAbstractTableModel, QEvent, QItemSelectionModel, QModelIndex, Qt, pyqtSignal
from PyQt5.QtGui import QColor, QPixmap, QResizeEvent
from PyQt5.QtWidgets import QAbstractItemView, QHeaderView, QLineEdit, QTableView, QVBoxLayout, QWidget

from deploy.detections import Detections
from deploy.georeference import Georeference
from deploy.palette import class_colour

CLASS, SCORE, SIZE, PLACE = range(4)
_BLOCK = 256


def swatch(class_id: int, side: int = 12) -> QPixmap:
    """Return a small square in the colour of a class."""
    picture = QPixmap(side, side)
    picture.fill(QColor(*class_colour(class_id)))
    return picture


class DetectionModel(QAbstractTableModel):
    """The shown boxes as a table. Sorting and filtering are NumPy's: a proxy would ask Python for every cell.

    `rows[i]` is the row of the session's `found` that line i shows.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.rows = np.empty(0, np.intp)
        self._found = Detections.empty()
        self._shown = np.empty(0, np.intp)
        self._names: list[str] = []
        self._georeference: Georeference | None = None
        self._metres: float | None = None
        self._column, self._descending, self._text = SCORE, True, ""
        self._swatches: dict[int, QPixmap] = {}
        self._lonlat: dict[int, np.ndarray] = {}  # of _BLOCK rows of `found`, by the number of the block

    def set_detections(
        self,
        found: Detections,
        shown: np.ndarray,
        class_names: list[str],
        georeference: Georeference | None = None,
        metres_per_px: float | None = None,
    ) -> None:
        """Take what is shown. found: of the session; shown: rows of it; metres_per_px: None shows sizes in pixels."""
        self.beginResetModel()
        if found is not self._found or georeference is not self._georeference:
            self._lonlat.clear()
        self._found, self._shown, self._names = found, shown, class_names
        self._georeference, self._metres = georeference, metres_per_px
        self._arrange()
        self.endResetModel()

    def set_text(self, text: str) -> None:
        """Show only classes whose name holds `text`."""
        self.beginResetModel()
        self._text = text.strip().lower()
        self._arrange()
        self.endResetModel()

    def line_of(self, row: int | None) -> int | None:
        """Return the line that shows a row of `found`, or None."""
        at = np.flatnonzero(self.rows == (-1 if row is None else row))
        return int(at[0]) if len(at) else None

    def _arrange(self) -> None:
        rows = self._shown
        if self._text:
            wanted = [i for i, name in enumerate(self._names) if self._text in name.lower()]
            rows = rows[np.isin(self._found.class_id[rows], wanted)]
        found = self._found
        boxes = found.xyxy[rows]
        if self._column == CLASS:
            ranks = np.argsort(np.argsort([name.lower() for name in self._names])) if self._names else np.empty(0, int)
            key = ranks[found.class_id[rows]] if len(rows) else rows
        elif self._column == SCORE:
            key = found.score[rows]
        elif self._column == SIZE:
            key = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        else:
            key = np.floor(boxes[:, 1]).astype(np.float64) * 1e7 + boxes[:, 0]
        order = np.argsort(-key if self._descending else key, kind="stable")
        self.rows = rows[order]

    # What Qt asks.

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of lines."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return 4: class, score, size, place."""
        return 0 if parent is not None and parent.isValid() else 4

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.DisplayRole) -> Any:
        """Return the name of a column, and the number of a line."""
        if role != Qt.DisplayRole:
            return None
        if orientation == Qt.Vertical:
            return section + 1
        size = self.tr("Size (m)") if self._metres else self.tr("Size (px)")
        place = self.tr("Longitude, latitude") if self._georeference else self.tr("Place (px)")
        return (self.tr("Class"), self.tr("Score"), size, place)[section]

    def data(self, index: QModelIndex, role: int = Qt.DisplayRole) -> Any:
        """Return what one cell shows."""
        row = int(self.rows[index.row()])
        if role == Qt.DecorationRole and index.column() == CLASS:
            class_id = int(self._found.class_id[row])
            return self._swatches.setdefault(class_id, swatch(class_id))
        if role == Qt.TextAlignmentRole and index.column() == SCORE:
            return int(Qt.AlignHCenter | Qt.AlignVCenter)
        if role in (Qt.DisplayRole, Qt.ToolTipRole):
            return self._text_of(row, index.column())
        return None

    def longest(self) -> tuple[str, str, str, str]:
        """Return a text for each column that is about as long as its longest one."""
        size = "000.0 × 000.0" if self._metres else "0000 × 0000"
        place = "-000.000000, 00.000000" if self._georeference is not None else "00000, 00000"
        return max(self._names, key=len, default=""), "0.00", size, place

    def sort(self, column: int, order: Qt.SortOrder = Qt.AscendingOrder) -> None:
        """Sort by a column."""
        self.beginResetModel()
        self._column, self._descending = column, order == Qt.DescendingOrder
        self._arrange()
        self.endResetModel()

    def _text_of(self, row: int, column: int) -> str:
        if column == CLASS:
            class_id = int(self._found.class_id[row])
            return self._names[class_id] if class_id < len(self._names) else str(class_id)
        if column == SCORE:
            return f"{float(self._found.score[row]):.2f}"
        x1, y1, x2, y2 = self._found.xyxy[row].tolist()
        if column == SIZE:
            if self._metres:
                return f"{(x2 - x1) * self._metres:.1f} × {(y2 - y1) * self._metres:.1f}"
            return f"{x2 - x1:.0f} × {y2 - y1:.0f}"
        if self._georeference is not None:
            lon, lat = self._lonlat_of(row, self._georeference)
            return f"{lon:.6f}, {lat:.6f}"
        return f"{(x1 + x2) / 2:.0f}, {(y1 + y2) / 2:.0f}"

    def _lonlat_of(self, row: int, georeference: Georeference) -> list[float]:
        """Return where the middle of a box lies. PROJ takes as long for one place as for a hundred."""
        block = row // _BLOCK
        if block not in self._lonlat:
            boxes = self._found.xyxy[block * _BLOCK : (block + 1) * _BLOCK].astype(np.float64)
            self._lonlat[block] = georeference.to_lonlat((boxes[:, :2] + boxes[:, 2:]) / 2)
        return list(self._lonlat[block][row % _BLOCK].tolist())


class DetectionTable(QWidget):
    """The table with a line to filter by class name. Signal: `chosen` (row of `found`), when the user picks a line."""

    chosen = pyqtSignal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.model = DetectionModel(self)
        self.text = QLineEdit(self)
        self.text.setClearButtonEnabled(True)
        self.text.textChanged.connect(self.model.set_text)
        self.view = QTableView(self)
        self.view.setModel(self.model)
        self.view.setSelectionBehavior(QAbstractItemView.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SingleSelection)
        self.view.setEditTriggers(QAbstractItemView.NoEditTriggers)
        self.view.setAlternatingRowColors(True)
        self.view.setShowGrid(False)
        self.view.setTabKeyNavigation(False)
        lines, header = self.view.verticalHeader(), self.view.horizontalHeader()
        lines.setDefaultSectionSize(24)
        lines.setSectionResizeMode(QHeaderView.Fixed)
        lines.hide()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignLeft | Qt.AlignVCenter)
        header.setSortIndicator(SCORE, Qt.DescendingOrder)
        self.view.setSortingEnabled(True)
        self.view.selectionModel().currentRowChanged.connect(self._picked)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self.text)
        layout.addWidget(self.view)
        self._quiet = False
        self.retranslate()

    def show_detections(self, selected: int | None, *what: Any) -> None:
        """Fill the table; what: as of `DetectionModel.set_detections`. selected: row of `found` to mark."""
        self._quiet = True
        self.model.set_detections(*what)
        self._quiet = False
        self._fit_columns()
        self.select(selected)

    def select(self, row: int | None) -> None:
        """Mark the line of a row of `found`, and bring it into view."""
        line = self.model.line_of(row)
        self._quiet = True
        selection = self.view.selectionModel()
        if line is None:
            selection.clear()
        else:
            index = self.model.index(line, 0)
            selection.setCurrentIndex(index, QItemSelectionModel.ClearAndSelect | QItemSelectionModel.Rows)
            self.view.scrollTo(index)
        self._quiet = False

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.text.setPlaceholderText(self.tr("Filter by class"))
        self.text.setAccessibleName(self.tr("Filter by class"))
        self.view.setAccessibleName(self.tr("Detections"))
        self.model.headerDataChanged.emit(Qt.Horizontal, 0, 3)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        super().changeEvent(event)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Give the last column what is left."""
        super().resizeEvent(event)
        self._fit_columns()

    def _fit_columns(self) -> None:
        """Make each column as wide as its longest text may be, the last one as wide as there is room."""
        metrics = self.view.fontMetrics()
        needed = [metrics.horizontalAdvance(text) + 14 for text in self.model.longest()]
        needed[CLASS] += 24  # its colour
        needed = [max(n, self.view.horizontalHeader().sectionSizeHint(i)) for i, n in enumerate(needed)]
        needed[PLACE] = max(needed[PLACE], self.view.viewport().width() - sum(needed[:PLACE]))
        for column, width in enumerate(needed):
            if self.view.columnWidth(column) != width:
                self.view.setColumnWidth(column, width)

    def _picked(self, now: QModelIndex, before: QModelIndex) -> None:
        if not self._quiet and now.isValid():
            self.chosen.emit(int(self.model.rows[now.row()]))
