"""Comparing with annotations and with a second bundle, in the window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PyQt5.QtCore import QPointF

from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.sifting import Filters
from tests.gui.squares import coco


def test_annotations_show_hits_misses_and_false_alarms(seen: MainWindow, picture: Path, qtbot: Any) -> None:
    seen.filter(Filters(iou=0.5), True)
    seen.opening.truth(coco(picture, [[20, 30, 60, 60], [150, 40, 30, 30], [5, 240, 10, 10]], [1, 2, 2]))
    qtbot.waitUntil(lambda: seen.session.comparison is not None)
    hits, false, missed = seen.session.comparison.counts
    assert (hits, false, missed) == (2, 2, 1)
    qtbot.waitUntil(lambda: "2 hits" in seen.side.filters.comparison.text())
    assert "precision <b>0.500</b>, recall <b>0.667</b>" in seen.side.filters.comparison.text()
    seen.filter(Filters(score=0.6, iou=0.5), True)
    assert seen.session.comparison.counts == (1, 0, 2)
    seen.actions_.by_key["no_truth"].trigger()
    assert seen.session.comparison is None


def test_annotations_of_other_classes_are_refused(seen: MainWindow, picture: Path, qtbot: Any) -> None:
    seen.opening.truth(coco(picture, [[20, 30, 60, 60]], [1], ("cat", "dog")))
    qtbot.waitUntil(lambda: "are not the bundle's" in seen.messages.text)
    assert seen.session.truth is None


def test_two_bundles_look_at_the_same_place(seen: MainWindow, qtbot: Any) -> None:
    vhr = PROCEDURAL.parent / "vhr10"
    seen.opening.second(vhr)
    qtbot.waitUntil(lambda: seen.comparing.second is not None and len(seen.comparing.second.session.found) > 0)
    second = seen.comparing.second
    assert second is not None
    qtbot.waitUntil(lambda: not second.running)
    view = seen.pane.view
    view.zoom_by(3, QPointF(10, 10))

    def apart() -> float:
        return float((second.view.view_rect.center() - view.view_rect.center()).manhattanLength())

    qtbot.waitUntil(lambda: apart() < 0.5 and second.view.scale == view.scale)
    second.view.pan_by(30, 20)
    assert apart() < 0.5
    seen.filter(Filters(score=0.6), True)
    qtbot.waitUntil(lambda: second.session.filters.score == 0.6)
    assert "10" not in second.title.text() or "boxes" in second.title.text()
    seen.actions_.by_key["no_second"].trigger()
    assert seen.comparing.second is None
    assert not seen.pane.title.isVisible()
