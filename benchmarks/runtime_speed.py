"""Measure the runtime around an emulated NPU: saturation against the bare cores, and latency at an offered rate.

    python -m benchmarks.runtime_speed [--rounds N] [--seconds S] [--json FILE]

Real letterboxing from 1024 x 1024, real post-processing of drawn int8 heads with 30 objects, an NPU that only holds its
core for 7.91 ms. "bare": the same emulated NPU driven by two threads per core that do nothing else, with the runtime's
own switch interval of the interpreter and its pause after each answer; "three times": the work of the CPU done three
times over, a stand-in for a board's slower cores. All contestants take turns in every round; ratios are of the same
round, reported are medians. Latencies at the offered rate are pooled over all rounds, at least 1000 frames, so that a
p99 rests on ten values and more. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.backends.emulated_npu import LATENCY_MS, EmulatedNpu, recorded
from deploy.detections import Detections
from deploy.detector import Detector
from deploy.feeder import quick_switching
from deploy.frames import Frame
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.manifest import Head, Manifest, ModelFile, TensorScale
from deploy.measured_on import hand_over, origin
from deploy.pipeline import Decoder

from .postprocess_speed import BOX_SCALE, CLASS_SCALE, draw_heads, quantise_heads
from .statistics_of_time import quantile_of

INPUT_HW = (512, 512)
IMAGE_HW = (1024, 1024)
OBJECTS = 30
CONTEXTS = (0, 1, 2) * 2
OFFERED_PER_S = 30
# A p99 is told by the values above it: ten of a thousand.
OFFERED_FRAMES = 1000
TARGETS = {"saturation": 0.97, "saturation_three_times": 0.92, "offered_p50_ms": 11.0, "offered_p99_ms": 20.0}


def manifest_of(class_count: int = 10) -> Manifest:
    """Return the manifest of an INT8 model whose heads are drawn."""
    box, cls = (TensorScale(scale=s, zero_point=z) for s, z in (BOX_SCALE, CLASS_SCALE))
    heads = [
        Head(stride=s, box_output=f"box{s}", class_output=f"class{s}", box_scale=box, class_scale=cls)
        for s in (8, 16, 32)
    ]
    file = ModelFile(name="drawn", sha256="0" * 64)
    names = [f"class {i}" for i in range(class_count)]
    return Manifest(
        name="drawn", class_names=names, input_hw=INPUT_HW, heads=heads, precision="int8", files={"x": file}
    )


class Repeated:
    """A decoder that does its work several times; a stand-in for slower cores."""

    def __init__(self, decode: Decoder, times: int) -> None:
        self.decode, self.times = decode, times

    def __call__(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None = None) -> list[Detections]:
        for _ in range(self.times - 1):
            for letterbox in letterboxes or ():
                letterbox.apply(_IMAGE)
            self.decode(heads, letterboxes)
        return self.decode(heads, letterboxes)


_IMAGE = np.random.default_rng(0).integers(0, 255, (*IMAGE_HW, 3), np.uint8)


def frames(count: int, per_s: float | None = None) -> Iterator[Frame]:
    """Yield frames, as fast as they are taken or at a rate; `timestamp_s` is when each was due."""
    begin = time.perf_counter()
    for number in range(count):
        due = begin + (number / per_s if per_s else 0.0)
        if per_s and (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        yield Frame(number, "drawn", _IMAGE, timestamp_s=due)


def bare(npu: EmulatedNpu, seconds: float) -> float:
    """Return images/s of the emulated NPU alone, two threads per core.

    The interpreter hands over between them as soon as it does for the runtime (`quick_switching`), and each gives way
    once after an answer, as the runtime's contexts do: what is left between the two is the runtime's work.
    """
    batch = np.zeros((1, *INPUT_HW, 3), np.uint8)
    counts, stop = [0] * len(CONTEXTS), threading.Event()

    def run(place: int, core: int) -> None:
        backend = npu.open(core)
        while not stop.is_set():
            backend.infer(batch)
            time.sleep(0)
            counts[place] += 1

    threads = [threading.Thread(target=run, args=(i, core)) for i, core in enumerate(CONTEXTS)]
    with quick_switching():
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - begin)


def detector_on(npu: EmulatedNpu, times: int = 1, cores: tuple[int, ...] = CONTEXTS) -> Detector:
    """Return the product's own detector on an emulated NPU."""
    detector = Detector(npu.open(0), manifest_of(), open_backend=npu.open, cores=cores)
    if times > 1:
        detector.postprocessor = Repeated(detector.postprocessor, times)
    return detector


