"""Every user action in the real window, without a screen and with a detector that is quick."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PyQt5.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from PyQt5.QtGui import QDropEvent, QKeySequence, QMouseEvent, QWheelEvent
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import QApplication

from gui.actions import COMMANDS
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.running import DRAWN
from gui.sifting import Filters
from gui.worker import DetectorShelf
from tests.gui.squares import SQUARES, coco, draw, quick_detector, save, save_video

See = Callable[[MainWindow, Any], None]


def test_the_first_start_shows_boxes(window: MainWindow, qtbot: Any, make_window: Any) -> None:
    real = make_window(shelf=DetectorShelf())
    real.opening.bundle(PROCEDURAL)
    real.opening.source(DRAWN)
    qtbot.waitUntil(lambda: len(real.session.rows) > 20, timeout=20000)
    qtbot.waitUntil(lambda: not real.pane.running, timeout=20000)
    assert real.session.counts()[:2].min() > 3
    assert real.windowTitle() == "procedural – rsedge"


def test_an_image_is_opened_and_its_boxes_lie_where_the_squares_are(seen: MainWindow) -> None:
    session = seen.session
    best = session.found.xyxy[session.found.class_id == 0][0]
    np.testing.assert_allclose(best, [20, 30, 80, 90], atol=1.5)
    assert session.counts().tolist() == [2, 2, 3, 0, 0]  # the smallest scores 0.32, its second box 0.22


def test_the_overlap_slider_suppresses_without_inference(seen: MainWindow, qtbot: Any) -> None:
    worker = seen.pane.worker
    seen.side.filters.iou.setValue(50)
    assert seen.session.filters.iou == 0.5
    assert len(seen.session.found) == 4
    assert seen.pane.worker is worker is None
    seen.side.filters.iou.setValue(70)
    assert len(seen.session.found) == 8


def test_the_score_slider_and_classes_act_at_once(seen: MainWindow) -> None:
    panel = seen.side.filters
    panel.score.setValue(60)
    assert len(seen.session.rows) == 2
    assert panel.score_value.text() == "0.60"
    panel.classes.item(0).setCheckState(Qt.Unchecked)
    assert len(seen.session.rows) == 0
    panel.all.click()
    assert len(seen.session.rows) == 2
    panel.none.click()
    assert len(seen.session.rows) == 0
    for _ in range(3):
        seen.actions_.by_key["undo"].trigger()
    assert seen.session.filters == Filters(score=0.6)
    assert panel.classes.item(0).checkState() == Qt.Checked
    seen.actions_.by_key["redo"].trigger()
    assert seen.session.filters.hidden == {0}
    seen.actions_.by_key["reset_filters"].trigger()
    assert seen.session.filters == Filters()


def test_a_drag_of_the_slider_is_one_undo(seen: MainWindow, qtbot: Any) -> None:
    slider = seen.side.filters.score
    slider.setSliderDown(True)
    for value in (30, 45, 60):
        slider.setValue(value)
        assert seen.session.filters.score == value / 100
    slider.setSliderDown(False)
    seen.actions_.by_key["undo"].trigger()
    assert seen.session.filters.score == 0.25


def test_a_row_and_a_box_are_one_selection(seen: MainWindow, qtbot: Any) -> None:
    seen.side.setCurrentWidget(seen.side.table)
    qtbot.waitUntil(lambda: seen.side.table.model.rowCount() == len(seen.session.rows))
    table = seen.side.table
    table.view.selectRow(2)
    row = int(table.model.rows[2])
    assert seen.session.selected == row
    view = seen.pane.view
    x1, y1, x2, y2 = seen.session.found.xyxy[row].tolist()
    middle = view.to_screen(QPointF((x1 + x2) / 2, (y1 + y2) / 2))
    assert abs(middle.x() - view.width() / 2) < 2
    assert abs(middle.y() - view.height() / 2) < 2
    # And the other way round: a click into a box selects its line.
    view.fit()
    at = view.to_screen(QPointF(25, 60)).toPoint()
    qtbot.mouseClick(view, Qt.LeftButton, pos=at)
    selected = seen.session.selected
    assert selected is not None
    assert seen.session.found.class_id[selected] == 0
    assert table.model.rows[table.view.currentIndex().row()] == selected
    qtbot.mouseClick(view, Qt.LeftButton, pos=view.to_screen(QPointF(120, 120)).toPoint())
    assert seen.session.selected is None


def test_the_table_sorts_and_filters(seen: MainWindow, qtbot: Any) -> None:
    seen.side.setCurrentWidget(seen.side.table)
    table = seen.side.table
    qtbot.waitUntil(lambda: table.model.rowCount() == len(seen.session.rows))
    scores = [float(table.model.index(i, 1).data()) for i in range(table.model.rowCount())]
    assert scores == sorted(scores, reverse=True)
    table.view.sortByColumn(2, Qt.AscendingOrder)
    boxes = seen.session.found.xyxy[table.model.rows]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert (np.diff(area) >= -1e-3).all()
    table.view.sortByColumn(0, Qt.AscendingOrder)
    names = [table.model.index(i, 0).data() for i in range(table.model.rowCount())]
    assert names == sorted(names)
    qtbot.keyClicks(table.text, "shi")
    assert {table.model.index(i, 0).data() for i in range(table.model.rowCount())} == {"ship"}


def test_boxes_are_walked_by_keys(seen: MainWindow, qtbot: Any) -> None:
    rows = []
    for _ in range(len(seen.session.rows)):
        seen.actions_.by_key["next_box"].trigger()
        rows.append(seen.session.selected)
    assert sorted(rows) == sorted(seen.session.rows.tolist())
    seen.actions_.by_key["previous_box"].trigger()
    assert seen.session.selected == rows[-2]
    seen.actions_.by_key["deselect"].trigger()
    assert seen.session.selected is None


def test_wheel_zooms_around_the_cursor_and_drag_pans(seen: MainWindow, qtbot: Any) -> None:
    view = seen.pane.view
    at = QPointF(200, 150)
    place = view.to_picture(at)
    event = QWheelEvent(
        at, QPointF(view.mapToGlobal(at.toPoint())), QPoint(), QPoint(0, 360), Qt.NoButton, Qt.NoModifier,
        Qt.NoScrollPhase, False,
    )  # fmt: skip
    before = view.scale
    QApplication.sendEvent(view, event)
    assert view.scale == pytest.approx(before * 1.2**3)
    assert (view.to_picture(at) - place).manhattanLength() < 1e-6
    assert view.minimap.isVisible()
    qtbot.mousePress(view, Qt.LeftButton, pos=QPoint(200, 150))
    for step in (QPointF(220, 160), QPointF(240, 170)):
        QApplication.sendEvent(view, QMouseEvent(QEvent.MouseMove, step, Qt.NoButton, Qt.LeftButton, Qt.NoModifier))
    qtbot.mouseRelease(view, Qt.LeftButton, pos=QPoint(240, 170))
    assert (view.to_picture(QPointF(240, 170)) - place).manhattanLength() < 1e-6
    assert seen.session.selected is None  # a drag is no click
    qtbot.keyClick(view, Qt.Key_Left)
    assert view.to_picture(QPointF(240, 170)).x() < place.x()
    seen.actions_.by_key["actual"].trigger()
    assert view.scale == 1.0
    seen.actions_.by_key["fit"].trigger()
    assert view.scale == pytest.approx(before)
    assert not view.minimap.isVisible()


def test_the_minimap_moves_the_view(seen: MainWindow, qtbot: Any) -> None:
    view = seen.pane.view
    view.zoom_by(6)
    qtbot.mouseClick(
        view.minimap, Qt.LeftButton, pos=QPoint(2 + view.minimap.width() // 4, 2 + view.minimap.height() // 4)
    )
    middle = view.view_rect.center()
    assert middle.x() == pytest.approx(300 / 4, abs=3)
    assert middle.y() == pytest.approx(256 / 4, abs=3)


def test_what_is_drawn_has_the_class_colour_at_the_box(seen: MainWindow) -> None:
    view = seen.pane.view
    view.show_labels = False
    seen.filter(Filters(iou=0.5), True)
    image = view.grab().toImage()
    at = view.to_screen(QPointF(20, 60))
    near = [image.pixelColor(round(at.x()) + dx, round(at.y())).getRgb()[:3] for dx in range(-4, 5)]
    assert (230, 159, 0) in near
    seen.actions_.by_key["boxes"].trigger()
    seen.pane.view.show_boxes = False
    image = view.grab().toImage()
    assert (230, 159, 0) not in [
        image.pixelColor(round(at.x()) + dx, round(at.y())).getRgb()[:3] for dx in range(-4, 5)
    ]


def test_a_folder_fills_the_album_and_pages_turn(window: MainWindow, see: See, tmp_path: Path, qtbot: Any) -> None:
    for i in range(4):
        save(tmp_path / "many" / f"{i}.png", draw((200, 200), [(20, 20, 30 + 10 * i, i)]))
    (tmp_path / "many" / "bad.png").write_bytes(b"no image")
    see(window, tmp_path / "many")
    assert [Path(name).name for name in window.session.album] == ["0.png", "1.png", "2.png", "3.png"]
    assert "bad.png" in window.messages.text
    qtbot.waitUntil(lambda: window.side.isTabVisible(4))  # the album is shown with the next refresh
    window.show_entry(str(tmp_path / "many" / "1.png"))
    qtbot.waitUntil(lambda: Path(window.session.picture.name).name == "1.png")
    assert set(window.session.found.class_id.tolist()) == {1}
    window.actions_.by_key["next_picture"].trigger()
    qtbot.waitUntil(lambda: Path(window.session.picture.name).name == "2.png")
    window.side.album.setCurrentRow(0)
    qtbot.waitUntil(lambda: Path(window.session.picture.name).name == "0.png")


def test_a_video_pauses_steps_and_seeks(window: MainWindow, tmp_path: Path, qtbot: Any) -> None:
    window.opening.source(str(save_video(tmp_path / "v.avi", 100)))
    session = window.session
    qtbot.waitUntil(lambda: session.picture is not None and (session.picture.frame_number or 0) > 5, timeout=10000)
    assert window.player_bar.isVisible()
    window.actions_.by_key["pause"].trigger()
    qtbot.wait(300)
    number = session.picture.frame_number
    qtbot.wait(200)
    assert session.picture.frame_number == number
    window.actions_.by_key["step"].trigger()
    qtbot.waitUntil(lambda: session.picture.frame_number > number)
    window.player_bar.place.setValue(80)
    qtbot.waitUntil(lambda: session.picture.frame_number == 80)
    left = float(session.found.xyxy[0, 0])
    assert left == pytest.approx(160, abs=4)  # the square is where this frame has it
    assert window.player_bar.time.text() == "0:03 / 0:04"
    window.actions_.by_key["cancel"].trigger()
    assert not window.pane.running
    assert len(session.rows)  # what was found stays


def test_a_camera_that_is_not_there_is_told(window: MainWindow, see: See, seen: MainWindow) -> None:
    see(window, "/dev/video99")
    assert "no such camera" in window.messages.text
    see(window, DRAWN)
    assert window.session.picture is not None
    assert window.messages.text == ""


def test_a_broken_bundle_leaves_the_open_one(seen: MainWindow, tmp_path: Path, qtbot: Any) -> None:
    seen.opening.bundle(tmp_path)
    qtbot.waitUntil(lambda: "not a bundle" in seen.messages.text)
    assert seen.session.bundle == PROCEDURAL
    assert len(seen.session.rows)
    seen.messages.close_button.click()
    assert not seen.messages.isVisible()


def test_bundles_pictures_and_annotations_are_dropped(window: MainWindow, picture: Path, qtbot: Any) -> None:
    def drop(path: Path) -> None:
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path))])
        window.dropEvent(QDropEvent(QPointF(5, 5), Qt.CopyAction, mime, Qt.LeftButton, Qt.NoModifier))

    drop(picture)
    qtbot.waitUntil(lambda: not window.pane.running and len(window.session.found) == 8)
    drop(PROCEDURAL)
    qtbot.waitUntil(lambda: not window.pane.running and len(window.session.found) == 8)
    drop(coco(picture, [[20, 30, 60, 60]], [1]))
    qtbot.waitUntil(lambda: window.session.truth is not None)
    assert str(picture) in window.remembered.recent("sources")
    assert str(PROCEDURAL) in window.remembered.recent("bundles")


def test_language_changes_while_it_runs(seen: MainWindow, qtbot: Any) -> None:
    seen.choices.use_language("zh_CN")
    qtbot.waitUntil(lambda: seen.actions_.by_key["quit"].text() == "退出(&Q)")
    assert seen.side.tabText(0) == "筛选"
    assert seen.remembered.language == "zh_CN"
    seen.choices.use_language("en")
    qtbot.waitUntil(lambda: seen.actions_.by_key["quit"].text() == "&Quit")


def test_theme_changes_while_it_runs(seen: MainWindow, qapp: Any) -> None:
    seen.choices.use_theme("dark")
    dark = qapp.palette().window().color().lightness()
    seen.choices.use_theme("light")
    assert dark < 80 < 200 < qapp.palette().window().color().lightness()
    assert seen.remembered.theme == "light"


def test_filters_and_layout_are_remembered(make_window: Any, remembered: Any, seen: MainWindow) -> None:
    seen.filter(Filters(score=0.4, iou=0.6), True)
    seen.resize(1100, 640)
    seen.close()
    again = make_window()
    assert again.session.filters == Filters(score=0.4, iou=0.6)
    assert remembered.layout("window") is not None


def test_the_machine_panel_tells_rates_and_findings(seen: MainWindow, qtbot: Any) -> None:
    seen.side.setCurrentWidget(seen.side.live)
    qtbot.waitUntil(lambda: "chip" in seen.side.live.findings.toPlainText(), timeout=15000)
    qtbot.waitUntil(lambda: seen.side.live.chart is not None, timeout=15000)
    qtbot.waitUntil(lambda: seen.side.live.cells["total"][0].text() != "–")


def test_the_bundle_card_tells_what_the_manifest_says(seen: MainWindow) -> None:
    seen.side.setCurrentWidget(seen.side.card)
    text = seen.side.card.toPlainText()
    for word in ("procedural", "512 × 512", "int8", "airplane", "storage_tank", "map50 0.894", "layers", "onnx"):
        assert word in text


def test_every_action_has_a_menu_and_a_shortcut_that_works(window: MainWindow, qtbot: Any) -> None:
    keys = [command.key for command in COMMANDS if command.key]
    assert set(keys) == set(window.actions_.by_key)
    in_menus = {action.objectName() for menu in window.actions_.menus.values() for action in menu.actions()}
    assert set(keys) <= in_menus
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    pressed: list[str] = []
    for key, action in window.actions_.by_key.items():
        action.disconnect()  # only whether the keys arrive is asked here
        action.triggered.connect(lambda *_, key=key: pressed.append(key))
        action.setEnabled(True)
    for key, action in window.actions_.by_key.items():
        assert action.shortcut().count() == 1, key
        QTest.keySequence(window, action.shortcut())
        assert pressed == [key], f"{action.shortcut().toString()} is for {key}"
        pressed.clear()


def test_the_keyboard_alone_suffices(window: MainWindow, picture: Path, qtbot: Any, monkeypatch: Any) -> None:
    """Open, sift, look, select in the table, hide a class, export: without a pointer."""
    monkeypatch.setattr("gui.open_dialogs.ask_file", lambda *_: str(picture))
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)

    def press(keys: str) -> None:
        QTest.keySequence(QApplication.focusWidget() or window, QKeySequence(keys))

    press("Ctrl+O")
    qtbot.waitUntil(lambda: len(window.session.found) == 8 and not window.pane.running)
    for _ in range(4):
        press("]")
    assert window.session.filters.score == pytest.approx(0.45)
    press("Ctrl+R")
    view, place = window.pane.view, window.pane.view.view_rect.center()
    view.setFocus()
    press("Ctrl++")
    press("Right")
    assert view.view_rect.center().x() > place.x()
    # From the picture Tab goes on to the side panel, and there Ctrl+Tab turns its pages.
    for _ in range(30):
        if window.side.isAncestorOf(QApplication.focusWidget()):
            break
        press("Tab")
    press("Ctrl+Tab")
    assert window.side.currentWidget() is window.side.table
    qtbot.waitUntil(lambda: window.side.table.model.rowCount() == 7)
    for _ in range(30):
        if QApplication.focusWidget() is window.side.table.view:
            break
        press("Tab")
    press("Down")
    press("Down")
    row = window.session.selected
    assert row == window.side.table.model.rows[window.side.table.view.currentIndex().row()]
    window.side.setCurrentWidget(window.side.filters)
    window.side.filters.classes.setFocus()
    press("Home")
    press("Space")
    assert window.session.filters.hidden == {0}

    def accept() -> None:
        dialog = QApplication.activeModalWidget()
        assert dialog is not None
        QTest.keyClick(dialog, Qt.Key_Return)

    QTimer.singleShot(300, accept)
    with qtbot.waitSignal(window.exporting.ended, timeout=20000):
        press("Ctrl+E")
    assert "detections.json" in window.messages.text


def test_nothing_is_cut_off_on_a_small_screen(seen: MainWindow) -> None:
    seen.resize(1024, 600)
    for tab in range(4):
        seen.side.setCurrentIndex(tab)
        QApplication.processEvents()
        assert (seen.width(), seen.height()) == (1024, 600)
    assert seen.pane.view.width() > 600


def threads_of_the_app() -> list[str]:
    """Name the threads that the kernel knows of which the app has started, Qt's and Python's."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("rsedge")]
    return sorted([*ours, *(name for name in names if name in ("Worker", "Background", "ExportThread"))])


