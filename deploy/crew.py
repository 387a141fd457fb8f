"""Crew: threads with a context each, which stay open from one run to the next.

Each context belongs to one thread, which opens, uses and closes it: a runtime's context that two threads enter hands
the answer of one image to another. Two contexts per NPU core hide the work of the CPU behind the NPU: while one context
computes, the other prepares its next image.

Opening a context loads the model, so contexts outlive a run: a `Scheduler` is one run, a crew serves one after the
other, or several at a time, an item of each in turn. An item knows its run, and a run that has ended takes no answers,
so nothing of it reaches the next one.

A context that hangs is given up after a timeout and replaced; its thread cannot be stopped, so it is left behind, and
what it may still say is thrown away.
"""

from __future__ import annotations

import atexit
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .context import Context, ContextLostError, Job, SchedulerClosedError, Worker

if TYPE_CHECKING:
    from .scheduler import Scheduler

# A context that was lost is opened again so often in a row without a success in between; then its worker ends.
REOPENINGS = 3
# An opening that takes longer has hung: a process that imports everything and loads a model takes a few seconds.
OPENING_S = 120.0
# How often the watchdog looks, at most and while nothing runs, and how long `close` waits for threads that had hung.
LOOK_S, IDLE_S, HUNG_S = 0.25, 1.0, 0.5
# How long the end of the process waits for contexts that nobody closed.
AT_EXIT_S = 2.0
# The watchdog comes so late only where the process was stopped, or the machine was.
STOOD_S = 1.0


