"""What the vendor's runtime tells about a `.rknn` file, through its public C interface, on a board."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from .backends import rknn_abi as abi
from .backends.vendor_output import vendor_lines_on_stderr
from .manifest import TensorScale
from .model_signature import Output, Precision, Signature

_HEADER_BYTES, _KNOWN_FORMAT = 64, 6
_TYPES: dict[int, Precision] = {abi.INT8: "int8", abi.FLOAT16: "fp16", abi.FLOAT32: "fp32"}


def rknn_signature(path: Path, library: Path | None = None) -> Signature:
    """Ask the runtime what a `.rknn` file takes and gives. library: its file; None looks where boards keep it.

    Raises FileNotFoundError; OSError where the runtime or the NPU is not there or refuses the file; ValueError where
    the input is not one image, and where outputs have types that are not of one kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name the model's file")
    runtime, context = abi.load_library(library), abi.Context(0)
    model = path.read_bytes()
    with vendor_lines_on_stderr():
        abi.check("rknn_init", runtime.rknn_init(ctypes.byref(context), model, len(model), 0, None), str(path))
        try:
            counts = abi.InputOutputNum()
            _ask(runtime, context, abi.IN_OUT_NUM, counts, path)
            inputs = [_attr(runtime, context, abi.INPUT_ATTR, i, path) for i in range(counts.n_input)]
            outputs = [_attr(runtime, context, abi.OUTPUT_ATTR, i, path) for i in range(counts.n_output)]
        finally:
            runtime.rknn_destroy(context)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            f"{path}: a model must have one input, the image, got {', '.join(map(str, inputs)) or 'none'}; "
            "convert it without the others"
        )
    batch, *rest = inputs[0].shape
    height, width, channels = rest if inputs[0].fmt == abi.NHWC else (*rest[1:], rest[0])
    if (batch, channels) != (1, 3):
        raise ValueError(f"{path}: input must be one image of 3 channels, got {inputs[0]}; convert it with batch 1")
    kinds = {output.type for output in outputs}
    if len(kinds) != 1 or not kinds <= set(_TYPES):
        raise ValueError(
            f"{path}: outputs must all be int8, or all float, got {', '.join(map(str, outputs))}; convert it again"
        )
    precision = _TYPES[kinds.pop()]
    return Signature(
        path,
        (height, width),
        tuple(_output(attr, precision) for attr in outputs),
        precision,
        "as the runtime tells",
    )


def check_whole(path: Path) -> None:
    """Raise ValueError where a file is no `.rknn`, or was cut off; OSError where it cannot be read.

    Seen in files of rknn-toolkit2 2.x (format 6): "RKNN", at byte 8 the format, at 16 the length of what follows the 64
    bytes of the header, both 64 bits; the description that follows that has no length. Of other formats only the
    beginning is checked.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head.startswith(b"RKNN"):
        raise ValueError(f'{path}: must begin with "RKNN", got {head[:4]!r}; convert or copy the model again')
    form, length = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
    size = path.stat().st_size
    if len(head) < _HEADER_BYTES or (form == _KNOWN_FORMAT and size < _HEADER_BYTES + length):
        told = f"{_HEADER_BYTES + length:,} bytes or more" if len(head) == _HEADER_BYTES else "a header of 64 bytes"
        raise ValueError(f"{path}: was cut off, its header tells of {told}, got {size:,}; copy it again")


def _output(attr: abi.TensorAttr, precision: Precision) -> Output:
    shape = attr.shape
    if attr.fmt == abi.NHWC and len(shape) == 4:
        shape = (shape[0], shape[3], shape[1], shape[2])
    scale = None
    if precision == "int8" and attr.qnt_type == abi.QNT_AFFINE and attr.scale > 0:
        scale = TensorScale(scale=attr.scale, zero_point=attr.zp)
    return Output(attr.name.decode(errors="replace"), shape, scale)


def _attr(runtime: Any, context: Any, command: int, index: int, path: Path) -> abi.TensorAttr:
    attr = abi.TensorAttr(index=index)
    _ask(runtime, context, command, attr, path)
    return attr


def _ask(runtime: Any, context: Any, command: int, answer: ctypes.Structure, path: Path) -> None:
    code = runtime.rknn_query(context, command, ctypes.byref(answer), ctypes.sizeof(answer))
    abi.check("rknn_query", code, str(path))
