"""Detector.stream: every frame's own boxes, in order, over threads and over processes, whatever goes wrong."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deploy.backends.emulated_npu import EmulatedNpu, Faults
from deploy.backends.opener import Opener
from deploy.detector import Detector, open_detector
from deploy.frames import Frame
from deploy.manifest import load_manifest
from deploy.procedural import draw_scene
from deploy.worker_process import ProcessContext
from tests.deploy.bright_cells import (
    CELLS,
    MANIFEST,
    cell_of,
    find_bright_cells,
    frame,
    threads_now,
    wait_for_hung_threads,
)

PROCEDURAL = Path(__file__).parents[2] / "deploy/zoo/procedural"


def detector_on(npu, **options):
    return Detector(npu.open(0), MANIFEST, open_backend=npu.open, cores=(0, 1, 2, 0, 1, 2), **options)


@pytest.mark.parametrize("batch", [1, 4])
def test_each_frame_gets_its_own_boxes_in_order(batch):
    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0.3, jitter=2.0)
    with detector_on(npu) as detector:
        numbers = []
        for result in detector.stream(map(frame, range(1500)), postprocess_batch=batch):
            numbers.append(result.frame.number)
            assert result.error is None
            assert cell_of(result) == result.frame.number % CELLS
            assert 0 < result.infer_ms <= result.total_ms
            assert result.preprocess_ms > 0
            assert result.postprocess_ms > 0
    assert numbers == list(range(1500))
    assert npu.load.overlaps == 0
    assert min(npu.load.calls) > 100, "every core works"
    assert detector.timings["images"] == 1500
    assert threads_now() == set()


def test_faults_reach_the_caller_with_their_frame_and_the_others_go_on():
    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0, faults=Faults(error=0.05), seed=3)
    with detector_on(npu) as detector:
        found = list(detector.stream(map(frame, range(500))))
    assert [r.frame.number for r in found] == list(range(500))
    failed = [r for r in found if r.error is not None]
    assert 5 < len(failed) < 60
    assert all("emulated fault" in str(r.error) and len(r.detections) == 0 for r in failed)
    assert all(cell_of(r) == r.frame.number % CELLS for r in found if r.error is None)


def test_a_hang_costs_one_frame():
    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0, faults=Faults(hang=0.02, hang_s=1.5), seed=1)
    seen = []
    with detector_on(npu, timeout_s=0.2) as detector:
        found = list(detector.stream(map(frame, range(60)), on_start=seen.append))
    assert [r.frame.number for r in found] == list(range(60))
    hung = [r for r in found if isinstance(r.error, TimeoutError)]
    assert 1 <= len(hung) == seen[0].replaced
    wait_for_hung_threads()


@dataclass
class Unreadable:
    number: int
    name: str
    error: Exception


def test_what_cannot_be_read_keeps_its_place():
    def source():
        yield frame(0)
        yield Unreadable(1, "broken.jpg", ValueError("broken.jpg: cannot be decoded"))
        yield Frame(2, "grey", np.zeros((5, 5), np.uint8))
        yield frame(3)

    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0)
    with detector_on(npu) as detector:
        found = list(detector.stream(source()))
    assert [(r.frame.number, r.frame.name) for r in found] == [
        (0, "drawn"),
        (1, "broken.jpg"),
        (2, "grey"),
        (3, "drawn"),
    ]
    assert [str(r.error) if r.error else None for r in found] == [
        None,
        "broken.jpg: cannot be decoded",
        "frame 2 of grey must be an RGB uint8 array (h, w, 3), got uint8 (5, 5)",
        None,
    ]


def test_an_error_of_the_source_comes_after_what_it_gave():
    def source():
        yield from map(frame, range(20))
        raise OSError("the disk is gone")

    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=1)
    with detector_on(npu) as detector:
        found = []
        with pytest.raises(OSError, match="the disk is gone"):
            found.extend(r.frame.number for r in iterate(detector.stream(source()), found))
        assert found == list(range(20))


def iterate(results, found):
    for result in results:
        found.append(result.frame.number)
    yield from ()


def test_closing_in_mid_run_ends_at_once_and_tells_the_source():
    class Endless:
        live = False
        closed = False

        def __iter__(self):
            number = 0
            while not self.closed:
                yield frame(number)
                number += 1

        def close(self):
            self.closed = True

    draw = random.Random(2)
    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=1)
    with detector_on(npu) as detector:
        for _ in range(20):
            source = Endless()
            results = detector.stream(source)
            for _ in range(draw.randrange(6)):
                next(results)
            begin = time.perf_counter()
            results.close()
            assert time.perf_counter() - begin < 2
    assert threads_now() == set()


def test_a_live_source_gets_the_policy_latest():
    class Camera:
        live = True

        def __iter__(self):
            for number in range(200):
                time.sleep(0.0005)
                yield frame(number)

    npu = EmulatedNpu((64, 96), find_bright_cells, cores=1, latency_ms=5)
    seen = []
    detector = Detector(npu.open(0), MANIFEST, open_backend=npu.open, cores=(0,))
    numbers = [r.frame.number for r in detector.stream(Camera(), on_start=seen.append)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + seen[0].dropped == 200
    assert seen[0].dropped > 100
    assert numbers[-1] == 199, "the newest frame is never the one that goes"


def test_memory_does_not_grow_with_frames():
    def resident_mb():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0)
    image = frame(5).image
    with detector_on(npu) as detector:
        before = 0.0
        for result in detector.stream(Frame(n, "drawn", image) for n in range(12_000)):
            if result.frame.number == 4_000:
                before = resident_mb()
        assert resident_mb() - before < 5


def test_the_detector_without_an_opener_lends_its_backend():
    npu = EmulatedNpu((64, 96), find_bright_cells, latency_ms=0)
    detector = Detector(npu.open(0), MANIFEST)
    assert [cell_of(r) for r in detector.stream(map(frame, range(9)))] == list(range(9))
    assert len(detector.detect([frame(3).image])[0]) == 1, "it is still open"
    with pytest.raises(ValueError, match="several contexts need open_backend"):
        next(Detector(npu.open(0), MANIFEST, cores=(0, 1)).stream([frame(0)]))


def scenes(count):
    return [Frame(i, f"scene {i}", draw_scene(i, (256, 256)).image) for i in range(count)]


def same(a, b):
    return (
        np.array_equal(a.xyxy, b.xyxy) and np.array_equal(a.score, b.score) and np.array_equal(a.class_id, b.class_id)
    )


@pytest.fixture(scope="module")
def frames():
    return scenes(6)


@pytest.fixture(scope="module")
def expected(frames):
    with open_detector(PROCEDURAL, "onnx") as detector:
        return [detector.detect([f.image])[0] for f in frames]


@pytest.mark.parametrize("workers", ["threads", "processes"])
@pytest.mark.parametrize("kind", ["onnx", "emulated"])
def test_threads_and_processes_say_the_same_as_one_image_at_a_time(kind, workers, frames, expected):
    with open_detector(PROCEDURAL, kind, workers=workers, contexts_per_core=1) as detector:
        found = list(detector.stream(frames))
    assert all(same(r.detections, e) for r, e in zip(found, expected, strict=True))
    assert sum(len(e) for e in expected) > 10


def test_a_killed_process_costs_nothing(frames, expected):
    """SIGKILL of a worker while it runs: its image is tried again on a fresh one."""
    manifest = load_manifest(PROCEDURAL)
    opener = Opener(PROCEDURAL, manifest, "onnx", 1, shared=True)
    opened = []
    with Detector(opener(0), manifest, open_backend=opener, workers="processes") as detector:
        original = ProcessContext.__init__

        def noting(self, *args):
            original(self, *args)
            opened.append(self)

        def source():
            for f in frames:
                if f.number == 3:
                    os.kill(opened[0].pid, signal.SIGKILL)
                yield f

        ProcessContext.__init__ = noting
        try:
            seen = []
            found = list(detector.stream(source(), on_start=seen.append))
        finally:
            ProcessContext.__init__ = original
    assert [r.error for r in found] == [None] * len(frames)
    assert all(same(r.detections, e) for r, e in zip(found, expected, strict=True))
    assert seen[0].reopened == 1
    assert len(opened) == 2
    assert not any(context._process.is_alive() for context in opened)


def test_a_process_that_cannot_open_says_why(tmp_path):
    manifest = load_manifest(PROCEDURAL)
    opener = Opener(tmp_path, manifest, "onnx", 1, shared=True)
    detector = Detector(
        EmulatedNpu((64, 96), find_bright_cells).open(0), manifest, open_backend=opener, workers="processes"
    )
    with pytest.raises(FileNotFoundError, match=r"model\.onnx is missing"):
        next(detector.stream([frame(0)]))
