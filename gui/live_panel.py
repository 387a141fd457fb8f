"""Live panel: how fast it goes and how the machine feels; stages, a chart of the last minute, load, the doctor."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from PyQt5.QtCore import QEvent, QSizeF, Qt, QTimer
from PyQt5.QtGui import QColor, QPalette, QShowEvent
from PyQt5.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from deploy.doctor_machine import Finding

from .doctor_words import check_name, in_words
from .import_in_turns import import_in_turns
from .machine_load import Load
from .stage_clock import STAGES, WINDOW_S, Pace


class LivePanel(QScrollArea):
    """Shows a `Pace`, a `Load` and the doctor's findings. `chart` is None until `make_chart`.

    It scrolls, so that it never asks for a window higher than a small screen is.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarAlwaysOff)
        self.viewport().setAutoFillBackground(False)
        body = QWidget()
        body.setAutoFillBackground(False)
        self.rate, self.state = QLabel(self), QLabel(self)
        self.state.setWordWrap(True)
        self.state.setTextInteractionFlags(Qt.TextSelectableByMouse)
        grid = QGridLayout()
        grid.setHorizontalSpacing(14)
        grid.setVerticalSpacing(2)
        self.heads = [QLabel(self) for _ in range(3)]
        for column, head in enumerate(self.heads):
            grid.addWidget(head, 0, column, Qt.AlignRight if column else Qt.AlignLeft)
        self.names: dict[str, QLabel] = {}
        self.cells: dict[str, tuple[QLabel, QLabel]] = {}
        for line, stage in enumerate(STAGES, 1):
            self.names[stage] = QLabel(self)
            self.cells[stage] = (QLabel("–", self), QLabel("–", self))
            grid.addWidget(self.names[stage], line, 0)
            for column, cell in enumerate(self.cells[stage], 1):
                grid.addWidget(cell, line, column, Qt.AlignRight)
        grid.setColumnStretch(0, 1)
        self.chart: Any = None
        self._curve: Any = None
        self._steps: Iterator[None] | None = None
        self._step = QTimer(self)
        self._step.timeout.connect(self._go_on)
        self._frame = QWidget(self)  # the chart's place, so that nothing jumps when it comes
        self._frame.setFixedHeight(96)
        self._frame.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self.findings = QTextBrowser(self)
        self.findings.setVerticalScrollBarPolicy(Qt.ScrollBarAlwaysOff)  # the panel scrolls
        self.findings.document().documentLayout().documentSizeChanged.connect(self._make_room)
        self.examine = QPushButton(self)
        self._layout = QVBoxLayout(body)
        self._layout.setContentsMargins(8, 8, 8, 8)
        self._layout.addWidget(self.rate)
        self._layout.addWidget(self._frame)
        self._layout.addLayout(grid)
        self._layout.addWidget(self.state)
        self._layout.addWidget(self.examine)
        self._layout.addWidget(self.findings, 1)
        self.setWidget(body)
        self._pace, self._found, self._stale = Pace(), list[Finding](), False
        self.retranslate()

    def make_chart(self) -> None:
        """Make the strip chart, in several turns of the loop; it is not needed before the panel is seen.

        The first turn imports pyqtgraph, which takes a few tenths of a second, and serves the loop meanwhile.
        """
        if self._steps is None:
            self._steps = self._chart_in_steps()
            self._step.start()

    def _go_on(self) -> None:
        self._step.stop()  # importing serves the loop, and must not begin anew there
        if self._steps is not None and next(self._steps, self) is not self:
            self._step.start()

    def _chart_in_steps(self) -> Iterator[None]:
        """Yield wherever the window may do something else."""
        yield  # the panel itself is painted before
        pyqtgraph = import_in_turns("pyqtgraph", ("pyqtgraph", "PyQt5"))
        yield
        item = pyqtgraph.PlotItem(enableMenu=False)
        yield
        self.chart = pyqtgraph.PlotWidget(self, plotItem=item)
        self.chart.hide()
        yield
        self.chart.setMouseEnabled(False, False)
        self.chart.hideButtons()
        self.chart.setXRange(-WINDOW_S, 0, padding=0)
        self.chart.setLimits(yMin=0)
        self.chart.getPlotItem().getAxis("left").setWidth(34)
        self._curve = self.chart.plot([], [])
        yield
        column = QVBoxLayout(self._frame)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.chart)
        self.chart.show()
        self._dress()

    def _make_room(self, size: QSizeF) -> None:
        """Give the findings the height that they need."""
        self.findings.setMinimumHeight(max(48, round(size.height()) + 2 * self.findings.frameWidth()))

    def show_pace(self, pace: Pace, load: Load, dropped: int, backend: str) -> None:
        """Take what is known now. backend: that runs, "" where nothing does."""
        self._pace = pace
        self.rate.setText(
            self.tr("<span style='font-size:x-large'><b>{rate:.1f}</b></span> images/s").format(rate=pace.per_s)
        )
        for stage, (middle, slow) in self.cells.items():
            known = stage in pace.p50_ms
            middle.setText(f"{pace.p50_ms[stage]:.2f}" if known else "–")
            slow.setText(f"{pace.p99_ms[stage]:.2f}" if known else "–")
        if self._curve is not None:
            self._curve.setData([-ago for ago, _ in pace.history], [rate for _, rate in pace.history])
        lines = [self.tr("Backend: {name}").format(name=backend or "–")]
        lines.append(self.tr("Dropped frames: {count}").format(count=dropped))
        if load.memory_mib is not None:
            lines.append(self.tr("Memory: {mib:.0f} MiB").format(mib=load.memory_mib))
        if load.hottest_c is not None:
            lines.append(self.tr("Temperature: {celsius:.0f} °C").format(celsius=load.hottest_c))
        if load.npu_percent:
            cores = ", ".join(f"{percent} %" for percent in load.npu_percent)
            lines.append(self.tr("NPU cores: {load}").format(load=cores))
        self.state.setText("<br>".join(lines))

    def show_findings(self, findings: list[Finding]) -> None:
        """Take what the doctor said; it is laid out when the panel is seen."""
        self._found, self._stale = findings, not self.isVisible()
        if self._stale:
            return
        colours = {"ok": "#3a9a5b", "warning": "#c98a10", "error": "#cc3b3b"}
        parts = []
        for finding in sorted(findings, key=lambda f: ("error", "warning", "ok").index(f.level)):
            cure = f"<br>→ <i>{html.escape(in_words(finding.cure))}</i>" if finding.cure else ""
            parts.append(
                f"<p style='margin:3px 0'><span style='color:{colours[finding.level]}'>●</span> "
                f"<b>{html.escape(check_name(finding.check))}</b> {html.escape(in_words(finding.told))}{cure}</p>"
            )
        self.findings.setHtml("".join(parts))

    def retranslate(self) -> None:
        """Say everything in the present language."""
        for head, text in zip(self.heads, (self.tr("Stage (ms)"), "p50", "p99"), strict=True):
            head.setText(f"<b>{text}</b>")
        names = {
            "read": self.tr("read"),
            "preprocess": self.tr("preprocess"),
            "infer": self.tr("infer"),
            "postprocess": self.tr("post-process"),
            "total": self.tr("in all"),
            "draw": self.tr("draw"),
        }
        for stage, label in self.names.items():
            label.setText(names[stage])
        self.examine.setText(self.tr("E&xamine this machine"))
        self.findings.setPlaceholderText(self.tr("What the doctor finds stands here."))
        if self._found:
            self.show_findings(self._found)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Lay out what was found while the panel was hidden."""
        super().showEvent(event)
        if self._stale:
            self.show_findings(self._found)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language or theme."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        if event is not None and event.type() == QEvent.PaletteChange:
            self._dress()
        super().changeEvent(event)

    def _dress(self) -> None:
        if self._curve is None:
            return
        palette = self.palette()
        self.chart.setBackground(palette.color(QPalette.Base))
        for side in ("left", "bottom"):
            axis = self.chart.getPlotItem().getAxis(side)
            axis.setPen(palette.color(QPalette.Mid))
            axis.setTextPen(palette.color(QPalette.WindowText))
        line = QColor(palette.color(QPalette.Highlight))
        self._curve.setPen(line, width=2)
        fill = QColor(line)
        fill.setAlpha(50)
        self._curve.setFillLevel(0)
        self._curve.setBrush(fill)
