"""Run an hour's worth of frames through the runtime on an emulated NPU with a fast clock: is any lost, does memory
grow?

    python -m benchmarks.soak [--frames N] [--sinks csv,coco] [--faults SHARE] [--json FILE]

An hour at three cores x 7.91 ms is 1,365,360 frames. Small images and a clock a thousand times faster than real time,
so that what is left is the runtime's own work. Each frame's heads tell its number, so that a lost, doubled or mixed up
one shows. Memory is the process's resident size after a tenth of the frames and at the end.

--sinks writes every record as `rsedge detect` does, into a temporary folder; what lies there in the end is counted.
--faults lets that share of the calls fail, and a hundredth of it hang until the context is given up and replaced; each
such frame must come out in its place with that error, and all others as if nothing had been. The last line on standard
output is one JSON document.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from deploy.backends.emulated_npu import CORES, LATENCY_MS, EmulatedNpu, Faults
from deploy.detector import Detector
from deploy.frames import Frame, Record, Result
from deploy.manifest import Head, Manifest, ModelFile
from deploy.measured_on import hand_over, origin
from deploy.sink_formats import FORMATS
from deploy.sinks import JOURNAL, open_sinks

HOUR = round(3600 * CORES * 1e3 / LATENCY_MS)
INPUT_HW = (64, 64)
GRID = 8  # cells of stride 8 along each side
CLOCK = 1000.0
# A call is given up after this long; one that hangs goes on for longer, as the vendor's would for ever.
TIMEOUT_S, HANG_S = 0.5, 1.0
# Of so many faults one is a hang.
HANGS = 100


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


def measure(count: int, *, formats: Sequence[str] = (), faults: float = 0.0) -> dict[str, Any]:
    """Run `count` frames; see the module's text.

    formats: what is written of every record. faults: share of the calls that fail, 0 to 1. Raises ValueError for the
    first frame that is not what it should be, and where a file does not hold all records.
    """
    recorded = [heads_of(cell) for cell in range(GRID * GRID)]
    npu = EmulatedNpu(
        INPUT_HW,
        lambda batch: recorded[batch[0, 0, 0, 0]],
        clock=CLOCK,
        jitter=0.5,
        faults=Faults(error=faults, hang=faults / HANGS, hang_s=HANG_S),
    )
    begin, settled, sizes = time.perf_counter(), 0.0, []
    expected, told = 0, {"failed": 0, "hung": 0}
    with ExitStack() as stack:
        timeout_s = TIMEOUT_S if faults else None
        opened = Detector(npu.open(0), manifest(), open_backend=npu.open, cores=(0, 1, 2) * 2, timeout_s=timeout_s)
        detector = stack.enter_context(opened)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsedge-soak-")))
        sinks = stack.enter_context(open_sinks(folder, formats, detector.class_names, info={})) if formats else None
        for result in detector.stream(frames(count), policy="block"):
            check(result, expected, told, faults > 0)
            if sinks is not None and result.error is None:
                name, at = result.frame.name, result.frame.number / 30
                sinks.add(Record(name, INPUT_HW, result.detections, frame_number=result.frame.number, timestamp_s=at))
            expected += 1
            if expected == max(1, count // 10):
                settled = resident_mb()
            if expected % max(1, count // 20) == 0:
                sizes.append(round(resident_mb(), 2))
                print(f"{expected:>9} frames  {sizes[-1]:7.1f} MB  {time.perf_counter() - begin:6.0f} s", flush=True)
        if expected != count:
            raise ValueError(f"{count} frames went in, {expected} came out")
        growth = resident_mb() - settled
        written = None
        if sinks is not None:
            sinks.close()
            written = written_in(folder, formats)
            wanted = count - sum(told.values())
            if any(found != wanted for found in written.values()):
                raise ValueError(f"{wanted} records were finished, the files hold {written}")
    return {
        "frames": count,
        "hours": count / HOUR,
        "growth_mb": round(growth, 2),
        "resident_mb": sizes,
        "two_threads_in_one_context": npu.load.overlaps,
        "fault_share": faults,
        **told,
        "written": written,
        "seconds": round(time.perf_counter() - begin, 1),
        **origin(),
    }


def check(result: Result, expected: int, told: dict[str, int], faulty: bool) -> None:
    """Raise ValueError unless this is the frame that is next, with its own box or, where faults are, its own error."""
    if result.frame.number != expected:
        raise ValueError(f"frame {expected} was wanted, {result.frame.number} came ({result.error})")
    if result.error is not None:
        kinds = {"failed": "emulated fault", "hung": "no answer from core"}
        kind = next((kind for kind, words in kinds.items() if words in str(result.error)), None)
        if not faulty or kind is None:
            raise ValueError(f"frame {expected} failed: {result.error}")
        told[kind] += 1
        return
    x1, y1, x2, y2 = result.detections.xyxy[0]
    cell = int((y1 + y2) / 2 // 8) * GRID + int((x1 + x2) / 2 // 8)
    if cell != expected % (GRID * GRID) or len(result.detections) != 1:
        raise ValueError(f"frame {expected} has the boxes of another one")


def written_in(folder: Path, formats: Sequence[str]) -> dict[str, int]:
    """Return how many records the journal and each file of one line per record hold."""
    found = {}
    with open(folder / JOURNAL, encoding="utf-8") as lines:
        found["journal"] = sum('"frame"' in line for line in lines)
    if "csv" in formats:
        with open(folder / FORMATS["csv"], encoding="utf-8") as lines:
            found["csv"] = sum(1 for _ in lines) - 1
    if "coco" in formats:
        with open(folder / FORMATS["coco"], encoding="utf-8") as lines:
            found["coco"] = sum(line.count('"image_id"') for line in lines)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=HOUR)
    parser.add_argument("--sinks", default="", metavar="LIST", help="formats to write, such as csv,coco (default none)")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of the calls (default 0)")
    parser.add_argument("--json", type=Path, help="write the document here too")
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error(f"--frames must be at least 1, got {options.frames}")
    if not 0 <= options.faults <= 0.5:
        parser.error(f"--faults must be a share from 0 to 0.5, got {options.faults:g}")
    formats = [name for name in options.sinks.split(",") if name]
    if wrong := [name for name in formats if name not in ("csv", "coco")]:
        parser.error(f"--sinks must be csv, coco or both, got {wrong[0]!r}; others need pictures or a georeference")
    return hand_over(measure(options.frames, formats=formats, faults=options.faults), options.json)


if __name__ == "__main__":
    raise SystemExit(main())
