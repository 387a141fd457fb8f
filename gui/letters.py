"""Letters: draw every letter of the other languages once while nothing else happens; switching finds them ready.

The first Chinese letter loads a font of many megabytes, and each one is traced when it is first drawn: 30 ms in a
window full of words, which is felt.
"""

from __future__ import annotations

from PyQt5.QtCore import QObject, QPointF, QTimer
from PyQt5.QtGui import QFont, QImage, QPainter
from PyQt5.QtWidgets import QApplication

from .language import FOLDER

AT_A_TIME = 8
_LATIN = 0x2FF  # every letter up to here is in the font of the English words


class Letters(QObject):
    """Draws them, a few in each idle turn of the loop, and is done. `left` holds what is to come: fonts and letters."""

    def __init__(self, app: QApplication) -> None:
        super().__init__(app)
        known: set[str] = set()
        for file in FOLDER.glob("*.ts"):
            known.update(file.read_text("utf-8"))
        letters = "".join(sorted(letter for letter in known if ord(letter) > _LATIN))
        starts = range(0, len(letters), AT_A_TIME)
        self.left = [(font, letters[start : start + AT_A_TIME]) for font in _fonts(app) for start in starts]
        self._canvas = QImage(64, 64, QImage.Format_RGB32)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._draw_some)
        self._timer.start(0)  # such a timer waits until nothing else happens

    def _draw_some(self) -> None:
        if not self.left:
            self._timer.stop()
            return
        font, letters = self.left.pop(0)
        painter = QPainter(self._canvas)
        painter.setFont(font)
        painter.drawText(QPointF(0, 40), letters)
        painter.end()


def _fonts(app: QApplication) -> list[QFont]:
    """Return the fonts that the window's words are drawn in, plain and bold."""
    found: dict[str, QFont] = {}
    for font in (app.font(), *(QApplication.font(name) for name in ("QMenuBar", "QMenu", "QToolButton", "QTabBar"))):
        for weight in (QFont.Normal, QFont.Bold):
            own = QFont(font)
            own.setWeight(weight)
            found.setdefault(own.key(), own)
    return list(found.values())
