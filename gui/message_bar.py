"""Message bar: what went wrong and what to do about it, above the picture; the app goes on."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import QEvent, Qt
from PyQt5.QtWidgets import QFrame, QHBoxLayout, QLabel, QStyle, QToolButton

_MOST_LINES = 3


class MessageBar(QFrame):
    """Shows the latest messages until they are closed; the same one only once, with a count."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setObjectName("messageBar")
        self.icon, self.label, self.close_button = QLabel(self), QLabel(self), QToolButton(self)
        self.label.setObjectName("message")
        self.label.setWordWrap(True)
        self.label.setTextFormat(Qt.PlainText)
        self.label.setTextInteractionFlags(Qt.TextSelectableByMouse | Qt.TextSelectableByKeyboard)
        self.close_button.setAutoRaise(True)
        self.close_button.setIcon(self.style().standardIcon(QStyle.SP_TitleBarCloseButton))
        self.close_button.clicked.connect(self.clear)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 2, 6, 2)
        layout.addWidget(self.icon)
        layout.addWidget(self.label, 1)
        layout.addWidget(self.close_button)
        self._lines: dict[str, int] = {}
        self._good = False
        self.retranslate()
        self.hide()

    @property
    def text(self) -> str:
        """What is shown."""
        return self.label.text() if not self.isHidden() else ""

    def tell(self, text: str, *, good: bool = False) -> None:
        """Show a line. good: it went well (what was written and where)."""
        if good != self._good:
            self._lines.clear()
        self._good = good
        self._lines[text] = self._lines.pop(text, 0) + 1
        shown = list(self._lines.items())[-_MOST_LINES:]
        self._lines = dict(shown)
        self.label.setText("\n".join(line if count == 1 else f"{line} (×{count})" for line, count in shown))
        picture = QStyle.SP_DialogApplyButton if good else QStyle.SP_MessageBoxWarning
        self.icon.setPixmap(self.style().standardIcon(picture).pixmap(20, 20))
        self.show()

    def clear(self) -> None:
        """Close it."""
        self._lines.clear()
        self.hide()

    def retranslate(self) -> None:
        """Say everything in the present language."""
        self.close_button.setToolTip(self.tr("Close"))
        self.close_button.setAccessibleName(self.tr("Close"))

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language."""
        if event is not None and event.type() == QEvent.LanguageChange:
            self.retranslate()
        super().changeEvent(event)
