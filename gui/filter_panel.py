"""Filter panel: score, overlap and classes; how many boxes of each, and the histogram of scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PyQt5.QtCore import QEvent, Qt, pyqtSignal
from PyQt5.QtGui import QIcon, QPalette
from PyQt5.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from .detection_table import swatch
from .histogram import Histogram
from .session import Session
from .sifting import FLOOR_SCORE, Filters


class FilterPanel(QWidget):
    """Shows the session's filters and tells what the user does to them.

    Signal: `changed` (Filters, bool: whether it is final; False while a slider is being dragged).
    """

    changed = pyqtSignal(object, bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._filters = Filters()
        self._quiet = False
        self.score, self.score_value = self._slider(round(FLOOR_SCORE * 100), 100)
        self.iou, self.iou_value = self._slider(0, 100)
        self.score.valueChanged.connect(lambda value: self._slid(self.score, score=value / 100))
        self.iou.valueChanged.connect(lambda value: self._slid(self.iou, iou=value / 100))
        for slider in (self.score, self.iou):
            slider.sliderReleased.connect(lambda: self.changed.emit(self._filters, True))
        self.histogram = Histogram(self)
        self.histogram.moved.connect(lambda score: self._changed(False, score=round(score, 2)))
        self.histogram.released.connect(lambda: self.changed.emit(self._filters, True))
        self.classes = QListWidget(self)
        self.classes.setSelectionMode(QAbstractItemView.SingleSelection)
        self.classes.itemChanged.connect(self._checked)
        self.score_label, self.iou_label, self.summary = QLabel(self), QLabel(self), QLabel(self)
        self.class_label = QLabel(self)
        self.comparison = QLabel(self)
        self.comparison.setWordWrap(True)
        self.comparison.hide()
        self.all, self.none = QPushButton(self), QPushButton(self)
        self.all.clicked.connect(lambda: self._changed(True, hidden=frozenset()))
        self.none.clicked.connect(lambda: self._changed(True, hidden=frozenset(range(self.classes.count()))))
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        for line, parts in enumerate(
            ((self.score_label, self.score, self.score_value), (self.iou_label, self.iou, self.iou_value))
        ):
            for column, part in enumerate(parts):
                grid.addWidget(part, 2 * line, column)
        grid.addWidget(self.histogram, 1, 1)
        for label, slider in ((self.score_label, self.score), (self.iou_label, self.iou)):
            label.setBuddy(slider)
        buttons = QHBoxLayout()
        buttons.addWidget(self.class_label)
        buttons.addStretch(1)
        buttons.addWidget(self.all)
        buttons.addWidget(self.none)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.summary)
        layout.addLayout(grid)
        layout.addWidget(self.comparison)
        layout.addLayout(buttons)
        layout.addWidget(self.classes, 1)
        self._names: list[str] = []
        self._shown_counts: tuple[int, int] = (0, 0)
        self._dress()
        self.retranslate()

    def show_filters(self, filters: Filters) -> None:
        """Show the filters alone; counts may follow later."""
        self._quiet = True
        self._filters = filters
        if not self.score.isSliderDown():
            self.score.setValue(round(filters.score * 100))
        if not self.iou.isSliderDown():
            self.iou.setValue(round(filters.iou * 100))
        self.score_value.setText(f"{filters.score:.2f}")
        self.iou_value.setText(f"{filters.iou:.2f}")
        self.histogram.set_score(filters.score)
        for class_id in range(self.classes.count()):
            item, state = self.classes.item(class_id), Qt.Unchecked if class_id in filters.hidden else Qt.Checked
            if item.checkState() != state:
                item.setCheckState(state)
        self._quiet = False

    def show_session(self, session: Session) -> None:
        """Show the session's filters, counts and histogram."""
        self.show_filters(session.filters)
        self._quiet = True
        self.histogram.set_counts(session.histogram(), session.filters.score)
        self._show_classes(session.class_names, session.counts(), session.filters.hidden)
        self._shown_counts = (len(session.rows), len(session.found))
        self._show_summary()
        self._show_comparison(session)
        self._quiet = False

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.score_label.setText(self.tr("S&core"))
        self.score.setToolTip(self.tr("Boxes below this score are not shown"))
        self.iou_label.setText(self.tr("&Overlap"))
        self.iou.setToolTip(self.tr("Of two boxes of one class that overlap by more, only the better one stays (NMS)"))
        self.class_label.setText(self.tr("Classes"))
        self.all.setText(self.tr("All"))
        self.none.setText(self.tr("None"))
        self.classes.setAccessibleName(self.tr("Classes"))
        self._show_summary()

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language or theme."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        elif event is not None and event.type() == QEvent.PaletteChange and hasattr(self, "classes"):
            self._dress()
        super().changeEvent(event)

    def _dress(self) -> None:
        """Make the check boxes' frames be seen: the style draws them in a darker shade of the window's colour."""
        palette = self.classes.palette()
        palette.setColor(QPalette.Window, self.palette().color(QPalette.PlaceholderText))
        self.classes.setPalette(palette)

    def _slider(self, low: int, high: int) -> tuple[QSlider, QLabel]:
        slider, value = QSlider(Qt.Horizontal, self), QLabel(self)
        slider.setRange(low, high)
        slider.setPageStep(5)
        # A fixed size: what may grow makes Qt lay the window out anew at each step of the slider.
        value.setFixedSize(value.fontMetrics().horizontalAdvance("0.00") + 2, value.fontMetrics().height() + 2)
        return slider, value

    def _slid(self, slider: QSlider, **change: Any) -> None:
        if not self._quiet:
            self._changed(not slider.isSliderDown(), **change)

    def _checked(self, item: QListWidgetItem) -> None:
        if self._quiet:
            return
        hidden = set(self._filters.hidden)
        class_id = self.classes.row(item)
        hidden.discard(class_id) if item.checkState() == Qt.Checked else hidden.add(class_id)
        self._changed(True, hidden=frozenset(hidden))

    def _changed(self, final: bool, **change: Any) -> None:
        self._filters = replace(self._filters, **change)
        self.changed.emit(self._filters, final)

    def _show_classes(self, names: list[str], counts: np.ndarray, hidden: frozenset[int]) -> None:
        if names != self._names:
            self._names = names
            self.classes.clear()
            for class_id in range(len(names)):
                item = QListWidgetItem(QIcon(swatch(class_id)), "")
                item.setFlags(Qt.ItemIsEnabled | Qt.ItemIsSelectable | Qt.ItemIsUserCheckable)
                self.classes.addItem(item)
        for class_id, name in enumerate(names):
            item = self.classes.item(class_id)
            count = int(counts[class_id]) if class_id < len(counts) else 0
            text = f"{name}   {count}" if count else name
            if item.text() != text:
                item.setText(text)
            state = Qt.Unchecked if class_id in hidden else Qt.Checked
            if item.checkState() != state:
                item.setCheckState(state)

    def _show_summary(self) -> None:
        shown, found = self._shown_counts
        self.summary.setText(self.tr("<b>{shown}</b> of {found} boxes").format(shown=shown, found=found))

    def _show_comparison(self, session: Session) -> None:
        compared = session.comparison
        self.comparison.setVisible(session.truth is not None)
        if session.truth is None:
            return
        if compared is None:
            self.comparison.setText(self.tr("No annotations of this picture."))
            return
        hits, false, missed = compared.counts
        text = self.tr(
            "<b>Annotations</b>: {hits} hits (solid), {false} false alarms (dashed), {missed} misses (dotted)"
            "<br>precision <b>{precision}</b>, recall <b>{recall}</b>"
        )
        values = [("–" if v is None else f"{v:.3f}") for v in (compared.precision, compared.recall)]
        self.comparison.setText(
            text.format(hits=hits, false=false, missed=missed, precision=values[0], recall=values[1])
        )
