"""Pane: one bundle's view of the picture; ties a session, its worker and its image view together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PyQt5.QtCore import Qt, QTimer, pyqtSignal
from PyQt5.QtWidgets import QLabel, QVBoxLayout, QWidget

from deploy.detections import Detections

from .background import Background
from .image_view import ImageView
from .player import Player
from .running import Opened, Options, Watch
from .scene_pyramid import ScenePyramid, TileKey
from .session import Picture, Session
from .sifting import Filters, settle
from .worker import DetectorShelf, Screenful, Worker, screen_levels

# Tiles of a scene that are asked for at a time; what has left the view meanwhile is not read any more.
_TILES_AHEAD = 4
# Milliseconds between two pictures on the screen, at least. At full speed inference comes first, some 32 a second do.
SHOWN_MS, FULL_SPEED_MS = 15.0, 30.0


class Pane(QWidget):
    """Shows one session. All state is the session's; the pane only knows who is working for it.

    Signals: `shown` (another picture), `sifted` (the same, filtered), `selected`, `opened` (Opened), `progressed`
    (Progress), `told` (one line), `failed` (one line), `ended` (nothing runs any more).
    """

    shown = pyqtSignal()
    sifted = pyqtSignal()
    selected = pyqtSignal()
    opened = pyqtSignal(object)
    progressed = pyqtSignal(object)
    told = pyqtSignal(str)
    failed = pyqtSignal(str)
    ended = pyqtSignal()

    def __init__(self, session: Session, shelf: DetectorShelf, parent: Any = None) -> None:
        super().__init__(parent)
        self.session, self._shelf = session, shelf
        self.title = QLabel(self)
        self.title.setObjectName("paneTitle")
        self.title.hide()
        self.view = ImageView(self)
        self.view.clicked.connect(self._clicked)
        self.view.tiles_wanted.connect(self._want_tiles)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.title)
        layout.addWidget(self.view, 1)
        self.worker: Worker | None = None
        self.player: Player | None = None
        self.watch = Watch()  # of the present run, or the last one
        self.following = True
        self.leaving: list[Worker] = []  # cancelled, and not ended yet
        self._background, self._tiles = Background(self), Background(self)
        for background in (self._background, self._tiles):
            background.done.connect(self._done)
            background.failed.connect(lambda kind, text: self.failed.emit(text))
        self._view_of: tuple[str, tuple[int, int]] | None = None
        self._looking, self._looked = QTimer(self), 0.0
        self._looking.setSingleShot(True)
        self._looking.setTimerType(Qt.PreciseTimer)
        self._looking.timeout.connect(self._look)
        self._repaint = QTimer(self)
        self._repaint.setInterval(200)
        self._repaint.timeout.connect(self._scene_grew)
        self._version = -1

    # What runs.

    def start(self, bundle: Path, what: str, options: Options, backend: str, workers: str) -> None:
        """Leave what runs and begin with another source or bundle; returns at once."""
        self.stop()
        self._clear_pictures()
        self.session.use_source(what)
        self.following = True
        worker = Worker(self._shelf, bundle, what, options, backend, workers, self)
        worker.arrived.connect(lambda: self._arrived(worker))
        worker.broken.connect(lambda text: self._broken(worker, text))
        worker.finished.connect(lambda: self._finished(worker))
        worker.watch.iou = self.session.filters.iou
        self.worker, self.watch = worker, worker.watch
        self._refresh()
        worker.start()

    def stop(self) -> None:
        """End what runs, without waiting for it: its thread is kept until it has ended, nothing of it arrives."""
        worker, self.worker, self.player = self.worker, None, None
        if worker is not None:
            worker.cancel()
            if not worker.isFinished():
                self.leaving.append(worker)
            self._repaint.stop()
            self.ended.emit()

    def forget(self) -> None:
        """Show nothing, as after the session took another bundle."""
        self._clear_pictures()
        self._refresh()

    def close_down(self, patience_ms: int = 8000) -> bool:
        """End everything and wait for its threads; says whether all of them ended."""
        self.stop()
        ended = [self._background.close(patience_ms), self._tiles.close(patience_ms)]
        ended += [bool(worker.wait(patience_ms)) for worker in self.leaving]
        self._clear_pictures()
        return all(ended)

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self.worker is not None

    # What the user does.

    def set_filters(self, filters: Filters) -> None:
        """Show what passes; a large scene is settled again in the background."""
        self.session.set_filters(filters, undoable=False)
        self.filters_changed()

    def filters_changed(self) -> None:
        """Show the session's filters; see `set_filters`."""
        if self.worker is not None:
            self.worker.watch.iou = self.session.filters.iou
        self._settle_again()
        self._refresh_boxes()
        self.sifted.emit()

    def _settle_again(self) -> None:
        picture, iou = self.session.picture, self.session.filters.iou
        if self.session.needs_settling and picture is not None:
            self._background.submit("settle", lambda: (settle(picture.candidates, iou), picture, iou))

    def select(self, row: int | None, *, centre: bool = True) -> None:
        """Select a box by its row of `found`."""
        self.session.select(row)
        self._refresh_selection(centre=centre)
        self.selected.emit()

    def show_entry(self, name: str) -> None:
        """Look at an image of the album again; its pixels are read in the background."""
        entry = self.session.album.get(name)
        if entry is not None:
            self.following = False
            self._background.submit("entry", lambda: (entry, _pixels_of(entry.name)))

    def display(
        self, picture: Picture, levels: list[np.ndarray], found: Detections | None = None, iou: float | None = None
    ) -> None:
        """Look at a picture. levels: as of `screen_levels`; found, iou: as of `Session.show`."""
        self.session.show(picture, found, iou)
        layer = self.view.layer
        same = self._view_of == (picture.name, picture.size_hw)
        if picture.pyramid is not None:
            if layer.pyramid is not picture.pyramid:
                same = False
                layer.set_pyramid(picture.pyramid)
        else:
            layer.set_levels(picture.size_hw, levels, moving=picture.frame_number is not None)
        self._view_of = (picture.name, picture.size_hw)
        self.view.metres_per_px = None
        if picture.georeference is not None:
            self.view.metres_per_px = picture.georeference.ground_sample_distance_m(picture.size_hw)
        if not same or picture.pyramid is None:
            self.view.refresh_picture(keep_view=same)
        self._refresh_boxes()
        self.shown.emit()

    def refresh_truth(self) -> None:
        """Draw hits, misses and false alarms anew."""
        self._refresh_boxes()
        self.sifted.emit()

    # What arrives.

    def _arrived(self, worker: Worker) -> None:
        """Look into the mailbox, at most as often as a screen shows anything new."""
        if worker is self.worker and not self._looking.isActive():
            least_ms = SHOWN_MS if worker.options.at_pace else FULL_SPEED_MS
            early_ms = least_ms - (time.perf_counter() - self._looked) * 1e3
            self._looking.start(max(0, round(early_ms)))

    def _look(self) -> None:
        worker = self.worker
        if worker is None:
            return
        self._looked = time.perf_counter()
        box = worker.take()
        for opened in box.opened:
            self._was_opened(opened)
        for seen in box.album:
            self.session.remember(seen.picture)
        for failure in box.failures:
            self.session.failures[failure.name] = failure.text
            self.failed.emit(failure.text)
        if box.screen is not None and self.following:
            self._take_screen(box.screen)
        if box.progress is not None:
            self.progressed.emit(box.progress)
        for event in box.told:
            self.told.emit(event.text)

    def _was_opened(self, opened: Opened) -> None:
        self.player = opened.player
        if opened.picture is not None and opened.picture.pyramid is not None:
            self._clear_pictures()
            self.display(opened.picture, [], Detections.empty())
            if opened.picture.pyramid.small:
                self._background.submit("overview", opened.picture.pyramid.load_overview)
            self._repaint.start()
        self.opened.emit(opened)

    def _take_screen(self, screen: Screenful) -> None:
        seen = screen.seen
        self.display(seen.picture, screen.made(), seen.found, seen.iou)
        self._settle_again()  # the overlap may have been moved meanwhile

    def _done(self, kind: str, value: Any) -> None:
        if kind == "settle":
            if self.session.settled(*value):
                self._refresh_boxes()
                self.sifted.emit()
        elif kind == "entry":
            entry: Picture
            entry, pixels = value
            if self.session.album.get(entry.name) is entry:
                levels = screen_levels(pixels)
                self.display(entry, levels, None)
        elif kind == "tiles":
            self.view.update()
        elif kind == "overview":
            self.view.refresh_picture(keep_view=True)

    def _broken(self, worker: Worker, text: str) -> None:
        if worker is self.worker:
            self.failed.emit(text)

    def _finished(self, worker: Worker) -> None:
        if worker in self.leaving:
            self.leaving.remove(worker)
        if worker is self.worker:
            self._look()
            self.worker, self.player = None, None
            self._repaint.stop()
            self._scene_grew()
            pyramid = self.view.layer.pyramid
            if pyramid is not None and not pyramid.complete:  # cancelled, or tiles without content
                self._background.submit("overview", pyramid.load_overview)
            self.ended.emit()
        worker.deleteLater()

    # What is drawn.

    def _refresh(self) -> None:
        self.view.refresh_picture(keep_view=False)
        self._refresh_boxes()
        self.shown.emit()

    def _refresh_boxes(self) -> None:
        session = self.session
        self.view.labels.class_names = session.class_names
        compared, truth = session.comparison, session.true_boxes
        if compared is None or truth is None:
            self.view.boxes.set_boxes(session.shown)
        else:
            missed = (truth.xyxy[compared.missed], truth.class_id[compared.missed])
            self.view.boxes.set_boxes(session.shown, hit=compared.hit | compared.ignored, missed=missed)
        self._refresh_selection(centre=False)

    def _refresh_selection(self, *, centre: bool) -> None:
        row = self.session.selected
        if row is None:
            self.view.select(None)
        else:
            found = self.session.found
            self.view.select(found.xyxy[row], int(found.class_id[row]), centre=centre)

    def _scene_grew(self) -> None:
        """Draw a scene's overview as far as it has come."""
        pyramid = self.view.layer.pyramid
        if pyramid is not None and pyramid.version != self._version:
            self._version = pyramid.version
            self.view.refresh_picture(keep_view=True)

    def _clear_pictures(self) -> None:
        pyramid = self.view.layer.pyramid
        self.view.layer.clear()
        self._view_of = None
        if pyramid is not None:
            for background in (self._background, self._tiles):
                for kind in ("tiles", "overview", "settle"):
                    background.drop(kind)
            if self._tiles.isRunning():
                self._tiles.submit("close", pyramid.close)  # a tile that is being read ends first
            else:
                pyramid.close()

    def _clicked(self, x: float, y: float, slack_px: float) -> None:
        row = self.session.box_at(x, y)
        self.select(self.session.box_at(x, y, slack_px) if row is None else row, centre=False)

    def _want_tiles(self, keys: list[TileKey]) -> None:
        pyramid = self.view.layer.pyramid
        if pyramid is not None:
            self._tiles.submit("tiles", _loading(pyramid, keys[:_TILES_AHEAD]))


def _loading(pyramid: ScenePyramid, keys: list[TileKey]) -> Callable[[], None]:
    def load() -> None:
        for key in pyramid.missing(keys):
            pyramid.load(key)

    return load


def _pixels_of(name: str) -> np.ndarray:
    from deploy.images import read_image

    return read_image(name)
