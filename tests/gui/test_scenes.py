"""Georeferenced scenes: tile by tile, through a pyramid, placed on the earth; and the pyramid by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PyQt5.QtCore import QPointF

from deploy.scenes import open_scene
from gui.main_window import MainWindow
from gui.scene_pyramid import TILE_PX, ScenePyramid
from gui.sifting import Filters
from tests.gui.squares import draw

rasterio = pytest.importorskip("rasterio")

SQUARES = [(100, 100, 50, 0), (490, 300, 60, 1), (1200, 900, 40, 2), (1500, 200, 70, 3)]


def save_scene(path: Path, image: np.ndarray, *, georeference: bool = True) -> Path:
    h, w = image.shape[:2]
    placed = {"crs": "EPSG:32631", "transform": rasterio.transform.from_origin(500_000, 5_500_000, 0.5, 0.5)}
    with rasterio.open(
        path, "w", driver="GTiff", width=w, height=h, count=3, dtype="uint8", photometric="RGB", tiled=True,
        blockxsize=256, blockysize=256, **(placed if georeference else {}),
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return save_scene(tmp_path / "scene.tif", draw((1100, 1800), SQUARES))


def test_a_scene_is_found_tile_by_tile_and_placed(window: MainWindow, scene: Path, qtbot: Any) -> None:
    steps: list[tuple[int, int]] = []
    window.pane.progressed.connect(lambda p: steps.append((p.done, p.total)))
    window.filter(Filters(iou=0.5), True)
    window.opening.source(str(scene))
    qtbot.waitUntil(lambda: bool(steps) and steps[-1][0] == steps[-1][1] and not window.pane.running, timeout=20000)
    session = window.session
    assert len(session.found) == 4
    order = np.argsort(session.found.class_id)
    wanted = [[x, y, x + s, y + s] for x, y, s, _ in SQUARES]
    np.testing.assert_allclose(session.found.xyxy[order], wanted, atol=1.5)
    # The place under the cursor: half a metre a pixel, from the corner of the scene.
    view = window.pane.view
    at = view.to_screen(QPointF(1000, 400))
    place = view.to_picture(QPointF(at.x(), at.y()))
    view.hovered.emit(place.x(), place.y())
    assert "500500.0, 5499800.0" in window.status.place.text()
    assert "°" in window.status.place.text()
    assert view.metres_per_px == pytest.approx(0.5, rel=2e-3)
    window.side.setCurrentWidget(window.side.table)
    qtbot.waitUntil(lambda: window.side.table.model.rowCount() == 4)
    model = window.side.table.model
    line = int(np.flatnonzero(session.found.class_id[model.rows] == 3)[0])
    width, height = (float(v) for v in model.index(line, 2).data().split(" × "))
    assert (width, height) == pytest.approx((35, 35), abs=1)
    lon, lat = (float(v) for v in model.index(line, 3).data().split(", "))
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32631", [lon], [lat])
    assert (x, y) == pytest.approx((500_000 + 1535 * 0.5, 5_500_000 - 235 * 0.5), abs=0.6)


def test_the_scene_is_drawn_from_tiles_when_one_looks_closely(window: MainWindow, scene: Path, qtbot: Any) -> None:
    window.opening.source(str(scene))
    qtbot.waitUntil(lambda: not window.pane.running and window.session.picture is not None, timeout=20000)
    view = window.pane.view
    view.show_boxes = False
    view.zoom_to(2.0)
    view.pan_by(-(1200 + 20 - view.view_rect.center().x()) * 2, -(900 + 20 - view.view_rect.center().y()) * 2)
    qtbot.waitUntil(lambda: not view.layer.wanted or not view.isVisible(), timeout=10000)
    middle = view.grab().toImage().pixelColor(view.width() // 2, view.height() // 2)
    assert middle.getRgb()[:3] == (0, 0, 255)


def test_overlap_can_be_moved_after_the_scene(window: MainWindow, scene: Path, qtbot: Any) -> None:
    window.opening.source(str(scene))
    qtbot.waitUntil(lambda: not window.pane.running and len(window.session.found) > 4, timeout=20000)
    window.filter(Filters(iou=0.5), True)
    qtbot.waitUntil(lambda: len(window.session.found) == 4)


@pytest.mark.parametrize("size_hw", [(700, 900), (1100, 5000)])
def test_tiles_of_every_level_are_the_reduced_scene(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (size_hw[0] // 50, size_hw[1] // 50, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(coarse, 50, 0), 50, 1)
    path = save_scene(tmp_path / "s.tif", image)
    pyramid = ScenePyramid(open_scene(path))
    height, width = pyramid.size_hw
    for level in range(pyramid.levels):
        keys = pyramid.visible(level, 0, 0, width, height)
        step = TILE_PX << level
        assert len(keys) == -(-width // step) * -(-height // step)
        for key in keys:
            assert pyramid.tile(key) is None
            tile = pyramid.load(key)
            x, y, w, h = pyramid.bounds(key)
            part = image[y : y + h, x : x + w]
            reduced = part[: h >> level << level, : w >> level << level].astype(float)
            reduced = reduced.reshape(h >> level, 1 << level, w >> level, 1 << level, 3).mean((1, 3))
            rgb = tile[..., 2::-1].astype(float)
            assert np.abs(rgb - reduced).mean() < 6
            assert pyramid.missing([key]) == []
    pyramid.close()


def test_the_pyramid_keeps_within_its_memory(tmp_path: Path) -> None:
    path = save_scene(tmp_path / "s.tif", np.zeros((2048, 4096, 3), np.uint8))
    pyramid = ScenePyramid(open_scene(path), cache_bytes=5 << 20)
    keys = pyramid.visible(0, 0, 0, 4096, 2048)
    for key in keys:
        pyramid.load(key)
    assert sum(tile.nbytes for tile in pyramid._kept.values()) <= 5 << 20
    assert pyramid.tile(keys[-1]) is not None
    assert pyramid.tile(keys[0]) is None
    pyramid.close()
    with pytest.raises(ValueError, match="closed"):
        pyramid.load(keys[0])


def test_the_overview_grows_out_of_painted_tiles(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (30, 45, 3)).astype(np.uint8).repeat(100, 0).repeat(100, 1)
    pyramid = ScenePyramid(open_scene(save_scene(tmp_path / "s.tif", image)))
    assert pyramid.factor > 2
    for y in range(0, 3000, 500):
        for x in range(0, 4500, 500):
            pyramid.paint(image[y : y + 500, x : x + 500], x, y)
    grown = pyramid.overview.copy()
    pyramid.load_overview()
    assert np.abs(grown.astype(int) - pyramid.overview).mean() < 6
    pyramid.close()
