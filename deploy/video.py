"""Video files frame by frame, and cameras, through OpenCV."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType

import cv2

from .decoders import VideoDecoder, find_decoder, open_capture
from .frames import Frame
from .sources import Kind, OnEvent, ReadError, SourceEvent, shown
from .streams import Capture, LiveOptions, LiveSource

# Damaged frames in a row that are passed over before a file counts as ended.
MOST_SKIPPED = 250
_TICK_S = 1e-3
# Headers state the frame count of a file up to so many seconds wrong (sound longer than the picture, trimmed clips).
_SHORT_S = 1.0


class VideoSource:
    """Give every frame of a video file, RGB and turned as its metadata asks; see `deploy.sources.Source`.

    timestamp_s: the container's, from the first frame on. Where one does not ascend (damaged or missing clocks) the
    frame period is added to the one before, 1 ms where there is none. Numbers are those of the file: a frame that
    cannot be decoded is skipped, counted and told, and the next one keeps its own number, as far as the container's
    clock shows the gap. A decoder that paints over damage, as those of H.264 do, leaves nothing to notice.

    A file that ends more than a second before what its header states ends with a ReadError; up to that it is told only.

    Raises FileNotFoundError, ValueError where it is no video or holds no frame that can be decoded, or OSError where an
    address gives none.
    """

    live = False
    kind: Kind = "video"
    dropped = reconnects = 0

    def __init__(
        self,
        what: str | Path,
        *,
        loop: bool = False,
        decoder: VideoDecoder | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._what, self.name = str(what), shown(what)
        if "://" not in self._what and not Path(self._what).is_file():
            raise FileNotFoundError(f"{self.name}: no such video file; check the path")
        self._loop, self._on_event = loop, on_event
        self._lock = threading.Lock()
        self._closed = False
        self._done: Container[int] = ()
        self.skipped = 0
        self._first_number, self._start_s = 0, 0.0  # of this turn, when looping
        self._capture, used = self._open(decoder or find_decoder())
        self._decoder, self.decoder = used, str(used)
        height, width = (int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size_hw: tuple[int, int] | None = (height, width) if height > 0 and width > 0 else None
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 1000 else None
        self._period_s = 1 / self.fps if self.fps else _TICK_S
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._frames: int | None = int(frames) if 0 < frames < 1 << 40 else None
        self.count = None if loop else self._frames
        self._next = 0  # the number in the file of the frame to come
        self._waiting = False  # whether that frame is grabbed already
        self._stamp: float | None = None
        self._at_s = 0.0  # where in the file's clock the grabbed frame lies
        self._ended = False
        if not self._grab():
            self._capture.release()
            raise ValueError(
                f"{self.name}: holds no frame that can be decoded; copy it again, or convert it with ffmpeg"
            )
        self._waiting = True
        self._origin_s = self._at_s - self._next * self._period_s  # the first frame may be a damaged one

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Pass over the frames in `numbers`; `names` is not looked at, all frames have the same."""
        self._done = numbers

    def seek(self, number: int) -> None:
        """Go on with frame `number` of the file; may be called from another thread while one iterates.

        Raises ValueError where the file has no such frame, or does not say how many it has.
        """
        if self._frames is None or not 0 <= number < self._frames:
            has = (
                "does not say how many frames it has" if self._frames is None else f"has frames 0 to {self._frames - 1}"
            )
            raise ValueError(f"{self.name}: {has}, cannot go to {number}")
        with self._lock:
            if self._closed:
                return
            if self._decoder.kind == "gstreamer":  # counts no frames
                self._capture.set(cv2.CAP_PROP_POS_MSEC, number / (self.fps or 25.0) * 1e3)
            else:
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            self._next, self._waiting, self._ended = number, False, False
            self._first_number, self._start_s, self._stamp = 0, 0.0, None
            self._at_s = self._origin_s + (number - 1) * self._period_s

    def __iter__(self) -> Iterator[Frame | ReadError]:
        while (frame := self._read()) is not None:
            yield frame

    def close(self) -> None:
        """End the iteration and free the file; waits for the frame that is being decoded."""
        self._closed = True
        with self._lock:
            self._capture.release()

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, decoder: VideoDecoder) -> tuple[cv2.VideoCapture, VideoDecoder]:
        capture, used = open_capture(self._what, decoder, live=False)
        if capture is None and "://" in self._what:
            raise OSError(
                f"{self.name}: gives no video (nobody answers, there is no such file, or access is denied); check the "
                "address and the server, or copy the file here"
            )
        if capture is None:
            raise ValueError(
                f"{self.name}: cannot be opened as a video (damaged, cut off, or of a kind that FFmpeg does not know); "
                "copy it again, or convert it with ffmpeg"
            )
        return capture, used

    def _read(self) -> Frame | ReadError | None:
        """Return the next frame, or None where there is none."""
        with self._lock:
            while not self._closed and not self._ended:
                begin = time.perf_counter()
                if not self._waiting and not self._grab():
                    told = self._end()
                    if told is not None:
                        return told
                    continue
                self._waiting = False
                number = self._first_number + self._next
                self._next += 1
                timestamp_s = self._time()
                if number in self._done:
                    continue
                fine, image = self._capture.retrieve()
                if not fine or image is None:
                    self._skip(1)
                    continue
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                return Frame(number, self.name, image, (time.perf_counter() - begin) * 1e3, timestamp_s)
            return None

    def _grab(self) -> bool:
        """Decode the next frame that can be decoded, and move `_next` to its number; False at the end."""
        before = self._at_s  # of the frame before; a capture that failed says anything
        if self._capture.grab():
            self._at_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            return True
        left = 1 if self._frames is None else self._frames - self._next - 1
        for _ in range(min(MOST_SKIPPED, left)):
            if self._closed:
                return False
            if not self._capture.grab():
                continue
            self._at_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            gap = round((self._at_s - before) * (self.fps or 0)) - 1
            lost = max(1, gap) if self._next else 1
            self._next += lost
            self._skip(lost)
            return True
        return False

    def _skip(self, frames: int) -> None:
        self.skipped += frames
        which = f"frame {self._next - 1}" if frames == 1 else f"frames {self._next - frames} to {self._next - 1}"
        self._tell("skipped", f"{self.name}: {which} cannot be decoded, skipped ({self.skipped} so far)")

    def _time(self) -> float:
        """Return the timestamp of the frame that was grabbed, ascending."""
        stamp = self._start_s + self._at_s - self._origin_s
        if self._stamp is not None and stamp <= self._stamp:
            stamp = self._stamp + self._period_s
        self._stamp = stamp
        return stamp

    def _end(self) -> ReadError | None:
        """Begin again where the file loops, and say where it ended too early."""
        missing = 0 if self._frames is None else self._frames - self._next
        read, stated, number = self._next, self._frames, self._first_number + self._next
        if self._loop and not self._closed and read:
            self._capture.release()
            self._capture, _ = self._open(self._decoder)
            self._first_number += self._next
            self._start_s = (self._stamp or 0.0) + self._period_s
            self._next = 0
        else:
            self._ended = True
        if missing > 0:
            text = f"{self.name}: ends after {read} of the {stated} frames that its header states"
            if missing > _SHORT_S * (self.fps or 25.0):
                return ReadError(number, self.name, ValueError(f"{text}: cut off or damaged; copy it again"))
            self._tell("short", text)
        return None

    def _tell(self, kind: str, text: str) -> None:
        if self._on_event is not None:
            self._on_event(SourceEvent(kind, text))  # type: ignore[arg-type]


