"""Benchmark stage: what the app's measurements share: a screen, an emulated NPU, a drawn video, the figures' origin."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.backends.emulated_npu import EmulatedNpu, recorded
from deploy.backends.opening import open_backend
from deploy.detector import Detector
from deploy.frames import Frame
from deploy.letterbox import Letterbox
from deploy.manifest import Manifest, load_manifest
from deploy.measured_on import origin
from deploy.procedural import draw_scene
from deploy.sources import Kind
from deploy.video import VideoSource

from .gui_command import leave_opencv_plugins
from .sifting import CANDIDATES

BUNDLE = Path(__file__).resolve().parent.parent / "deploy" / "zoo" / "procedural"
VIDEO_HW, FPS = (720, 1280), 30.0
CONTEXTS = (0, 1, 2) * 2
SEED = 88


@contextmanager
def screen(size: str = "1920x1080") -> Iterator[str]:
    """Provide an X server: the one that DISPLAY names, else Xvfb with a screen of its own; yields which.

    Raises OSError where there is neither.
    """
    if os.environ.get("DISPLAY"):
        yield "the desktop's"
        return
    if shutil.which("Xvfb") is None:
        raise OSError("there is no screen and no Xvfb to make one; apt-get install xvfb, or start it on the desktop")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", f"{size}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as told:
            number = told.readline().strip()
        if not number:
            raise OSError("Xvfb does not start here; start it by hand and set DISPLAY")
        os.environ["DISPLAY"] = f":{number}"
        yield f"Xvfb {size}"
    finally:
        os.environ.pop("DISPLAY", None)
        server.terminate()
        server.wait(10)


def application() -> Any:
    """Return the QApplication, dressed as `rsedge gui` dresses it."""
    os.environ.pop("QT_QPA_PLATFORM", None)
    leave_opencv_plugins(os.environ)
    from PyQt5.QtWidgets import QApplication

    from .dressing import Dressing
    from .short_pauses import take_turns_often

    take_turns_often()
    app = QApplication(["rsedge"])
    Dressing(app).use_theme("light")
    return app


def make_window(detector: Detector, store: Path) -> Any:
    """Return the app's own window with the bundle of drawn scenes open, as far as it can be had without a run."""
    from PyQt5.QtCore import QSettings
    from PyQt5.QtWidgets import QApplication

    from .letters import Letters
    from .main_window import MainWindow
    from .settings import Remembered
    from .short_pauses import settle_memory
    from .worker import DetectorShelf

    window = MainWindow(
        Remembered(QSettings(str(store / "settings.ini"), QSettings.IniFormat)),
        DetectorShelf(lambda bundle, backend, workers: detector),
    )
    window.resize(1280, 800)
    window.show()
    window.opening.bundle(BUNDLE)
    wait(lambda: window.session.bundle is not None)
    settle_memory()
    letters = Letters(QApplication.instance())
    wait(lambda: not letters.left)
    return window


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Serve the window until a condition holds. Raises TimeoutError."""
    from PyQt5.QtCore import QEventLoop
    from PyQt5.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"nothing came of {condition.__qualname__} within {seconds:g} s")
        QApplication.processEvents(QEventLoop.WaitForMoreEvents | QEventLoop.AllEvents, 20)


def rest(seconds: float) -> None:
    """Serve the window for so long, as its own loop does: asleep while nothing happens."""
    from PyQt5.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(seconds * 1e3), loop.quit)
    loop.exec_()


def draw_video(path: Path, frames: int = 150, size_hw: tuple[int, int] = VIDEO_HW) -> Path:
    """Write a flight over a drawn scene, MPEG-4."""
    height, width = size_hw
    ground = draw_scene(SEED, (1024, 2048)).image
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    if not writer.isOpened():
        raise OSError(f"{path}: this OpenCV cannot write MPEG-4; install opencv-python-headless")
    for i in range(frames):
        x, y = round((2048 - width) * i / frames), round((1024 - height) * i / frames)
        writer.write(cv2.cvtColor(ground[y : y + height, x : x + width], cv2.COLOR_RGB2BGR))
    writer.release()
    return path


class Flight:
    """A looped video of decoded frames, as a hardware decoder hands them over; see `deploy.sources.Source`."""

    live = False
    kind: Kind = "video"
    dropped = reconnects = 0
    decoder = "none: decoded before"
    count = None
    fps: float | None = FPS

    def __init__(self, video: Path, frames: int = 30) -> None:
        self.name = str(video)
        self.size_hw: tuple[int, int] | None = VIDEO_HW
        with VideoSource(video) as source:
            decoded = [frame for frame in islice(source, frames) if isinstance(frame, Frame)]
        self._images = [frame.image for frame in decoded]
        self._closed = False

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Pass over nothing: a benchmark resumes nothing."""

    def close(self) -> None:
        """End the iteration."""
        self._closed = True

    def __iter__(self) -> Iterator[Frame]:
        for number in count():
            if self._closed:
                return
            yield Frame(number, self.name, self._images[number % len(self._images)], timestamp_s=number / FPS)

    def __enter__(self) -> Flight:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def opening(source: Callable[[Path], Any]) -> Iterator[None]:
    """Let the app open its sources by another function for a while."""
    from . import running

    usual = running.open_source
    running.open_source = lambda what, **options: source(Path(what))  # type: ignore[assignment]
    try:
        yield
    finally:
        running.open_source = usual


