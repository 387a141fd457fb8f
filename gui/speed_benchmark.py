"""Measure what the window costs: throughput beside a run without it, pictures a second, and from input to pixels.

    python -m gui.speed_benchmark [--rounds N] [--seconds S] [--json FILE]

An emulated NPU of three cores x 7.91 ms with int8 heads of the shipped bundle; real letterboxing and post-processing;
the app's own window, shown on the desktop's X server or on one of its own. The video is a drawn one of 1280 x 720,
looped at full speed: "decoded" hands over frames that lie in memory, as a hardware decoder does, "file" decodes MPEG-4
on the CPU. In every round each contestant takes its turn: "headless" is `Detector.stream` over the video and nothing
else, "window" the same video in the app. Shares are of the same round, reported are medians.

From input to pixels: 60 times a second a mouse event (dragging the picture) or a key (the score slider) is posted from
another thread, and the clock stops when the X server has answered after the frame that shows it. 2,000 boxes are on the
screen. "still": nothing else runs; "saturated": the runtime saturates the emulated NPU with the video meanwhile;
"video": the picture below is the video itself, with its own boxes.

The start is timed from the command to the window's first picture, Python's own start included. The loop is watched
after each run with the window, see `gui.loop_watch`. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PyQt5.QtCore import QCoreApplication, QEvent, QObject, QPointF, Qt, QTimer
from PyQt5.QtGui import QGuiApplication, QKeyEvent, QMouseEvent

from deploy.backends.emulated_npu import LATENCY_MS
from deploy.detections import Detections
from deploy.detector import Detector
from deploy.measured_on import hand_over
from deploy.tiling import Tile
from deploy.video import VideoSource

from . import benchmark_stage as stage
from .loop_watch import LoopWatch
from .running import Options
from .session import Picture
from .sifting import Candidates
from .worker import screen_levels

BOXES = 2000
INPUTS_PER_S = 60.0
TARGETS = {"share_of_headless": 0.95, "pictures_per_s": 30.0, "input_p99_ms": 50.0, "start_s": 1.5}


SOURCES: dict[str, Callable[[Path], Any]] = {"decoded": stage.Flight, "file": VideoSource}


def headless(detector: Detector, source: Any, seconds: float) -> float:
    """Return images/s of the runtime alone over a looped video, from the second result on."""
    stamps = []
    with source, closing(detector.stream(source)) as results:
        for result in results:
            if result.error is not None:
                raise ValueError(f"frame {result.frame.number} came out wrong: {result.error}")
            stamps.append(time.perf_counter())
            if stamps[-1] - stamps[0] > seconds:
                return (len(stamps) - 1) / (stamps[-1] - stamps[0])
    raise ValueError(f"{source.name} ended; a looped video does not")


def in_window(window: Any, video: Path, seconds: float) -> dict[str, Any]:
    """Return images/s and pictures/s of the same in the window, what painting took, and how the loop fared."""
    window.options = Options(at_pace=False, loop=True)
    window.opening.source(str(video))
    stage.wait(lambda: window.session.picture is not None and window.pane.watch.clock.pace().images > 60)
    shown, paints = [0], list[float]()
    connections = [
        window.pane.shown.connect(lambda: shown.__setitem__(0, shown[0] + 1)),
        window.pane.view.painted.connect(paints.append),
    ]
    signals = [window.pane.shown, window.pane.view.painted]
    begin, images = time.perf_counter(), window.pane.watch.clock.pace().images
    stage.rest(seconds)
    images, spent = window.pane.watch.clock.pace().images - images, time.perf_counter() - begin
    for signal, connection in zip(signals, connections, strict=True):
        signal.disconnect(connection)
    watch = LoopWatch()  # afterwards: a look every millisecond costs something too
    watch.start()
    stage.rest(seconds / 2)
    turns = watch.stop()
    window.commands.cancel()
    stage.wait(lambda: not window.pane.leaving)
    return {
        "images_per_s": images / spent,
        "pictures_per_s": min(shown[0], len(paints)) / spent,
        "paint_p50_ms": float(np.median(paints)),
        "paint_p99_ms": float(np.percentile(paints, 99)),
        "loop": turns.told(),
    }


def crowd() -> Picture:
    """Return a 720p picture with 2,000 boxes of five classes in rows and columns, none over another."""
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(np.arange(50), np.arange(BOXES // 50)), -1).reshape(-1, 2) * (25.0, 18.0)
    found = Detections(
        np.hstack([at, at + rng.uniform(8, 16, (BOXES, 2))]), rng.uniform(0.6, 1, BOXES), rng.integers(0, 5, BOXES)
    )
    # In tiles of 250, since one image keeps 300 boxes at most.
    parts = tuple(found.select(slice(k, k + 250)) for k in range(0, BOXES, 250))
    height, width = stage.VIDEO_HW
    tiles = tuple(Tile(0, 0, width, height) for _ in parts)
    pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Picture("crowd", stage.VIDEO_HW, Candidates(parts, stage.VIDEO_HW, tiles), pixels)


class Inputs(QObject):
    """Posts one kind of input at a steady rate from another thread, and takes the time until its pixels are out."""

    def __init__(self, window: Any, kind: str) -> None:
        super().__init__()
        self._window, self._kind = window, kind
        self._target = window.pane.view if kind == "pan" else window.side.filters.score
        self._desktop = int(window.winId())
        self._posted: deque[float] = deque()
        self._handled: list[float] = []
        self.late_ms: list[float] = []
        self._stop = threading.Event()
        view = window.pane.view
        (view.view_changed if kind == "pan" else window.pane.sifted).connect(self._was_handled)
        view.painted.connect(self._was_painted)
        self._thread = threading.Thread(target=self._post, name="rsedge-inputs", daemon=True)

    def measure(self, seconds: float) -> list[float]:
        """Return milliseconds from input to pixels, of each."""
        self._thread.start()
        stage.rest(seconds)
        self._stop.set()
        self._thread.join()
        stage.rest(0.3)
        return self.late_ms

    def _post(self) -> None:
        if self._kind == "pan":
            self._send(
                QMouseEvent(QEvent.MouseButtonPress, QPointF(400, 300), Qt.LeftButton, Qt.LeftButton, Qt.NoModifier)
            )
        number = 0
        begin = time.perf_counter()
        while not self._stop.wait(max(0.0, begin + number / INPUTS_PER_S - time.perf_counter())):
            number += 1
            if self._kind == "pan":
                there = number // 30 % 2
                step = (number % 30) * 4 if not there else 120 - (number % 30) * 4
                at = QPointF(410 + step + number % 2, 300 + step / 2)
                event: Any = QMouseEvent(QEvent.MouseMove, at, Qt.NoButton, Qt.LeftButton, Qt.NoModifier)
            else:
                key = Qt.Key_Right if number // 40 % 2 == 0 else Qt.Key_Left
                event = QKeyEvent(QEvent.KeyPress, key, Qt.NoModifier)
            self._posted.append(time.perf_counter())
            self._send(event)
        if self._kind == "pan":
            self._send(
                QMouseEvent(QEvent.MouseButtonRelease, QPointF(400, 300), Qt.LeftButton, Qt.NoButton, Qt.NoModifier)
            )

    def _send(self, event: Any) -> None:
        QCoreApplication.postEvent(self._target, event)

    def _was_handled(self, *_: object) -> None:
        if self._posted:
            self._handled.append(self._posted.popleft())

    def _was_painted(self, *_: object) -> None:
        shown, self._handled = self._handled, []
        if shown:
            QTimer.singleShot(0, lambda: self._is_out(shown))

    def _is_out(self, shown: list[float]) -> None:
        """Ask the X server for a pixel: what was sent before has arrived once it answers. Serves no other event."""
        QGuiApplication.primaryScreen().grabWindow(self._desktop, 0, 0, 1, 1)
        now = time.perf_counter()
        self.late_ms += [(now - at) * 1e3 for at in shown]


def inputs(window: Any, seconds: float) -> dict[str, float]:
    """Return p50 and p99 of dragging and of the slider, in the state that the window is in."""
    told: dict[str, float] = {}
    window.pane.view.zoom_by(1.0)
    for kind in ("pan", "slider"):
        window.filter(replace(window.session.filters, score=0.3), True)  # so that the slider has room to move
        stage.rest(0.1)
        late = Inputs(window, kind).measure(seconds)
        if len(late) < seconds * INPUTS_PER_S / 2:
            raise ValueError(f"{kind}: only {len(late)} of {seconds * INPUTS_PER_S:.0f} inputs reached the screen")
        told[f"{kind}_p50_ms"], told[f"{kind}_p99_ms"] = (float(np.percentile(late, q)) for q in (50, 99))
    return told


def show_crowd(window: Any, picture: Picture) -> None:
    """Put 2,000 boxes on the screen."""
    assert picture.pixels is not None
    window.pane.display(picture, screen_levels(picture.pixels))
    window.filter(replace(window.session.filters, score=0.3), True)
    window.pane.view.fit()
    stage.rest(0.3)
    if len(window.session.rows) != BOXES:
        raise ValueError(f"{len(window.session.rows)} boxes are on the screen, not {BOXES}")


def beside(detector: Detector, video: Path, act: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what comes of `act` while the runtime goes at full speed."""
    stop = threading.Event()

    def saturate() -> None:
        with stage.Flight(video) as source, closing(detector.stream(source)) as results:
            for _ in results:
                if stop.is_set():
                    break

    thread = threading.Thread(target=saturate, name="rsedge-saturate", daemon=True)
    thread.start()
    stage.rest(0.5)
    try:
        return act()
    finally:
        stop.set()
        thread.join(10)


