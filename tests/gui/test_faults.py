"""What goes wrong outside becomes a message in the window that says what to do, and the app goes on."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy import sources
from deploy.frames import Frame
from deploy.sources import ReadError, SourceEvent
from gui import running
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from gui.running import DRAWN
from gui.worker import DetectorShelf
from tests.deploy.test_streams import QUICK, Server
from tests.gui.squares import SQUARES, draw, save


class Camera:
    """A live source that gives frames, then does what `ending` says: raises, or pauses and comes back."""

    live = True
    kind: sources.Kind = "camera"
    count = None
    fps: float | None = 30.0
    size_hw: tuple[int, int] | None = (256, 300)
    decoder = "software: a test"
    dropped = reconnects = 0

    def __init__(self, name: str, ending: str, on_event: Any = None) -> None:
        self.name, self.ending, self.closed, self._on_event = name, ending, False, on_event

    def __iter__(self) -> Iterator[Frame | ReadError]:
        image = draw((256, 300), SQUARES)
        for number in range(10_000):
            if self.closed:
                return
            if number == 5 and self.ending == "unplugged":
                raise OSError(f"{self.name}: gives no frames any more; plug the camera in again and open it anew")
            if number == 5 and self.ending == "comes back":
                self._on_event(SourceEvent("lost", f"{self.name}: no connection; trying again in 1 s"))
                time.sleep(0.3)
                self._on_event(SourceEvent("connected", f"{self.name}: connected again"))
            yield Frame(number, self.name, image, timestamp_s=number / 30)
            time.sleep(0.01)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(ending: str) -> list[Camera]:
        made: list[Camera] = []

        def opened(what: str, on_event: Any = None, **_: Any) -> Camera:
            made.append(Camera(str(what), ending, on_event))
            return made[-1]

        monkeypatch.setattr(running, "open_source", opened)
        return made

    return use


def still_works(window: MainWindow, see: Any, tmp_path: Path) -> None:
    see(window, save(tmp_path / "after" / "a.png", draw((256, 300), SQUARES)))
    assert len(window.session.found) == 8


def test_a_camera_that_is_unplugged(
    window: MainWindow, see: Any, qtbot: Any, tmp_path: Path, camera: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera("unplugged")
    window.opening.source("0")
    qtbot.waitUntil(lambda: not window.pane.running and bool(window.messages.text), timeout=10000)
    assert "plug the camera in again" in window.messages.text
    assert window.session.picture is not None  # the last picture stays
    assert not window.player_bar.play.isEnabled()
    monkeypatch.undo()
    still_works(window, see, tmp_path)


def test_a_network_stream_that_is_lost_and_comes_back(window: MainWindow, qtbot: Any, camera: Any) -> None:
    made = camera("comes back")
    told: list[str] = []
    window.pane.told.connect(told.append)
    window.opening.source("rtsp://camera/1")
    qtbot.waitUntil(lambda: ((window.session.picture and window.session.picture.frame_number) or 0) > 8, timeout=10000)
    assert "rtsp://camera/1: no connection; trying again in 1 s" in told
    assert window.pane.running
    window.commands.cancel()
    qtbot.waitUntil(lambda: not window.pane.leaving, timeout=10000)
    assert made[0].closed


def test_a_real_rtsp_server_that_dies_and_comes_back(
    window: MainWindow, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over loopback, with the product's own client; only its patience is shortened."""
    try:
        server = Server()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no RTSP server: {error}; apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi")
    monkeypatch.setattr(running, "open_source", partial(sources.open_source, live=QUICK))
    told: list[str] = []
    window.pane.told.connect(told.append)
    shown: list[int] = []
    window.pane.shown.connect(lambda: shown.append(1))
    try:
        window.opening.source(server.url)
        qtbot.waitUntil(lambda: len(shown) > 10, timeout=20000)
        server.kill()
        qtbot.waitUntil(lambda: len(told) >= 2, timeout=20000)
        assert str(server.port) in told[-1]
        assert window.pane.running
        server = Server(server.port)
        before = len(shown)
        qtbot.waitUntil(lambda: len(shown) > before + 10, timeout=20000)
    finally:
        window.commands.cancel()
        server.kill()
    qtbot.waitUntil(lambda: not window.pane.leaving, timeout=15000)


