"""Background: small jobs in one thread of their own, newest first wins, answers as signals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from PyQt5.QtCore import QThread, pyqtSignal

from deploy.told_errors import told_in_one_line


class Background(QThread):
    """Runs jobs one after the other. Each has a kind; a job that waits is replaced by a newer one of its kind.

    Signals: `done` (kind, value), `failed` (kind, one line).
    """

    done = pyqtSignal(str, object)
    failed = pyqtSignal(str, str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._change = threading.Condition()
        self._jobs: dict[str, Callable[[], Any]] = {}
        self._closing = False

    def submit(self, kind: str, job: Callable[[], Any]) -> None:
        """Do a job soon, instead of one of its kind that has not begun."""
        with self._change:
            self._jobs[kind] = job
            self._change.notify()
        if not self.isRunning():
            self.start(QThread.LowPriority)

    def drop(self, kind: str) -> None:
        """Forget a job that has not begun."""
        with self._change:
            self._jobs.pop(kind, None)

    def close(self, patience_ms: int = 5000) -> bool:
        """Forget what waits, and wait for what is under way; says whether the thread ended."""
        with self._change:
            self._closing = True
            self._jobs.clear()
            self._change.notify()
        return bool(self.wait(patience_ms))

    def run(self) -> None:
        """Work until closed; called by Qt in the new thread."""
        while True:
            with self._change:
                while not self._jobs and not self._closing:
                    self._change.wait()
                if self._closing:
                    return
                kind = next(iter(self._jobs))
                job = self._jobs.pop(kind)
            try:
                value = job()
            except Exception as error:  # as in `worker`: a thread of the window must not die silently
                self.failed.emit(kind, told_in_one_line(error) or f"{type(error).__name__}: {error}")
                continue
            self.done.emit(kind, value)
            del value, job