def emulated(clock: float = 1.0) -> tuple[EmulatedNpu, Manifest]:
    """Return an NPU of three cores x 7.91 ms that answers with int8 heads of the shipped bundle, computed once."""
    manifest = load_manifest(BUNDLE)
    height, width = VIDEO_HW
    image = draw_scene(SEED, (1024, 2048)).image[:height, :width]
    batch = np.zeros((1, *manifest.input_hw, 3), np.uint8)
    Letterbox.fit((height, width), manifest.input_hw, manifest.pad_value).apply(image, out=batch[0])
    backend = open_backend(BUNDLE, manifest, "onnx", threads=1)
    heads = []
    for head, scales in zip(
        backend.infer(batch), [s for h in manifest.heads for s in (h.box_scale, h.class_scale)], strict=True
    ):
        if scales is None:
            raise ValueError(f"{BUNDLE}: its heads have no scales; measure with an int8 bundle")
        heads.append(np.clip(np.round(head / scales.scale) + scales.zero_point, -128, 127).astype(np.int8))
    backend.close()
    return EmulatedNpu(manifest.input_hw, recorded(heads), clock=clock), manifest


def detector_on(npu: EmulatedNpu, manifest: Manifest) -> Detector:
    """Return the detector that the app opens, with the thresholds that it asks for, on an emulated NPU."""
    return Detector(npu.open(0), manifest, open_backend=npu.open, cores=CONTEXTS, **CANDIDATES)  # type: ignore[arg-type]


# From the command to the first picture of the window, in a process of its own; then it closes.
_START = """
import sys, time
from PyQt5.QtWidgets import QApplication
from gui import gui_command

def drive(_=None):
    QApplication.processEvents()
    print(time.time() - float(sys.argv[1]), sorted({"torch", "onnx", "onnxruntime", "scipy"} & set(sys.modules)))
    next(w for w in QApplication.topLevelWidgets() if w.isVisible()).close()
    return 0

QApplication.exec_ = drive
gui_command.run(None, "/none.png")
"""


def start_s(store: Path) -> float:
    """Return the seconds from starting Python to the window's first picture.

    Raises ValueError where torch came along, or nothing was shown.
    """
    environ = {**os.environ, "XDG_CONFIG_HOME": str(store)}
    done = subprocess.run(
        [sys.executable, "-c", _START, str(time.time())],
        cwd=Path(__file__).resolve().parent.parent,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        raise ValueError(f"the window did not start: {done.stderr.strip().splitlines()[-1:]}")
    seconds, heavy = done.stdout.split(maxsplit=1)
    if heavy.strip() != "[]":
        raise ValueError(f"the window's process imported {heavy.strip()} before its first picture")
    return float(seconds)


def origin_with_qt() -> dict[str, Any]:
    """Return machine, versions and commit of this run, Qt's version among them."""
    from PyQt5.QtCore import PYQT_VERSION_STR, QT_VERSION_STR

    told = origin()
    return {**told, "versions": {**told["versions"], "pyqt5": PYQT_VERSION_STR, "qt": QT_VERSION_STR}}


def parser_of(module: str, text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all of these measurements have."""
    parser = argparse.ArgumentParser(prog=f"python -m gui.{module}", description=(text or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the document here too")
    return parser
