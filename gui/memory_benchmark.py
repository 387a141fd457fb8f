"""Measure whether memory stays flat: a looped video for as many frames as half an hour has, as fast as they go.

    python -m gui.memory_benchmark [--frames N] [--json FILE]

The app's own window over a video file that is decoded, looped, detected (an emulated NPU whose clock runs fast) and
shown. Resident memory is read every 500 frames, after a minute's worth of them has gone by; growth is the median of the
last tenth of the readings less that of the first tenth. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from deploy.measured_on import hand_over

from . import benchmark_stage as stage
from .machine_load import read_load
from .running import Options

MINUTES = 30
EVERY = 500
CLOCK = 20.0
TARGETS = {"growth_mib": 20.0}


def growth_of(readings: list[float]) -> float:
    """Return what the last tenth of the readings is above the first tenth, medians of each."""
    part = max(1, len(readings) // 10)
    return statistics.median(readings[-part:]) - statistics.median(readings[:part])


def watch(window: Any, video: Path, frames: int) -> list[float]:
    """Loop a video in the window; return resident MiB every `EVERY` frames, after a warm-up of a thirtieth of them."""
    window.options = Options(at_pace=False, loop=True)
    window.opening.source(str(video))
    pane = window.pane
    warm = frames // MINUTES
    readings: list[float] = []
    while pane.watch.clock.pace().images < frames:
        before = pane.watch.clock.pace().images
        wanted = max(warm, before + EVERY)
        stage.wait(lambda: pane.watch.clock.pace().images >= wanted, 120.0)  # noqa: B023 - waited for at once
        memory = read_load().memory_mib
        if memory is None:
            raise OSError("the kernel does not tell the memory of this process; measure on Linux with /proc")
        readings.append(memory)
        if window.messages.text:
            raise ValueError(f"the run met an error: {window.messages.text}")
    return readings


def measure(frames: int, store: Path) -> dict[str, Any]:
    """Run it; see the module's text."""
    video = stage.draw_video(store / "flight.mp4", 300, (360, 640))
    npu, manifest = stage.emulated(CLOCK)
    window = stage.make_window(stage.detector_on(npu, manifest), store)
    begin = time.perf_counter()
    readings = watch(window, video, frames)
    spent = time.perf_counter() - begin
    window.close()
    stage.wait(lambda: not window.pane.leaving)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("rsedge")]
    return {
        "frames": frames,
        "minutes_at_30_per_s": frames / 30 / 60,
        "seconds": spent,
        "first_mib": readings[0],
        "last_mib": readings[-1],
        "most_mib": max(readings),
        "growth_mib": growth_of(readings),
        "threads_left": left,
        "targets": TARGETS,
    }


def main() -> int:
    """Parse the command line, measure, print."""
    parser = stage.parser_of("memory_benchmark", __doc__)
    parser.add_argument("--frames", type=int, default=MINUTES * 60 * 30)
    options = parser.parse_args()
    with stage.screen() as told, tempfile.TemporaryDirectory() as store:
        app = stage.application()
        result = {**measure(options.frames, Path(store)), "screen": told, **stage.origin_with_qt()}
        app.processEvents()
        print(
            f"{result['frames']} frames, {result['minutes_at_30_per_s']:.0f} minutes of video: "
            f"{result['first_mib']:.0f} MiB at first, {result['last_mib']:.0f} at last, "
            f"grown by {result['growth_mib']:.1f}"
        )
        return hand_over(result, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
