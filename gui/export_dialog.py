"""Export dialogue: which formats, how much of the source, where to; and the thread that writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from PyQt5.QtCore import QThread, pyqtSignal
from PyQt5.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
)

from deploy.sinks import JOURNAL
from deploy.told_errors import told_in_one_line

from .exporting import Written


class ExportThread(QThread):
    """Writes in the background. Signals: `stepped` (Written), `failed` (one line). Progress comes 20 times a second."""

    stepped = pyqtSignal(object)
    failed = pyqtSignal(str)

    def __init__(self, steps: Callable[[], Generator[Written, None, None]], parent: Any = None) -> None:
        super().__init__(parent)
        self._steps = steps
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop after the record that is being written; what was written stays, whole."""
        self._cancelled.set()

    def run(self) -> None:
        """Write; called by Qt in the new thread."""
        import time

        last = 0.0
        try:
            steps = self._steps()
            try:
                for step in steps:
                    if self._cancelled.is_set():
                        return
                    now = time.perf_counter()
                    if step.paths or now - last > 0.05:
                        self.stepped.emit(step)
                        last = now
            finally:
                steps.close()
        except Exception as error:  # as in `worker`: a thread of the window must not die silently
            self.failed.emit(told_in_one_line(error) or f"{type(error).__name__}: {error}")


class ExportDialog(QDialog):
    """Asks what to write. formats, whole, out: the answers."""

    def __init__(
        self, out: Path, *, can_rerun: bool, moving: bool, georeferenced: bool = False, parent: Any = None
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Export detections"))
        self.boxes = {
            "coco": QCheckBox(self.tr("COCO JSON"), self),
            "csv": QCheckBox(self.tr("CSV table"), self),
            "geojson": QCheckBox(self.tr("GeoJSON (georeferenced scenes)"), self),
            "gpkg": QCheckBox(self.tr("GeoPackage (georeferenced scenes)"), self),
            "overlay": QCheckBox(self.tr("Pictures with boxes"), self),
            "video": QCheckBox(self.tr("Video with boxes"), self),
        }
        self.boxes["coco"].setChecked(True)
        self.boxes["geojson"].setChecked(georeferenced)
        self.boxes["overlay"].setChecked(not moving)
        self.boxes["video"].setEnabled(moving and can_rerun)
        self.boxes["video"].setChecked(moving and can_rerun)
        self.present = QRadioButton(self.tr("What was &found so far, filtered as on the screen"), self)
        self.again = QRadioButton(self.tr("The &whole source, run again at this score and overlap"), self)
        self.again.setEnabled(can_rerun)
        self.again.setChecked(moving and can_rerun)
        self.present.setChecked(not self.again.isChecked())
        group = QButtonGroup(self)
        group.addButton(self.present)
        group.addButton(self.again)
        self.folder = QLineEdit(str(out), self)
        self.replace = QCheckBox(self.tr("&Replace the earlier export in this folder"), self)
        self.replace.hide()
        choose = QPushButton(self.tr("&Choose…"), self)
        choose.clicked.connect(self._choose)
        self.buttons = QDialogButtonBox(QDialogButtonBox.Cancel, self)
        self.buttons.button(QDialogButtonBox.Cancel).setText(self.tr("Cancel"))
        self.export = self.buttons.addButton(self.tr("&Export"), QDialogButtonBox.AcceptRole)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        grid = QGridLayout()
        for i, box in enumerate(self.boxes.values()):
            grid.addWidget(box, i // 2, i % 2)
            box.toggled.connect(self._check)
        self.present.toggled.connect(self._check)
        self.folder.textChanged.connect(self._folder_changed)
        self.replace.toggled.connect(self._check)
        line = QHBoxLayout()
        label = QLabel(self.tr("&Folder"), self)
        label.setBuddy(self.folder)
        for part in (label, self.folder, choose):
            line.addWidget(part)
        layout = QVBoxLayout(self)
        layout.addLayout(grid)
        layout.addSpacing(8)
        layout.addWidget(self.present)
        layout.addWidget(self.again)
        layout.addSpacing(8)
        layout.addLayout(line)
        layout.addWidget(self.replace)
        layout.addWidget(self.buttons)
        self.setMinimumWidth(520)
        self._moving = moving and can_rerun
        self._folder_changed()

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that are checked."""
        return tuple(name for name, box in self.boxes.items() if box.isEnabled() and box.isChecked())

    @property
    def whole(self) -> bool:
        """Whether the source is run again."""
        return bool(self.again.isChecked())

    @property
    def out(self) -> Path:
        """Where to."""
        return Path(self.folder.text()).expanduser()

    @property
    def overwrite(self) -> bool:
        """Whether files of an earlier export go."""
        return not self.replace.isHidden() and bool(self.replace.isChecked())

    def _folder_changed(self) -> None:
        # A consent is for one folder.
        self.replace.setChecked(False)
        self.replace.setHidden(not (self.out / JOURNAL).is_file())
        self._check()

    def _check(self) -> None:
        self.boxes["video"].setEnabled(self._moving and self.whole)
        free = self.replace.isHidden() or self.replace.isChecked()
        self.export.setEnabled(bool(self.formats) and bool(self.folder.text().strip()) and free)

    def _choose(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self.tr("Folder for the files"), str(self.out.parent))
        if chosen:
            self.folder.setText(str(Path(chosen) / self.out.name))
