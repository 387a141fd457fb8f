"""The player with a clock of its own: pace, pause, step, seek, loop, close."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.video import VideoSource
from gui.player import Player
from tests.gui.squares import save_video


@pytest.fixture
def video(tmp_path: Path) -> VideoSource:
    return VideoSource(save_video(tmp_path / "v.avi", 20))


class Reader(threading.Thread):
    def __init__(self, player: Player) -> None:
        super().__init__(daemon=True)
        self.player = player
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        for frame in self.player:
            self.numbers.append(frame.number)
            self.times.append(time.perf_counter())


def wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "waited in vain"
        time.sleep(0.002)


def test_as_fast_as_it_goes_every_frame_comes(video: VideoSource) -> None:
    player = Player(video, at_pace=False, hold=False)
    assert [frame.number for frame in player] == list(range(20))
    assert not player.live


def test_at_pace_frames_come_when_they_are_due(video: VideoSource) -> None:
    player = Player(video, hold=False)
    reader = Reader(player)
    reader.join(5)
    assert reader.numbers == list(range(20))
    assert 0.7 < reader.times[-1] - reader.times[0] < 1.6  # 19 frames of 40 ms
    assert player.live


def test_pause_step_and_seek(video: VideoSource) -> None:
    player = Player(video)
    player.pause(True)
    reader = Reader(player)
    time.sleep(0.1)
    assert reader.numbers == []
    player.step()
    wait(lambda: reader.numbers == [0])
    player.step()
    wait(lambda: reader.numbers == [0, 1])
    player.seek(15)  # while paused, the frame that was sought is shown
    wait(lambda: reader.numbers == [0, 1, 15])
    player.pause(False)
    wait(lambda: player.ended)
    assert reader.numbers == [0, 1, 15, 16, 17, 18, 19]
    player.seek(3)
    wait(lambda: 3 in reader.numbers)
    player.seek(99)  # beyond the end: the last one
    wait(lambda: reader.numbers[-1] == 19)
    player.close()
    reader.join(5)
    assert not reader.is_alive()


def test_playing_at_the_end_begins_anew(video: VideoSource) -> None:
    player = Player(video, at_pace=False)
    reader = Reader(player)
    wait(lambda: player.ended)
    player.pause(False)
    wait(lambda: len(reader.numbers) == 40)
    assert reader.numbers[20:] == list(range(20))
    player.close()
    reader.join(5)
    assert not reader.is_alive()


def test_a_loop_goes_on_until_it_is_closed(video: VideoSource) -> None:
    player = Player(video, at_pace=False, loop=True)
    reader = Reader(player)
    wait(lambda: len(reader.numbers) > 70)
    player.close()
    reader.join(5)
    assert not reader.is_alive()
    assert reader.numbers[:60] == [*range(20)] * 3
