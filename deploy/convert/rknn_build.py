"""ONNX to `.rknn`, checked, and scored in the vendor's simulator; all vendor code runs in child processes.

INT8 takes two steps: one child calibrates, then one or more children compile from its ranges (about a second) and each
simulates its share of the evaluation images; the first child's `.rknn` is kept. A file with learnt integers (Q/DQ in
its graph) needs no calibration: its compile form is built as it is, and its scales are those of the graph. Nothing is
believed before the return codes, the log and the layer table agree, see `layer_table`.

Scale and zero point of each output come from the YAML text that the calibration writes, or from the graph; the
simulated values are checked against them one by one. With `mmse` the toolkit tells none, see `rknn_child`: such outputs
are read as float32. An `.rknn` is not reproducible byte for byte (two builds of the same inputs differ, their simulated
heads do not), so compare heads and layer tables, never hashes.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..backends.rknn_simulator import SimulatedHeads, image_key
from ..manifest import TensorScale
from .calibration import check_model_image, write_dataset
from .layer_table import LayerTable, layer_faults, log_faults, parse_layer_table, plain_log
from .onnx_file import output_shapes
from .pooling import wide_pools
from .quantised_onnx import compile_form, has_islands, is_quantised, output_grids
from .rknn_process import ChildFailed, Progress, run_children

LOG_NAME = "convert.log"
LAYERS_NAME = "layers.json"
PRECISIONS = ("int8", "fp16")
ALGORITHMS = ("normal", "mmse", "kl_divergence")
Images = Iterable[np.ndarray] | Path


class ConversionError(ValueError):
    """The converter failed, or built something else than was asked. One line, ending with the log's path."""


@dataclass(frozen=True, eq=False)
class RknnBuild:
    """What one conversion gave.

    rknn_path, layers_path, log_path: files in the bundle. table: compiled layers and memory totals. toolkit_version: of
    rknn-toolkit2. output_scales: scale and zero point by output name; empty for float16, whose outputs have none, and
    for "mmse", whose scales the toolkit does not tell: such a model's outputs are read as float32.
    simulated: heads of the evaluation images in their order, or None. calibration_count: images calibrated with.
    """

    rknn_path: Path
    layers_path: Path
    log_path: Path
    precision: str
    target: str
    table: LayerTable
    toolkit_version: str
    output_scales: dict[str, TensorScale] = field(default_factory=dict)
    simulated: SimulatedHeads | None = None
    calibration_count: int = 0


