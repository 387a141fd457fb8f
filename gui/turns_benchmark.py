"""Measure how long the window's loop is held up by each thing that a user does, for the first time and again.

    python -m gui.turns_benchmark [--rounds N] [--json FILE]

The app's own window on an X server, an emulated NPU behind it. Each action is called from the loop, as a shortcut calls
it, and the loop is watched until the window has come to rest; see `gui.loop_watch` for what is counted. "first" is the
first time in the life of a process, when libraries, fonts and caches are met; "again" the second. Every round is a
process of its own; of each action the median of the rounds' longest turns is told ("worst_ms": the largest of these),
and the longest turn of all rounds ("worst_single_ms"). The last line on standard output is one JSON document.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from PyQt5.QtCore import Qt, QTimer

from deploy.measured_on import hand_over
from deploy.procedural import draw_scene

from . import benchmark_stage as stage
from .loop_watch import LIMIT_MS, LoopWatch
from .running import Options

REST_S = 0.35
SOURCES = {"image": "image.png", "folder": "folder", "scene": "scene.tif", "video": "flight.mp4"}
Action = tuple[str, Callable[[], object], Callable[[], object]]


def sources_in(store: Path) -> dict[str, Path]:
    """Return where the sources lie: a large image, a folder of images, a georeferenced scene and a video."""
    return {kind: store / name for kind, name in SOURCES.items()}


def draw_sources(store: Path) -> None:
    """Write them. In a process of its own: the window's must meet its libraries itself."""
    import rasterio

    paths = sources_in(store)
    scene = draw_scene(stage.SEED, (2048, 3072), georeference=True)
    paths["folder"].mkdir()
    cv2.imwrite(str(paths["image"]), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    for i in range(4):
        part = cv2.cvtColor(scene.image[: 600 + i, : 800 + i], cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(paths["folder"] / f"{i}.png"), part)
    assert scene.geotransform is not None
    height, width = scene.image.shape[:2]
    transform = rasterio.Affine.from_gdal(*scene.geotransform)
    with rasterio.open(
        paths["scene"], "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", tiled=True,
        crs=scene.crs, transform=transform,
    ) as file:  # fmt: skip
        file.write(scene.image.transpose(2, 0, 1))
    stage.draw_video(paths["video"])


def actions(window: Any, sources: dict[str, Path], out: Path) -> Iterator[Action]:
    """Yield each action's name, what does it, and when the window has come to rest."""
    pane, view, side, commands = window.pane, window.pane.view, window.side, window.commands

    def at_rest() -> bool:
        return not pane.running and window.exporting.thread_ is None

    def moving() -> bool:
        return bool(pane.watch.clock.pace().images > 10)

    def filters(**changes: Any) -> Callable[[], object]:
        return lambda: window.filter(replace(window.session.filters, **changes), True)

    def open_(kind: str) -> Callable[[], object]:
        return lambda: window.opening.source(str(sources[kind]))

    window.options = Options(at_pace=True, loop=True)
    yield "open a bundle", lambda: window.opening.bundle(stage.BUNDLE), lambda: window.session.bundle is not None
    for kind in ("image", "folder", "scene"):
        yield f"open: {kind}", open_(kind), at_rest
    yield "zoom in", lambda: view.zoom_by(4.0), at_rest
    yield "pan", lambda: view.pan_by(80, 40), at_rest
    yield "fit", view.fit, at_rest
    yield "score", filters(score=0.5), at_rest
    yield "overlap", filters(iou=0.3), at_rest
    yield "undo", commands.undo, at_rest
    for tab, name in enumerate(("filters", "table", "machine", "bundle")):
        yield f"panel: {name}", partial(side.setCurrentIndex, tab), at_rest
    yield "panel: table again", lambda: side.setCurrentIndex(1), at_rest
    yield "sort the table", lambda: side.table.view.sortByColumn(1, Qt.AscendingOrder), at_rest
    yield "next box", lambda: commands.walk(1), at_rest
    yield "boxes off", lambda: commands.boxes(False), at_rest
    yield "boxes on", lambda: commands.boxes(True), at_rest
    yield "side panel off", lambda: side.setVisible(False), at_rest
    yield "side panel on", lambda: side.setVisible(True), at_rest
    yield "export", lambda: window.exporting.start(out, ("coco", "csv", "geojson", "overlay"), whole=False), at_rest
    yield "second bundle", lambda: window.opening.second(stage.BUNDLE), lambda: window.comparing.second and at_rest()
    yield "no second bundle", commands.no_second, at_rest
    yield "video", open_("video"), moving
    yield "pause", commands.pause, lambda: True
    yield "step", commands.step, lambda: True
    yield "seek", lambda: commands.seek_by(2.0), lambda: True
    yield "play", commands.pause, lambda: True
    yield "cancel", commands.cancel, at_rest
    yield "dark", lambda: window.choices.use_theme("dark"), at_rest
    yield "light", lambda: window.choices.use_theme("light"), at_rest
    yield "Chinese", lambda: window.choices.use_language("zh_CN"), at_rest
    yield "English", lambda: window.choices.use_language("en"), at_rest
    for name, menu in window.actions_.menus.items():
        yield f"menu: {name}", partial(menu.popup, window.mapToGlobal(window.rect().center())), lambda: True
        menu.close()
    yield "smaller window", lambda: window.resize(1024, 600), at_rest
    yield "larger window", lambda: window.resize(1280, 800), at_rest


def watched(act: Callable[[], object], at_rest: Callable[[], object]) -> dict[str, float]:
    """Do it from the loop; return what the loop's turns took until the window came to rest."""
    watch = LoopWatch()
    watch.start()
    QTimer.singleShot(0, act)
    stage.rest(0.05)
    stage.wait(at_rest)
    stage.rest(REST_S)
    return watch.stop().told()


def one_round(store: Path) -> dict[str, dict[str, float]]:
    """Do everything twice in this process; return the longest turn of each action, "first" and "again", ms."""
    from .dressing import Dressing

    with stage.screen():
        app = stage.application()
        sources = sources_in(store)
        npu, manifest = stage.emulated()
        window = stage.make_window(stage.detector_on(npu, manifest), store)
        dressing = Dressing(app)
        dressing.use_theme("light")
        window.choices.use_dressing(dressing)
        stage.rest(1.0)
        told: dict[str, dict[str, float]] = {}
        for time in ("first", "again"):
            for name, act, at_rest in actions(window, sources, store / f"out-{time}"):
                told.setdefault(name, {})[time] = watched(act, at_rest)["own_worst_ms"]
        window.close()
        app.processEvents()
    return told


_CHILD = "import json, sys; from pathlib import Path; from gui import turns_benchmark as b\n"


def in_a_child(call: str, store: Path) -> str:
    """Return what a call of this module, with a folder, prints in a process of its own; the last line of it."""
    command = [sys.executable, "-c", f"{_CHILD}print(json.dumps(b.{call}(Path(sys.argv[1]))))", str(store)]
    done = subprocess.run(
        command, cwd=Path(__file__).resolve().parent.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def measure(rounds: int, store: Path) -> dict[str, Any]:
    """Run all rounds; see the module's text."""
    found = []
    for number in range(rounds):
        folder = store / str(number)
        folder.mkdir()
        in_a_child("draw_sources", folder)
        found.append(json.loads(in_a_child("one_round", folder)))
        worst = max((time, name) for name, times in found[-1].items() for time in times.values())
        print(f"round {number + 1}: the longest turn took {worst[0]:.1f} ms ({worst[1]})", flush=True)
    told = {
        name: {time: statistics.median(one[name][time] for one in found) for time in ("first", "again")}
        for name in found[0]
    }
    return {
        "actions": told,
        "worst_ms": max(max(times.values()) for times in told.values()),
        "worst_single_ms": max(time for one in found for times in one.values() for time in times.values()),
        "rounds": rounds,
        "targets": {"worst_ms": LIMIT_MS},
    }


def main() -> int:
    """Parse the command line, measure, print."""
    parser = stage.parser_of("turns_benchmark", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stage.screen() as told, tempfile.TemporaryDirectory() as store:
        result = {**measure(options.rounds, Path(store)), "screen": told, **stage.origin_with_qt()}
    print(f"{'longest turn of the loop, ms':28} {'first':>8} {'again':>8}")
    for name, times in result["actions"].items():
        mark = "" if max(times.values()) <= LIMIT_MS else "  above"
        print(f"{name:28} {times['first']:8.1f} {times['again']:8.1f}{mark}")
    return hand_over(result, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
