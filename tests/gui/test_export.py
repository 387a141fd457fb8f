"""Taking away: what is written is what the screen shows, read back with other libraries; faults become messages."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from gui.export_dialog import ExportDialog
from gui.exporting import Order, free_folder, write_records
from gui.main_window import MainWindow
from gui.sifting import Filters
from tests.gui.squares import draw, save, save_video
from tests.gui.test_scenes import SQUARES, save_scene


def export(window: MainWindow, qtbot: Any, out: Path, *formats: str, whole: bool = False) -> None:
    with qtbot.waitSignal(window.exporting.ended, timeout=30000):
        window.exporting.start(out, formats, whole=whole)


def test_an_image_goes_out_as_it_is_filtered(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    see(window, save(tmp_path / "a.png", draw((256, 300), [(20, 30, 60, 0), (150, 40, 30, 1), (200, 150, 20, 2)])))
    window.filter(Filters(score=0.35, iou=0.5, hidden=frozenset({1})), True)
    export(window, qtbot, tmp_path / "out", "coco", "csv", "overlay")
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    assert sorted(names[a["category_id"]] for a in coco["annotations"]) == ["airplane", "storage_tank"]
    with open(tmp_path / "out" / "detections.csv", encoding="utf-8-sig") as file:
        assert len(list(csv.DictReader(file))) == 2
    picture = cv2.imread(str(tmp_path / "out" / "overlays" / "a.jpg"))
    assert picture.shape == (256, 300, 3)
    assert str(tmp_path / "out" / "detections.json") in window.messages.text


def test_a_folder_goes_out_whole(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "many" / f"{i}.png", draw((100, 100), [(10, 10, 30, i)]))
    see(window, tmp_path / "many")
    window.filter(Filters(iou=0.5), True)
    export(window, qtbot, tmp_path / "out", "coco", "overlay")
    coco = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(coco["images"]) == len(coco["annotations"]) == 5
    assert len(list((tmp_path / "out" / "overlays").glob("*.jpg"))) == 5


def test_a_scene_goes_out_for_a_gis(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio")
    see(window, save_scene(tmp_path / "scene.tif", draw((1100, 1800), SQUARES)))
    window.filter(Filters(iou=0.5), True)
    qtbot.waitUntil(lambda: len(window.session.found) == 4)
    export(window, qtbot, tmp_path / "out", "geojson", "gpkg")
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    assert len(features) == 4
    assert all(0 < f["geometry"]["coordinates"][0][0][0] < 6 for f in features)  # UTM zone 31
    assert pyogrio.read_info(tmp_path / "out" / "detections.gpkg")["features"] == 4


def test_a_video_is_run_again_and_annotated(window: MainWindow, qtbot: Any, tmp_path: Path) -> None:
    from tests.gui.squares import quick_detector

    video = save_video(tmp_path / "v.avi", 12)
    window.opening.source(str(video))
    qtbot.waitUntil(lambda: window.session.picture is not None, timeout=10000)
    dialog = window.exporting.ask(window, tmp_path)
    assert dialog is not None
    assert dialog.formats == ("coco", "video")
    assert dialog.whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploy.detector.open_detector", lambda bundle, backend, **options: quick_detector(bundle))
        export(window, qtbot, tmp_path / "out", "coco", "video", whole=True)
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 12
    film = cv2.VideoCapture(str(tmp_path / "out" / "videos" / "v.mkv"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(12, abs=1)


def test_the_dialogue_asks_for_at_least_one_format(qtbot: Any, tmp_path: Path) -> None:
    dialog = ExportDialog(tmp_path / "out", can_rerun=False, moving=False)
    qtbot.addWidget(dialog)
    assert dialog.formats == ("coco", "overlay")
    assert not dialog.boxes["video"].isEnabled()
    dialog.boxes["coco"].setChecked(False)
    dialog.boxes["overlay"].setChecked(False)
    assert not dialog.export.isEnabled()
    dialog.boxes["csv"].setChecked(True)
    assert dialog.export.isEnabled()
    dialog.folder.setText("  ")
    assert not dialog.export.isEnabled()


def test_an_earlier_export_is_replaced_only_on_demand(
    window: MainWindow, see: Any, qtbot: Any, tmp_path: Path, picture: Path
) -> None:
    see(window, picture)
    out = tmp_path / "out"
    export(window, qtbot, out, "coco", "csv")
    dialog = window.exporting.ask(window, tmp_path)
    assert dialog is not None
    qtbot.addWidget(dialog)
    assert dialog.replace.isHidden()
    dialog.folder.setText(str(out))
    assert not dialog.replace.isHidden()
    assert not dialog.export.isEnabled()
    dialog.replace.setChecked(True)
    assert dialog.export.isEnabled()
    assert dialog.overwrite
    dialog.folder.setText(str(tmp_path / "other"))
    dialog.folder.setText(str(out))
    assert not dialog.overwrite, "the consent was for the folder as it stood there"
    window.side.filters.score.setValue(60)
    with qtbot.waitSignal(window.exporting.ended, timeout=20000):
        window.exporting.start(out, ("coco",), whole=False, overwrite=True)
    assert len(json.loads((out / "detections.json").read_text())["annotations"]) == 2
    assert not (out / "detections.csv").exists()


def test_a_full_disk_is_told_and_the_app_goes_on(
    window: MainWindow, see: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(window, save(tmp_path / "a.png", draw((256, 300), [(20, 30, 60, 0)])))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "overlays" / "a.jpg"))

    monkeypatch.setattr("deploy.sink_overlay.write_overlay", full)
    export(window, qtbot, tmp_path / "out", "overlay")
    assert "No space left on device" in window.messages.text
    assert "free some space" in window.messages.text
    monkeypatch.undo()
    export(window, qtbot, tmp_path / "again", "overlay")
    assert (tmp_path / "again" / "overlays" / "a.jpg").is_file()


def test_a_folder_that_cannot_be_made_is_told(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    see(window, save(tmp_path / "a.png", draw((256, 300), [(20, 30, 60, 0)])))
    (tmp_path / "file").write_text("in the way")
    export(window, qtbot, tmp_path / "file" / "out", "csv")
    assert str(tmp_path / "file") in window.messages.text
    assert "choose another folder" in window.messages.text
    assert "Written" not in window.messages.text


def test_an_export_stops_between_records(window: MainWindow, see: Any, tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / "many" / f"{i}.png", draw((100, 100), [(10, 10, 30, i % 5)]))
    see(window, tmp_path / "many")
    session = window.session
    assert session.bundle is not None
    assert session.manifest is not None
    order = Order(tmp_path / "out", ("coco",), session.filters, session.bundle, session.manifest)
    steps = write_records(order, session.exported_pictures())
    next(steps)
    next(steps)
    steps.close()
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 2


def test_a_proposed_folder_is_free(tmp_path: Path) -> None:
    first = free_folder(tmp_path, "/x/some scene.tif")
    assert first.name.startswith("some_scene_")
    first.mkdir()
    second = free_folder(tmp_path, "/x/some scene.tif")
    assert not second.exists()
    assert free_folder(tmp_path, "rtsp://camera/live").parent == tmp_path
