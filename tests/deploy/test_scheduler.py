"""The scheduler: order, bounds, faults, ends that never hang."""

import random
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.context import ContextLostError, SchedulerClosedError
from deploy.crew import Crew
from deploy.scheduler import Scheduler


class Worker:
    """A context that calls `work`, and notices a second thread inside it."""

    def __init__(self, work, log=None):
        self.work, self.log = work, log
        if log is not None:
            log.append("opened")
        self.owner = threading.get_ident()
        self.inside = False

    def __call__(self, item):
        assert threading.get_ident() == self.owner, "a context belongs to the thread that opened it"
        assert not self.inside
        self.inside = True
        try:
            return self.work(item)
        finally:
            self.inside = False

    def close(self):
        assert threading.get_ident() == self.owner
        if self.log is not None:
            self.log.append("closed")


def contexts(work, log=None):
    return lambda core: Worker(work, log)


@contextmanager
def scheduling(opening, cores, *, timeout_s=None, **options):
    """A scheduler with a crew of its own."""
    with Crew(opening, cores, timeout_s=timeout_s) as crew, Scheduler(crew, **options) as scheduler:
        yield scheduler


def feed(scheduler, items):
    def run():
        try:
            for item in items:
                scheduler.submit(item)
        except (SchedulerClosedError, TimeoutError):
            return
        scheduler.finish()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def threads_now():
    return {t.name for t in threading.enumerate() if t.name.startswith("rsedge")}


def test_order_over_a_hundred_thousand_items_with_random_latencies_and_faults():
    draw = random.Random(1)
    fates = [draw.random() for _ in range(100_000)]

    def work(item):
        if fates[item] < 0.0005:
            time.sleep(0.002 * fates[item] / 0.0005)
        elif fates[item] < 0.01:
            raise ValueError(f"item {item}")
        return item * 2

    log = []
    with scheduling(contexts(work, log), (0, 1, 2, 0, 1, 2), timeout_s=30) as scheduler:
        feeder = feed(scheduler, range(len(fates)))
        for expected, outcome in enumerate(scheduler.results()):
            assert outcome.ticket == outcome.item == expected
            if 0.0005 <= fates[expected] < 0.01:
                assert str(outcome.error) == f"item {expected}"
            else:
                assert outcome.error is None
                assert outcome.value == expected * 2
        assert expected == len(fates) - 1
        feeder.join()
    assert sorted(log) == ["closed"] * 6 + ["opened"] * 6
    assert threads_now() == set()


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 60),
    workers=st.integers(1, 5),
    depth=st.integers(1, 6),
    window=st.integers(1, 12),
    batch=st.integers(1, 4),
    batched=st.booleans(),
    delays=st.lists(st.sampled_from([0, 0, 0.0005, 0.002]), min_size=1, max_size=7),
    bad=st.sets(st.integers(0, 59)),
)
def test_any_shape_of_run_gives_each_item_once_in_order(count, workers, depth, window, batch, batched, delays, bad):
    def work(item):
        time.sleep(delays[item % len(delays)])
        if item in bad and not batched:
            raise KeyError(item)
        return item

    def finish(values):
        assert 1 <= len(values) <= batch
        if any(v in bad for v in values):
            raise KeyError("one of them")
        return [v + 0.5 for v in values]

    with scheduling(
        contexts(work), range(workers), depth=depth, window=window, finish=finish if batched else None,
        finish_batch=batch,
    ) as scheduler:  # fmt: skip
        feed(scheduler, range(count))
        found = list(scheduler.results())
    assert [o.item for o in found] == list(range(count))
    for o in found:
        assert isinstance(o.error, KeyError) if o.item in bad else o.value == o.item + 0.5 * batched


def test_a_result_leaves_as_soon_as_it_is_next():
    gate = threading.Event()
    with scheduling(contexts(lambda item: gate.wait(5) if item == 1 else item), (0, 1)) as scheduler:
        results = scheduler.results()
        scheduler.submit(0)
        assert next(results).item == 0, "nothing else was submitted, and it did not wait for that"
        scheduler.submit(1)
        scheduler.submit(2)
        time.sleep(0.05)
        taken = []
        reader = threading.Thread(target=lambda: taken.extend([next(results).item, next(results).item]))
        reader.start()
        time.sleep(0.05)
        assert taken == [], "2 is done, but 1 is next"
        gate.set()
        reader.join(5)
        assert taken == [1, 2]


