"""Video decoders: which one this machine has for H.264 and its like, and how OpenCV is told to use it.

Three ways, the first that is there wins: GStreamer's `mppvideodec` (gstreamer-rockchip, needs an OpenCV built with
GStreamer; pip's has none), FFmpeg's `*_rkmpp` decoders (needs an OpenCV on top of an FFmpeg built with them; pip's
brings its own, without), software. Both of the first two end in the kernel's /dev/mpp_service. Whatever the hardware
does not open falls back to software, with the reason.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2

# FFmpeg's own lines on standard error would double the one line that each failure becomes here, and show credentials.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# What OpenCV asks for where the variable above is not set; it has to be repeated where it is.
DEFAULT_OPTIONS = {"rtsp_flags": "prefer_tcp"}
DEVICE = "dev/mpp_service"
PLUGINS = ("usr/lib/*/gstreamer-1.0", "usr/lib/gstreamer-1.0", "usr/local/lib/*/gstreamer-1.0")
PLUGIN = "libgstrockchipmpp.so"
# FOURCC as OpenCV reports it (lower case) -> FFmpeg's decoder on Rockchip's MPP.
RKMPP = {
    **dict.fromkeys(("h264", "avc1", "avc3", "x264"), "h264_rkmpp"),
    **dict.fromkeys(("hevc", "h265", "hev1", "hvc1"), "hevc_rkmpp"),
    **dict.fromkeys(("vp90", "vp09"), "vp9_rkmpp"),
    **dict.fromkeys(("av01",), "av1_rkmpp"),
    **dict.fromkeys(("vp80", "vp08"), "vp8_rkmpp"),
}


@dataclass(frozen=True)
class VideoDecoder:
    """A way to decode video. kind: see the module's text. reason: why this one, and what a better one lacks."""

    kind: Literal["gstreamer", "rkmpp", "software"]
    reason: str

    @property
    def hardware(self) -> bool:
        """Whether the board's decoder does the work."""
        return self.kind != "software"

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def find_decoder(
    build_information: str | None = None,
    root: Path = Path("/"),
    has_codec: Callable[[str], bool] | None = None,
) -> VideoDecoder:
    """Say which decoder is there, without opening a video.

    build_information: what `cv2.getBuildInformation` gives (None: asks it). root: the file system's root. has_codec:
    whether the FFmpeg under OpenCV has a decoder of that name (None: asks it).
    """
    built = cv2.getBuildInformation() if build_information is None else build_information
    device = root / DEVICE
    if not device.exists():
        return VideoDecoder("software", f"/{DEVICE} is missing: no Rockchip vendor kernel, or hidden by a container")
    if not os.access(device, os.R_OK | os.W_OK):
        return VideoDecoder("software", f"/{DEVICE} may not be opened; add this user to its group (mostly video)")
    if not re.search(r"^\s*GStreamer:\s+YES", built, re.MULTILINE):
        without = "this OpenCV is built without GStreamer (pip's always is)"
    elif not any(True for pattern in PLUGINS for _ in root.glob(f"{pattern}/{PLUGIN}")):
        without = f"GStreamer's plugin {PLUGIN} is missing (package gstreamer1.0-rockchip1)"
    else:
        return VideoDecoder("gstreamer", "mppvideodec, through OpenCV's GStreamer")
    if (has_codec or ffmpeg_has)("h264_rkmpp"):
        return VideoDecoder("rkmpp", f"FFmpeg's rkmpp decoders; {without}")
    return VideoDecoder("software", f"{without}, and its FFmpeg has no rkmpp decoders; put an OpenCV built with either")


