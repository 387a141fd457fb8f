"""Export flow: from the question what to write, over a thread that writes, to the message what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PyQt5.QtCore import QObject, pyqtSignal

from deploy.sources import classify

from .export_dialog import ExportDialog, ExportThread
from .exporting import Order, Written, free_folder, write_records, write_source
from .running import DRAWN
from .session import Session


class ExportFlow(QObject):
    """Writes what a session holds. Signals: `progressed` (done, total or 0), `wrote` (paths, one a line), `failed` (one
    line), `ended`."""

    progressed = pyqtSignal(int, int)
    wrote = pyqtSignal(str)
    failed = pyqtSignal(str)
    ended = pyqtSignal()

    def __init__(self, session: Session, parent: Any = None) -> None:
        super().__init__(parent)
        self._session = session
        self.thread_: ExportThread | None = None

    def ask(self, parent: Any, folder: Path) -> ExportDialog | None:
        """Return a dialogue about the present source, None where there is nothing to export."""
        if self._session.picture is None:
            return None
        source = self._session.source or ""
        kind = self._kind()
        out = free_folder(folder, source if kind != "drawn" else "drawn_scene")
        can_rerun = kind in ("image", "folder", "scene", "video")
        placed = self._session.picture.georeference is not None
        return ExportDialog(out, can_rerun=can_rerun, moving=kind == "video", georeferenced=placed, parent=parent)

    def start(
        self,
        out: Path,
        formats: tuple[str, ...],
        *,
        whole: bool,
        overwrite: bool = False,
        backend: str = "auto",
        workers: str = "threads",
    ) -> None:
        """Write in the background; one export at a time. overwrite: the files of an earlier one in `out` go."""
        session = self._session
        if self.thread_ is not None or session.bundle is None or session.manifest is None:
            return
        order = Order(out, formats, session.filters, session.bundle, session.manifest, overwrite)
        source = session.source or ""
        if whole:
            thread = ExportThread(lambda: write_source(order, source, backend, workers), self)
        else:
            pictures = session.exported_pictures()
            thread = ExportThread(lambda: write_records(order, pictures), self)
        thread.stepped.connect(self._stepped)
        thread.failed.connect(self.failed)
        thread.finished.connect(self._finished)
        self.thread_ = thread
        thread.start()

    def cancel(self) -> None:
        """Stop writing; files stay whole."""
        if self.thread_ is not None:
            self.thread_.cancel()

    def close_down(self, patience_ms: int = 8000) -> bool:
        """Stop and wait; says whether the thread ended."""
        self.cancel()
        return self.thread_ is None or bool(self.thread_.wait(patience_ms))

    def _kind(self) -> str:
        source = self._session.source
        if source is None or source == DRAWN:
            return "drawn"
        try:
            return classify(source)
        except (ValueError, OSError):
            return "gone"

    def _stepped(self, step: Written) -> None:
        self.progressed.emit(step.done, step.total or 0)
        if step.paths:
            lines = [*(str(path) for path in step.paths), *step.notes, *step.failures[:3]]
            self.wrote.emit("\n".join(lines))

    def _finished(self) -> None:
        self.thread_ = None
        self.ended.emit()