def test_block_waits_and_bounds_what_is_on_its_way():
    gate, begun = threading.Event(), []
    with scheduling(contexts(lambda i: (begun.append(i), gate.wait(5))), (0, 1), depth=3, window=8) as scheduler:
        feeder = feed(scheduler, range(20))
        time.sleep(0.1)
        assert feeder.is_alive()
        assert sorted(begun) == [0, 1]
        assert len(scheduler._waiting) == 3
        gate.set()
        time.sleep(0.1)
        assert len(begun) == 8, "the window: nobody takes results"
        assert [o.item for o in scheduler.results()] == list(range(20))
        feeder.join(5)


def test_latest_drops_the_oldest_waiting_item_and_counts_it():
    gate = threading.Event()
    with scheduling(contexts(lambda item: gate.wait(5) and item), (0,), policy="latest") as scheduler:
        scheduler.submit(0)
        time.sleep(0.05)  # a worker has it
        for item in range(1, 10):
            begin = time.perf_counter()
            scheduler.submit(item)
            assert time.perf_counter() - begin < 0.5, "a camera never waits"
        gate.set()
        scheduler.finish()
        assert [o.item for o in scheduler.results()] == [0, 9]
        assert scheduler.dropped == 8


def test_latest_with_a_reader_that_sleeps_stays_bounded():
    with scheduling(contexts(lambda item: item), (0, 1), policy="latest", window=4) as scheduler:
        for item in range(1000):
            scheduler.submit(item)
            assert len(scheduler._order) <= 4
        scheduler.finish()
        items = [o.item for o in scheduler.results()]
    assert items == sorted(items)
    assert len(items) + scheduler.dropped == 1000


def test_a_hung_context_is_noticed_and_replaced():
    gate, log = threading.Event(), []

    def work(item):
        if item == 3:
            gate.wait(30)
        return item

    with scheduling(contexts(work, log), (0, 1), timeout_s=0.2) as scheduler:
        feed(scheduler, range(10))
        found = list(scheduler.results())
        assert [o.item for o in found] == list(range(10))
        assert [o.item for o in found if o.error is not None] == [3]
        assert isinstance(found[3].error, TimeoutError)
        assert "within 0.2 s" in str(found[3].error)
        assert scheduler.replaced == 1
        gate.set()  # it answers after all: nobody listens, and its context is closed
    assert log.count("closed") == log.count("opened") >= 2


def test_a_core_that_always_hangs_ends_the_run():
    gate = threading.Event()
    with scheduling(contexts(lambda item: gate.wait(30)), (0,), timeout_s=0.05) as scheduler:
        feed(scheduler, range(10))
        found = []
        with pytest.raises(TimeoutError, match="3 contexts in a row"):
            found.extend(iter_errors(scheduler, found))
        assert len(found) >= 3
        assert all(isinstance(o.error, TimeoutError) for o in found)
        gate.set()


def iter_errors(scheduler, found):
    for outcome in scheduler.results():
        found.append(outcome)
    return []


def test_a_lost_context_is_opened_again_and_its_item_tried_once_more():
    tries = []

    def work(item):
        tries.append(item)
        if item == 2 and tries.count(2) == 1:
            raise ContextLostError("gone")
        if item == 4:
            raise ContextLostError("gone for good")
        return item

    with scheduling(contexts(work), (0, 1)) as scheduler:
        feed(scheduler, range(8))
        found = list(scheduler.results())
        assert [o.item for o in found] == list(range(8))
        assert [o.item for o in found if o.error is not None] == [4], "an item that kills two contexts is at fault"
        assert tries.count(2) == tries.count(4) == 2
        assert scheduler.reopened == 3


def test_an_opening_that_fails_is_raised_at_once_and_leaves_no_thread():
    def opening(core):
        if core == 2:
            raise FileNotFoundError("no model")
        return Worker(lambda item: item)

    with pytest.raises(FileNotFoundError, match="no model"):
        Scheduler(Crew(opening, (0, 1, 2)))
    assert threads_now() == set()


def test_an_opening_that_hangs_is_noticed():
    gate = threading.Event()

    def opening(core):
        if core == 1:
            gate.wait(30)
        return Worker(lambda item: item)

    begin = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"from core 1 within 0\.3 s while its context was opened"):
        Scheduler(Crew(opening, (0, 1), opening_s=0.3))
    assert time.perf_counter() - begin < 8
    gate.set()