def ffmpeg_has(codec: str) -> bool:
    """Whether the FFmpeg that OpenCV has loaded into this process knows a decoder of that name."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    loaded = re.search(r"(/\S*libavcodec[^/\s]*\.so\S*)", maps)
    if loaded is None:
        return False
    try:
        find = ctypes.CDLL(loaded.group(1)).avcodec_find_decoder_by_name
    except (OSError, AttributeError):
        return False
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    return bool(find(codec.encode()))


def open_capture(
    what: str, decoder: VideoDecoder, *, live: bool, open_timeout_s: float = 15.0, read_timeout_s: float = 15.0
) -> tuple[cv2.VideoCapture | None, VideoDecoder]:
    """Open a video file or a stream's URL; return the capture (None: nothing opens it) and the decoder it really uses.

    live: decode on one thread. FFmpeg's frame threads each hold one frame back, eight cores would delay a camera of
    25 frames/s by 280 ms. Both timeouts hold for what comes over a network.
    """
    timeouts = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1e3)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1e3)),
    ]
    if decoder.kind == "gstreamer":
        capture = _opened(pipeline(what, live), cv2.CAP_GSTREAMER, timeouts, {})
        if capture is not None:
            return capture, decoder
        decoder = VideoDecoder("software", "GStreamer with mppvideodec does not open it")
    parameters = [*timeouts, *((cv2.CAP_PROP_N_THREADS, 1) if live else ())]
    capture = _opened(what, cv2.CAP_FFMPEG, parameters, {})
    if capture is None or decoder.kind != "rkmpp":
        return capture, decoder
    fourcc = fourcc_of(capture)
    codec = RKMPP.get(fourcc.lower())
    if codec is None:
        return capture, VideoDecoder("software", f"there is no rkmpp decoder for {fourcc!r}")
    # A camera may allow one client only.
    capture.release()
    hardware = _opened(what, cv2.CAP_FFMPEG, timeouts, {"video_codec": codec})
    if hardware is not None:
        return hardware, VideoDecoder("rkmpp", codec)
    software = VideoDecoder("software", f"{codec} does not open it")
    return _opened(what, cv2.CAP_FFMPEG, parameters, {}), software


def pipeline(what: str, live: bool) -> str:
    """Return the GStreamer pipeline that decodes a file, or a stream's URL, with `mppvideodec` into BGR pictures.

    videoconvert: the decoder's NV12 has padded rows, which OpenCV would misread. videoflip: turns as the file asks.
    """
    quoted = what.replace("\\", "\\\\").replace('"', '\\"')
    if re.match(r"rtsps?://", what, re.IGNORECASE):
        start = f'rtspsrc location="{quoted}" protocols=tcp latency=0 ! application/x-rtp,media=video'
    elif "://" in what:
        start = f'urisourcebin uri="{quoted}"'
    else:
        start = f'filesrc location="{quoted}"'
    sink = "appsink name=sink sync=false drop=false max-buffers=2"
    turned = "videoconvert ! videoflip video-direction=auto ! videoconvert"
    if live:
        turned = "videoconvert"
    return f"{start} ! parsebin ! mppvideodec ! {turned} ! video/x-raw,format=BGR ! {sink}"


def fourcc_of(capture: cv2.VideoCapture) -> str:
    """Return a capture's FOURCC as text, such as "h264"; empty where it has none."""
    value = int(capture.get(cv2.CAP_PROP_FOURCC))
    return value.to_bytes(4, "little").decode("latin-1").strip("\0 ") if 0 < value < 1 << 32 else ""


def _opened(what: str, api: int, parameters: list[int], options: dict[str, str]) -> cv2.VideoCapture | None:
    """Open a capture; None where that fails."""
    with _capture_options(options):
        try:
            capture = cv2.VideoCapture(what, api, parameters)
        except cv2.error:  # a backend that this OpenCV lacks
            return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


_gate = threading.Condition()
_inside: list[dict[str, str]] = []  # the options of every opening under way; all of them are equal
_of_user: list[str | None] = []  # what the variable held before the first of them


@contextmanager
def _capture_options(options: dict[str, str]) -> Iterator[None]:
    """Set FFmpeg options while captures open: OpenCV reads them from one environment variable, at opening.

    Openings with the same options run side by side, others wait. What the user has set in the variable stays, and wins.
    """
    with _gate:
        _gate.wait_for(lambda: not _inside or _inside[0] == options)
        if options and not _inside:
            _of_user[:] = [os.environ.get(OPTIONS_VARIABLE)]
            own = dict(pair.split(";", 1) for pair in (_of_user[0] or "").split("|") if ";" in pair)
            merged = {**(own or DEFAULT_OPTIONS), **options, **own}
            os.environ[OPTIONS_VARIABLE] = "|".join(f"{key};{value}" for key, value in merged.items())
        _inside.append(options)
    try:
        yield
    finally:
        with _gate:
            _inside.pop()
            if options and not _inside:
                before = _of_user.pop()
                if before is None:
                    del os.environ[OPTIONS_VARIABLE]
                else:
                    os.environ[OPTIONS_VARIABLE] = before
            _gate.notify_all()
