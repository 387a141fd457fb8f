"""Scheduler: one run of items through a crew's contexts, whose results leave in the order in which items came in.

Queues are bounded. A source of files waits ("block"); a camera must not, so there the oldest waiting item makes room
for the newest one ("latest"). A result leaves as soon as it is next in order; it never waits for a queue to fill. An
item that fails takes its own error out with it, at its place in the order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from .context import Context, Job, Outcome, SchedulerClosedError
from .crew import Crew

Policy = Literal["block", "latest"]


class Scheduler:
    """Run items through the contexts of a crew; see the module's text.

    depth: items that may wait; default two per context. window: items that may be on their way altogether, results that
    nobody took included. policy: what `submit` does when there is no room. call: how a context is called, with it and
    the item; default as a function. finish: takes values of several finished calls at once and returns as many (batched
    post-processing); whichever worker has just finished does it for all that are waiting, at most `finish_batch`.

    dropped: items that made room for newer ones. replaced: contexts that hung over an item of this run. reopened:
    contexts that were lost over one and opened again.

    Usable from several threads, but `results` has one reader. The crew may have other runs at the same time; its
    contexts take items of each in turn. Raises what a context raises when it opens.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        depth: int | None = None,
        window: int | None = None,
        policy: Policy = "block",
        call: Callable[[Any, Any], Any] | None = None,
        finish: Callable[[list[Any]], Sequence[Any]] | None = None,
        finish_batch: int = 8,
    ) -> None:
        if policy not in ("block", "latest"):
            raise ValueError(f"policy must be block or latest, got {policy!r}")
        for name, value in (("depth", depth), ("window", window), ("finish_batch", finish_batch)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.call = call or _plain_call
        self._crew, self._policy = crew, policy
        self._finish, self._finish_batch = finish, finish_batch
        contexts = len(crew.cores)
        self._depth = depth if depth is not None else (1 if policy == "latest" else 2) * contexts
        self._window = window if window is not None else self._depth + 4 * contexts
        self._lock = crew.lock
        self._room = threading.Condition(crew.lock)  # a submitter may find room
        self._next = threading.Condition(crew.lock)  # the reader may find the next result, or an end
        self._waiting: deque[Job] = deque()
        self._order: deque[Job] = deque()
        self._raw: deque[tuple[Job, Any]] = deque()
        self._finishing = False
        self._tickets = 0
        self._ended = self._stopped = False
        self._broken: Exception | None = None
        self.dropped = self.replaced = self.reopened = 0
        crew.enlist(self)

    # What callers do.

    def submit(self, item: Any) -> int:
        """Hand an item over and return its ticket, counted from 0.

        Under "block" waits until there is room; under "latest" never waits: the oldest item that no context has taken
        up is dropped for it, or this one where nothing is waiting and the reader does not keep up. Raises
        SchedulerClosedError after an end, and what broke the last context when none is left.
        """
        now = time.perf_counter()
        with self._lock:
            while not self._ended and self._broken is None and self._full():
                if self._policy == "latest":
                    if not self._drop_oldest():
                        self._tickets += 1
                        self.dropped += 1
                        return self._tickets - 1
                    continue
                self._room.wait()
            if self._broken is not None:
                raise self._broken
            if self._ended:
                raise SchedulerClosedError("the scheduler has ended, it takes no more items; open a new one")
            job = Job(self, self._tickets, item, now)
            self._tickets += 1
            self._waiting.append(job)
            self._order.append(job)
            self._crew.work.notify()
            return job.ticket

    def results(self) -> Iterator[Outcome]:
        """Yield outcomes in the order of submission, each as soon as it is next, until an end was called.

        Dropped items are left out. Raises what broke the last context, after everything finished before it was yielded.
        """
        while True:
            with self._lock:
                while True:
                    if self._stopped or (self._order and self._order[0].done):
                        break
                    if not self._order and (self._ended or self._broken is not None):
                        break
                    self._next.wait()
                if self._stopped or not self._order:
                    broken = None if self._stopped else self._broken
                    break
                job = self._order.popleft()
                self._room.notify()
            yield Outcome(job.ticket, job.item, job.value, job.error, (job.done_at - job.submitted) * 1e3)
        if broken is not None:
            raise broken

    def finish(self) -> None:
        """Take no more items; what was submitted is still worked off and yielded."""
        with self._lock:
            self._ended = True
            self._wake_all()

    def cancel(self) -> None:
        """Throw away what waits and what is under way; `results` and a waiting `submit` end at once."""
        with self._lock:
            self._ended = self._stopped = True
            self._forget_all()
            self._wake_all()

    def close(self, patience_s: float = 5.0) -> bool:
        """Cancel, and wait until no context has an item of this run, at most `patience_s` seconds; says if none has.

        The contexts stay open. One that hangs is the crew's to replace; what it may still say about the item is lost.
        """
        self.cancel()
        deadline = time.monotonic() + patience_s
        with self._lock:
            while (busy := self._finishing or self._crew.works_for(self)) and time.monotonic() < deadline:
                self._next.wait(max(0.0, deadline - time.monotonic()))
            self._crew.leave(self)
            return not busy

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What the crew does.

    def next_waiting(self) -> Job | None:
        """Return the item that is to be worked on next, if one waits. Called under the lock."""
        if not self._waiting:
            return None
        self._room.notify()
        return self._waiting.popleft()

    def try_again(self, job: Job) -> bool:
        """Put an item whose context was lost back in front, once; says whether that was done. Under the lock."""
        if job.tries or self._stopped:
            return False
        job.tries += 1
        self._waiting.appendleft(job)
        self._crew.work.notify()
        return True

    def answer(self, job: Job, value: Any, error: Exception | None) -> bool:
        """Take what became of an item; says whether the caller has to call `finish_raw` now. Under the lock."""
        if self._stopped:
            self._next.notify_all()  # `close` waits for this
            return False
        if error is not None or self._finish is None:
            self._complete(job, value, error)
            return False
        self._raw.append((job, value))
        if self._finishing:  # another worker is at it, and takes this one along
            return False
        self._finishing = True
        return True

    def finish_raw(self) -> None:
        """Finish what is waiting for it, in batches, until nothing is."""
        while True:
            with self._lock:
                if not self._raw:
                    self._finishing = False
                    if self._stopped:
                        self._next.notify_all()
                    return
                batch = [self._raw.popleft() for _ in range(min(len(self._raw), self._finish_batch))]
            values: Sequence[Any] = [None] * len(batch)
            errors: list[Exception | None] = [None] * len(batch)
            try:
                values = self._finished([value for _, value in batch])
            except Exception:
                # One of them is at fault; alone, each answers for itself.
                values = [None] * len(batch)
                for i, (_, value) in enumerate(batch):
                    try:
                        values[i] = self._finished([value])[0]
                    except Exception as error:
                        errors[i] = error
            with self._lock:
                for (job, _), value, failed in zip(batch, values, errors, strict=True):
                    self._complete(job, value, failed)

    def break_off(self, error: Exception, *, now: bool = False) -> None:
        """End with an error: of all that is under way, or at once, without their results. Under the lock."""
        self._broken = error
        self._waiting.clear()
        if now:
            self._forget_all()
        for job in self._order:
            if not job.done:
                self._complete(job, None, error)
        self._wake_all()

    def _finished(self, values: list[Any]) -> Sequence[Any]:
        assert self._finish is not None
        finished = self._finish(values)
        if len(finished) != len(values):  # or one of them would never leave
            raise ValueError(f"finish must return as many values as it takes, {len(values)}, got {len(finished)}")
        return finished

    # Under the lock.

    def _complete(self, job: Job, value: Any, error: Exception | None) -> None:
        job.value, job.error, job.done, job.done_at = value, error, True, time.perf_counter()
        if self._order and self._order[0] is job:
            self._next.notify()

    def _full(self) -> bool:
        return len(self._waiting) >= self._depth or len(self._order) >= self._window

    def _drop_oldest(self) -> bool:
        if not self._waiting:
            return False
        self._order.remove(self._waiting.popleft())
        self.dropped += 1
        self._next.notify()  # what was behind it may be next now
        return True

    def _forget_all(self) -> None:
        for held in (self._waiting, self._order, self._raw):
            held.clear()

    def _wake_all(self) -> None:
        self._room.notify_all()
        self._next.notify_all()


def _plain_call(context: Context, item: Any) -> Any:
    return context(item)
