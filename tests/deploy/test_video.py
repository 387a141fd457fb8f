"""Video files: every frame, its number and its time; damage told; seeking; cameras that are not there."""

from __future__ import annotations

import re
import struct
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.frames import Frame
from deploy.sources import ReadError, open_source
from deploy.video import VideoSource, open_camera
from tests.deploy.numbered_pictures import SIZE_HW, number_of, write_video


def frames_of(source):
    return [frame for frame in source if isinstance(frame, Frame)]


def index_of_frames(content: bytes) -> list[int]:
    """Where the picture chunks of an AVI file begin."""
    return [
        m.start() for m in re.finditer(b"00dc", content[: content.index(b"idx1")]) if m.start() > content.index(b"movi")
    ]


def damage(path: Path, frame: int, out: Path) -> Path:
    """Overwrite one picture of a Motion JPEG AVI."""
    content = bytearray(path.read_bytes())
    start = index_of_frames(bytes(content))[frame]
    length = int.from_bytes(content[start + 4 : start + 8], "little")
    content[start + 8 : start + 8 + length] = b"\x55" * length
    out.write_bytes(content)
    return out


@pytest.mark.parametrize(("suffix", "fourcc"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v")])
def test_every_frame_comes_with_its_number_and_time(tmp_path, suffix, fourcc):
    path = write_video(tmp_path / f"clip{suffix}", 45, fourcc, fps=12.5)
    with VideoSource(path) as source:
        assert (source.kind, source.live, source.count, source.size_hw) == ("video", False, 45, SIZE_HW)
        assert source.fps == pytest.approx(12.5)
        frames = list(source)
    assert [f.number for f in frames] == [number_of(f.image) for f in frames] == list(range(45))
    assert {f.name for f in frames} == {str(path)}
    np.testing.assert_allclose([f.timestamp_s for f in frames], np.arange(45) / 12.5, atol=2e-3)
    assert all(f.read_ms > 0 for f in frames)
    assert source.skipped == 0


def test_pictures_are_rgb(tmp_path):
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))  # BGR
    writer.release()
    mean = next(iter(VideoSource(path))).image.mean(axis=(0, 1))
    assert mean[0] > 200
    assert mean[2] < 50


def test_rotation_in_the_metadata_turns_the_picture(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mp4", 4).read_bytes())
    matrix = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE_HW[0] << 16, 0, 1 << 30)  # ISO 14496-12, 8.3.2
    content[matrix : matrix + 36] = turned
    (tmp_path / "turned.mp4").write_bytes(content)
    with VideoSource(tmp_path / "turned.mp4") as source:
        assert source.size_hw == SIZE_HW[::-1]
        frames = list(source)
    assert frames[0].image.shape == (*SIZE_HW[::-1], 3)
    # Turned clockwise, what was left is on top; turned back it reads as before.
    assert [number_of(np.rot90(f.image)) for f in frames] == [0, 1, 2, 3]


def test_a_damaged_frame_is_skipped_counted_and_told(tmp_path):
    whole = write_video(tmp_path / "whole.avi", 40, "MJPG")
    path = damage(damage(whole, 11, tmp_path / "one.avi"), 25, tmp_path / "two.avi")
    events = []
    with VideoSource(path, on_event=events.append) as source:
        frames = list(source)
    expected = [n for n in range(40) if n not in (11, 25)]
    assert [number_of(f.image) for f in frames] == [f.number for f in frames] == expected
    np.testing.assert_allclose([f.timestamp_s for f in frames], np.array(expected) / 20, atol=2e-3)
    assert source.skipped == 2
    assert [(e.kind, re.search(r"frame \d+", e.text).group()) for e in events] == [
        ("skipped", "frame 11"),
        ("skipped", "frame 25"),
    ]


def test_a_damaged_first_frame_is_skipped_too(tmp_path):
    path = damage(write_video(tmp_path / "a.avi", 10, "MJPG"), 0, tmp_path / "b.avi")
    with VideoSource(path) as source:
        frames = list(source)
    assert [number_of(f.image) for f in frames] == [f.number for f in frames] == list(range(1, 10))
    np.testing.assert_allclose([f.timestamp_s for f in frames], np.arange(1, 10) / 20, atol=2e-3)
    assert source.skipped == 1


