"""Feeder: the thread that reads a source ahead of the contexts, and how it shares the interpreter with them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .context import SchedulerClosedError
from .scheduler import Scheduler

# How long a thread may keep the interpreter lock while others want it. Python's own 5 ms are two images on three cores.
SWITCH_S = 0.0005

_lock = threading.Lock()
_runs = 0
_usual = 0.0


@contextmanager
def quick_switching() -> Iterator[None]:
    """Have threads hand on the interpreter lock sooner, while any such block of the process lasts."""
    global _runs, _usual
    with _lock:
        if not _runs:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, SWITCH_S))
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                sys.setswitchinterval(_usual)


class Feeder(threading.Thread):
    """Reads a source and submits what it gives. error: what the source raised."""

    def __init__(self, source: Iterable[Any], scheduler: Scheduler) -> None:
        super().__init__(name="rsedge-source", daemon=True)
        self.source, self.scheduler = source, scheduler
        self.error: Exception | None = None
        self.stopping = False

    def run(self) -> None:
        """Read until the source ends, raises, or nobody takes its frames any more."""
        try:
            for item in self.source:
                if self.stopping:
                    break
                self.scheduler.submit(item)
        except SchedulerClosedError:
            pass
        except Exception as error:
            if not self.stopping:
                self.error = error
        finally:
            self.scheduler.finish()

    def stop(self) -> None:
        """End it: a source that can be closed is, so that a wait inside it ends."""
        self.stopping = True
        self.scheduler.cancel()
        if self.is_alive():
            close = getattr(self.source, "close", None)
            if close is not None and not isinstance(self.source, Generator):  # a running generator refuses
                close()
            self.join(5)
