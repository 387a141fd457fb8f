"""What a command says about an error that a user can mend: one line with the cause and the cure."""

from __future__ import annotations

import difflib
import errno
import os
from typing import Any

OWN_FOLDERS = ("deploy", "train", "quantize", "gui", "benchmarks")
# Import name -> the extra that brings it. rknn is not on this list: `make install` brings it, no extra can.
EXTRA_OF = {
    **dict.fromkeys(("torch", "onnx", "onnxruntime", "faster_coco_eval", "matplotlib", "tensorboard"), "host"),
    **dict.fromkeys(("safetensors", "scipy", "tomli"), "host"),
    "rknnlite": "board",
    **dict.fromkeys(("rasterio", "pyogrio"), "geo"),
    "ray": "ray",
    **dict.fromkeys(("PyQt5", "pyqtgraph"), "gui"),
}
RKNN_CURE = "pip install --no-deps rknn-toolkit2==2.5.0"


def told_in_one_line(error: BaseException) -> str | None:
    """Return what to tell the user about a foreseen error, or None where the error is a bug."""
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").split(".")[0]
        if name in OWN_FOLDERS:
            return f"{error.name} is missing from this installation; install rsedge again (make install)"
        if name == "rknn":
            return f"this needs rknn-toolkit2, which is not installed; run make install, or {RKNN_CURE}"
        extra = EXTRA_OF.get(name)
        cure = f'run make install, or pip install ".[{extra}]" in the clone' if extra else f"pip install {name}"
        return f"this needs the Python package {name}, which is not installed; {cure}"
    if isinstance(error, ImportError) and "cannot open shared object file" in str(error):
        return f"{error}; scripts/check_system.sh names the system package that brings it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own class, unimported
        why = _flat(error) or "the system gave no more"
        return f"out of memory: {why}; use a smaller batch, image size or number of workers"
    if isinstance(error, OSError) and error.strerror:
        file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        cure = {
            errno.ENOSPC: "; free some space and run again",
            errno.EDQUOT: "; free some space and run again",
            errno.EACCES: "; check its owner and mode, or choose another folder",
            errno.EROFS: "; choose a folder that can be written",
        }.get(error.errno or 0, "")
        if not cure and "cannot be written" in error.strerror and ";" not in error.strerror:
            cure = "; choose another folder"  # a file in the way, a folder that is none, a file system without files
        return f"{file}{error.strerror}{cure}"
    if isinstance(error, ValueError | OSError):
        return _flat(error) or type(error).__name__
    return None


def _flat(error: BaseException) -> str:
    """Join the lines of a message: some libraries explain in paragraphs, a command answers in one line."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def usage_line(error: Any) -> str:
    """Return typer's usage message as one line that ends with where to read on."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split())
    wrong = getattr(error, "option_name", None)
    if context and wrong and message.startswith("No such option"):
        known = [name for param in context.command.params for name in param.opts]
        near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.4)  # typer sorts its several by name
        message = f"No such option: {wrong}" + (f". Did you mean {near[0]}?" if near else ".")
    return f"{message} (see: {context.command_path if context else 'rsedge'} --help)"
