"""The child process that talks to the vendor's converter: one JSON job in, files and `result.json` out.

Run as `python -m deploy.convert.rknn_child JOB.json`, in a scratch working directory, by `rknn_build` only. The
vendor's library prints to file descriptor 1, drops files into the working directory, reports failure in four
different ways and sometimes aborts, so it never runs inside a process that anybody cares about. This file uses the
toolkit's public API only.

Two tasks, three ways to compile:

- "calibrate": `load_onnx`, then `hybrid_quantization_step1`. It runs the calibration images once and leaves the
  graph, its ranges and a YAML text with every tensor's scale and zero point: the only public place that tells them.
  With `mmse` that text is not what gets compiled: step 2 (and `build` likewise) searches all ranges anew, tells them
  nowhere, and refuses edited ones. Such outputs have no known scale, and are kept as the float32 that comes out.
- "compile": `hybrid_quantization_step2` from those files unchanged (layer table and simulated values are identical to
  those of a plain `build(do_quantization=True)`, in about a second); or, for a graph with learnt integers, `load_onnx`
  and `build(do_quantization=False)`, which takes its scales; or a plain float16 `build`. Then `export_rknn`, then the
  simulator over a share of the images, because a loaded `.rknn` cannot be simulated.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PROGRESS_NAME = "progress.jsonl"
RESULT_NAME = "result.json"
STEM = "model"
# Algorithms whose final output scales the toolkit does not tell.
SCALES_UNTOLD = ("mmse",)


class ChildError(Exception):
    """What the parent shall tell the user, in one line."""


def main(job_path: str) -> int:
    """Do one job; returns the exit status. What went wrong stands in `result.json` and in the log."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    folder = Path(job["folder"])
    try:
        result = {"calibrate": _calibrate, "compile": _compile}[job["task"]](job)
    except ChildError as error:
        _write_result(folder, {"error": str(error)})
        return 1
    except Exception as error:  # the border to a library that raises bare ValueError, RuntimeError and others
        import traceback

        traceback.print_exc()
        _write_result(folder, {"error": _last_line(error)})
        return 1
    _write_result(folder, result)
    return 0


def _leave_with_parent() -> None:
    """Exit when standard input closes: the parent holds the other end, and it closes however the parent dies."""
    # os.read, not sys.stdin: its buffer's lock, held here, would abort the interpreter's own exit.
    while os.read(0, 1):
        pass
    os._exit(3)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The toolkit raises ValueError with a whole traceback as its text; the cause is its last line.
    return lines[-1] if lines else type(error).__name__


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    part = folder / f"{RESULT_NAME}.part"
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, folder / RESULT_NAME)


class _Progress:
    """Append `{"phase", "done", "total"}` lines that the parent polls."""

    def __init__(self, folder: Path) -> None:
        self._handle = open(folder / PROGRESS_NAME, "a", encoding="utf-8")  # noqa: SIM115 open as long as the child

    def __call__(self, phase: str, done: int, total: int) -> None:
        self._handle.write(json.dumps({"phase": phase, "done": done, "total": total}) + "\n")
        self._handle.flush()


def _toolkit(job: dict[str, Any]) -> Any:
    """Return a configured RKNN object."""
    try:
        from rknn.api import RKNN
    except ImportError as error:
        raise ChildError(
            f"rknn-toolkit2 cannot be imported ({error}); run `make install` on Linux with Python 3.10 to 3.12"
        ) from error
    rknn = RKNN(verbose=True)
    settings: dict[str, Any] = {
        "mean_values": [job["mean"]],
        "std_values": [job["std"]],
        "target_platform": job["target"],
    }
    if job.get("learnt"):
        # With this rule on, the convolutions behind a Concat of learnt scales compile as float16.
        settings["disable_rules"] = ["fuse_concat_conv"]
    else:
        settings["quantized_algorithm"] = job["algorithm"]
    _checked(rknn.config(**settings), "config")
    return rknn


def _checked(status: Any, call: str) -> None:
    if status != 0:
        raise ChildError(f"rknn-toolkit2 {call} returned {status!r} instead of 0")


def _calibrate(job: dict[str, Any]) -> dict[str, Any]:
    progress = _Progress(Path(job["folder"]))
    rknn = _toolkit(job)
    progress("calibrate", 0, 100)
    _checked(rknn.load_onnx(model=job["onnx"]), "load_onnx")
    _checked(rknn.hybrid_quantization_step1(dataset=job["dataset"]), "hybrid_quantization_step1")
    progress("calibrate", 100, 100)
    if job["algorithm"] in SCALES_UNTOLD:
        return {"scales": {}}
    return {"scales": read_scales(Path(job["folder"]) / f"{STEM}.quantization.cfg", job["outputs"])}


