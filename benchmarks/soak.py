"""Run an hour's worth of frames through the runtime on an emulated NPU with a fast clock: is any lost, does memory
grow?

    python -m benchmarks.soak [--frames N] [--workers threads] [--json FILE]

An hour at three cores x 7.91 ms is 1,365,360 frames. Small images and a clock a thousand times faster than real time,
so that what is left is the runtime's own work. Each frame's heads tell its number, so that a lost, doubled or mixed up
one shows. Memory is the process's resident size after a tenth of the frames and at the end. The last line on standard
output is one JSON document.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.backends.emulated_npu import CORES, LATENCY_MS, EmulatedNpu
from deploy.detector import Detector
from deploy.frames import Frame
from deploy.manifest import Head, Manifest, ModelFile

from .origin import hand_over, origin

HOUR = round(3600 * CORES * 1e3 / LATENCY_MS)
INPUT_HW = (64, 64)
GRID = 8  # cells of stride 8 along each side
CLOCK = 1000.0


def manifest() -> Manifest:
    """Return the manifest of a small float model."""
    heads = [Head(stride=s, box_output=f"box{s}", class_output=f"class{s}") for s in (8, 16, 32)]
    files = {"onnx": ModelFile(name="drawn", sha256="0" * 64)}
    return Manifest(name="soak", class_names=["cell"], input_hw=INPUT_HW, heads=heads, precision="fp32", files=files)


def heads_of(cell: int) -> list[np.ndarray]:
    """Return heads with one box, around one cell of stride 8."""
    heads = []
    for stride in (8, 16, 32):
        side = INPUT_HW[0] // stride
        box = np.zeros((1, 4, 16, side, side), np.float32)
        box[:, :, :2] = 40  # half a cell to each side
        cls = np.full((1, 1, side, side), -9, np.float32)
        if stride == 8:
            cls[0, 0, cell // GRID, cell % GRID] = 3
        heads += [box.reshape(1, 64, side, side), cls]
    return heads


def frames(count: int) -> Iterator[Frame]:
    """Yield frames whose pixels tell their number, modulo the number of cells."""
    images = [np.full((*INPUT_HW, 3), cell, np.uint8) for cell in range(GRID * GRID)]
    for number in range(count):
        yield Frame(number, "drawn", images[number % len(images)])


def resident_mb() -> float:
    """Return this process's resident size in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(count: int) -> dict[str, Any]:
    """Run `count` frames; see the module's text. Raises ValueError for the first that is not what it should be."""
    recorded = [heads_of(cell) for cell in range(GRID * GRID)]
    npu = EmulatedNpu(INPUT_HW, lambda batch: recorded[batch[0, 0, 0, 0]], clock=CLOCK, jitter=0.5)
    detector = Detector(npu.open(0), manifest(), open_backend=npu.open, cores=(0, 1, 2) * 2)
    begin, settled, sizes = time.perf_counter(), 0.0, []
    expected = 0
    for result in detector.stream(frames(count)):
        if result.error is not None or result.frame.number != expected:
            raise ValueError(f"frame {expected} was wanted, {result.frame.number} came ({result.error})")
        x1, y1, x2, y2 = result.detections.xyxy[0]
        cell = int((y1 + y2) / 2 // 8) * GRID + int((x1 + x2) / 2 // 8)
        if cell != expected % (GRID * GRID):
            raise ValueError(f"frame {expected} has the boxes of another one")
        expected += 1
        if expected == max(1, count // 10):
            settled = resident_mb()
        if expected % max(1, count // 20) == 0:
            sizes.append(round(resident_mb(), 2))
            print(f"{expected:>9} frames  {sizes[-1]:7.1f} MB  {time.perf_counter() - begin:6.0f} s", flush=True)
    if expected != count:
        raise ValueError(f"{count} frames went in, {expected} came out")
    return {
        "frames": count,
        "hours": count / HOUR,
        "growth_mb": round(resident_mb() - settled, 2),
        "resident_mb": sizes,
        "two_threads_in_one_context": npu.load.overlaps,
        "seconds": round(time.perf_counter() - begin, 1),
        **origin(),
    }


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=HOUR)
    parser.add_argument("--json", type=Path, help="write the document here too")
    options = parser.parse_args()
    if options.frames < 1:
        parser.error(f"--frames must be at least 1, got {options.frames}")
    return hand_over(measure(options.frames), options.json)


if __name__ == "__main__":
    raise SystemExit(main())
