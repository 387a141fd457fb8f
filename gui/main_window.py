"""Main window: the picture, the side panel, menus; passes on what the user does and shows what the session holds."""

from __future__ import annotations

from dataclasses import replace

from PyQt5.QtCore import QEvent, Qt, QTimer
from PyQt5.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent
from PyQt5.QtWidgets import QMainWindow, QSplitter, QVBoxLayout, QWidget

from . import open_dialogs as ask
from .actions import Actions
from .bundle_card import Card
from .comparing import Comparing
from .export_flow import ExportFlow
from .machine_load import read_load
from .menus import ChoiceMenus
from .message_bar import MessageBar
from .opening import Opening
from .pane import Pane
from .player_bar import PlayerBar
from .running import Opened, Options, Progress
from .session import Session
from .settings import Remembered
from .side_panel import SidePanel
from .sifting import FLOOR_SCORE, Filters
from .status_line import StatusLine
from .user_commands import UserCommands
from .worker import DetectorShelf

SIDE_PANEL_MS, LIVE_PANEL_MS = 150, 500


class MainWindow(QMainWindow):
    """The app. backend, workers: as of `open_detector`; themes and languages are `ChoiceMenus`'."""

    def __init__(
        self,
        remembered: Remembered | None = None,
        shelf: DetectorShelf | None = None,
        backend: str = "auto",
        workers: str = "threads",
    ) -> None:
        super().__init__()
        self.remembered = remembered or Remembered()
        self.shelf, self.backend, self.workers = shelf or DetectorShelf(), backend, workers
        self.session = Session()
        self.session.set_filters(self.remembered.filters, undoable=False)
        self.options = Options(
            at_pace=not self.remembered.flag("full_speed", False), loop=self.remembered.flag("loop", False)
        )
        self.setAcceptDrops(True)
        self.setUnifiedTitleAndToolBarOnMac(True)
        self._build()
        self.opening, self.commands = Opening(self), UserCommands(self)
        self.actions_ = Actions(self, self.commands.slots())
        self.choices = ChoiceMenus(self, self.actions_.menus)
        self._toolbar()
        self._drag_began: Filters | None = None
        self.all_ended = True  # whether closing found every thread ended
        self._dirty = True
        self._side_timer, self._live_timer = QTimer(self), QTimer(self)
        for timer, slot, every in (
            (self._side_timer, self._refresh_side, SIDE_PANEL_MS),
            (self._live_timer, self._refresh_live, LIVE_PANEL_MS),
        ):
            timer.setInterval(every)
            timer.timeout.connect(slot)
            timer.start()
        self._restore()
        self.retranslate()
        self.refresh_actions()

    def _build(self) -> None:
        self.pane = Pane(self.session, self.shelf, self)
        self.panes = QSplitter(Qt.Horizontal, self)
        self.panes.setChildrenCollapsible(False)
        self.panes.addWidget(self.pane)
        self.messages, self.player_bar, self.side = MessageBar(self), PlayerBar(self), SidePanel(self)
        self.comparing = Comparing(self.pane, self.shelf, self.panes, self)
        self.exporting = ExportFlow(self.session, self)
        left = QWidget(self)
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        for part in (self.messages, self.panes, self.player_bar):
            column.addWidget(part, 1 if part is self.panes else 0)
        self.splitter = QSplitter(Qt.Horizontal, self)
        self.splitter.addWidget(left)
        self.splitter.addWidget(self.side)
        self.splitter.setStretchFactor(0, 1)
        self.splitter.setCollapsible(0, False)
        self.setCentralWidget(self.splitter)
        self.status = StatusLine(self)
        self.setStatusBar(self.status)
        self.status.cancel.clicked.connect(lambda: self.commands.cancel())
        pane, view = self.pane, self.pane.view
        view.hovered.connect(lambda x, y: self.status.show_place(self.session.picture, x, y))
        view.painted.connect(lambda ms: pane.watch.clock.drawn(ms))
        for signal in (pane.shown, pane.sifted, pane.selected):
            signal.connect(self._touch)
        pane.shown.connect(self._picture_shown)
        pane.selected.connect(lambda: self.side.table.select(self.session.selected))
        pane.opened.connect(self._opened)
        pane.progressed.connect(self.status.show_progress)
        pane.told.connect(lambda text: self.status.showMessage(text, 8000))
        pane.ended.connect(self._ended)
        for signal in (pane.failed, self.comparing.failed, self.exporting.failed):
            signal.connect(self.messages.tell)
        self.exporting.progressed.connect(self._export_progressed)
        self.exporting.wrote.connect(lambda text: self.messages.tell(self.tr("Written:") + "\n" + text, good=True))
        self.exporting.ended.connect(self._ended)
        self.side.filters.changed.connect(self.filter)
        self.side.table.chosen.connect(lambda row: pane.select(row))
        self.side.entry_chosen.connect(self.show_entry)
        self.side.currentChanged.connect(self._tab_changed)
        self.side.live.examine.clicked.connect(lambda: self.opening.examine())
        self.player_bar.play.clicked.connect(lambda: self.commands.pause())
        self.player_bar.step.clicked.connect(lambda: self.commands.step())
        self.player_bar.sought.connect(lambda number: pane.player.seek(number) if pane.player else None)

    def _toolbar(self) -> None:
        bar = self.addToolBar("")
        bar.setObjectName("toolbar")
        bar.setMovable(False)
        bar.setContextMenuPolicy(Qt.PreventContextMenu)
        self.bar = bar
        for key in (
            "open_bundle",
            "open_file",
            "open_folder",
            "open_address",
            "",
            "zoom_out",
            "zoom_in",
            "fit",
            "",
            "export",
        ):
            if key:
                bar.addAction(self.actions_.by_key[key])
            else:
                bar.addSeparator()

    # What is opened.

    def show_bundle(self, card: Card) -> None:
        """Show the card of the bundle that the session has taken."""
        self.side.card.show_card(card)
        self.side.filters.show_session(self.session)
        self.setWindowTitle(f"{card.manifest.name} – rsedge")
        self.pane.forget()
        self._dirty = True

    def show_entry(self, name: str) -> None:
        """Look at an image of the folder."""
        self.pane.show_entry(name)
        self.comparing.show_entry(name)

    # What the user changes.

    def filter(self, filters: Filters, final: bool) -> None:
        """Show what passes the filters; a whole drag of a slider is one step of undo."""
        if self._drag_began is None:
            self._drag_began = self.session.filters
        self.session.set_filters(filters, undoable=False)
        if final:
            self.session.note_filters(self._drag_began)
            self._drag_began = None
            self._remember_filters()
        self.filters_changed()

    def _remember_filters(self) -> None:
        filters = self.session.filters
        self.remembered.filters = replace(filters, score=max(FLOOR_SCORE, filters.score))

    def filters_changed(self) -> None:
        """Show the session's filters."""
        self.pane.filters_changed()
        self.side.filters.show_filters(self.session.filters)

    # What is shown.

    def refresh_actions(self) -> None:
        """Enable what can be done now."""
        session, player = self.session, self.pane.player
        has, moving = session.picture is not None, player is not None
        album = len(session.album) > 1
        busy = self.pane.running or self.exporting.thread_ is not None
        self.actions_.enable(
            export=has, run_again=session.source is not None, cancel=busy, pause=moving, step=moving,
            tab_pictures=album, back=moving, forward=moving, next_picture=album, previous_picture=album,
            next_box=has, previous_box=has, no_truth=session.truth is not None,
            no_second=self.comparing.second is not None, compare_bundle=session.bundle is not None,
            open_truth=session.bundle is not None,
        )  # fmt: skip

    def retranslate(self) -> None:
        """Say everything in the present language."""
        if self.session.manifest is None:
            self.setWindowTitle("rsedge")
        self.pane.view.hint = self.tr("Drop an image, a folder, a scene, a video or a bundle here, or press Ctrl+O.")
        self.pane.view.setAccessibleName(self.tr("Picture"))

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow a change of language."""
        if event is not None and event.type() == QEvent.LanguageChange and hasattr(self, "choices"):
            self.retranslate()
            self._dirty = True
            QTimer.singleShot(1, self._retranslate_menus)  # in a turn of its own: half of all words are there
        super().changeEvent(event)

    def _retranslate_menus(self) -> None:
        self.actions_.retranslate()
        self.choices.retranslate()

    def _touch(self) -> None:
        self._dirty = True

    def _picture_shown(self) -> None:
        if self.session.picture is None or self.pane.player is None or self.pane.player.paused:
            self._show_place()

    def _show_place(self) -> None:
        self.player_bar.show_picture(self.session.picture, self.pane.player)

    def _refresh_side(self) -> None:
        if self.pane.player is not None:
            self._show_place()
        if self._dirty and self.side.isVisible():
            self._dirty = False
            self.side.show_session(self.session)

    def _refresh_live(self) -> None:
        watch = self.pane.watch
        if self.remembered.changed:
            self.opening.keep(self.remembered)
        if watch.backend and watch.backend != self.side.card.backend:
            self.side.card.show_backend(watch.backend)
        pace = watch.clock.pace()
        if self.pane.running and pace.images:
            self.status.show_rate(pace.per_s)
        if self.side.currentWidget() is self.side.live:
            self.side.live.show_pace(pace, read_load(), watch.dropped, watch.backend)

    def _tab_changed(self) -> None:
        self._dirty = True
        if self.side.currentWidget() is self.side.live:
            self.opening.machine_panel()

    def _opened(self, opened: Opened) -> None:
        self.player_bar.open(opened)
        self.status.show_progress(None)
        self.refresh_actions()

    def _export_progressed(self, done: int, total: int) -> None:
        self.status.show_progress(Progress(done, total or done + 1))

    def _ended(self) -> None:
        self.status.show_progress(None)
        self.player_bar.show_picture(self.session.picture, None)
        self.refresh_actions()
        self._touch()

    # The window itself.

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Accept files and addresses."""
        if event is not None and ask.dropped(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Open what was dropped."""
        if event is not None:
            for path in ask.dropped(event.mimeData())[:1]:
                self.opening.anything(path)
            event.acceptProposedAction()

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Remember the layout and end every thread."""
        self.remembered.set_layout("window", self.saveGeometry())
        self.remembered.set_layout("splitter", self.splitter.saveState())
        self._remember_filters()
        self.hide()  # threads may take a moment to end
        self._side_timer.stop()
        self._live_timer.stop()
        self.pane.stop()
        self.comparing.close()
        self.all_ended = all([self.exporting.close_down(), self.pane.close_down(), self.opening.close_down()])
        if self.all_ended:
            self.shelf.clear()
        self.remembered.take_changes()()
        super().closeEvent(event)

    def _restore(self) -> None:
        self.resize(1280, 800)
        window, splitter = self.remembered.layout("window"), self.remembered.layout("splitter")
        if window is not None:
            self.restoreGeometry(window)
        if splitter is not None:
            self.splitter.restoreState(splitter)
        else:
            self.splitter.setSizes([920, 360])
        show = self.pane.view
        show.show_labels = self.remembered.flag("labels", True)
        for key, state in (
            ("boxes", True), ("labels", show.show_labels), ("panel", True),
            ("full_speed", not self.options.at_pace), ("loop", self.options.loop),
        ):  # fmt: skip
            self.actions_.check(key, state)