def measure(rounds: int, seconds: float, store: Path) -> dict[str, Any]:
    """Run all contestants in turns; see the module's text."""
    video = stage.draw_video(store / "flight.mp4")
    npu, manifest = stage.emulated()
    detector = stage.detector_on(npu, manifest)
    window = stage.make_window(detector, store)
    picture = crowd()
    alone: dict[str, list[float]] = {kind: [] for kind in SOURCES}
    shown: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SOURCES}
    felt: dict[str, list[dict[str, float]]] = {"still": [], "saturated": [], "video": []}

    def with_window(kind: str) -> None:
        with stage.opening(SOURCES[kind]):
            shown[kind].append(in_window(window, video, seconds))

    def without(kind: str) -> None:
        window.hide()
        source = VideoSource(video, loop=True) if kind == "file" else stage.Flight(video)
        alone[kind].append(headless(detector, source, seconds))
        window.show()
        stage.rest(0.2)

    starts = []
    for number in range(rounds):
        starts.append(stage.start_s(store))
        for kind in SOURCES:
            # Whoever comes first may find a machine that is not warm yet.
            for turn in (without, with_window) if number % 2 else (with_window, without):
                turn(kind)
        window.pane.forget()
        show_crowd(window, picture)
        felt["still"].append(inputs(window, seconds))
        felt["saturated"].append(beside(detector, video, lambda: inputs(window, seconds)))
        with stage.opening(stage.Flight):
            window.opening.source(str(video))
            stage.wait(lambda: window.pane.watch.clock.pace().images > 60)
            felt["video"].append(inputs(window, seconds))
            window.commands.cancel()
            stage.wait(lambda: not window.pane.leaving)
        told = ", ".join(f"{kind} {alone[kind][-1]:.0f} / {shown[kind][-1]['images_per_s']:.0f}" for kind in SOURCES)
        print(f"round {number + 1}: images/s without and with the window: {told}", flush=True)
    window.close()
    return {
        **{kind: _medians(alone[kind], shown[kind]) for kind in SOURCES},
        "input": {state: _middle(told) for state, told in felt.items()},
        "start_s": statistics.median(starts),
        "bound_images_per_s": npu.cores * 1e3 / LATENCY_MS,
        "boxes": BOXES,
        "targets": TARGETS,
        "rounds": rounds,
        "seconds": seconds,
    }