def build_rknn(
    onnx_path: Path,
    out_dir: Path,
    *,
    precision: str = "int8",
    calibration: Iterable[np.ndarray] | None = None,
    evaluate: Images | Callable[[], Iterable[np.ndarray]] | None = None,
    limit: int | None = None,
    algorithm: str = "normal",
    target: str = "rk3588",
    processes: int = 2,
    progress: Progress | None = None,
    timeout_s: float = 3600.0,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (255.0, 255.0, 255.0),
    rknn_name: str = "model.rknn",
    log_path: Path | None = None,
) -> RknnBuild:
    """Convert an ONNX model and simulate it.

    onnx_path: six raw heads, static batch 1 (`export_onnx`), in float or with learnt integers. out_dir: the bundle;
    `rknn_name`, layers.json and convert.log are written there, the first two only when everything is well. calibration:
    (n, h, w, 3) uint8 RGB or its images one by one, letterboxed; needed for "int8" from float, of no use with learnt
    integers. evaluate: letterboxed images to simulate (array, iterator, function that returns one, or the path of an
    .npy), at most `limit`. processes: children that simulate side by side, 0.1 to 0.2 s an image of 512 x 512 each.
    progress: called with (phase, done, total), phases "calibrate", "compile", "score". timeout_s: for each child.
    log_path: another place for convert.log.

    Raises ConversionError with the cause and the log's path, ValueError for wrong arguments and for a graph that the
    compiler is known to change (`pooling`), OSError for a full disk.
    """
    outputs = output_shapes(onnx_path)
    graph = onnx.load(str(onnx_path))
    learnt = is_quantised(graph)
    _check_arguments(precision, algorithm, limit, processes, calibration, learnt)
    input_hw = _input_hw(onnx_path, mean, std)
    if wide := wide_pools(graph):
        raise ValueError(f"{onnx_path.name} to {precision} {target}: {wide[0].told()}")
    out_dir.mkdir(parents=True, exist_ok=True)
    log_path = log_path or out_dir / LOG_NAME
    logs: list[str] = []
    # Blanks in the path are fine: every path that the toolkit splits at blanks is relative.
    with tempfile.TemporaryDirectory(prefix="rsedge-convert-", ignore_cleanup_errors=True) as scratch_name:
        scratch = Path(scratch_name)
        job: dict[str, Any] = {
            "onnx": str(scratch / "model.onnx"),
            "precision": precision,
            "algorithm": algorithm,
            "target": target,
            "mean": list(mean),
            "std": list(std),
            "outputs": list(outputs),
            "input_hw": list(input_hw),
            "scales": output_grids(graph) if learnt else {},
            "learnt": learnt,
        }
        if learnt:
            onnx.save(compile_form(graph), job["onnx"])
        else:
            shutil.copyfile(onnx_path, job["onnx"])
        try:
            calibration_count = 0
            if precision == "int8" and calibration is not None and not learnt:
                listing, calibration_count = write_dataset(calibration, scratch / "images", input_hw)
                folder = scratch / "calibrate"
                task = {**job, "task": "calibrate", "dataset": str(listing), "folder": str(folder)}
                (result,) = _run([task], logs, progress, timeout_s)
                # Scales of every output, or the child failed; none at all for an algorithm that does not tell them.
                job.update(scales=result["scales"], calibrated=str(folder))
            # Stored after calibration, so that a bad calibration set is told before many images are read.
            keys, image_file = _store_images(evaluate, limit, scratch / "images.u8", input_hw)
            heads = _head_files(outputs, job["scales"], len(keys), scratch)
            job.update(images=str(image_file), image_count=len(keys), heads={n: str(p) for n, p in heads.items()})
            tasks = [
                {**job, "task": "compile", "share": share, "rknn": "", "folder": str(scratch / f"compile{number}")}
                for number, share in enumerate(_shares(len(keys), processes))
            ]
            tasks[0]["rknn"] = str(scratch / "built.rknn")
            results = _run(tasks, logs, progress, timeout_s)
            table = _gated_table(logs[-len(tasks) :], precision, islands=learnt and has_islands(graph))
            # Opened before the folder goes: a mapped file lives on, and its space is free when the heads are dropped.
            arrays = {name: np.load(path, mmap_mode="r") for name, path in heads.items()} if keys else {}
            _place(Path(tasks[0]["rknn"]), out_dir / rknn_name)
        except (ChildFailed, _Gate) as error:
            raise ConversionError(f"{onnx_path.name} to {precision} {target}: {error}; log: {log_path}") from error
        finally:
            text = "\n".join(logs).replace(str(scratch), "<scratch>")
            log_path.write_text(text, encoding="utf-8")
    table.save(out_dir / LAYERS_NAME)
    scales = {name: TensorScale(scale=scale, zero_point=zero) for name, (scale, zero) in job["scales"].items()}
    return RknnBuild(
        rknn_path=out_dir / rknn_name,
        layers_path=out_dir / LAYERS_NAME,
        log_path=log_path,
        precision=precision,
        target=target,
        table=table,
        toolkit_version=results[0]["toolkit_version"],
        output_scales=scales,
        simulated=SimulatedHeads(arrays, tuple(keys), scales) if keys else None,
        calibration_count=calibration_count,
    )


class _Gate(Exception):
    """The children reported success, but the evidence says otherwise."""


def _check_arguments(
    precision: str, algorithm: str, limit: int | None, processes: int, calibration: object, learnt: bool
) -> None:
    if sys.platform != "linux":
        raise ValueError(f"conversion to .rknn needs Linux, this is {sys.platform}; rknn-toolkit2 exists only there")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"calibration algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if learnt and precision != "int8":
        raise ValueError(f"a model with learnt integers compiles to int8, precision is {precision!r}; use int8")
    if precision == "int8" and calibration is None and not learnt:
        raise ValueError("INT8 conversion needs calibration images, got none; use precision fp16 to go without")


