"""ContextGuard: a vendor context is run by one thread, and freed exactly once, never under a running call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class ContextGuard:
    """Stand around every run of a context: `with guard: run()`.

    name: of the backend, for messages. free: gives the context back; called once, by `close` or, where a run is under
    way in another thread, by that thread when the run ends, so that `close` never waits for an NPU that hangs.

    Entering raises ValueError after `close`, and RuntimeError in any thread but the first that entered: the vendor's
    runtime mixes up results where threads share a context.
    """

    def __init__(self, name: str, free: Callable[[], None]) -> None:
        self._name, self._free = name, free
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._closed = self._running = False

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._closed:
                raise ValueError(f"the {self._name} backend was closed; open the bundle again")
            if self._owner != me:
                if self._owner is not None:
                    raise RuntimeError(
                        f"a context of {self._name} belongs to the thread that ran it first ({self._owner}), got a "
                        f"call from thread {me}; open a backend per thread"
                    )
                self._owner = me
            self._running = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._running = False
            late = self._closed
        if late:
            self._free()

    def close(self) -> None:
        """Refuse further runs and free the context. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = self._running
        if not running:
            self._free()
