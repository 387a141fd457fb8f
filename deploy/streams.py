"""Live streams and cameras: always the newest frame, a stall noticed, a lost connection made again with back-off.

A thread reads as fast as the stream gives and keeps one frame only, the newest: whoever takes frames slowly gets fresh
ones, and the delay never grows. What it replaces is counted as dropped. FFmpeg goes by TCP first (OpenCV's default).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from .decoders import VideoDecoder, find_decoder, open_capture
from .frames import Frame
from .sources import Kind, OnEvent, ReadError, SourceEvent, shown
from .stream_clock import StreamClock

_FAILURES = 3  # in a row are an end; a damaged frame fails once and the next one comes


@dataclass(frozen=True)
class Backoff:
    """How long to wait before each try to connect again: `first_s`, then `factor` times longer, up to `longest_s`.

    jitter: each wait is drawn from +- this share around it, so that many boards do not come back in the same moment.
    tries: give up after so many in a row; None never does.
    """

    first_s: float = 0.5
    factor: float = 2.0
    longest_s: float = 30.0
    jitter: float = 0.2
    tries: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.first_s <= self.longest_s and self.factor >= 1 and 0 <= self.jitter < 1):
            raise ValueError(
                "back-off needs 0 < first_s <= longest_s, factor of at least 1 and jitter from 0 to below 1, got "
                f"{self.first_s}, {self.longest_s}, {self.factor} and {self.jitter}"
            )
        if self.tries is not None and self.tries < 0:
            raise ValueError(f"tries must be 0 or more, or None for no end, got {self.tries}")

    def wait_s(self, tries: int, draw: float) -> float:
        """Return the seconds before try number `tries` (from 0); draw: 0 to 1, where in the jitter."""
        # The exponent is bounded: a stream that is away for days must not overflow.
        plain = min(self.longest_s, self.first_s * self.factor ** min(tries, 64))
        return plain * (1 + self.jitter * (2 * draw - 1))


@dataclass(frozen=True)
class LiveOptions:
    """How patient a live source is.

    stall_s: no frame for so long counts as lost. open_timeout_s: for one try to connect. wait: keep trying where even
    the first try fails, instead of raising (a board that starts before its camera).
    """

    backoff: Backoff = field(default_factory=Backoff)
    stall_s: float = 5.0
    open_timeout_s: float = 15.0
    wait: bool = False

    def __post_init__(self) -> None:
        if not (self.stall_s > 0 and self.open_timeout_s > 0):
            raise ValueError(
                f"stall_s and open_timeout_s must be above 0 seconds, got {self.stall_s} and {self.open_timeout_s}"
            )


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, np.ndarray]: ...

    def get(self, property_id: int, /) -> float: ...

    def release(self) -> None: ...


@dataclass(frozen=True, eq=False)
class _Held:
    """The newest frame, BGR, until somebody takes it."""

    number: int
    image: np.ndarray
    timestamp_s: float
    read_ms: float


class LiveSource:
    """Give the newest frame of a camera or stream; see `deploy.sources.Source`.

    connect: opens a capture and says what decodes it, or raises OSError with one line. own_clock: whether the stream's
    positions are worth something. Frame numbers count what arrived, over all connections. read_ms: taking the picture
    over and its colours; waiting for it and decoding it go on in the reading thread.

    Raises what `connect` raises where the first try fails and `options.wait` is not set. Iterating raises OSError where
    `backoff.tries` are used up, after the last frame was given. `close` does not wait for a connection that hangs: its
    thread ends by itself when the timeouts are over.
    """

    live = True
    count: int | None = None

    def __init__(
        self,
        connect: Callable[[], tuple[Capture, str]],
        name: str,
        kind: Kind = "stream",
        *,
        own_clock: bool = True,
        options: LiveOptions | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.name, self.kind = name, kind
        self.decoder = ""
        self.fps: float | None = None
        self.size_hw: tuple[int, int] | None = None
        self.dropped = self.skipped = self.reconnects = 0
        self._connect, self._options, self._on_event = connect, options or LiveOptions(), on_event
        self._random = random.Random()
        self._clock = StreamClock(own_clock)
        self._changed = threading.Condition()
        self._held: _Held | None = None
        self._arrived = 0
        self._ended = False
        self._broken: Exception | None = None
        self._closing = threading.Event()
        capture = None
        try:
            capture = self._opened()
        except OSError:
            if not self._options.wait:
                raise
        self._thread = threading.Thread(target=self._run, args=(capture,), name="rsedge-live", daemon=True)
        self._thread.start()

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Do nothing: what is live does not come back, so nothing of it is done already."""

    def __iter__(self) -> Iterator[Frame | ReadError]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held is not None or self._ended or self._closing.is_set())
                if self._closing.is_set():
                    return
                held, self._held = self._held, None
                if held is None:
                    if self._broken is not None:
                        raise self._broken
                    return
            begin = time.perf_counter()
            image = cv2.cvtColor(held.image, cv2.COLOR_BGR2RGB)
            spent = held.read_ms + (time.perf_counter() - begin) * 1e3
            yield Frame(held.number, self.name, image, spent, held.timestamp_s)

    def close(self) -> None:
        """End the iteration and the reading thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(0.5)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the reading thread does.

    def _run(self, capture: Capture | None) -> None:
        tries = 0
        try:
            while not self._closing.is_set():
                if capture is None:
                    capture = self._connect_again(tries)
                    tries += 1
                    continue
                before = self._arrived
                why = self._read_until_lost(capture)
                capture.release()
                capture = None
                # A server that lets everybody in and gives nothing is not hammered.
                tries = 0 if self._arrived > before else tries
                if not self._closing.is_set():
                    self._tell("lost", f"{self.name}: lost ({why})")
        except Exception as error:  # it has to reach whoever iterates, a thread's end would be silent
            self._broken = error
        finally:
            if capture is not None:
                capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _connect_again(self, tries: int) -> Capture | None:
        backoff = self._options.backoff
        if backoff.tries is not None and tries >= backoff.tries:
            raise OSError(f"{self.name}: lost, and {tries} tries to connect again failed; check the camera and network")
        wait_s = backoff.wait_s(tries, self._random.random())
        self._tell("reconnecting", f"{self.name}: connecting again in {wait_s:.1f} s (try {tries + 1})", wait_s)
        if self._closing.wait(wait_s):
            return None
        try:
            capture = self._opened()
        except OSError:
            return None
        if self._arrived:
            self.reconnects += 1
        return capture

    def _opened(self) -> Capture:
        capture, self.decoder = self._connect()
        height, width = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size_hw = (height, width) if height > 0 and width > 0 else None
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None  # some cameras state their clock rate, 90000
        self._clock.connected()
        size = f", {width}x{height}" if self.size_hw else ""
        self._tell("connected", f"{self.name}: connected{size}{f', {fps:g} frames/s' if self.fps else ''}")
        return capture

    def _read_until_lost(self, capture: Capture) -> str:
        """Keep the newest frame until there are no more; return why."""
        stall_s, failures = self._options.stall_s, 0
        while not self._closing.is_set():
            asked = time.monotonic()
            fine = capture.grab()
            arrival = time.monotonic()
            # FFmpeg may flush one more frame when its timeout strikes; the stream has stalled all the same.
            stalled = arrival - asked >= 0.95 * stall_s
            if fine:
                self.skipped += failures
                failures = 0
                begin = time.perf_counter()
                fine, image = capture.retrieve()
                spent = (time.perf_counter() - begin) * 1e3
                if fine and image is not None:
                    self._hold(image, self._clock.stamp(arrival, capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3), spent)
                else:
                    self.skipped += 1
            else:
                failures += 1
            if stalled:
                return f"no frame for {stall_s:g} s"
            if failures == _FAILURES:
                return "the connection ended"
        return "closed"

    def _hold(self, image: np.ndarray, timestamp_s: float, read_ms: float) -> None:
        with self._changed:
            if self._held is not None:
                self.dropped += 1
            self._held = _Held(self._arrived, image, timestamp_s, read_ms)
            self._arrived += 1
            self._changed.notify()

    def _tell(self, kind: str, text: str, wait_s: float | None = None) -> None:
        if self._on_event is not None:
            self._on_event(SourceEvent(kind, text, wait_s))  # type: ignore[arg-type]


def open_stream(
    url: str,
    *,
    options: LiveOptions | None = None,
    decoder: VideoDecoder | None = None,
    on_event: OnEvent | None = None,
) -> LiveSource:
    """Connect to a live stream (RTSP, RTMP, HTTP, ...); see `LiveSource`. The name is the URL with *** for credentials.

    Raises OSError with one line where nobody answers, access is denied or no video comes, unless `options.wait`.
    """
    live = options or LiveOptions()
    wanted = decoder or find_decoder()
    name = shown(url)
    used = [wanted]

    def connect() -> tuple[Capture, str]:
        capture, used[0] = open_capture(
            url, used[0], live=True, open_timeout_s=live.open_timeout_s, read_timeout_s=live.stall_s
        )
        if capture is None:
            used[0] = wanted
            raise OSError(
                f"{name}: cannot be opened (nobody answers, access is denied, or no video comes within "
                f"{live.open_timeout_s:g} s); check address, user and password, and that the camera is on"
            )
        return capture, str(used[0])

    # Motion JPEG over HTTP has no clock, FFmpeg makes one up from 25 frames/s; playlists (HLS) have one.
    own_clock = not url.lower().startswith("http") or ".m3u8" in url
    return LiveSource(connect, name, "stream", own_clock=own_clock, options=live, on_event=on_event)
