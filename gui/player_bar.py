"""Player bar: play, pause, step and seek a video; only shown while one is open."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QEvent, Qt, pyqtSignal
from PyQt5.QtGui import QPalette
from PyQt5.QtWidgets import QHBoxLayout, QLabel, QSlider, QToolButton, QWidget

from .icons import player_icon
from .player import Player
from .running import Opened
from .session import Picture


class PlayerBar(QWidget):
    """Signal: `sought` (frame number), while the user drags the line or points into it."""

    sought = pyqtSignal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.play, self.step = QToolButton(self), QToolButton(self)
        self.place = QSlider(Qt.Horizontal, self)
        self.time = QLabel(self)
        for button in (self.play, self.step):
            button.setAutoRaise(True)
        self.place.setTracking(True)
        self.place.valueChanged.connect(self._moved)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 3, 8, 3)
        for part in (self.play, self.step, self.place, self.time):
            layout.addWidget(part, 1 if part is self.place else 0)
        self._quiet = False
        self._fps: float | None = None
        self._sign = ""
        self._show_signs("pause")
        self.retranslate()
        self.hide()

    def open(self, opened: Opened) -> None:
        """Fit a source: a video can be sought, what is live only be paused; images need no bar."""
        self.setVisible(opened.player is not None)
        self._fps = opened.fps
        longest = clock_text(0.0 if not opened.count or not opened.fps else opened.count / opened.fps)
        metrics = self.time.fontMetrics()
        # A fixed size: what may grow makes Qt lay the window out anew with each frame.
        text = f"{longest} / {longest}" if opened.count else "00:00:00"
        self.time.setFixedSize(metrics.horizontalAdvance(text) + 6, metrics.height() + 2)
        self._quiet = True
        self.place.setEnabled(bool(opened.count))
        self.place.setRange(0, max(0, (opened.count or 1) - 1))
        self.place.setPageStep(max(1, round((opened.fps or 25) * 5)))
        self._quiet = False

    def show_picture(self, picture: Picture | None, player: Player | None) -> None:
        """Follow what is seen."""
        paused = player is None or player.paused or player.ended
        for button in (self.play, self.step):
            button.setEnabled(player is not None)
        self._show_signs("play" if paused else "pause")
        if picture is None or picture.frame_number is None:
            self.time.setText("")
            return
        self._quiet = True
        if not self.place.isSliderDown():
            self.place.setValue(picture.frame_number)
        self._quiet = False
        now = clock_text(picture.timestamp_s or 0.0)
        if self.place.isEnabled() and self._fps:
            now += f" / {clock_text((self.place.maximum() + 1) / self._fps)}"
        self.time.setText(now)

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.play.setToolTip(self.tr("Play or pause"))
        self.step.setToolTip(self.tr("One frame on"))
        self.place.setAccessibleName(self.tr("Place in the video"))
        for button in (self.play, self.step):
            button.setAccessibleName(button.toolTip())

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language or theme."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        elif event is not None and event.type() == QEvent.PaletteChange and self._sign:
            sign, self._sign = self._sign, ""
            self._show_signs(sign)
        super().changeEvent(event)

    def _show_signs(self, sign: str) -> None:
        if sign != self._sign:
            self._sign = sign
            colour = self.palette().color(QPalette.ButtonText)
            self.play.setIcon(player_icon(sign, colour))
            self.step.setIcon(player_icon("step", colour))

    def _moved(self, number: int) -> None:
        if not self._quiet:
            self.sought.emit(number)


def clock_text(seconds: float) -> str:
    """Return minutes and seconds, with hours where there are any."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
