"""Video decoders: the choice on fabricated machines, the options that reach FFmpeg, the way back to software.

No Rockchip decoder is here: what the choice leads to was never run on one.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import cv2
import pytest

from deploy import decoders
from deploy.decoders import OPTIONS_VARIABLE, VideoDecoder, ffmpeg_has, find_decoder, open_capture, pipeline
from tests.deploy.numbered_pictures import write_video

WITH = "  Video I/O:\n    FFMPEG:   YES\n    GStreamer:                   YES (1.22.0)\n    v4l/v4l2:  YES\n"
WITHOUT = WITH.replace("YES (1.22.0)", "NO")
RKMPP = VideoDecoder("rkmpp", "of the test")


def board(root: Path, plugin: str = "usr/lib/aarch64-linux-gnu", device: bool = True) -> Path:
    if device:
        (root / "dev").mkdir(parents=True)
        (root / "dev/mpp_service").touch()
    folder = root / plugin / "gstreamer-1.0"
    folder.mkdir(parents=True)
    (folder / "libgstrockchipmpp.so").touch()
    return root


@pytest.mark.parametrize(
    ("built", "plugin", "rkmpp", "kind", "why"),
    [
        (WITH, "usr/lib/aarch64-linux-gnu", False, "gstreamer", "mppvideodec"),
        (WITH, "usr/lib/aarch64-linux-gnu", True, "gstreamer", "mppvideodec"),
        (WITH, "usr/local/lib/aarch64-linux-gnu", False, "gstreamer", "mppvideodec"),
        (WITH, "elsewhere", True, "rkmpp", r"libgstrockchipmpp\.so is missing"),
        (WITH, "elsewhere", False, "software", r"libgstrockchipmpp\.so is missing.*no rkmpp"),
        (WITHOUT, "usr/lib/aarch64-linux-gnu", True, "rkmpp", "built without GStreamer"),
        (WITHOUT, "usr/lib/aarch64-linux-gnu", False, "software", r"pip's always is.*no rkmpp"),
    ],
)
def test_the_first_way_that_is_there_wins(tmp_path, built, plugin, rkmpp, kind, why):
    found = find_decoder(built, board(tmp_path, plugin), lambda codec: rkmpp and codec == "h264_rkmpp")
    assert (found.kind, found.hardware) == (kind, kind != "software")
    assert re.search(why, found.reason), found.reason
    assert str(found).startswith(f"{kind}: ")


def test_without_the_kernels_device_it_is_software(tmp_path, monkeypatch):
    root = board(tmp_path / "a", device=False)
    assert "/dev/mpp_service is missing" in find_decoder(WITH, root, lambda _: True).reason
    root = board(tmp_path / "b")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    assert "may not be opened" in find_decoder(WITH, root, lambda _: True).reason


def test_this_machine_is_told_as_it_is():
    found = find_decoder()
    assert not found.hardware or Path("/dev/mpp_service").exists()
    cv2.VideoCapture("nothing", cv2.CAP_FFMPEG)  # loads FFmpeg where it is a plugin
    assert ffmpeg_has("h264")
    assert not ffmpeg_has("h264_of_nobody")


@pytest.mark.parametrize(
    ("what", "live", "start"),
    [
        ("/a b/c.mp4", False, 'filesrc location="/a b/c.mp4" ! parsebin ! mppvideodec ! '),
        ('/a"b\\c.mp4', False, 'filesrc location="/a\\"b\\\\c.mp4" ! parsebin'),
        (
            "RTSP://u:p@h/x",
            True,
            'rtspsrc location="RTSP://u:p@h/x" protocols=tcp latency=0 ! application/x-rtp,media=',
        ),
        ("http://h/x.mp4", False, 'urisourcebin uri="http://h/x.mp4" ! parsebin'),
    ],
)
def test_pipelines(what, live, start):
    text = pipeline(what, live)
    assert text.startswith(start)
    assert " video/x-raw,format=BGR ! appsink " in text
    assert ("videoflip" in text) == (not live)  # a camera's stream carries no rotation


class Recorder:
    """In the place of cv2.VideoCapture: opens what `opens` allows, and notes every try."""

    def __init__(self, opens, fourcc="avc1"):
        self.opens, self.fourcc, self.tries, self.released = opens, fourcc, [], 0

    def __call__(self, what, api, parameters):
        recorder, options = self, os.environ.get(OPTIONS_VARIABLE)
        self.tries.append((what, api, dict(zip(parameters[::2], parameters[1::2], strict=True)), options))

        class Capture:
            def isOpened(self):
                return recorder.opens(api, options)

            def get(self, _):
                return float(cv2.VideoWriter.fourcc(*recorder.fourcc))

            def release(self):
                recorder.released += 1

        return Capture()


@pytest.fixture
def no_options(monkeypatch):
    monkeypatch.delenv(OPTIONS_VARIABLE, raising=False)


@pytest.mark.usefixtures("no_options")
def test_gstreamer_is_tried_and_software_comes_after_it(monkeypatch):
    gstreamer = VideoDecoder("gstreamer", "of the test")
    works = Recorder(lambda api, _: api == cv2.CAP_GSTREAMER)
    monkeypatch.setattr(cv2, "VideoCapture", works)
    capture, used = open_capture("a.mp4", gstreamer, live=False)
    assert capture is not None
    assert used is gstreamer
    assert [t[:2] for t in works.tries] == [(pipeline("a.mp4", False), cv2.CAP_GSTREAMER)]

    broken = Recorder(lambda api, _: api == cv2.CAP_FFMPEG)
    monkeypatch.setattr(cv2, "VideoCapture", broken)
    capture, used = open_capture("a.mp4", gstreamer, live=False)
    assert capture is not None
    assert used.kind == "software"
    assert "does not open it" in used.reason
    assert broken.released == 1

    neither = Recorder(lambda *_: False)
    monkeypatch.setattr(cv2, "VideoCapture", neither)
    assert open_capture("a.mp4", gstreamer, live=False)[0] is None
    assert neither.released == 2


@pytest.mark.usefixtures("no_options")
@pytest.mark.parametrize(
    ("fourcc", "codec"), [("avc1", "h264_rkmpp"), ("H264", "h264_rkmpp"), ("hvc1", "hevc_rkmpp"), ("vp09", "vp9_rkmpp")]
)
def test_rkmpp_is_asked_for_by_the_codec_of_the_video(monkeypatch, fourcc, codec):
    recorder = Recorder(lambda *_: True, fourcc)
    monkeypatch.setattr(cv2, "VideoCapture", recorder)
    capture, used = open_capture("rtsp://h", RKMPP, live=True, open_timeout_s=2, read_timeout_s=3)
    assert capture is not None
    assert used == VideoDecoder("rkmpp", codec)
    assert [t[3] for t in recorder.tries] == [None, f"rtsp_flags;prefer_tcp|video_codec;{codec}"]
    assert recorder.released == 1  # a camera may let in one at a time
    timeouts = {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 2000, cv2.CAP_PROP_READ_TIMEOUT_MSEC: 3000}
    assert [t[2] for t in recorder.tries] == [{**timeouts, cv2.CAP_PROP_N_THREADS: 1}, timeouts]
    assert OPTIONS_VARIABLE not in os.environ


@pytest.mark.usefixtures("no_options")
def test_what_rkmpp_lacks_or_refuses_is_decoded_in_software(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Recorder(lambda *_: True, "MJPG"))
    assert "no rkmpp decoder for 'MJPG'" in open_capture("a.avi", RKMPP, live=False)[1].reason
    recorder = Recorder(lambda _, options: options is None)
    monkeypatch.setattr(cv2, "VideoCapture", recorder)
    capture, used = open_capture("a.mp4", RKMPP, live=False)
    assert capture is not None
    assert used == VideoDecoder("software", "h264_rkmpp does not open it")
    assert len(recorder.tries) == 3


def test_the_option_reaches_ffmpeg(tmp_path, monkeypatch):
    """With real files: a decoder asked for by name is used, one that does not exist is not, and software follows."""
    monkeypatch.delenv(OPTIONS_VARIABLE, raising=False)
    path = str(write_video(tmp_path / "a.mp4", 5))
    monkeypatch.setitem(decoders.RKMPP, "fmp4", "mpeg4")
    monkeypatch.setitem(decoders.RKMPP, "mp4v", "mpeg4")
    capture, used = open_capture(path, RKMPP, live=False)
    assert capture.grab()
    assert used == VideoDecoder("rkmpp", "mpeg4")
    monkeypatch.setitem(decoders.RKMPP, "fmp4", "mpeg4_of_nobody")
    monkeypatch.setitem(decoders.RKMPP, "mp4v", "mpeg4_of_nobody")
    capture, used = open_capture(path, RKMPP, live=False)
    assert capture.grab()
    assert used == VideoDecoder("software", "mpeg4_of_nobody does not open it")


def test_options_of_the_user_stay_and_win(monkeypatch):
    monkeypatch.setenv(OPTIONS_VARIABLE, "rtsp_transport;udp|video_codec;h264")
    recorder = Recorder(lambda *_: True)
    monkeypatch.setattr(cv2, "VideoCapture", recorder)
    open_capture("a.mp4", RKMPP, live=False)
    assert [t[3] for t in recorder.tries] == ["rtsp_transport;udp|video_codec;h264"] * 2
    assert os.environ[OPTIONS_VARIABLE] == "rtsp_transport;udp|video_codec;h264"


@pytest.mark.usefixtures("no_options")
def test_openings_with_other_options_never_overlap():
    seen, wrong = [], []

    def use(codec):
        for _ in range(50):
            with decoders._capture_options({"video_codec": codec} if codec else {}):
                time.sleep(0.001)
                value = os.environ.get(OPTIONS_VARIABLE)
                expected = f"rtsp_flags;prefer_tcp|video_codec;{codec}" if codec else None
                (seen if value == expected else wrong).append(value)

    threads = [threading.Thread(target=use, args=(codec,)) for codec in ("a", "a", "b", "")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert wrong == []
    assert len(seen) == 200
    assert OPTIONS_VARIABLE not in os.environ