def test_a_stream_that_nobody_serves(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    """The product's own client against a port that refuses; it tries again until the user has enough."""
    told: list[str] = []
    window.pane.told.connect(told.append)
    window.opening.source("rtsp://user:secret@127.0.0.1:9/live")
    qtbot.waitUntil(lambda: bool(told) or bool(window.messages.text), timeout=20000)
    heard = "\n".join([*told, window.messages.text])
    assert "127.0.0.1:9" in heard
    assert "secret" not in heard
    window.commands.cancel()
    still_works(window, see, tmp_path)


def test_a_camera_that_is_not_there(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    window.opening.source("/dev/video97")
    qtbot.waitUntil(lambda: "/dev/video97" in window.messages.text, timeout=20000)
    assert "\n" not in window.messages.text
    still_works(window, see, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_image_that_cannot_be_read(window: MainWindow, see: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    see(window, tmp_path / "bad.png")
    assert "bad.png" in window.messages.text
    still_works(window, see, tmp_path)


def test_a_video_that_cannot_be_read(window: MainWindow, see: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 4096)
    see(window, tmp_path / "bad.mp4")
    assert "bad.mp4" in window.messages.text
    still_works(window, see, tmp_path)


def test_a_bundle_without_its_manifest_leaves_the_open_one(
    window: MainWindow, see: Any, qtbot: Any, tmp_path: Path
) -> None:
    bundle = tmp_path / "broken"
    shutil.copytree(PROCEDURAL, bundle)
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text()[:300])
    window.opening.bundle(bundle)
    qtbot.waitUntil(lambda: str(manifest) in window.messages.text, timeout=10000)
    assert window.session.bundle == PROCEDURAL
    still_works(window, see, tmp_path)


@pytest.mark.parametrize("damage", ["model", "classes"])
def test_a_bundle_whose_files_do_not_fit(make_window: Any, qtbot: Any, tmp_path: Path, damage: str) -> None:
    """The product's own detector opens it, and fails; then a good bundle does what it always does."""
    bundle = tmp_path / "broken"
    shutil.copytree(PROCEDURAL, bundle)
    manifest = bundle / "manifest.json"
    if damage == "model":
        (bundle / "model.onnx").unlink()
        wanted = "model.onnx"
    else:
        told = json.loads(manifest.read_text())
        told["class_names"].append("one too many")
        manifest.write_text(json.dumps(told))
        wanted = "class"
    window = make_window(shelf=DetectorShelf())
    window.backend = "onnx"
    window.opening.bundle(bundle)
    window.opening.source(DRAWN)
    qtbot.waitUntil(lambda: wanted in window.messages.text and not window.pane.running, timeout=20000)
    window.opening.bundle(PROCEDURAL)
    qtbot.waitUntil(lambda: len(window.session.rows) > 20 and not window.pane.running, timeout=20000)


def test_a_disk_that_takes_no_more(window: MainWindow, see: Any, qtbot: Any, tmp_path: Path) -> None:
    """The kernel itself refuses, in the middle of a file; what is told names the file and the cure."""
    for i in range(12):
        save(tmp_path / "many" / f"{i}.png", draw((256, 300), SQUARES))
    see(window, tmp_path / "many")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        with qtbot.waitSignal(window.exporting.ended, timeout=20000):
            window.exporting.start(tmp_path / "out", ("csv",), whole=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path / "out") in window.messages.text
    assert "Written" not in window.messages.text
    still_works(window, see, tmp_path)
    with qtbot.waitSignal(window.exporting.ended, timeout=20000):
        window.exporting.start(tmp_path / "again", ("csv",), whole=False)
    assert (tmp_path / "again" / "detections.csv").is_file()