def test_when_the_last_context_is_lost_the_run_says_why():
    opened, gate = [], threading.Event()

    def work(item):
        gate.wait(5)
        raise ContextLostError("lost")

    def opening(core):
        opened.append(core)
        if len(opened) > 1:
            raise OSError("the device is gone")
        return Worker(work)

    with scheduling(opening, (0,)) as scheduler:
        for item in range(3):
            scheduler.submit(item)
        gate.set()
        found = []
        with pytest.raises(OSError, match="the device is gone"):
            found.extend(iter_errors(scheduler, found))
        assert [str(o.error) for o in found] == ["the device is gone"] * 3
        with pytest.raises(OSError, match="the device is gone"):
            scheduler.submit(9)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_an_end_never_hangs(end):
    gate = threading.Event()
    crew = Crew(contexts(lambda item: gate.wait(5)), (0, 1))
    scheduler = Scheduler(crew)
    feeder = feed(scheduler, range(100))
    reader = threading.Thread(target=lambda: list(scheduler.results()))
    reader.start()
    time.sleep(0.05)
    begin = time.perf_counter()
    if end == "cancel":
        scheduler.cancel()
    else:
        assert scheduler.close(patience_s=0.2) is False, "two contexts are still inside a call"
    reader.join(5)
    feeder.join(5)
    assert time.perf_counter() - begin < 1
    with pytest.raises(SchedulerClosedError):
        scheduler.submit(1)
    if end == "close":
        assert crew.close(patience_s=0.2) is False
    gate.set()
    assert scheduler.close()
    assert crew.close()
    assert threads_now() == set()


def test_ends_at_random_moments_leave_nothing_behind():
    draw = random.Random(4)
    for _ in range(60):
        crew = Crew(contexts(lambda item: time.sleep(0.0003)), (0, 1, 2), timeout_s=5)
        scheduler = Scheduler(crew, policy=draw.choice(["block", "latest"]))
        feeder = feed(scheduler, range(1000))
        results = scheduler.results()
        for _ in range(draw.randrange(5)):
            next(results, None)
        time.sleep(draw.random() * 0.004)
        if draw.random() < 0.5:
            assert scheduler.close()
        assert crew.close()
        feeder.join(5)
        assert not feeder.is_alive()
    assert threads_now() == set()


def test_a_batch_is_what_is_there_and_nobody_waits_for_more():
    sizes, gate = [], threading.Event()

    def finish(values):
        sizes.append(len(values))
        if len(sizes) == 1:
            gate.wait(5)
        return values

    with scheduling(contexts(lambda item: item), (0, 1, 2), finish=finish, finish_batch=4) as scheduler:
        scheduler.submit(0)
        time.sleep(0.05)
        for item in range(1, 7):
            scheduler.submit(item)
        time.sleep(0.05)
        gate.set()
        scheduler.finish()
        assert [o.value for o in scheduler.results()] == list(range(7))
    assert sizes[0] == 1, "the first did not wait for company"
    assert sum(sizes) == 7
    assert max(sizes) == 4


@pytest.mark.parametrize("wrong", [lambda values: values[1:], lambda values: [*values, 0], lambda values: []])
def test_a_finish_that_returns_another_number_is_told_and_nothing_hangs(wrong):
    with scheduling(contexts(lambda item: item), (0, 1), finish=lambda v: wrong(v) if 3 in v else v) as scheduler:
        feeder = feed(scheduler, range(8))
        outcomes = list(scheduler.results())
        feeder.join(5)
    assert [o.ticket for o in outcomes] == list(range(8))
    assert [o.item for o in outcomes if o.error is not None] == [3]
    assert "finish must return as many values as it takes, 1, got" in str(outcomes[3].error)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cores": ()}, "cores must name at least one"),
        ({"policy": "newest"}, "policy must be block or latest, got 'newest'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0 seconds, got 0.0"),
    ],
)
def test_bad_settings(options, told):
    of_crew = {"cores": (0,), **{name: options.pop(name) for name in ("cores", "timeout_s") if name in options}}
    with pytest.raises(ValueError, match=told):
        Scheduler(Crew(contexts(lambda item: item), **of_crew), **options)
