"""Read a scene of 20,000 x 20,000 pixels tile by tile: peak memory, and tiles/s against the same tiles from memory.

    python -m benchmarks.scene_memory [--backend read|npu|onnx] [--side PIXELS] [--compress KIND] [--json FILE]

The scene is a tiled, compressed GeoTIFF in a temporary folder, written block by block from drawn pictures. A child
process opens it and takes every tile once, from the plan to the last frame. "read" only reads; "npu" puts the whole
runtime around an emulated NPU (three cores x 7.91 ms, drawn int8 heads) behind it; "onnx" detects with ONNX Runtime and
the bundle that is named, for the peak alone. Tiles from the file and tiles that lie in memory take turns in stretches,
so that a busy machine slows both alike; the ratio is the median over the stretches. The peak is the child's VmHWM,
everything included. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deploy.frames import Frame
from deploy.measured_on import hand_over, origin
from deploy.procedural import draw_scene
from deploy.scenes import open_scene
from deploy.tiling import TileSource, plan_tiles

SIDE, BLOCK, TILE, OVERLAP = 20000, 512, 512, 64
PIXEL_M = 0.5
# Tiles that are kept for the side that reads from memory.
KEPT = 16
STRETCHES = 4
TARGETS = {"peak_mb": 600.0, "file_against_memory": 0.9}
BUNDLE = Path(__file__).parents[1] / "deploy/zoo/procedural"

# Takes frames, yields something for each when it comes out at the other end.
Consume = Callable[[Iterable[Any]], Iterator[Any]]


def write_scene(path: Path, side: int, compress: str = "deflate", seed: int = 0) -> None:
    """Write a tiled GeoTIFF of `side` x `side` pixels, EPSG:32632, block by block; never more than one row in memory.

    Its content is a few drawn pictures, turned and brightened so that no two neighbouring blocks are alike.
    """
    import rasterio
    from rasterio.windows import Window

    rng = np.random.default_rng(seed)
    pictures = [draw_scene(i, size_hw=(BLOCK, BLOCK)).image for i in range(8)]
    options: dict[str, Any] = {"compress": compress, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    options |= {"zlevel": 1} if compress == "deflate" else {"photometric": "ycbcr"} if compress == "jpeg" else {}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=rasterio.Affine(PIXEL_M, 0, 400000, 0, -PIXEL_M, 5500000),
        BIGTIFF="IF_SAFER",
        NUM_THREADS=2,
        **options,
    ) as file:
        for y in range(0, side, BLOCK):
            for x in range(0, side, BLOCK):
                picture = np.rot90(pictures[rng.integers(len(pictures))], int(rng.integers(4)))
                h, w = min(BLOCK, side - y), min(BLOCK, side - x)
                # Shifting by whole steps keeps it 8 bits; wrapping is of no matter here.
                block = np.ascontiguousarray(picture[:h, :w].transpose(2, 0, 1)) + np.uint8(rng.integers(4))
                file.write(block, window=Window(x, y, w, h))


def pass_on(frames: Iterable[Any]) -> Iterator[Any]:
    """Take frames and do nothing with them."""
    for frame in frames:
        if not isinstance(frame, Frame):
            raise ValueError(f"a tile could not be read: {frame.error}")
        yield frame


def measure(
    path: Path, consume: Consume = pass_on, *, overlap: int = OVERLAP, from_memory: bool = True
) -> dict[str, Any]:
    """Take all tiles of a scene once through `consume`, in turns with as many from memory if that is wanted.

    Returns tiles, empty tiles, tiles/s from the file and from memory (medians of the stretches), the median ratio of
    the two in the same stretch, and the peak of this process in MB (10^6 bytes).
    """
    with open_scene(path) as scene:
        tiles = plan_tiles(scene.size_hw, (TILE, TILE), overlap)
        kept = list(islice(TileSource(scene, tiles), KEPT))
        source = TileSource(scene, tiles)
        length = -(-len(tiles) // STRETCHES)
        rates: dict[str, list[float]] = {"file": [], "memory": []}
        whole = time.perf_counter()
        for _ in range(STRETCHES):
            done = _timed(rates["file"], consume, islice(iter(source), length))
            if from_memory:
                _timed(rates["memory"], consume, _from_memory(kept, done))
    pairs = list(zip(rates["file"], rates["memory"], strict=False))
    return {
        "tiles": len(tiles),
        "empty": source.empty,
        "seconds": round(time.perf_counter() - whole, 1),
        "file_tiles_per_s": round(statistics.median(rates["file"]), 1),
        "memory_tiles_per_s": round(statistics.median(rates["memory"]), 1) if pairs else None,
        "file_against_memory": round(statistics.median(a / b for a, b in pairs), 3) if pairs else None,
        "peak_mb": round(peak_mb(), 1),
    }


def peak_mb() -> float:
    """Return the most memory that this process ever had resident, in MB. Linux only (proc(5), VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status holds no VmHWM; this benchmark needs Linux")


def _timed(rates: list[float], consume: Consume, frames: Iterable[Any]) -> int:
    """Append the tiles/s from the first that came out to the last, so that starting up is left out; return how many."""
    stamps = [time.perf_counter() for _ in consume(frames)]
    if len(stamps) > 1:
        rates.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    return len(stamps)


def _from_memory(kept: list[Any], count: int) -> Iterator[Frame]:
    """Yield tiles that were read before. Each is copied, as a reader in memory would cut it out."""
    for number in range(count):
        frame = kept[number % len(kept)]
        yield Frame(number, frame.name, frame.image.copy(), corner_xy=frame.corner_xy)


def _consumer(backend: str, bundle: Path) -> Consume:
    """Return what stands behind the reader; opened once, before anything is timed."""
    if backend == "read":
        return pass_on
    if backend == "npu":
        from deploy.backends.emulated_npu import EmulatedNpu, recorded
        from deploy.head_layout import HeadLayout

        from .postprocess_speed import draw_heads, quantise_heads
        from .runtime_speed import INPUT_HW, OBJECTS, detector_on, manifest_of

        layout = HeadLayout.from_manifest(manifest_of())
        heads = quantise_heads(draw_heads(layout, OBJECTS, 1, np.random.default_rng(1)))
        detector = detector_on(EmulatedNpu(INPUT_HW, recorded(heads)))
    else:
        from deploy.detector import open_detector

        detector = open_detector(bundle, "onnx")

    def consume(frames: Iterable[Any]) -> Iterator[Any]:
        for result in detector.stream(frames):
            if result.error is not None:
                raise ValueError(f"tile {result.frame.number} came out wrong: {result.error}")
            yield result

    return consume


def main(arguments: list[str] | None = None) -> int:
    """Write the scene, measure it in a child process, print a table and, last, one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scene_memory", description="Read a large scene: peak memory and tiles per second."
    )
    parser.add_argument("--backend", choices=("read", "npu", "onnx"), default="read", help="what takes the tiles")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="what --backend onnx runs (default: drawn scenes)")
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the scene in pixels (default {SIDE})")
    parser.add_argument("--compress", default="deflate", help="of the GeoTIFF (default deflate)")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)  # the child is told so what to read
    options = parser.parse_args(arguments)
    if options.side < TILE:
        parser.error(f"--side must be at least {TILE}, got {options.side}")
    if options.scene is not None:
        consume = _consumer(options.backend, options.bundle)
        # ONNX Runtime keeps all of the CPU busy; how fast tiles come is of no matter to it.
        print(json.dumps(measure(options.scene, consume, from_memory=options.backend != "onnx")), flush=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="rsedge-scene-") as folder:
        path = Path(folder) / "scene.tif"
        begin = time.perf_counter()
        write_scene(path, options.side, options.compress)
        written_s, megabytes = time.perf_counter() - begin, path.stat().st_size / 1e6
        command = [sys.executable, "-m", "benchmarks.scene_memory", "--scene", str(path)]
        command += ["--backend", options.backend, "--bundle", str(options.bundle.resolve())]
        shown = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=False)
        if shown.returncode:
            return shown.returncode
        found = json.loads(shown.stdout.splitlines()[-1])
    document = {
        "benchmark": "scene_memory",
        "backend": options.backend,
        "side_px": options.side,
        "tile_px": TILE,
        "overlap_px": OVERLAP,
        "compress": options.compress,
        "file_mb": round(megabytes, 1),
        "written_s": round(written_s, 1),
        **found,
        "targets": TARGETS,
        **origin(),
    }
    for key in ("file_mb", "written_s", *found):
        print(f"{key:<22}{document[key]!s:>12}")
    return hand_over(document, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
