"""A whole session in the real window: open, detect, filter, select, compare, export, close. Run as a script.

Arguments: a folder for pictures of the window, one for what it writes, and "all" for pictures of other screens too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import rasterio
from PyQt5.QtWidgets import QApplication

from deploy.procedural import draw_scene
from gui import gui_command
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.sifting import Filters

# What `import cv2` of a wheel with Qt leaves behind; the headless one does not.
os.environ.setdefault("QT_QPA_PLATFORM_PLUGIN_PATH", str(Path(cv2.__file__).parent / "qt" / "plugins"))

PICTURES, WORK, ALL = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["all"]


def write_sources() -> tuple[Path, Path]:
    scene = draw_scene(88, (1536, 2048), georeference=True)
    path = WORK / "harbour.tif"
    assert scene.geotransform is not None
    with rasterio.open(
        path, "w", driver="GTiff", width=2048, height=1536, count=3, dtype="uint8", tiled=True, crs=scene.crs,
        transform=rasterio.Affine.from_gdal(*scene.geotransform),
    ) as file:  # fmt: skip
        file.write(scene.image.transpose(2, 0, 1))
    video = WORK / "flight.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (960, 540))
    for i in range(60):
        writer.write(cv2.cvtColor(scene.image[400 : 400 + 540, 8 * i : 8 * i + 960], cv2.COLOR_RGB2BGR))
    writer.release()
    return path, video


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        QApplication.processEvents()
        time.sleep(0.003)


def rest(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def drive(_: object = None) -> int:
    window = next(w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow))
    platform = QApplication.instance().platformName()
    assert platform == os.environ.get("RSEDGE_PLATFORM", "xcb"), platform
    wait(lambda: len(window.session.rows) and not window.pane.running)
    scene, video = write_sources()
    window.choices.use_theme("light")
    window.resize(1280, 800)
    window.opening.source(str(scene))
    wait(lambda: window.pane.running)
    wait(lambda: not window.pane.running)
    assert len(window.session.rows) > 20
    window.filter(Filters(score=0.4), True)
    window.pane.view.zoom_by(2.5)
    rest(1.0)
    window.commands.walk(1)
    rest(0.6)
    shoot(window, "scene")
    window.commands.loop(True)
    window.opening.source(str(video))
    wait(lambda: window.session.picture is not None and (window.session.picture.frame_number or 0) > 10)
    window.side.setCurrentWidget(window.side.live)
    wait(lambda: window.side.live.chart is not None)
    rest(4.0)
    shoot(window, "video")
    paints: list[float] = []
    window.pane.view.painted.connect(paints.append)
    rest(1.0)
    assert len(paints) > 5  # a changed theme leaves the picture moving
    window.commands.cancel()
    window.side.setCurrentWidget(window.side.filters)
    window.opening.source(str(scene))
    window.opening.second(PROCEDURAL.parent / "vhr10")
    wait(lambda: window.comparing.second is not None and len(window.comparing.second.session.rows))
    wait(lambda: not window.pane.running and not window.comparing.second.running)
    window.pane.view.zoom_by(3)
    rest(1.5)
    shoot(window, "comparison")
    window.commands.no_second()
    if ALL:
        other_screens(window)
    window.exporting.start(WORK / "out", ("coco", "geojson"), whole=False)
    wait(lambda: window.exporting.thread_ is None)
    assert (WORK / "out" / "detections.geojson").is_file(), window.messages.text
    window.close()
    return 0


def other_screens(window: MainWindow) -> None:
    """A small touch panel and a large screen, every page of the side panel, both languages."""
    window.resize(1024, 600)
    rest(0.3)
    assert (window.width(), window.height()) == (1024, 600)  # nothing that it holds asks for more
    for language in ("zh_CN", "en"):
        window.choices.use_language(language)
        for page, name in enumerate(("filters", "table", "machine", "bundle")):
            window.side.setCurrentIndex(page)
            rest(0.4)
            shoot(window, f"small_{name}_{language}", themes=("light",) if language == "en" else ("dark",))
    window.side.setCurrentIndex(0)
    window.resize(3840, 2160)
    rest(0.5)
    shoot(window, "large", themes=("dark",))
    window.resize(1280, 800)
    rest(0.2)


def shoot(window: MainWindow, name: str, themes: tuple[str, ...] = ("light", "dark")) -> None:
    """Keep what is really on the screen."""
    for theme in themes:
        window.choices.use_theme(theme)
        rest(0.4)
        handle = window.windowHandle()
        picture = handle.screen().grabWindow(int(window.winId())) if handle is not None else window.grab()
        assert not picture.isNull()
        assert picture.save(str(PICTURES / f"{name}_{theme}.png"))


QApplication.exec_ = drive
sys.exit(gui_command.run())
