"""A scene of 20,000 x 20,000 pixels in the window: looked at everywhere, never whole in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

rasterio = pytest.importorskip("rasterio")

ROOT = Path(__file__).resolve().parents[2]
SIDE = 20_000
# The whole would be 1,144 MiB as three bands, and 1,526 MiB as the screen wants it.
MOST_MIB = 450

# A child, so that the peak is this window's and nobody else's.
LOOK = """
import os, sys
from pathlib import Path
from PyQt5.QtCore import QCoreApplication, QPointF, QSettings
from PyQt5.QtWidgets import QApplication
app = QApplication(["x"])
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.settings import Remembered
from gui.worker import DetectorShelf
from tests.gui.squares import quick_detector
import time

def memory(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))

def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        app.processEvents()
        time.sleep(0.002)

scene, store = Path(sys.argv[1]), Path(sys.argv[2])
window = MainWindow(
    Remembered(QSettings(str(store / "s.ini"), QSettings.IniFormat)),
    DetectorShelf(lambda bundle, backend, workers: quick_detector(bundle)),
)
window.resize(1280, 800)
window.show()
window.opening.bundle(PROCEDURAL)
wait(lambda: window.session.bundle is not None)
before = memory("VmRSS")
window.opening.source(str(scene))
wait(lambda: window.pane.watch.clock.pace().images > 20)
view = window.pane.view
view.show_boxes = False
pyramid = view.layer.pyramid
assert pyramid.size_hw == (20000, 20000)

def colour(x, y):
    # What the screen shows at a place of the scene, once it is there.
    at = view.to_screen(QPointF(x, y)).toPoint()
    return view.grab().toImage().pixelColor(at).getRgb()[:3]

def look_at(x, y, scale):
    view.zoom_to(scale)
    middle = view.view_rect.center()
    view.pan_by((middle.x() - x) * view.scale, (middle.y() - y) * view.scale)
    wait(lambda: (view.repaint(), not view.layer.wanted)[1])

# The squares of the drawing: 1,000 pixels each, their colour tells which one.
for column in (0, 13, 19):
    for row in (10, 19):
        for scale in (0.15, 0.6, 1.0, 4.0):
            x, y = column * 1000 + 500, row * 1000 + 500
            look_at(x, y, scale)
            red, green, blue = colour(x, y)
            assert abs(red - 12 * column) <= 3 and abs(green - 12 * row) <= 3 and abs(blue - 90) <= 3, (
                column, row, scale, (red, green, blue))
window.commands.cancel()
wait(lambda: not window.pane.leaving)
assert 0 < len(window.session.picture.candidates.tiles)
print(before, memory("VmHWM"), pyramid._kept_bytes / 2**20)
window.close()
assert window.all_ended
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of one colour each, in compressed tiles: a small file of a large picture."""
    import numpy as np

    path = tmp_path_factory.mktemp("large") / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", photometric="RGB", tiled=True,
        blockxsize=512, blockysize=512, compress="zstd", crs="EPSG:32631",
        transform=rasterio.transform.from_origin(500_000, 5_500_000, 0.5, 0.5),
    ) as file:  # fmt: skip
        red = np.repeat(12 * np.arange(20, dtype=np.uint8), 1000)
        for top in range(0, SIDE, 512):
            rows = min(512, SIDE - top)
            green = 12 * (np.arange(top, top + rows) // 1000).astype(np.uint8)
            band = np.stack([
                np.broadcast_to(red, (rows, SIDE)), np.broadcast_to(green[:, None], (rows, SIDE)),
                np.full((rows, SIDE), 90, np.uint8),
            ])  # fmt: skip
            file.write(band, window=rasterio.windows.Window(0, top, SIDE, rows))
    return path


def test_looking_around_in_it(scene: Path, tmp_path: Path) -> None:
    environ = {"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOOK, str(scene), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    before, peak, kept = map(float, done.stdout.split()[-3:])
    print(f"{before:.0f} MiB before, {peak:.0f} at most, {kept:.0f} of them tiles on the shelf")
    assert peak - before < MOST_MIB
