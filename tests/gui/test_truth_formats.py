"""Annotations in all four formats over the same picture: the window counts the same hits, misses and false alarms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PyQt5.QtCore import QPointF

from gui.main_window import MainWindow
from gui.sifting import Filters
from tests.gui.squares import coco, draw, save

# Of `squares.SQUARES`, as x, y, w, h and the class: two that are there, and one that is not.
TRUE = [(20, 30, 60, 60, "airplane"), (150, 40, 30, 30, "ship"), (5, 240, 10, 10, "ship")]
SIZE_HW = (256, 300)


def write_coco(picture: Path) -> Path:
    return coco(picture, [list(box[:4]) for box in TRUE], [("airplane", "ship").index(box[4]) + 1 for box in TRUE])


def write_yolo(picture: Path) -> Path:
    folder = picture.parent.parent / "labels"
    folder.mkdir()
    height, width = SIZE_HW
    names = ["airplane", "ship"]  # of the bundle, whose first classes these are
    lines = [
        f"{names.index(name)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
        for x, y, w, h, name in TRUE
    ]
    (folder / f"{picture.stem}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_voc(picture: Path) -> Path:
    folder = picture.parent.parent / "voc"
    folder.mkdir()
    height, width = SIZE_HW
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h, name in TRUE
    )
    (folder / f"{picture.stem}.xml").write_text(
        f"<annotation><filename>{picture.name}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )
    return folder


def write_dota(picture: Path) -> Path:
    folder = picture.parent.parent / "dota"
    folder.mkdir()
    lines = ["imagesource:drawn", "gsd:0.5"]
    lines += [f"{x} {y} {x + w} {y} {x + w} {y + h} {x} {y + h} {name} 0" for x, y, w, h, name in TRUE]
    (folder / f"{picture.stem}.txt").write_text("\n".join(lines) + "\n")
    return folder


FORMATS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc, "dota": write_dota}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_boxes_in_every_format(seen: MainWindow, picture: Path, qtbot: Any, kind: str) -> None:
    seen.filter(Filters(iou=0.5), True)
    seen.opening.truth(FORMATS[kind](picture))
    qtbot.waitUntil(lambda: seen.session.comparison is not None or bool(seen.messages.text))
    assert seen.messages.text == ""
    assert seen.session.comparison.counts == (2, 2, 1)
    qtbot.waitUntil(lambda: "precision <b>0.500</b>, recall <b>0.667</b>" in seen.side.filters.comparison.text())
    # The miss is drawn where nothing was found: white dots along the box's left side.
    view = seen.pane.view
    view.show_labels = False
    view.zoom_to(4.0)
    view.pan_by(1000, -1000)
    at = view.to_screen(QPointF(5, 245))
    image = view.grab().toImage()
    column = [
        image.pixelColor(round(at.x()) + dx, round(at.y()) + dy).lightness() for dx in (-1, 0, 1) for dy in range(-8, 9)
    ]
    assert max(column) > 240
    assert min(column) < 120


@pytest.mark.parametrize("kind", ["voc", "dota"])
def test_classes_of_another_list_are_refused(seen: MainWindow, picture: Path, qtbot: Any, kind: str) -> None:
    folder = FORMATS[kind](picture)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("airplane", "cat").replace("ship", "dog"))
    seen.opening.truth(folder)
    qtbot.waitUntil(lambda: bool(seen.messages.text))
    assert seen.session.truth is None
    assert len(seen.session.rows) == 7  # the app shows what it showed


def test_annotations_of_a_folder_follow_the_page(window: MainWindow, see: Any, tmp_path: Path, qtbot: Any) -> None:
    for name, side in (("a", 60), ("b", 40)):
        save(tmp_path / "images" / f"{name}.png", draw(SIZE_HW, [(20, 30, side, 0)]))
    labels = tmp_path / "labels"
    labels.mkdir()
    height, width = SIZE_HW
    (labels / "a.txt").write_text(f"0 {50 / width} {60 / height} {60 / width} {60 / height}\n")
    (labels / "b.txt").write_text("")
    see(window, tmp_path / "images")
    window.filter(Filters(iou=0.5), True)
    window.opening.truth(labels)
    qtbot.waitUntil(lambda: window.session.comparison is not None)
    window.show_entry(str(tmp_path / "images" / "a.png"))
    qtbot.waitUntil(lambda: window.session.comparison is not None and window.session.comparison.counts[0] == 1)
    window.show_entry(str(tmp_path / "images" / "b.png"))
    qtbot.waitUntil(lambda: window.session.comparison.counts[0] == 0 and window.session.comparison.counts[1] > 0)