def _input_hw(onnx_path: Path, mean: Sequence[float], std: Sequence[float]) -> tuple[int, int]:
    """Return the model input's size; ValueError unless the file takes one static (1, 3, h, w) input."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must be 3 numbers each, std positive, got {mean} and {std}")
    graph = onnx.load(str(onnx_path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][:2] != [1, 3] or min(shapes[0]) < 1:
        raise ValueError(f"{onnx_path} must have one static input (1, 3, h, w), got {shapes}; export it again")
    return shapes[0][2], shapes[0][3]


def _run(
    jobs: list[dict[str, Any]], logs: list[str], progress: Progress | None, timeout_s: float
) -> list[dict[str, Any]]:
    """Run children, keep their logs, and fail on what a log admits even where the status is fine."""
    results, failure = [], None
    try:
        results = run_children(jobs, progress, timeout_s)
    except ChildFailed as error:
        failure = error
    finally:
        fresh = [plain_log(_read(Path(job["folder"]) / "log.txt")) for job in jobs]
        logs += fresh
    # The log's own error says more than the status that came of it.
    told = [fault for text in fresh for fault in log_faults(text)]
    if told:
        raise _Gate(told[0]) from failure
    if failure is not None:
        raise failure
    return results


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _gated_table(logs: list[str], precision: str, *, islands: bool = False) -> LayerTable:
    try:
        tables = [parse_layer_table(log) for log in logs]
    except ValueError as error:
        raise _Gate(f"return codes were fine, but {error}") from error
    for number, table in enumerate(tables[1:], 1):
        if table != tables[0]:
            raise _Gate(
                f"two builds of the same model differ: the layer tables of children 0 and {number} are not equal"
            )
    faults = layer_faults(tables[0], precision, islands=islands)
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise _Gate(f"{len(faults)} of {len(tables[0].layers)} layers miss {precision}: {'; '.join(faults[:5])}{more}")
    return tables[0]


def _store_images(
    images: Images | Callable[[], Iterable[np.ndarray]] | None, limit: int | None, path: Path, input_hw: tuple[int, int]
) -> tuple[list[bytes], Path]:
    """Write the evaluation images to one raw file that all children map; returns their keys and the file."""
    keys: list[bytes] = []
    if images is None:
        return keys, path
    with open(path, "wb") as handle:
        for image in _iterate(images):
            if limit is not None and len(keys) >= limit:
                break
            check_model_image(image, input_hw, f"evaluation image {len(keys)}")
            handle.write(np.ascontiguousarray(image).data)
            keys.append(image_key(image))
    if not keys:
        raise ValueError("evaluation needs at least one image, got none; check the split, or pass evaluate=None")
    return keys, path


def _iterate(images: Images | Callable[[], Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    if isinstance(images, Path):
        return iter(np.load(images, mmap_mode="r"))
    return iter(images() if callable(images) else images)


def _head_files(
    outputs: dict[str, tuple[int, ...]], scales: dict[str, Any], count: int, scratch: Path
) -> dict[str, Path]:
    """Make one empty .npy per output for all images; int8 where the scale is known, a quarter of float32."""
    files = {}
    for name, shape in outputs.items():
        files[name] = scratch / f"head_{name}.npy"
        if count:
            dtype = np.int8 if name in scales else np.float32
            np.lib.format.open_memmap(files[name], "w+", dtype, (count, *shape[1:])).flush()
            # A full disk must be an OSError here, not a bus error in the child that writes into the map.
            with open(files[name], "r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, files[name].stat().st_size)
    return files


def _shares(count: int, processes: int) -> list[tuple[int, int]]:
    """Split `count` images into contiguous shares; a second process pays only from a few images on."""
    parts = min(processes, max(1, count // 8))
    edges = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _place(built: Path, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        shutil.copyfile(built, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
