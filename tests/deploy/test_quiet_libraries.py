"""Quiet libraries: known talk of C libraries is dropped, everything else arrives, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.quiet_libraries import is_talk, quiet_libraries

ROOT = Path(__file__).resolve().parents[2]


def stderr_of(code: str, **environment: str) -> str:
    program = "import os, sys\nfrom deploy.quiet_libraries import quiet_libraries\n" + code
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr


# As libjpeg, libpng, libtiff, OpenCV, FFmpeg and GDAL write them.
@pytest.mark.parametrize(
    "line",
    [
        "Corrupt JPEG data: 49 extraneous bytes before marker 0xd9",
        "Premature end of JPEG file",
        "libpng warning: iCCP: known incorrect sRGB profile",
        "libpng error: IDAT: CRC error",
        "TIFFReadDirectory: Warning, Unknown field with tag 65000 (0xfde8) encountered.",
        "[ WARN:0@0.041] global cap_v4l.cpp:914 open VIDEOIO(V4L2:/dev/video0): can't open camera by index",
        "[ERROR:0@0.1] global obsensor_uvc_stream_channel.cpp:158 getStreamChannelGroup Camera index out of range",
        "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d0c8] moov atom not found",
        "[h264 @ 0x7f3a5c0] error while decoding MB 12 30, bytestream -7",
        "OpenCV: FFMPEG: tag 0x5634504d/'MP4V' is not supported with codec id 12",
        "ERROR 1: TIFFFillTile:Read error at row 512",
        "Warning 1: scene.tif: TIFFReadDirectory: Unknown field",
    ],
)
def test_what_libraries_say_is_known(line):
    assert is_talk(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        "passed over: a.jpg: cannot be decoded",
        "E RKNN: [08:55:17.031] failed to submit!, op id: 1",
        "W rknn-toolkit-lite2 version: 2.3.2",
        "Segmentation fault",
        "terminate called without an active exception",
        "Traceback (most recent call last):",
        "2026-01-01 [W:onnxruntime:Default] no device",
        "",
    ],
)
def test_what_matters_is_not_talk(line):
    assert not is_talk(line.encode())


def test_talk_is_dropped_and_the_rest_arrives_in_order():
    code = """
with quiet_libraries():
    os.write(2, b"Corrupt JPEG data: x\\nE RKNN: one\\nlibpng warn")
    os.write(2, b"ing: iCCP: known\\nE RKNN: two")
print("after", file=sys.stderr)
os.write(2, b"libpng warning: outside\\n")
"""
    assert stderr_of(code) == "E RKNN: one\nE RKNN: twoafter\nlibpng warning: outside\n"


def test_python_writes_go_straight_out_even_before_a_kill():
    code = """
import signal
with quiet_libraries():
    print("told", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert stderr_of(code) == "told\n"


def test_an_error_passes_and_everything_is_as_it_was():
    code = """
before = sys.stderr
try:
    with quiet_libraries():
        raise ValueError("x")
except ValueError:
    print(sys.stderr is before, len(os.listdir("/proc/self/fd")), file=sys.stderr)
"""
    opened = stderr_of('print(True, len(os.listdir("/proc/self/fd")), file=sys.stderr)')
    assert stderr_of(code) == opened


def test_debug_shows_all_of_it():
    code = 'with quiet_libraries():\n    os.write(2, b"libpng warning: x\\n")\n'
    assert stderr_of(code, RSEDGE_DEBUG="1") == "libpng warning: x\n"


def test_a_child_process_is_heard_too():
    code = """
import subprocess
with quiet_libraries():
    subprocess.run(["sh", "-c", "echo 'libpng warning: x' >&2; echo child >&2"])
"""
    assert stderr_of(code) == "child\n"


def test_opencv_is_quiet_about_a_jpeg_with_odd_bytes(tmp_path):
    code = f"""
import cv2, numpy as np
data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
open({str(tmp_path / "x.jpg")!r}, "wb").write(data[:-2] + bytes(50) + data[-2:])
def read():
    assert cv2.imread({str(tmp_path / "x.jpg")!r}) is not None
if len(sys.argv) > 1 or os.environ.get("PLAIN"):
    read()
else:
    with quiet_libraries():
        read()
"""
    assert "Corrupt JPEG data" in stderr_of(code, PLAIN="1"), "OpenCV does say it"
    assert stderr_of(code) == ""


def test_captured_standard_error_is_left_alone(capsys):
    with quiet_libraries():
        print("kept", file=sys.stderr)
    assert capsys.readouterr().err == "kept\n"
