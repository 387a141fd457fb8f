"""User commands: what each action of the menus does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import open_dialogs as ask
from .help_dialogs import about_page, page_dialog, shortcut_page
from .running import DRAWN
from .sifting import FLOOR_SCORE, Filters

if TYPE_CHECKING:
    from PyQt5.QtWidgets import QWidget

    from .image_view import ImageView
    from .main_window import MainWindow
    from .player import Player

_SEEK_S = 5.0
_SCORE_STEP = 0.05
_ZOOM = 1.5


class UserCommands:
    """One method per action; `slots` maps the actions' keys to them."""

    def __init__(self, window: MainWindow) -> None:
        self._window = window

    def slots(self) -> dict[str, Callable[..., object]]:
        """Return the method of each action; those that can be checked take whether they are."""
        window, view = self._window, self._window.pane.view
        slots: dict[str, Callable[..., object]] = {
            "quit": window.close,
            "open_drawn": lambda: window.opening.source(DRAWN),
            "deselect": lambda: window.pane.select(None),
            "next_box": lambda: self.walk(1),
            "previous_box": lambda: self.walk(-1),
            "more_score": lambda: self.change_score(_SCORE_STEP),
            "less_score": lambda: self.change_score(-_SCORE_STEP),
            "zoom_in": lambda: view.zoom_by(_ZOOM),
            "zoom_out": lambda: view.zoom_by(1 / _ZOOM),
            "fit": view.fit,
            "actual": lambda: view.zoom_to(1.0),
            "panel": window.side.setVisible,
            "back": lambda: self.seek_by(-_SEEK_S),
            "forward": lambda: self.seek_by(_SEEK_S),
            "next_picture": lambda: self.turn_page(1),
            "previous_picture": lambda: self.turn_page(-1),
            "tab_filters": lambda: self.show_panel(window.side.filters),
            "tab_table": lambda: self.show_panel(window.side.table),
            "tab_machine": lambda: self.show_panel(window.side.live),
            "tab_bundle": lambda: self.show_panel(window.side.card),
            "tab_pictures": lambda: self.show_panel(window.side.album),
            "open_truth": lambda: self.open_truth(whole_folder=False),
            "open_truth_folder": lambda: self.open_truth(whole_folder=True),
        }
        for name in (
            "open_bundle", "open_file", "open_folder", "open_address", "export", "undo", "redo", "reset_filters",
            "boxes", "labels", "full_screen", "run_again", "cancel", "pause", "step", "full_speed", "loop", "no_truth",
            "compare_bundle", "no_second", "examine", "shortcuts", "about",
        ):  # fmt: skip
            slots[name] = getattr(self, name)
        return slots

    # Opening.

    def open_bundle(self) -> None:
        """Ask for a bundle and open it."""
        bundle = ask.ask_bundle(self._window, self._window.remembered.folder)
        if bundle is not None:
            self._window.opening.bundle(bundle)

    def open_file(self) -> None:
        """Ask for an image, scene or video and open it."""
        self._open(ask.ask_file(self._window, self._window.remembered.folder))

    def open_folder(self) -> None:
        """Ask for a folder of images and open it."""
        self._open(ask.ask_folder(self._window, self._window.remembered.folder))

    def open_address(self) -> None:
        """Ask for a camera or stream and open it."""
        self._open(ask.ask_address(self._window, self._window.remembered.recent("sources")))

    def _open(self, what: str | None) -> None:
        if what is not None:
            self._window.opening.source(what)

    def open_truth(self, *, whole_folder: bool) -> None:
        """Ask for annotations and lay them over the pictures."""
        path = ask.ask_truth(self._window, self._window.remembered.folder, whole_folder=whole_folder)
        if path is not None:
            self._window.opening.truth(path)

    def no_truth(self) -> None:
        """Take the annotations away."""
        self._window.session.use_truth(None)
        self._window.pane.refresh_truth()
        self._window.comparing.share_truth()
        self._window.refresh_actions()

    def compare_bundle(self) -> None:
        """Ask for a second bundle and put it beside the first."""
        bundle: Path | None = ask.ask_bundle(self._window, self._window.remembered.folder)
        if bundle is not None:
            self._window.opening.second(bundle)

    def no_second(self) -> None:
        """Take the second bundle away."""
        self._window.comparing.close()
        self._window.refresh_actions()

    def export(self) -> None:
        """Ask what to write, and write it."""
        window = self._window
        dialog = window.exporting.ask(window, window.remembered.folder)
        if dialog is None:
            return
        if dialog.exec_() == dialog.Accepted:
            window.exporting.start(
                dialog.out,
                dialog.formats,
                whole=dialog.whole,
                overwrite=dialog.overwrite,
                backend=window.backend,
                workers=window.workers,
            )
            window.refresh_actions()
        dialog.deleteLater()

    # Sifting.

    def undo(self) -> None:
        """Take the last change of filters back."""
        if self._window.session.undo():
            self._window.filters_changed()

    def redo(self) -> None:
        """Make it again."""
        if self._window.session.redo():
            self._window.filters_changed()

    def reset_filters(self) -> None:
        """Go back to the usual score, overlap and all classes."""
        self._window.filter(Filters(), True)

    def change_score(self, step: float) -> None:
        """Move the score threshold."""
        filters = self._window.session.filters
        score = min(1.0, max(FLOOR_SCORE, round((filters.score + step) / _SCORE_STEP) * _SCORE_STEP))
        self._window.filter(replace(filters, score=score), True)

    def walk(self, step: int) -> None:
        """Select the next or previous box, in the order of the table."""
        session, model = self._window.session, self._window.side.table.model
        rows = model.rows if set(model.rows.tolist()) == set(session.rows.tolist()) else session.rows
        if not len(rows):
            return
        at = np.flatnonzero(rows == (-1 if session.selected is None else session.selected))
        place = (int(at[0]) + step) % len(rows) if len(at) else (0 if step > 0 else len(rows) - 1)
        self._window.pane.select(int(rows[place]))

    # Looking.

    def boxes(self, shown: bool) -> None:
        """Show or hide the boxes."""
        for view in self._views():
            view.show_boxes = shown
            view.update()

    def labels(self, shown: bool) -> None:
        """Show or hide the labels."""
        self._window.remembered.set_flag("labels", shown)
        for view in self._views():
            view.show_labels = shown
            view.update()

    def full_screen(self, wanted: bool) -> None:
        """Fill the screen, or go back."""
        self._window.showFullScreen() if wanted else self._window.showNormal()

    def show_panel(self, panel: QWidget) -> None:
        """Bring one panel of the side to the front, and the keyboard to it."""
        self._window.actions_.by_key["panel"].setChecked(True)
        self._window.side.setCurrentWidget(panel)
        panel.setFocus()
        if not panel.hasFocus():  # a panel that holds others takes no keys itself
            panel.focusNextPrevChild(True)

    def turn_page(self, step: int) -> None:
        """Look at the next or previous image of the folder."""
        session = self._window.session
        names = list(session.album)
        if names:
            now = names.index(session.picture.name) if session.picture and session.picture.name in names else -step
            self._window.show_entry(names[(now + step) % len(names)])

    def shortcuts(self) -> None:
        """Show every shortcut."""
        window = self._window
        title = window.actions_.by_key["shortcuts"].text().replace("&", "")
        self._show_page(title, shortcut_page(window.actions_.menus))

    def about(self) -> None:
        """Say what this program is."""
        self._show_page("rsedge", about_page())

    def _show_page(self, title: str, page: str) -> None:
        dialog = page_dialog(self._window, title, page)
        dialog.exec_()
        dialog.deleteLater()

    # Running.

    def examine(self) -> None:
        """Ask the doctor, and show what it says."""
        self.show_panel(self._window.side.live)
        self._window.opening.examine()

    def run_again(self) -> None:
        """Run over the present source once more."""
        self._open(self._window.session.source)

    def cancel(self) -> None:
        """Stop what runs; what was found stays."""
        self._window.exporting.cancel()
        self._window.pane.stop()
        if self._window.comparing.second is not None:
            self._window.comparing.second.stop()

    def pause(self) -> None:
        """Hold the video, or go on."""
        for player in self._players():
            player.pause(not (player.paused or player.ended))
        self._window.player_bar.show_picture(self._window.session.picture, self._window.pane.player)

    def step(self) -> None:
        """Go one frame on, and hold."""
        for player in self._players():
            player.step()

    def seek_by(self, seconds: float) -> None:
        """Jump in the video."""
        picture = self._window.session.picture
        if picture is None or picture.frame_number is None:
            return
        for player in self._players():
            fps = player.source.fps or 25.0
            player.seek(max(0, picture.frame_number + round(seconds * fps)))

    def full_speed(self, wanted: bool) -> None:
        """Take every frame as fast as it goes, instead of the newest at the video's own pace; begins anew."""
        self._window.remembered.set_flag("full_speed", wanted)
        self._window.options = replace(self._window.options, at_pace=not wanted)
        if self._window.pane.player is not None:
            self.run_again()

    def loop(self, wanted: bool) -> None:
        """Begin a video again at its end."""
        self._window.remembered.set_flag("loop", wanted)
        self._window.options = replace(self._window.options, loop=wanted)
        for player in self._players():
            player.loop(wanted)

    def _players(self) -> list[Player]:
        second = self._window.comparing.second
        panes = [self._window.pane, *([second] if second is not None else [])]
        return [pane.player for pane in panes if pane.player is not None]

    def _views(self) -> list[ImageView]:
        second = self._window.comparing.second
        return [self._window.pane.view, *([second.view] if second is not None else [])]
