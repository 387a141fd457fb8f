"""Contexts that stay open from stream to stream: nothing of one reaches the next, whatever ends it."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.backends.emulated_npu import EmulatedNpu, Faults
from deploy.context import ContextLostError, SchedulerClosedError
from deploy.crew import Crew
from deploy.detector import Detector
from deploy.frames import Frame
from deploy.scheduler import Scheduler
from tests.deploy.bright_cells import (
    CELLS,
    MANIFEST,
    cell_of,
    find_bright_cells,
    frame,
    threads_now,
    wait_for_hung_threads,
)

ROOT = Path(__file__).parents[2]
CORES = (0, 1, 2, 0, 1, 2)


class Opened:
    """Opens contexts of an emulated NPU and counts them; `refuse` makes the next openings of a core fail."""

    def __init__(self, npu):
        self.npu, self.backends, self.refuse = npu, [], {}

    def __call__(self, core):
        if self.refuse.get(core, 0) > 0:
            self.refuse[core] -= 1
            raise OSError(f"core {core} is gone")
        backend = self.npu.open(core)
        self.backends.append(backend)
        return backend

    @property
    def closed(self):
        return sum(backend._closed for backend in self.backends)


def npu_of(answer=find_bright_cells, **options):
    return EmulatedNpu((64, 96), answer, **{"latency_ms": 0.0, **options})


def detector_of(opened, cores=CORES, **options):
    return Detector(None, MANIFEST, open_backend=opened, cores=cores, **options)


def test_contexts_are_opened_by_the_first_stream_and_closed_with_the_detector():
    opened = Opened(npu_of())
    with detector_of(opened) as detector:
        assert opened.backends == []
        for batch in (1, 3, 1):
            assert [cell_of(r) for r in detector.stream(map(frame, range(9)), postprocess_batch=batch)] == list(
                range(9)
            )
        assert list(detector.stream([])) == []
        assert len(opened.backends) == 6
        assert opened.closed == 0
    assert opened.closed == 6
    assert threads_now() == set()
    with pytest.raises(ValueError, match="the detector was closed; open the bundle again"):
        list(detector.stream([frame(0)]))
    detector.close()


def test_prepare_opens_them_before_the_first_stream():
    opened = Opened(npu_of())
    with detector_of(opened) as detector:
        assert detector.backend.name == ""
        detector.prepare()
        assert len(opened.backends) == 6
        assert detector.backend.name == "emulated"
        assert [cell_of(r) for r in detector.stream([frame(5)])] == [5]
        assert len(opened.backends) == 6


def test_streams_left_at_random_moments_leak_nothing_into_the_next():
    """Each stream has its own name and offset: a frame, a box or an error of another one would show."""
    draw = random.Random(11)
    faults = Faults(error=0.02, hang=0.002, hang_s=0.4)
    npu = npu_of(latency_ms=0.2, jitter=2.0, faults=faults, seed=5)
    opened, seen = Opened(npu), []
    with detector_of(opened, timeout_s=0.15) as detector:
        for turn in range(80):
            offset = draw.randrange(CELLS)
            source = (frame(n, f"stream {turn}", offset) for n in range(60))
            results = detector.stream(
                source,
                policy=draw.choice(["block", "latest"]),
                postprocess_batch=draw.choice([1, 1, 4]),
                on_start=seen.append,
            )
            wanted = draw.choice([0, 1, 3, 20, 60])
            last = -1
            for result in islice(results, wanted):
                assert result.frame.name == f"stream {turn}"
                assert result.frame.number > last
                last = result.frame.number
                if result.error is None:
                    assert cell_of(result) == (last + offset) % CELLS
                else:
                    assert "emulated fault" in str(result.error) or "no answer from core" in str(result.error)
            end = draw.choice(["close", "cancel", "drop"])
            if end == "close":
                results.close()
            elif end == "cancel" and wanted:
                seen[-1].cancel()
                assert list(results) == []
            del results, source
        faults.error = faults.hang = 0.0
        whole = [cell_of(r) for r in detector.stream(map(frame, range(300)))]
    assert whole == [n % CELLS for n in range(300)]
    assert npu.load.overlaps == 0
    replaced = sum(scheduler.replaced for scheduler in seen)
    assert replaced > 0
    assert 6 + replaced <= len(opened.backends) <= 6 + replaced + 2, "none was opened without need"
    wait_for_hung_threads()
    assert opened.closed == len(opened.backends)


@settings(max_examples=20, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, 25), st.sampled_from(["end", "close", "cancel"]), st.booleans()),
        min_size=2,
        max_size=7,
    ),
    workers=st.integers(1, 4),
    delays=st.lists(st.sampled_from([0, 0.0003, 0.002]), min_size=1, max_size=5),
    lost=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 24)), max_size=4),
)
def test_any_row_of_runs_over_one_crew_gives_each_its_own(turns, workers, delays, lost):
    """A turn: so many items go in, so many results are taken, then the run is left, which may lose contexts too."""
    tried = Counter()

    class Doubling:
        def __init__(self):
            self.owner = threading.get_ident()

        def __call__(self, item):
            assert threading.get_ident() == self.owner
            time.sleep(delays[item[1] % len(delays)])
            tried[item] += 1
            if item in lost and tried[item] == 1:
                raise ContextLostError("lost")
            return item[1] * 2

        def close(self):
            assert threading.get_ident() == self.owner

    with Crew(lambda core: Doubling(), range(workers)) as crew:
        for turn, (items, taken, end, batched) in enumerate(turns):
            finish = (lambda values: [v + 0.5 for v in values]) if batched else None
            scheduler = Scheduler(crew, depth=30, window=60, finish=finish)
            for number in range(items):
                scheduler.submit((turn, number))
            if end == "end":
                scheduler.finish()
            found = list(scheduler.results() if end == "end" else islice(scheduler.results(), min(items, taken)))
            assert [o.item for o in found] == [(turn, n) for n in range(len(found))]
            assert [o.value for o in found] == [n * 2 + 0.5 * batched for n in range(len(found))]
            assert len(found) == (items if end == "end" else min(items, taken))
            if end == "cancel":
                scheduler.cancel()
                assert list(scheduler.results()) == []
            assert scheduler.close()
            assert not [*scheduler._waiting, *scheduler._order, *scheduler._raw]


def test_a_hang_of_a_stream_that_was_left_is_replaced_for_the_next():
    gate = threading.Event()

    def answer(batch):
        if batch[0, 63, 95, 0] == 255:  # the last cell
            gate.wait(10)
        return find_bright_cells(batch)

    npu = npu_of(answer)
    opened = Opened(npu)
    with detector_of(opened, cores=(0,), timeout_s=0.4) as detector:
        results = detector.stream(frame(n) for n in (0, CELLS - 1, 1))
        assert next(results).frame.number == 0
        begin = time.perf_counter()
        results.close()
        assert time.perf_counter() - begin < 3
        found = list(detector.stream(map(frame, range(20))))
        assert [cell_of(r) for r in found] == list(range(20))
        assert len(opened.backends) == 2
        gate.set()
    wait_for_hung_threads()
    assert opened.closed == 2


def test_after_the_last_context_was_lost_the_next_stream_opens_them_anew():
    npu, broken = npu_of(), threading.Event()
    opened = Opened(npu)

    def answer(batch):
        if broken.is_set():
            raise ContextLostError("the driver was unloaded")
        return find_bright_cells(batch)

    npu.answer = answer
    with detector_of(opened, cores=(0, 1)) as detector:
        assert len(list(detector.stream(map(frame, range(4))))) == 4
        broken.set()
        opened.refuse = {0: 3, 1: 3}
        with pytest.raises(OSError, match="is gone"):
            list(detector.stream(map(frame, range(40))))
        opened.refuse = {1: 1}
        with pytest.raises(OSError, match="core 1 is gone"):
            list(detector.stream([frame(0)]))
        broken.clear()
        assert [cell_of(r) for r in detector.stream(map(frame, range(30)))] == list(range(30))
    assert opened.closed == len(opened.backends)
    assert threads_now() == set()


def test_one_context_that_was_lost_for_good_is_opened_again_by_the_next_stream():
    lose = threading.Event()

    def answer(batch):
        if lose.is_set() and threading.current_thread().name == "rsedge-core-1":
            raise ContextLostError("core 1")
        return find_bright_cells(batch)

    opened = Opened(npu_of(answer, latency_ms=0.5))
    with detector_of(opened, cores=(0, 1)) as detector:
        detector.prepare()
        lose.set()
        opened.refuse = {1: 3}
        assert [cell_of(r) for r in detector.stream(map(frame, range(40)))] == list(range(40)), "the other one goes on"
        deadline = time.monotonic() + 5
        while opened.refuse[1] and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        lose.clear()
        before = len(opened.backends)
        assert [cell_of(r) for r in detector.stream(map(frame, range(40)))] == list(range(40))
        assert len(opened.backends) == before + 1


def test_two_streams_at_a_time_are_both_served_by_the_same_contexts():
    npu = npu_of(latency_ms=1.0, jitter=1.0)
    opened = Opened(npu)
    with detector_of(opened) as detector:
        found = {}

        def run(name, offset, frames):
            source = (frame(n, name, offset) for n in range(frames))
            found[name] = [(r.frame.name, r.frame.number, cell_of(r)) for r in detector.stream(source)]

        threads = [threading.Thread(target=run, args=(f"s{i}", 7 * i, 200 - 40 * i)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for i in range(3):
        assert found[f"s{i}"] == [(f"s{i}", n, (n + 7 * i) % CELLS) for n in range(200 - 40 * i)]
    assert len(opened.backends) == 6
    assert npu.load.overlaps == 0
    assert detector.timings["images"] == 480
    assert detector.timings["calls"] == 3


def test_a_short_stream_does_not_wait_for_the_end_of_an_endless_one():
    with detector_of(Opened(npu_of(latency_ms=1.0)), cores=(0,)) as detector:
        endless, taken = detector.stream(map(frame, count())), []
        drain = threading.Thread(target=lambda: taken.extend(r.frame.number for r in islice(endless, 400)))
        drain.start()
        assert [cell_of(r) for r in detector.stream(map(frame, range(20)))] == list(range(20))
        assert drain.is_alive(), "item by item in turn: it has had some 20 of its 400"
        drain.join(20)
        assert taken == list(range(400))
        endless.close()


def test_closing_the_detector_ends_a_stream_of_another_thread_with_an_error():
    opened, told = Opened(npu_of(latency_ms=1.0)), []
    detector = detector_of(opened)

    def run():
        try:
            for _ in detector.stream(map(frame, count())):
                pass
        except SchedulerClosedError as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while len(opened.backends) < 6:
        time.sleep(0.01)
    time.sleep(0.05)
    detector.close()
    thread.join(10)
    assert told == ["the contexts were closed while frames were on their way"]
    assert opened.closed == 6
    assert threads_now() == set()


def test_a_detector_that_nobody_holds_any_more_closes_its_contexts():
    opened = Opened(npu_of())
    detector = detector_of(opened)
    assert len(list(detector.stream(map(frame, range(5))))) == 5
    del detector
    gc.collect()
    deadline = time.monotonic() + 8
    while threads_now() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threads_now() == set()
    assert opened.closed == 6


def test_no_image_outlives_its_stream_not_even_one_whose_error_is_kept():
    kept, errors = [], []

    def source():
        for number in range(30):
            made = frame(number)
            image = np.zeros((5, 5), np.uint8) if number % 7 == 3 else made.image
            kept.append(weakref.ref(image))
            yield Frame(number, "drawn", image)

    opened = Opened(npu_of(faults=Faults(error=0.2), seed=2))
    gc.disable()  # what only the cycle collector frees piles up meanwhile
    try:
        with detector_of(opened) as detector:
            for taken in (30, 4):
                kept.clear()
                results = detector.stream(source())
                for result in islice(results, taken):
                    if result.error is not None:
                        errors.append(result.error)
                results.close()
                del results, result
                assert len(kept) >= taken
                deadline = time.monotonic() + 3
                while any(ref() is not None for ref in kept) and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert [ref() for ref in kept if ref() is not None] == []
            assert len(errors) > 5
    finally:
        gc.enable()


def test_the_interpreter_switches_as_before_once_the_last_stream_has_ended():
    usual = sys.getswitchinterval()
    with detector_of(Opened(npu_of()), cores=(0,)) as detector:
        first, second = (detector.stream(map(frame, count())) for _ in range(2))
        next(first), next(second)
        assert sys.getswitchinterval() < usual
        first.close()
        assert sys.getswitchinterval() < usual
        second.close()
        assert sys.getswitchinterval() == pytest.approx(usual)


def test_detect_goes_through_the_contexts_where_there_is_no_backend_of_its_own():
    opened = Opened(npu_of(latency_ms=1.0, jitter=1.0))
    images = [frame(n).image for n in range(40)]
    with Detector(npu_of().open(0), MANIFEST) as alone, detector_of(opened) as detector:
        assert detector.detect([]) == []
        assert opened.backends == []
        for _ in range(2):
            found, expected = detector.detect(images), alone.detect(images)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a.xyxy, b.xyxy)
                np.testing.assert_array_equal(a.score, b.score)
        assert (detector.timings["images"], detector.timings["calls"]) == (80, 3)
        assert min(detector.preprocess_ms, detector.infer_ms, detector.postprocess_ms, detector.total_ms) > 0
        with pytest.raises(ValueError, match=r"images\[1\] must be an RGB uint8 array"):
            detector.detect([images[0], images[0][0]])
        with pytest.raises(ValueError, match="call the detector's detect or stream"):
            detector.backend.infer(images[0][None])
        opened.npu.faults = replace(opened.npu.faults, error=1.0)
        with pytest.raises(RuntimeError, match="emulated fault"):
            detector.detect(images)
        opened.npu.faults = Faults()
        assert len(detector.detect(images)) == 40
        assert len(opened.backends) == 6


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_detector_needs_something_to_run(workers):
    with pytest.raises(ValueError, match="open_backend"):
        Detector(None, MANIFEST, workers=workers)


IN_MID_STREAM = """
import sys
from itertools import cycle
from pathlib import Path
from deploy.detector import open_detector
from deploy.frames import Frame
from tests.deploy.drawn_images import images

detector = open_detector(Path(sys.argv[1]), "onnx")
results = detector.stream(Frame(0, "drawn", image) for image in cycle(images(2)))
print(next(results).error)
"""


def test_a_process_that_ends_in_the_middle_of_a_stream_ends_cleanly():
    """A thread that was inside ONNX Runtime when the interpreter went would abort it."""
    command = [sys.executable, "-c", IN_MID_STREAM, str(ROOT / "deploy/zoo/procedural")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


STOPPED = """
import time
from deploy.crew import Crew
from deploy.scheduler import Scheduler

class Slow:
    def __call__(self, item):
        for _ in range(20):
            time.sleep(0.05)  # runs on for as long as it has left, however long the process stood
        return item

    def close(self):
        pass

with Crew(lambda core: Slow(), (0,), timeout_s=1.8) as crew, Scheduler(crew) as scheduler:
    scheduler.submit("item")
    scheduler.finish()
    print("begun", flush=True)
    print([(o.value, o.error) for o in scheduler.results()], scheduler.replaced)
"""


def test_a_process_that_was_stopped_blames_no_context_for_it():
    with subprocess.Popen([sys.executable, "-c", STOPPED], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "[('item', None)] 0\n"
    assert process.returncode == 0
