"""What the scheduler works with: contexts, their errors, items on their way, workers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .scheduler import Scheduler


class Context(Protocol):
    """What one worker calls: an item in, a value out. Only one thread ever touches it."""

    def __call__(self, item: Any) -> Any: ...

    def close(self) -> None: ...


class ContextLostError(RuntimeError):
    """A context that cannot be used any more (its process died, its device is gone); it is opened again.

    The item did nothing wrong as far as is known: it is tried once more, on a context that works.
    """


class SchedulerClosedError(RuntimeError):
    """An item came after the end (`finish`, `cancel` or `close` was called before), or the contexts were closed."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one item: a value, or the error that it met. waited_ms: from `submit` until it was done."""

    ticket: int
    item: Any
    value: Any
    error: Exception | None
    waited_ms: float


@dataclass(eq=False)
class Job:
    """A scheduler's own account of one item. submitted, done_at: `time.perf_counter` seconds."""

    run: Scheduler
    ticket: int
    item: Any
    submitted: float
    tries: int = 0
    value: Any = None
    error: Exception | None = None
    done: bool = False
    done_at: float = 0.0


@dataclass(eq=False)
class Worker:
    """One thread with one context. busy_since: when the present call or opening began, None between them.

    job: what it works on. opened: its context was. gone: it takes no more items. error: why, where its context cannot
    be had. fruitless: contexts in a row, this one included, that hung.
    """

    core: int
    thread: threading.Thread | None = None
    busy_since: float | None = None
    job: Job | None = None
    opened: bool = False
    gone: bool = False
    error: Exception | None = None
    fruitless: int = 0
