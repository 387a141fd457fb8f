"""The worker's mailbox, cancelling, errors."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from gui.background import Background
from gui.opening import PROCEDURAL
from gui.running import Options
from gui.worker import DetectorShelf, Worker, screen_levels
from tests.gui.squares import draw, quick_detector, save, save_video


def worker_on(what: Path, latency_s: float = 0.0, **options: Any) -> Worker:
    shelf = DetectorShelf(lambda bundle, backend, workers: quick_detector(bundle, latency_s))
    return Worker(shelf, PROCEDURAL, str(what), Options(**options))


def test_one_signal_waits_however_much_arrives(qtbot: Any, tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / "many" / f"{i:02}.png", draw((64, 64), [(5, 5, 20, i % 5)]))
    worker = worker_on(tmp_path / "many")
    signals = []
    worker.arrived.connect(lambda: signals.append(1))
    worker.start()
    assert worker.wait(20000)
    assert signals == []  # nothing was delivered while this thread, the window's, was busy
    qtbot.waitUntil(lambda: bool(signals))
    qtbot.wait(20)
    assert len(signals) == 1
    box = worker.take()
    assert [Path(seen.picture.name).name for seen in box.album] == [f"{i:02}.png" for i in range(60)]
    assert box.screen is not None
    assert Path(box.screen.seen.picture.name).name == "59.png"  # the newest
    assert worker.take().screen is None


def test_cancelling_works_at_once(qtbot: Any, tmp_path: Path) -> None:
    worker = worker_on(save_video(tmp_path / "v.avi", 50), 0.01)
    worker.start()
    qtbot.waitUntil(lambda: worker.take().screen is not None, timeout=10000)
    begin = time.perf_counter()
    worker.cancel()
    assert time.perf_counter() - begin < 0.05
    assert worker.wait(3000)


def test_a_paused_video_can_be_cancelled(qtbot: Any, tmp_path: Path) -> None:
    worker = worker_on(save_video(tmp_path / "v.avi", 50))
    opened = []

    def look() -> None:
        opened.extend(worker.take().opened)

    worker.arrived.connect(look)
    worker.start()
    qtbot.waitUntil(lambda: bool(opened), timeout=10000)
    opened[0].player.pause(True)
    time.sleep(0.1)
    worker.cancel()
    assert worker.wait(3000)


def test_an_error_becomes_one_line(qtbot: Any, tmp_path: Path) -> None:
    worker = worker_on(tmp_path / "none.png")
    with qtbot.waitSignal(worker.broken, timeout=5000) as told:
        worker.start()
    assert "no such file" in told.args[0]
    assert "\n" not in told.args[0]
    assert worker.wait(3000)


def test_full_speed_takes_every_frame(qtbot: Any, tmp_path: Path) -> None:
    worker = worker_on(save_video(tmp_path / "v.avi", 80), at_pace=False)
    begin = time.perf_counter()
    worker.start()
    assert worker.wait(20000)
    assert worker.watch.clock.pace().images == 80
    assert time.perf_counter() - begin < 3.0  # 3.2 s at its own pace
    screen = worker.take().screen
    assert screen is not None
    assert screen.seen.picture.frame_number == 79


def test_levels_halve_and_keep_the_colours() -> None:
    image = draw((2001, 3000), [(100, 100, 400, 0)])
    levels = screen_levels(image)
    assert [level.shape for level in levels] == [(2001, 3000, 4), (1000, 1500, 4)]
    assert levels[0][200, 200, :3].tolist() == [0, 0, 255]  # blue first
    assert levels[1][100, 100, :3].tolist() == [0, 0, 255]
    assert screen_levels(None) == []


def test_a_waiting_job_is_replaced_by_a_newer_one(qtbot: Any) -> None:
    background, release, done = Background(), threading.Event(), []
    background.done.connect(lambda kind, value: done.append(value))
    background.submit("hold", lambda: release.wait(5))
    qtbot.wait(50)
    for i in range(5):
        background.submit("work", lambda i=i: i)
    release.set()
    qtbot.waitUntil(lambda: len(done) == 2)
    assert done == [True, 4]
    with qtbot.waitSignal(background.failed) as told:
        background.submit("bad", lambda: np.zeros(1)[5])
    assert told.args[0] == "bad"
    assert background.close()
