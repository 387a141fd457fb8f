"""Opening: bundles, sources and annotations, read in the background and handed to the session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PyQt5.QtCore import QObject

from . import open_dialogs as ask
from .background import Background
from .bundle_card import Card, read_card
from .running import DRAWN
from .truth import load_truth

if TYPE_CHECKING:
    from deploy.manifest import Manifest

    from .main_window import MainWindow
    from .settings import Remembered

PROCEDURAL = Path(__file__).resolve().parent.parent / "deploy" / "zoo" / "procedural"


class Opening(QObject):
    """Opens things for a window; what cannot be opened becomes a message there, and the app goes on as before."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._background = Background(self)
        self._background.done.connect(self._done)
        self._background.failed.connect(self._failed)
        self._pending: str | None = None
        self._bundle: Path | None = None
        self.examined = False
        self._changes: deque[Callable[[], None]] = deque()

    def bundle(self, bundle: Path) -> None:
        """Open a bundle, then run it over the present source."""
        bundle = bundle.parent if bundle.is_file() else bundle
        self._bundle = bundle
        self._background.submit("bundle", lambda: _read(bundle))

    def source(self, what: str) -> None:
        """Run the open bundle over an image, folder, scene, video, camera, stream or `DRAWN`."""
        window = self._window
        window.messages.clear()
        if what != DRAWN:
            window.remembered.add_recent("sources", what)
            if Path(what).exists():
                window.remembered.folder = Path(what).absolute().parent
        if window.session.bundle is None or self._bundle is not None:
            self._pending = what
            if self._bundle is None:
                self.bundle(PROCEDURAL)
            return
        window.player_bar.hide()
        window.status.show_progress(None)
        window.status.show_opening()
        window.pane.start(window.session.bundle, what, window.options, window.backend, window.workers)
        window.comparing.run(replace(window.options, loop=False), window.backend, window.workers)
        window.refresh_actions()

    def second(self, bundle: Path) -> None:
        """Put a second bundle beside the first."""
        self._background.submit("second", lambda: _read(bundle))

    def truth(self, path: Path) -> None:
        """Lay annotations over the pictures."""
        source, names = self._window.session.source, self._window.session.class_names
        if source is None or source == DRAWN or not Path(source).exists():
            self._window.messages.tell(self.tr("Annotations belong to an image or a folder; open one first."))
            return
        self._background.submit("truth", lambda: load_truth(path, Path(source), names))

    def anything(self, path: str) -> None:
        """Open what was dropped: a bundle, annotations, or a source."""
        if ask.is_bundle(path):
            self.bundle(Path(path))
        elif ask.is_annotation(path):
            self.truth(Path(path))
        else:
            self.source(path)

    def examine(self) -> None:
        """Ask the doctor about this machine."""
        from deploy.doctor import diagnose

        self.examined = True
        bundle = self._window.session.bundle
        self._background.submit("doctor", lambda: diagnose(bundle=bundle))

    def keep(self, remembered: Remembered) -> None:
        """Write what is to be remembered."""
        self._changes.append(remembered.take_changes())
        self._background.submit("settings", self._write_changes)

    def _write_changes(self) -> None:
        while self._changes:
            self._changes.popleft()()

    def machine_panel(self) -> None:
        """Bring what the panel of the machine shows: its chart, and at the first time the doctor's findings."""
        self._window.side.live.make_chart()
        if not self.examined:
            self.examine()

    def close_down(self) -> bool:
        """Forget what waits and end the thread; says whether it ended."""
        ended = self._background.close()
        if ended:
            self._write_changes()
        return ended

    def _done(self, kind: str, value: Any) -> None:
        window = self._window
        if kind == "truth":
            window.session.use_truth(value)
            window.pane.refresh_truth()
            window.comparing.share_truth()
            if value.fatal:
                window.messages.tell(self.tr("Left out: {text}").format(text=value.fatal[0]))
        elif kind == "doctor":
            window.side.live.show_findings(value)
        elif kind == "settings":
            return
        elif kind == "second":
            bundle, manifest, _ = value
            window.remembered.add_recent("bundles", str(bundle))
            window.comparing.open(bundle, manifest, window.options, window.backend, window.workers)
        else:
            self._bundle = None
            bundle, manifest, card = value
            window.remembered.add_recent("bundles", str(bundle))
            window.pane.stop()
            what, self._pending = self._pending or window.session.source, None
            window.session.use_bundle(bundle, manifest)
            window.show_bundle(card)
            if what is not None:
                self.source(what)
        window.refresh_actions()

    def _failed(self, kind: str, text: str) -> None:
        window = self._window
        if kind == "bundle":
            self._bundle = None
            if self._pending is not None and window.session.bundle is not None:
                what, self._pending = self._pending, None
                self.source(what)  # with the bundle that is still open; without one, it waits for a better one
        window.messages.tell(text)
        window.refresh_actions()


def _read(bundle: Path) -> tuple[Path, Manifest, Card]:
    from deploy.manifest import load_manifest

    manifest = load_manifest(bundle)
    return bundle, manifest, read_card(bundle, manifest)