def open_camera(
    what: int | str | Path,
    *,
    size_hw: tuple[int, int] | None = None,
    fps: float | None = None,
    options: LiveOptions | None = None,
    on_event: OnEvent | None = None,
) -> LiveSource:
    """Open a camera by its number or device file; see `LiveSource`. One that is unplugged is tried again with back-off.

    size_hw, fps: asked of the camera, which gives the nearest that it can; a size is asked for as Motion JPEG, USB is
    too slow for large raw pictures.

    Raises FileNotFoundError where there is no such device, OSError where it cannot be opened or gives no picture.
    """
    device = Path(f"/dev/video{what}" if re.fullmatch(r"\d+", str(what)) else str(what))

    def connect() -> tuple[Capture, str]:
        if not device.exists():
            others = sorted(str(p) for p in Path("/dev").glob("video*"))
            there = f"there are {', '.join(others)}" if others else "no camera is connected"
            raise FileNotFoundError(f"{device}: no such camera, {there}; connect it, or name another")
        if not os.access(device, os.R_OK | os.W_OK):
            raise PermissionError(
                f"{device}: this user may not open it; add the user to the group video and log in again"
            )
        # By number: OpenCV's backend takes names of the form /dev/videoN only, not links to them.
        number = re.search(r"(\d+)$", str(device.resolve()))
        capture = cv2.VideoCapture(int(number.group(1)) if number else str(device), cv2.CAP_V4L2)
        if size_hw is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_hw[0])
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_hw[1])
        if fps is not None:
            capture.set(cv2.CAP_PROP_FPS, fps)
        if not capture.isOpened() or not capture.grab():
            capture.release()
            raise OSError(
                f"{device}: gives no picture (busy in another program, or no camera); close what else uses it"
            )
        return capture, "software: the camera's own format, through V4L2"

    return LiveSource(connect, str(device), "camera", options=options, on_event=on_event)