def read_scales(config: Path, outputs: list[str]) -> dict[str, tuple[float, int]]:
    """Read (scale, zero_point) of the named outputs from the text that `hybrid_quantization_step1` writes.

    The tensor that is stored as int8 stands there under the output's name with `_int8` appended. Raises ChildError with
    the outputs that have no such tensor there: without its scale, an int8 output cannot be read.
    """
    from ruamel.yaml import YAML

    tensors = YAML(typ="safe").load(config.read_text(encoding="utf-8"))["quantize_parameters"]
    found = {}
    for name in outputs:
        entry = tensors.get(f"{name}_int8") or tensors.get(name) or {}
        scale, zero_point = entry.get("scale") or [], entry.get("zero_point") or []
        if len(scale) == 1 and len(zero_point) == 1 and entry.get("dtype") == "int8":
            found[name] = (float(scale[0]), int(zero_point[0]))
    if lost := [name for name in outputs if name not in found]:
        raise ChildError(
            f"rknn-toolkit2's {config.name} holds no int8 scale and zero point of output {', '.join(lost)}"
        )
    return found


def _compile(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job["folder"])
    progress = _Progress(folder)
    rknn = _toolkit(job)
    progress("compile", 0, 1)
    if job["precision"] == "int8" and not job.get("learnt"):
        told = () if job["algorithm"] in SCALES_UNTOLD else job["outputs"]
        if lost := [name for name in told if name not in job["scales"]]:
            raise ChildError(f"compiling for int8 needs the scale of every output, got none of {', '.join(lost)}")
        base = Path(job["calibrated"])
        files = [str(base / f"{STEM}{suffix}") for suffix in (".model", ".data", ".quantization.cfg")]
        _checked(rknn.hybrid_quantization_step2(*files), "hybrid_quantization_step2")
    else:
        _checked(rknn.load_onnx(model=job["onnx"]), "load_onnx")
        _checked(rknn.build(do_quantization=False), "build")
    if job["rknn"]:
        _checked(rknn.export_rknn(job["rknn"]), "export_rknn")
        if not Path(job["rknn"]).is_file():
            raise ChildError("rknn-toolkit2 export_rknn returned 0 but wrote no file")
    progress("compile", 1, 1)
    first, last = job["share"]
    if last > first:
        _checked(rknn.init_runtime(), "init_runtime")
        _score(rknn, job, first, last, progress)
    return {"toolkit_version": _version(), "scored": last - first}


def _score(rknn: Any, job: dict[str, Any], first: int, last: int, progress: _Progress) -> None:
    """Simulate images [first, last) and write their heads into files shared with the other children."""
    height, width = job["input_hw"]
    images = np.memmap(job["images"], np.uint8, "r", shape=(job["image_count"], height, width, 3))
    stores = {name: np.load(path, mmap_mode="r+") for name, path in job["heads"].items()}
    scales = job["scales"]
    for index in range(first, last):
        outputs = rknn.inference(inputs=[images[index : index + 1]], data_format=["nhwc"])
        if outputs is None or len(outputs) != len(stores):
            raise ChildError(f"the simulator returned {'None' if outputs is None else len(outputs)} for image {index}")
        for (name, store), value in zip(stores.items(), outputs, strict=True):
            if value.shape != (1, *store.shape[1:]):
                raise ChildError(f"simulated output {name} has shape {value.shape}, expected {(1, *store.shape[1:])}")
            if name in scales:
                scale, zero_point = scales[name]
                store[index] = to_int8(value[0], scale, zero_point, name)
            else:
                store[index] = value[0]
        if index == last - 1 or index % 4 == 0:
            progress("score", index + 1 - first, last - first)
    for store in stores.values():
        store.flush()


def to_int8(value: np.ndarray, scale: float, zero_point: int, name: str) -> np.ndarray:
    """Return the integers behind simulated values; ValueError unless they are exactly such integers.

    value: float32, (integer - zero_point) * scale with integers in -128..127. This is the check that the scale and zero
    point in the toolkit's text are those that the simulator used.
    """
    steps = value / np.float32(scale)
    whole = np.rint(steps)
    if not np.all(np.abs(steps - whole) <= 1e-2):
        raise ValueError(f"simulated output {name} is not a multiple of its scale {scale}")
    integers = whole + zero_point
    if integers.min() < -128 or integers.max() > 127:
        raise ValueError(f"simulated output {name} leaves int8 at zero point {zero_point}")
    return integers.astype(np.int8)


def _version() -> str:
    try:
        return metadata.version("rknn-toolkit2")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # The result is written: skip the library's tear-down, which could only spoil a good status.
    os._exit(code)