def test_a_file_cut_off_ends_with_an_error_and_keeps_what_was_read(tmp_path):
    content = write_video(tmp_path / "a.avi", 60, "MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: index_of_frames(content)[31]])
    with VideoSource(tmp_path / "cut.avi") as source:
        assert source.count == 60
        got = list(source)
    *frames, last = got
    assert [number_of(f.image) for f in frames] == list(range(31))
    assert isinstance(last, ReadError)
    assert last.number == 31
    assert "ends after 31 of the 60 frames" in str(last.error)
    assert "\n" not in str(last.error)


def test_a_file_a_little_short_is_told_only(tmp_path):
    content = write_video(tmp_path / "a.avi", 60, "MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: index_of_frames(content)[55]])
    events = []
    with VideoSource(tmp_path / "cut.avi", on_event=events.append) as source:
        assert [f.number for f in source] == list(range(55))
    assert [e.kind for e in events] == ["short"]
    assert "55 of the 60" in events[0].text


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_is_no_video_is_told_in_one_line(tmp_path, content, capfd):
    path = tmp_path / "a.mp4"
    if content is None:  # the index of an MP4 stands at its end
        content = write_video(path, 20).read_bytes()[:1000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be opened as a video .*copy it again") as caught:
        VideoSource(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # neither FFmpeg nor OpenCV adds lines of its own
    with pytest.raises(FileNotFoundError, match="no such video file"):
        VideoSource(tmp_path / "b.mp4")


def test_a_video_without_a_frame_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.avi", 3, "MJPG")
    for frame in range(3):
        path = damage(path, frame, tmp_path / f"{frame}.avi")
    with pytest.raises(ValueError, match=r"(cannot be opened|holds no frame).*copy it again"):
        VideoSource(path)


def test_seeking_gives_that_frame_and_goes_on_from_there(tmp_path):
    with VideoSource(write_video(tmp_path / "a.mp4", 60)) as source:
        for number in (30, 7, 59, 0, 13):
            source.seek(number)
            frame = next(iter(source))
            assert (frame.number, number_of(frame.image)) == (number, number)
            assert frame.timestamp_s == pytest.approx(number / 20, abs=2e-3)
        assert [f.number for f in source] == list(range(14, 60))
        source.seek(58)  # the end is not the end of it
        assert [number_of(f.image) for f in source] == [58, 59]
        for wrong in (-1, 60):
            with pytest.raises(ValueError, match="has frames 0 to 59"):
                source.seek(wrong)


def test_frames_done_are_passed_over(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    with open_source(path) as source:
        source.skip(names={str(path)}, numbers=set(range(15)) | {17})
        frames = list(source)
    assert [number_of(f.image) for f in frames] == [f.number for f in frames] == [15, 16, 18, 19]
    np.testing.assert_allclose([f.timestamp_s for f in frames], np.array([15, 16, 18, 19]) / 20, atol=2e-3)


def test_a_loop_begins_again_with_numbers_and_times_going_on(tmp_path):
    with open_source(write_video(tmp_path / "a.mp4", 10), loop=True) as source:
        assert source.count is None
        frames = [frame for frame, _ in zip(source, range(25), strict=False)]
    assert [f.number for f in frames] == list(range(25))
    assert [number_of(f.image) for f in frames] == [n % 10 for n in range(25)]
    np.testing.assert_allclose([f.timestamp_s for f in frames], np.arange(25) / 20, atol=2e-3)


class Scripted:
    """A capture that gives frames at the positions listed."""

    def __init__(self, positions_ms, fps):
        self.positions, self.fps, self.at = positions_ms, fps, -1

    def grab(self):
        self.at += 1
        return self.at < len(self.positions)

    def retrieve(self):
        return True, np.zeros((2, 2, 3), np.uint8)

    def get(self, what):
        if what == cv2.CAP_PROP_POS_MSEC:
            return float(self.positions[min(self.at, len(self.positions) - 1)])
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: float(len(self.positions))}.get(what, 2.0)

    def release(self):
        pass


@pytest.mark.parametrize(
    ("positions_ms", "fps", "expected_s"),
    [
        ([40, 80, 120], 25, [0, 0.04, 0.08]),  # a clock that does not begin at 0
        ([0, 40, 40, 30, 160], 25, [0, 0.04, 0.08, 0.12, 0.16]),  # stands still, goes back, recovers
        ([0, 0, 0], 10, [0, 0.1, 0.2]),  # no clock at all
        ([0, 0, 0], 0, [0, 0.001, 0.002]),  # and no frame rate
    ],
)
def test_times_ascend_whatever_the_container_says(tmp_path, monkeypatch, positions_ms, fps, expected_s):
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setattr("deploy.video.open_capture", lambda what, decoder, live: (Scripted(positions_ms, fps), decoder))
    with VideoSource(tmp_path / "a.mp4") as source:
        np.testing.assert_allclose([f.timestamp_s for f in source], expected_s, atol=1e-9)


def test_close_from_another_thread_ends_the_iteration(tmp_path):
    source = VideoSource(write_video(tmp_path / "a.mp4", 10), loop=True)
    seen, enough = [], threading.Event()

    def read():
        for frame in source:
            seen.append(frame.number)
            if len(seen) == 20:
                enough.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert enough.wait(10)
    source.close()
    reader.join(5)
    assert not reader.is_alive()
    source.close()
    assert list(source) == []


def test_a_camera_that_is_not_there_is_told_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/dev/video987: no such camera, .*; connect it, or name another"):
        open_source(987)
    with pytest.raises(FileNotFoundError, match=r"/dev/video987: no such camera"):
        open_source("/dev/video987")
    no_camera = tmp_path / "video986"
    no_camera.write_bytes(b"")
    with pytest.raises(OSError, match=r"gives no picture \(busy in another program, or no camera\)"):
        open_camera(no_camera)


def test_an_address_that_gives_no_video_is_no_damaged_file():
    with pytest.raises(
        OSError, match=r"^http://\*\*\*@127\.0\.0\.1:1/x\.mp4: gives no video \(nobody answers"
    ) as caught:
        VideoSource("http://me:secret@127.0.0.1:1/x.mp4")
    assert "damaged" not in str(caught.value)
    assert "secret" not in str(caught.value)
