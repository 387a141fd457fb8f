"""Player: a video at its own pace or as fast as it goes, with pause, step and seek from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from deploy.frames import Frame
from deploy.sources import ReadError, Source

# After a pause of the source longer than this the pace begins anew, instead of catching up.
_LATE_S = 0.5


class Player:
    """Wrap a source for `Detector.stream`; see the module's text.

    at_pace: frames leave when their timestamp is due, and the newest wins where inference is slower (`live` is True);
    False: every frame, as fast as results are taken. hold: at the end wait for a seek instead of ending. clock, in
    seconds, is `time.perf_counter`.

    The commands come from any thread and never wait: whoever reads the source obeys them before its next frame.
    """

    def __init__(
        self,
        source: Source,
        *,
        at_pace: bool = True,
        loop: bool = False,
        hold: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.source, self.live = source, at_pace or source.live
        self.paused = False
        self.ended = False
        self._at_pace, self._loop, self._hold, self._clock = at_pace and not source.live, loop, hold, clock
        self._change = threading.Condition()
        self._steps = 0
        self._seek_to: int | None = None
        self._closed = False
        self._due: tuple[float, float] | None = None  # clock and timestamp from which the pace counts

    def pause(self, paused: bool) -> None:
        """Hold the picture, or go on."""
        with self._change:
            self.paused, self._due = paused, None
            if not paused and self.ended:
                self._seek_to = 0
            self._change.notify_all()

    def step(self) -> None:
        """Let one more frame out, and pause."""
        with self._change:
            self.paused, self._steps = True, self._steps + 1
            self._change.notify_all()

    def seek(self, number: int) -> None:
        """Go on with frame `number`; while paused, that one is let out."""
        with self._change:
            self._seek_to = max(0, number)
            self._change.notify_all()

    def loop(self, wanted: bool) -> None:
        """Begin again at the end, or not."""
        self._loop = wanted

    def close(self) -> None:
        """End the iteration and close the source; may be called twice and from any thread."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self.source.close()

    def __iter__(self) -> Iterator[Frame | ReadError]:
        while not self._closed:
            for frame in self.source:
                if self._wait(frame):
                    yield frame
                if self._closed:
                    return
                self._obey()
            if not self._again():
                return

    def _wait(self, frame: Frame | ReadError) -> bool:
        """Wait until a frame may leave; False where a seek or the end came in between."""
        with self._change:
            while not self._closed and self._seek_to is None:
                if self.paused:
                    if self._steps:
                        self._steps -= 1
                        return True
                    self._change.wait()
                    self._due = None
                    continue
                left = self._left_s(frame)
                if left <= 0:
                    return True
                self._change.wait(left)
            return False

    def _left_s(self, frame: Frame | ReadError) -> float:
        """Return how long until a frame is due by its timestamp."""
        stamp = getattr(frame, "timestamp_s", None)
        if not self._at_pace or stamp is None:
            return 0.0
        now = self._clock()
        if self._due is None or now - self._due[0] - (stamp - self._due[1]) > _LATE_S or stamp < self._due[1]:
            self._due = (now, stamp)
        return self._due[0] + (stamp - self._due[1]) - now

    def _obey(self) -> None:
        """Seek if that was asked for."""
        with self._change:
            number, self._seek_to = self._seek_to, None
            if number is None:
                return
            self._due, self.ended = None, False
            if self.paused:
                self._steps = 1
        seek = getattr(self.source, "seek", None)
        if seek is not None:
            last = None if self.source.count is None else self.source.count - 1
            try:
                seek(number if last is None else min(number, last))
            except ValueError:  # a file that does not say how many frames it has goes on where it is
                return

    def _again(self) -> bool:
        """At the end of the source: begin anew, wait for a seek, or end."""
        can_seek = hasattr(self.source, "seek") and self.source.count is not None
        with self._change:
            if self._loop and can_seek and not self._closed:
                self._seek_to = 0
            elif not self._hold or not can_seek:
                return False
            self.ended = self._seek_to is None
            while self._seek_to is None and not self._closed:
                self._change.wait()
            if self._closed:
                return False
        self._obey()
        return True