class Crew:
    """Keep contexts open and work off what schedulers hand out; see the module's text.

    open_context: called with a core's number in the worker's own thread. cores: one entry per context, such as
    (0, 1, 2, 0, 1, 2). timeout_s: a call that takes longer is given up; opening_s: so is an opening.

    Contexts are opened by the first run, or by `open`. Where one was lost for good, the next run opens it again; where
    all were, the crew is broken and not `usable` any more. Threads end with `close`; whoever drops a crew without it
    calls `dismiss`.
    """

    def __init__(
        self,
        open_context: Callable[[int], Context],
        cores: Sequence[int],
        *,
        timeout_s: float | None = None,
        opening_s: float = OPENING_S,
    ) -> None:
        if not cores:
            raise ValueError("cores must name at least one, got none")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0 seconds, got {timeout_s}")
        self.cores = tuple(cores)
        self._open, self._timeout_s, self._opening_s = open_context, timeout_s, opening_s
        self.lock = threading.Lock()  # of the crew and of all its runs
        self.work = threading.Condition(self.lock)  # a worker may find something to do
        self._ready = threading.Condition(self.lock)  # an opening may be over
        self._rest = threading.Condition(self.lock)  # the watchdog sleeps
        self._runs: deque[Scheduler] = deque()
        self._workers: list[Worker] = []  # one per entry of cores, once they were opened
        self._threads: list[threading.Thread] = []
        self._hung: set[threading.Thread | None] = set()
        self._broken: Exception | None = None
        self._closed = self._dismissed = False

    # What callers do.

    @property
    def usable(self) -> bool:
        """Whether a run can begin: it was not closed, and has not lost its last context."""
        return not self._closed and self._broken is None

    def open(self) -> None:
        """Open what is not open, and wait for it. Raises what opening one raised; without a run all are closed then."""
        self._open_for(None)

    def enlist(self, run: Scheduler) -> None:
        """Take up a run: all contexts are open when this returns. Raises as `open`."""
        self._open_for(run)

    def leave(self, run: Scheduler) -> None:
        """Forget a run that has ended. Called under the lock."""
        if run in self._runs:
            self._runs.remove(run)

    def works_for(self, run: Scheduler) -> bool:
        """Tell whether a context has an item of that run. Called under the lock."""
        return any(worker.job is not None and worker.job.run is run for worker in self._workers)

    def close(self, patience_s: float = 5.0) -> bool:
        """End all runs and close the contexts, waiting at most `patience_s` seconds; says whether all threads ended.

        A context that hangs is left behind; its thread ends with the process. Who reads results of a run that this
        ends gets a SchedulerClosedError.
        """
        atexit.unregister(self.close)
        with self.lock:
            self._closed = True
            for run in self._runs:
                run.break_off(SchedulerClosedError("the contexts were closed while frames were on their way"), now=True)
            self._runs.clear()
            self._wake_all()
            hung = self._hung | {worker.thread for worker in self._workers if worker.gone}
            threads = list(self._threads)
        now = time.monotonic()
        for thread in threads:
            if thread is not threading.current_thread():
                patience = min(HUNG_S, patience_s) if thread in hung else patience_s
                thread.join(max(0.0, now + patience - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def dismiss(self) -> None:
        """Have the watchdog close the crew soon. Takes no lock and waits for nothing, so a finaliser may call it."""
        self._dismissed = True

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What the threads do.

    def _open_for(self, run: Scheduler | None) -> None:
        try:
            with self.lock:
                self._open_missing()
                if run is not None:
                    self._runs.append(run)
                    self._rest.notify()
        except BaseException:
            with self.lock:
                idle = not self._runs
            if idle:
                self.close()
            raise

    def _start(self, target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._hung.intersection_update(self._threads)
        self._threads.append(thread)
        thread.start()
        return thread

    def _work_off(self, worker: Worker, attempts: int) -> None:
        """Open a context and call it with item after item, until the end; what each worker's thread does."""
        context = self._opened(worker, attempts)
        while context is not None:
            run = self._serve_until_lost(worker, context)
            _close(context)
            if run is None:
                break
            context = self._opened(worker, REOPENINGS)
            if context is not None:
                with self.lock:
                    run.reopened += 1
            del run
        with self.lock:
            worker.gone = True

    def _opened(self, worker: Worker, attempts: int) -> Context | None:
        """Open the worker's context; None where that does not work, or the worker was given up meanwhile."""
        for attempt in range(attempts):
            with self.lock:
                if worker.gone or self._closed:
                    return None
                worker.busy_since = time.monotonic()
            try:
                context = self._open(worker.core)
            except Exception as error:
                if attempt == attempts - 1:
                    with self.lock:
                        self._lose(worker, error)
                    return None
                time.sleep(0.05 * 2**attempt)
                continue
            with self.lock:
                worker.busy_since = None
                if not worker.gone:
                    worker.opened = True
                    self._ready.notify_all()
                    return context
            _close(context)
        return None

    def _serve_until_lost(self, worker: Worker, context: Context) -> Scheduler | None:
        """Serve until the context cannot be used any more; returns whose item showed it, None at the end."""
        while (job := self._take(worker)) is not None:
            run = job.run
            if not self._serve(worker, context, job):
                return run
            del job, run  # a worker that waits holds no image and no run
        return None

    def _take(self, worker: Worker) -> Job | None:
        with self.lock:
            while not worker.gone and not self._closed:
                if (job := self._next_job()) is not None:
                    worker.job, worker.busy_since = job, time.monotonic()
                    return job
                self.work.wait()
        return None

    def _serve(self, worker: Worker, context: Context, job: Job) -> bool:
        """Run one item; says whether the context can still be used."""
        run = job.run
        value, failed = _called(run.call, context, job.item)
        usable = not isinstance(failed, ContextLostError)
        try:
            with self.lock:
                if worker.gone:  # the watchdog has answered for this item
                    return False
                worker.job = worker.busy_since = None
                worker.fruitless = 0
                if not usable and run.try_again(job):
                    return False
                to_finish = run.answer(job, value, failed)
        finally:
            del job, value, failed  # an error that is kept keeps this frame too, through its traceback's frames
        if to_finish:
            run.finish_raw()
        return usable

    def _watch(self) -> None:
        """Give up calls that take too long, and put a new worker in the place of theirs."""
        often = min(LOOK_S, min(self._opening_s, self._timeout_s or self._opening_s) / 4)
        due = time.monotonic()
        while not self._dismissed:
            with self.lock:
                if not self.usable:
                    return
                now, busy = time.monotonic(), bool(self._runs)
                if (stood := now - due) > STOOD_S:  # the whole process did, so no call is to blame
                    for worker in self._workers:
                        worker.busy_since = worker.busy_since and worker.busy_since + stood
                for place, worker in enumerate(self._workers):
                    if worker.busy_since is None or worker.gone:
                        continue
                    busy = True
                    limit = self._opening_s if worker.job is None else self._timeout_s
                    if limit is not None and now - worker.busy_since > limit:
                        self._give_up(place, worker, limit)
                rest = often if busy else IDLE_S
                due = now + rest
                self._rest.wait(rest)
        self.close()

    # Under the lock.

    def _next_job(self) -> Job | None:
        """Return an item of the run whose turn it is, or of the next one that has any."""
        for _ in range(len(self._runs)):
            run = self._runs[0]
            self._runs.rotate(-1)
            if (job := run.next_waiting()) is not None:
                return job
        return None

    def _open_missing(self) -> None:
        """Open contexts where none is, and wait until all are open. Raises what opening one raised."""
        if self._closed:
            raise SchedulerClosedError("the contexts were closed; open them again")
        if self._broken is not None:
            raise self._broken
        missing = [place for place, worker in enumerate(self._workers) if worker.gone]
        if not self._workers:
            self._workers = [Worker(core) for core in self.cores]
            missing = list(range(len(self.cores)))
            self._start(self._watch, "rsedge-watchdog")
            # A thread that is inside a runtime when the interpreter goes aborts the process.
            atexit.register(self.close, AT_EXIT_S)
        for place in missing:
            self._workers[place] = worker = Worker(self.cores[place])
            worker.thread = self._start(self._work_off, f"rsedge-core-{worker.core}", worker, 1)
        if missing:
            self._rest.notify()
        awaited = list(self._workers)
        while self.usable and not any(worker.error for worker in awaited):
            if all(worker.opened or worker.gone for worker in awaited):
                return
            self._ready.wait()
        failed = next((worker.error for worker in awaited if worker.error), None)
        raise failed or SchedulerClosedError("the contexts were closed while they were opened")

    def _give_up(self, place: int, worker: Worker, limit_s: float) -> None:
        told = f"no answer from core {worker.core} within {limit_s:g} s"
        self._hung.add(worker.thread)
        job, worker.job = worker.job, None
        if job is None:
            self._lose(worker, TimeoutError(f"{told} while its context was opened; restart the board"))
            return
        job.run.answer(job, None, TimeoutError(f"{told}; its context is replaced"))
        if worker.fruitless + 1 >= REOPENINGS:
            self._lose(worker, TimeoutError(f"{told}, {REOPENINGS} contexts in a row; restart the board"))
            return
        worker.gone = True
        job.run.replaced += 1
        self._workers[place] = fresh = Worker(worker.core, fruitless=worker.fruitless + 1)
        fresh.thread = self._start(self._work_off, f"rsedge-core-{fresh.core}", fresh, REOPENINGS)

    def _lose(self, worker: Worker, error: Exception) -> None:
        """Note that a worker has no context any more. Where none is left, everything under way ends with `error`."""
        if worker.gone:
            return
        worker.gone, worker.error = True, error
        self._ready.notify_all()
        if all(other.gone for other in self._workers):
            self._broken = error
            for run in self._runs:
                run.break_off(error)
            self._wake_all()

    def _wake_all(self) -> None:
        self.work.notify_all()
        self._ready.notify_all()
        self._rest.notify_all()


def _called(call: Callable[[Any, Any], Any], context: Context, item: Any) -> tuple[Any, Exception | None]:
    """Return what a call gave and None, or None and what it raised."""
    try:
        return call(context, item), None
    except Exception as error:
        # An error may be kept to be told at the end; the images in the frames of its traceback must not be. One that
        # the item brought along is its source's, whose frames may belong to a generator that goes on.
        if error is not getattr(item, "error", None):
            traceback.clear_frames(error.__traceback__)
        del context, item
        return None, error


def _close(context: Context) -> None:
    try:
        context.close()
    except Exception:
        return  # it is gone either way, and its items have had their answers
