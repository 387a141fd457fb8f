"""Publisher: brings documents up to date in the background, as often as that costs next to nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

INTERVAL_S = 1.0
_SHARE = 20  # publishing may take one part in so many of the time


class Publisher:
    """Call functions in a thread, at most once a second and no more than 5 % of the time, while there is news.

    jobs: each brings one file up to date and may raise; what it raised is raised by the next `check`.
    """

    def __init__(self, jobs: Sequence[Callable[[], None]], interval_s: float = INTERVAL_S) -> None:
        self._jobs = jobs
        self._interval_s = interval_s
        self._news = threading.Event()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def tell(self) -> None:
        """Say that there is something to publish."""
        self._news.set()

    def check(self) -> None:
        """Raise what publishing met since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the thread, after what it is at."""
        self._stop.set()
        self._news.set()
        self._thread.join()

    def _work(self) -> None:
        pause = self._interval_s
        while not self._stop.wait(pause):
            self._news.wait()
            if self._stop.is_set():
                return
            self._news.clear()
            begin = time.perf_counter()
            for job in self._jobs:
                try:
                    job()
                except Exception as error:  # whatever it is, it belongs to the thread that adds records
                    self._error = self._error or error
            pause = max(self._interval_s, (time.perf_counter() - begin) * _SHARE)
