"""Status line: the place under the cursor, how far a run is, and the button that cancels it."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from PyQt5.QtCore import QEvent
from PyQt5.QtWidgets import QLabel, QProgressBar, QPushButton, QStatusBar

from .player_bar import clock_text
from .running import Progress
from .session import Picture

# Tiles are done hundreds of times a second, and a text that changes its width lays the window out anew.
_EVERY_S = 0.1


class StatusLine(QStatusBar):
    """Shows what it is told. `cancel` is the button."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.place, self.running = QLabel(self), QLabel(self)
        self.progress, self.cancel = QProgressBar(self), QPushButton(self)
        self.progress.setFixedWidth(150)
        self.progress.setTextVisible(False)
        self.addWidget(self.place, 1)
        for part in (self.running, self.progress, self.cancel):
            self.addPermanentWidget(part)
        self.setSizeGripEnabled(False)
        self.setContentsMargins(8, 0, 8, 0)
        self._shown_at = 0.0
        self.show_progress(None)
        self.retranslate()

    @property
    def busy(self) -> bool:
        """Whether a progress is shown."""
        return not self.progress.isHidden()

    def show_progress(self, progress: Progress | None) -> None:
        """Show how far it is and how long it will take; None, or the end, hides it."""
        busy = progress is not None and progress.done < progress.total
        now = time.perf_counter()
        if busy and self.busy and now - self._shown_at < _EVERY_S:
            return
        self._shown_at = now
        self.progress.setVisible(busy)
        self.cancel.setVisible(busy)
        if progress is None or not busy:
            self.running.setText("")
            return
        self.progress.setRange(0, progress.total)
        self.progress.setValue(progress.done)
        text = self.tr("{done} of {total}").format(done=progress.done, total=progress.total)
        if progress.left_s is not None:
            text += self.tr(", {time} left").format(time=clock_text(math.ceil(progress.left_s)))
        self.running.setText(text)

    def show_rate(self, per_s: float) -> None:
        """Show the images a second, nothing where none came lately, unless a progress is shown."""
        if not self.busy:
            self.running.setText(self.tr("{rate:.1f} images/s").format(rate=per_s) if per_s else "")

    def show_opening(self) -> None:
        """Say that something is being opened."""
        self.running.setText(self.tr("opening…"))

    def show_place(self, picture: Picture | None, x: float, y: float) -> None:
        """Show a place of the picture: pixels, and where it lies on the earth as far as that is known; NaN: none."""
        if picture is None or math.isnan(x):
            self.place.setText("")
            return
        text = f"x {x:.0f}  y {y:.0f} px"
        if picture.georeference is not None:
            at = np.array([[x, y]])
            try:
                lon, lat = picture.georeference.to_lonlat(at)[0].tolist()
            except ValueError:  # a place outside of what the projection covers
                self.place.setText(text)
                return
            east, north = picture.georeference.to_projected(at)[0].tolist()
            text += f"    {lon:.6f}°  {lat:.6f}°"
            if not abs(east - lon) < 1e-6:
                text += f"    {east:.1f}, {north:.1f}"
        self.place.setText(text)

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.cancel.setText(self.tr("Cancel"))

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        super().changeEvent(event)
