"""Scheduler: keep several contexts busy and let results out in the order in which their items came in.

Each context belongs to one thread, which opens, uses and closes it: a runtime's context that two threads enter hands
the answer of one image to another. Two contexts per NPU core hide the work of the CPU behind the NPU: while one context
computes, the other prepares its next image.

Queues are bounded. A source of files waits ("block"); a camera must not, so there the oldest waiting item makes room
for the newest one ("latest"). A result leaves as soon as it is next in order; it never waits for a queue to fill. An
item that fails takes its own error out with it, at its place in the order. A context that hangs is given up after a
timeout and replaced; its thread cannot be stopped, so it is left behind, and what it may still say is thrown away.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from .context import Context, ContextLostError, Job, Outcome, SchedulerClosedError, Worker

Policy = Literal["block", "latest"]
# A context that was lost is opened again so often in a row without a success in between; then its worker ends.
REOPENINGS = 3
# An opening that takes longer has hung: a process that imports everything and loads a model takes a few seconds.
OPENING_S = 120.0


class Scheduler:
    """Run items through contexts, one thread each; see the module's text.

    open_context: called with a core's number in the worker's own thread. cores: one entry per context, such as
    (0, 1, 2, 0, 1, 2). depth: items that may wait; default two per context. window: items that may be on their way
    altogether, results that nobody took included. policy: what `submit` does when there is no room. timeout_s: a call
    that takes longer is given up; opening_s: so is an opening. finish: takes values of several finished calls at once
    and returns as many (batched post-processing); whichever worker has just finished does it for all that are waiting,
    at most `finish_batch`.

    Usable from several threads, but `results` has one reader. Raises what a context raises when it opens.
    """

    def __init__(
        self,
        open_context: Callable[[int], Context],
        cores: Sequence[int],
        *,
        depth: int | None = None,
        window: int | None = None,
        policy: Policy = "block",
        timeout_s: float | None = None,
        opening_s: float = OPENING_S,
        finish: Callable[[list[Any]], Sequence[Any]] | None = None,
        finish_batch: int = 8,
    ) -> None:
        if not cores:
            raise ValueError("cores must name at least one, got none")
        if policy not in ("block", "latest"):
            raise ValueError(f"policy must be block or latest, got {policy!r}")
        for name, value in (("depth", depth), ("window", window), ("finish_batch", finish_batch)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0 seconds, got {timeout_s}")
        self._open, self._policy, self._timeout_s, self._opening_s = open_context, policy, timeout_s, opening_s
        self._finish, self._finish_batch = finish, finish_batch
        self._depth = depth if depth is not None else (1 if policy == "latest" else 2) * len(cores)
        self._window = window if window is not None else self._depth + 4 * len(cores)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # a worker may find something to do
        self._room = threading.Condition(self._lock)  # a submitter may find room
        self._next = threading.Condition(self._lock)  # the reader may find the next result, or an end
        self._rest = threading.Condition(self._lock)  # the watchdog sleeps, until an end
        self._waiting: deque[Job] = deque()
        self._order: deque[Job] = deque()
        self._raw: deque[tuple[Job, Any]] = deque()
        self._finishing = False
        self._tickets = 0
        self._ended = self._stopped = False
        self._opening = len(cores)
        self._broken: Exception | None = None
        # Items that made room for newer ones; contexts replaced because they hung; contexts opened again after a loss.
        self.dropped = self.replaced = self.reopened = 0
        self._workers = [Worker(core) for core in cores]
        self._threads: list[threading.Thread] = []
        for worker in self._workers:
            self._start(worker, first=True)
        self._threads.append(threading.Thread(target=self._watch, name="rsedge-watchdog", daemon=True))
        self._threads[-1].start()
        self._wait_for_opening()

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
            job = Job(self._tickets, item, now)
            self._tickets += 1
            self._waiting.append(job)
            self._order.append(job)
            self._work.notify()
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
            self._waiting.clear()
            self._order.clear()
            self._wake_all()

    def close(self, patience_s: float = 5.0) -> bool:
        """Cancel, and wait until the contexts are closed, at most `patience_s` seconds; says whether all are.

        A context that hangs is left behind; its thread ends with the process.
        """
        self.cancel()
        deadline = time.monotonic() + patience_s
        hung = {worker.thread for worker in self._workers if worker.gone}
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(0 if thread in hung else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What the threads do.

    def _start(self, worker: Worker, *, first: bool) -> None:
        name = f"rsedge-core-{worker.core}"
        worker.thread = threading.Thread(target=self._run, args=(worker, first), name=name, daemon=True)
        self._threads.append(worker.thread)
        worker.thread.start()

    def _wait_for_opening(self) -> None:
        try:
            with self._lock:
                while self._opening and self._broken is None:
                    self._next.wait()
                broken = self._broken
        except BaseException:
            self.close()
            raise
        if broken is not None:
            self.close()
            raise broken

    def _run(self, worker: Worker, first: bool) -> None:
        context = self._opened(worker, 1 if first else REOPENINGS)
        if first:
            with self._lock:
                self._opening -= 1
                self._next.notify_all()
        while context is not None and (job := self._take(worker)) is not None:
            if self._serve(worker, context, job):
                continue
            _close(context)
            context = self._opened(worker, REOPENINGS)
            self.reopened += context is not None
        if context is not None:
            _close(context)
        with self._lock:
            worker.gone = True

    def _opened(self, worker: Worker, attempts: int) -> Context | None:
        """Open the worker's context; None where that does not work, or the worker was given up meanwhile."""
        for attempt in range(attempts):
            with self._lock:
                if worker.gone or self._stopped:
                    return None
                worker.busy_since = time.monotonic()
            try:
                context = self._open(worker.core)
            except Exception as error:
                if attempt == attempts - 1:
                    with self._lock:
                        self._lose(worker, error, all_of_them=self._opening > 0)
                    return None
                time.sleep(0.05 * 2**attempt)
                continue
            with self._lock:
                worker.busy_since = None
                if not worker.gone:
                    return context
            _close(context)
        return None

    def _lose(self, worker: Worker, error: Exception, *, all_of_them: bool = False) -> None:
        """Note that a worker has no context any more. Where none is left, everything under way ends with `error`.

        all_of_them: the run breaks though others live; at the start every context must open.
        """
        if worker.gone:
            return
        worker.gone = True
        if all_of_them or all(other.gone for other in self._workers):
            self._broken = error
            self._waiting.clear()
            for job in self._order:
                if not job.done:
                    self._complete(job, None, error)
        self._wake_all()

    def _take(self, worker: Worker) -> Job | None:
        with self._lock:
            while not self._waiting:
                if self._ended or worker.gone or self._broken is not None:
                    return None
                self._work.wait()
            if worker.gone:
                return None
            job = self._waiting.popleft()
            worker.job, worker.busy_since = job, time.monotonic()
            self._room.notify()
            return job

    def _serve(self, worker: Worker, context: Context, job: Job) -> bool:
        """Run one item; says whether the context can still be used."""
        value: Any = None
        failed: Exception | None = None
        usable = True
        try:
            value = context(job.item)
        except ContextLostError as error:
            usable, failed = False, error
        except Exception as error:
            failed = error
        with self._lock:
            if worker.gone:  # the watchdog has answered for this item
                return False
            worker.job = worker.busy_since = None
            worker.fruitless = 0
            if not usable and job.tries == 0 and not self._stopped:
                job.tries += 1
                self._waiting.appendleft(job)
                self._work.notify()
                return False
            if failed is not None or self._finish is None:
                self._complete(job, value, failed)
                return usable
            self._raw.append((job, value))
            if self._finishing:  # another worker is at it, and takes this one along
                return True
            self._finishing = True
        self._finish_raw()
        return usable

    def _finish_raw(self) -> None:
        """Finish what is waiting for it, in batches, until nothing is."""
        assert self._finish is not None
        while True:
            with self._lock:
                if not self._raw:
                    self._finishing = False
                    return
                batch = [self._raw.popleft() for _ in range(min(len(self._raw), self._finish_batch))]
            values: Sequence[Any] = [None] * len(batch)
            errors: list[Exception | None] = [None] * len(batch)
            try:
                values = self._finish([value for _, value in batch])
            except Exception:
                # One of them is at fault; alone, each answers for itself.
                values = list(values)
                for i, (_, value) in enumerate(batch):
                    try:
                        values[i] = self._finish([value])[0]
                    except Exception as error:
                        errors[i] = error
            with self._lock:
                for (job, _), value, failed in zip(batch, values, errors, strict=True):
                    self._complete(job, value, failed)

    def _complete(self, job: Job, value: Any, error: Exception | None) -> None:
        job.value, job.error, job.done, job.done_at = value, error, True, time.perf_counter()
        if self._order and self._order[0] is job:
            self._next.notify()

    def _watch(self) -> None:
        """Give up calls that take too long, and put a new worker in the place of theirs."""
        patience = min(self._opening_s, self._timeout_s or self._opening_s)
        while True:
            with self._lock:
                if self._stopped or self._broken is not None or (self._ended and not self._order and not self._opening):
                    return
                now = time.monotonic()
                for place, worker in enumerate(self._workers):
                    limit = self._opening_s if worker.job is None else self._timeout_s
                    if worker.busy_since is None or worker.gone or limit is None:
                        continue
                    if now - worker.busy_since > limit:
                        self._give_up(place, worker, limit)
                self._rest.wait(min(patience / 4, 0.25))

    def _give_up(self, place: int, worker: Worker, limit_s: float) -> None:
        told = f"no answer from core {worker.core} within {limit_s:g} s"
        if worker.job is None:
            error = TimeoutError(f"{told} while its context was opened; restart the board")
            self._lose(worker, error, all_of_them=self._opening > 0)
            return
        self._complete(worker.job, None, TimeoutError(f"{told}; its context is replaced"))
        if worker.fruitless + 1 >= REOPENINGS:
            self._lose(worker, TimeoutError(f"{told}, {REOPENINGS} contexts in a row; restart the board"))
            return
        worker.gone = True
        self.replaced += 1
        self._workers[place] = fresh = Worker(worker.core, fruitless=worker.fruitless + 1)
        self._start(fresh, first=False)

    # Under the lock.

    def _full(self) -> bool:
        return len(self._waiting) >= self._depth or len(self._order) >= self._window

    def _drop_oldest(self) -> bool:
        if not self._waiting:
            return False
        self._order.remove(self._waiting.popleft())
        self.dropped += 1
        self._next.notify()  # what was behind it may be next now
        return True

    def _wake_all(self) -> None:
        self._work.notify_all()
        self._room.notify_all()
        self._next.notify_all()
        self._rest.notify_all()


def _close(context: Context) -> None:
    try:
        context.close()
    except Exception:
        return  # it is gone either way, and its items have had their answers