def saturated(npu: EmulatedNpu, seconds: float, times: int = 1, batch: int = 1, cores: Any = CONTEXTS) -> float:
    """Return images/s of the whole runtime, from its first result on."""
    count = int(seconds * 1e3 / LATENCY_MS * npu.cores)
    stamps = []
    with detector_on(npu, times, cores) as detector:
        for number, result in enumerate(detector.stream(frames(count), postprocess_batch=batch)):
            if result.error is not None or result.frame.number != number or len(result.detections) < OBJECTS // 2:
                raise ValueError(f"frame {number} came out wrong: {result.error or result.frame.number}")
            stamps.append(time.perf_counter())
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def offered(npu: EmulatedNpu, count: int, per_s: float) -> list[float]:
    """Return the latency in ms of each of `count` frames at an offered rate, from the moment at which it was due."""
    late = []
    with detector_on(npu) as detector:
        detector.prepare()  # opening contexts is no waiting of the first frames
        for result in detector.stream(frames(count, per_s)):
            if result.error is not None:
                raise ValueError(f"frame {result.frame.number} came out wrong: {result.error}")
            assert result.frame.timestamp_s is not None
            late.append((time.perf_counter() - result.frame.timestamp_s) * 1e3)
    return late


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Run all contestants in turns; see the module's text."""
    layout = HeadLayout.from_manifest(manifest_of())
    heads = quantise_heads(draw_heads(layout, OBJECTS, 1, np.random.default_rng(1)))
    npu = EmulatedNpu(INPUT_HW, recorded(heads))
    contestants: dict[str, Callable[[], float]] = {
        "bare": lambda: bare(npu, seconds),
        "saturation": lambda: saturated(npu, seconds),
        "saturation_three_times": lambda: saturated(npu, seconds, times=3),
        "saturation_one_context": lambda: saturated(npu, seconds, cores=(0, 1, 2)),
        "saturation_batched": lambda: saturated(npu, seconds, batch=8),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    latencies: list[float] = []
    for _ in range(rounds):
        for name, run in contestants.items():
            rates[name].append(run())
        latencies += offered(npu, math.ceil(OFFERED_FRAMES / rounds), OFFERED_PER_S)
    ratios = {name: [a / b for a, b in zip(values, rates["bare"], strict=True)] for name, values in rates.items()}
    p50, p99 = (quantile_of(latencies, q) for q in (0.5, 0.99))
    return {
        "images_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "of_bare": {name: statistics.median(values) for name, values in ratios.items()},
        "of_bare_range": {name: [min(values), max(values)] for name, values in ratios.items()},
        "offered_per_s": OFFERED_PER_S,
        "offered_frames": len(latencies),
        "offered_p50_ms": p50.value,
        "offered_p50_interval_ms": [p50.low, p50.high],
        "offered_p99_ms": p99.value,
        "offered_p99_interval_ms": [p99.low, p99.high],
        "offered_worst_ms": max(latencies),
        "two_threads_in_one_context": npu.load.overlaps,
        "bound_images_per_s": npu.cores * 1e3 / LATENCY_MS,
        "targets": TARGETS,
        "rounds": rounds,
        "seconds": seconds,
        **origin(),
    }


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contestant in each round")
    parser.add_argument("--json", type=Path, help="write the document here too")
    options = parser.parse_args()
    if options.rounds < 1 or not options.seconds > 0:
        parser.error(f"--rounds and --seconds must be above 0, got {options.rounds} and {options.seconds:g}")
    result = measure(options.rounds, options.seconds)
    for name, rate in result["images_per_s"].items():
        wanted = f", wanted {TARGETS[name]:.0%}" if name in TARGETS else ""
        print(f"{name.replace('_', ' '):<26}{rate:7.1f} images/s  {result['of_bare'][name]:6.1%} of bare{wanted}")
    p50, p99 = result["offered_p50_ms"], result["offered_p99_ms"]
    print(
        f"at {OFFERED_PER_S} images/s offered: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst "
        f"{result['offered_worst_ms']:.1f} ms of {result['offered_frames']} frames"
    )
    return hand_over(result, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