def _medians(alone: list[float], shown: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [s["images_per_s"] / a for s, a in zip(shown, alone, strict=True)]
    return {
        "headless_images_per_s": statistics.median(alone),
        "window_images_per_s": statistics.median(s["images_per_s"] for s in shown),
        "share_of_headless": statistics.median(shares),
        "shares": shares,
        **_middle([{key: s[key] for key in ("pictures_per_s", "paint_p50_ms", "paint_p99_ms")} for s in shown]),
        "loop": _middle([s["loop"] for s in shown]),
    }


def _middle(told: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(entry[key] for entry in told) for key in told[0]}


def main() -> int:
    """Parse the command line, measure, print."""
    parser = stage.parser_of("speed_benchmark", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contestant in each round")
    options = parser.parse_args()
    with stage.screen() as told, tempfile.TemporaryDirectory() as store:
        app = stage.application()
        result = {**measure(options.rounds, options.seconds, Path(store)), "screen": told, **stage.origin_with_qt()}
        app.processEvents()
        for kind in SOURCES:
            told_of = result[kind]
            print(
                f"{kind}: {told_of['headless_images_per_s']:.1f} images/s headless, with the window "
                f"{told_of['share_of_headless']:.1%} of it, {told_of['pictures_per_s']:.1f} pictures/s on the screen"
            )
        for state, late in result["input"].items():
            pan, slider = late["pan_p99_ms"], late["slider_p99_ms"]
            print(f"from input to pixels, {state}: p99 {pan:.1f} ms dragging, {slider:.1f} ms sliding")
        print(f"from the command to the first picture: {result['start_s']:.2f} s")
        status = hand_over(result, options.json)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