def test_switching_sources_at_random_leaves_nothing_behind(make_window: Any, tmp_path: Path, qtbot: Any) -> None:
    shelf = DetectorShelf(lambda bundle, backend, workers: quick_detector(bundle, 0.004))
    before = threads_of_the_app()
    window = make_window(shelf=shelf)
    window.opening.bundle(PROCEDURAL)
    qtbot.waitUntil(lambda: window.session.bundle is not None)
    sources = [
        save_video(tmp_path / "v.avi", 60), save(tmp_path / "p" / "a.png", draw((256, 300), SQUARES)), tmp_path / "p",
        save(tmp_path / "p" / "b.png", draw((700, 900), SQUARES)), DRAWN, "/dev/video99",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    done = {"switched": 0, "cancelled": 0, "second": 0, "reopened": 0}
    for _ in range(200):
        what = rng.random()
        if what < 0.6:
            window.opening.source(str(sources[rng.integers(len(sources))]))
            done["switched"] += 1
        elif what < 0.8:
            window.commands.cancel()
            done["cancelled"] += 1
        elif what < 0.9:
            window.commands.no_second() if window.comparing.second else window.opening.second(PROCEDURAL)
            done["second"] += 1
        else:
            window.opening.bundle(PROCEDURAL)
            done["reopened"] += 1
        qtbot.wait(int(rng.integers(0, 25)))
    assert min(done.values()) > 5, done
    qtbot.waitUntil(lambda: not window.pane.running or window.pane.player is not None, timeout=20000)
    window.close()
    assert window.all_ended
    assert all(worker.isFinished() for worker in window.pane.leaving)
    assert threads_of_the_app() == before
