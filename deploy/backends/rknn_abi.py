"""The C interface of `librknnrt.so` 2.x as ctypes: structures, constants, prototypes, error codes as exceptions.

Facts from the vendor's public header `rknn_api.h`, in our words. Layouts are those of its C declarations; the tests
compare every offset with a C compiler's.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_float, c_int, c_int8, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from ..context import ContextLostError

LIBRARY = "librknnrt.so"
# Where boards keep it; the loader's own list (ld.so.conf, LD_LIBRARY_PATH) is asked first.
PLACES = ("/usr/lib", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/lib")

MAX_DIMS = 16
MAX_NAME = 256

# rknn_query
IN_OUT_NUM = 0
INPUT_ATTR = 1
OUTPUT_ATTR = 2
PERF_RUN = 4
SDK_VERSION = 5
NATIVE_INPUT_ATTR = 8
NATIVE_OUTPUT_ATTR = 9

# rknn_tensor_type
FLOAT32, FLOAT16, INT8, UINT8 = range(4)
TYPE_NAMES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool", "int4")
# rknn_tensor_format
NCHW, NHWC, NC1HWC2, UNDEFINED = range(4)
FORMAT_NAMES = ("NCHW", "NHWC", "NC1HWC2", "undefined")
# rknn_tensor_qnt_type
QNT_NONE, QNT_DFP, QNT_AFFINE = range(3)
# rknn_mem_sync_mode
SYNC_TO_DEVICE, SYNC_FROM_DEVICE = 1, 2

# `__arm__` in the header is 32-bit Arm alone; other 32-bit systems have no such library.
Context = c_uint64 if ctypes.sizeof(c_void_p) == 8 else c_uint32


class InputOutputNum(ctypes.Structure):
    """Answer to IN_OUT_NUM."""

    _fields_ = [("n_input", c_uint32), ("n_output", c_uint32)]


class TensorAttr(ctypes.Structure):
    """One input or output: asked with `index` set. w_stride: pixels per row in memory, 0 where that is the width."""

    _fields_ = [
        ("index", c_uint32),
        ("n_dims", c_uint32),
        ("dims", c_uint32 * MAX_DIMS),
        ("name", c_char * MAX_NAME),
        ("n_elems", c_uint32),
        ("size", c_uint32),
        ("fmt", c_int),
        ("type", c_int),
        ("qnt_type", c_int),
        ("fl", c_int8),
        ("zp", c_int32),
        ("scale", c_float),
        ("w_stride", c_uint32),
        ("size_with_stride", c_uint32),
        ("pass_through", c_uint8),
        ("h_stride", c_uint32),
    ]

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions in use."""
        return tuple(self.dims[: self.n_dims])

    def __str__(self) -> str:
        kind = TYPE_NAMES[self.type] if 0 <= self.type < len(TYPE_NAMES) else f"type {self.type}"
        form = FORMAT_NAMES[self.fmt] if 0 <= self.fmt < len(FORMAT_NAMES) else f"format {self.fmt}"
        return f"{self.name.decode(errors='replace')} {kind} {form} {self.shape}"


class TensorMem(ctypes.Structure):
    """Memory that CPU and NPU share."""

    _fields_ = [
        ("virt_addr", c_void_p),
        ("phys_addr", c_uint64),
        ("fd", c_int32),
        ("offset", c_int32),
        ("size", c_uint32),
        ("flags", c_uint32),
        ("priv_data", c_void_p),
    ]


class Input(ctypes.Structure):
    """One entry of rknn_inputs_set."""

    _fields_ = [
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
        ("pass_through", c_uint8),
        ("type", c_int),
        ("fmt", c_int),
    ]


class Output(ctypes.Structure):
    """One entry of rknn_outputs_get."""

    _fields_ = [
        ("want_float", c_uint8),
        ("is_prealloc", c_uint8),
        ("index", c_uint32),
        ("buf", c_void_p),
        ("size", c_uint32),
    ]


class SdkVersion(ctypes.Structure):
    """Answer to SDK_VERSION."""

    _fields_ = [("api_version", c_char * 256), ("drv_version", c_char * 256)]


class PerfRun(ctypes.Structure):
    """Answer to PERF_RUN. run_duration: microseconds."""

    _fields_ = [("run_duration", c_int64)]


_MEM = POINTER(TensorMem)
# name -> (result, arguments)
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "rknn_init": (c_int, [POINTER(Context), c_void_p, c_uint32, c_uint32, c_void_p]),
    "rknn_dup_context": (c_int, [POINTER(Context), POINTER(Context)]),
    "rknn_destroy": (c_int, [Context]),
    "rknn_query": (c_int, [Context, c_int, c_void_p, c_uint32]),
    "rknn_set_core_mask": (c_int, [Context, c_int]),
    "rknn_inputs_set": (c_int, [Context, c_uint32, POINTER(Input)]),
    "rknn_run": (c_int, [Context, c_void_p]),
    "rknn_outputs_get": (c_int, [Context, c_uint32, POINTER(Output), c_void_p]),
    "rknn_outputs_release": (c_int, [Context, c_uint32, POINTER(Output)]),
    "rknn_create_mem": (_MEM, [Context, c_uint32]),
    "rknn_destroy_mem": (c_int, [Context, _MEM]),
    "rknn_set_io_mem": (c_int, [Context, _MEM, POINTER(TensorAttr)]),
    "rknn_mem_sync": (c_int, [Context, _MEM, c_int]),
}

_UPDATE = f"bring {LIBRARY} and the NPU driver to the versions that `rsedge doctor` names"
_EXPORT = f"bring {LIBRARY} to the toolkit version in the manifest, or export the bundle again"
_DEVICE = "see `rsedge doctor` for the driver and your rights on its device, `sudo dmesg | grep -i rknpu` for its log"
# code -> (name in the header, what it means, cure). The header's own spelling.
ERRORS: dict[int, tuple[str, str, str]] = {
    -1: ("RKNN_ERR_FAIL", "the runtime gives no reason", "run again with RKNN_LOG_LEVEL=4, it tells more then"),
    -2: ("RKNN_ERR_TIMEOUT", "the NPU did not answer in time", _DEVICE),
    -3: ("RKNN_ERR_DEVICE_UNAVAILABLE", "the NPU cannot be opened", _DEVICE),
    -4: ("RKNN_ERR_MALLOC_FAIL", "out of NPU memory", "use fewer contexts per core, or a smaller model"),
    -5: ("RKNN_ERR_PARAM_INVALID", "the runtime knows no such parameter", _UPDATE),
    -6: ("RKNN_ERR_MODEL_INVALID", "the runtime cannot read this model", _EXPORT),
    -7: ("RKNN_ERR_CTX_INVALID", "the context is gone", "open the bundle again"),
    -8: ("RKNN_ERR_INPUT_INVALID", "the runtime refuses the input", _EXPORT),
    -9: ("RKNN_ERR_OUTPUT_INVALID", "the runtime refuses the outputs", _EXPORT),
    -10: ("RKNN_ERR_DEVICE_UNMATCH", "runtime and driver do not fit each other", _UPDATE),
    -11: ("RKNN_ERR_INCOMPATILE_PRE_COMPILE_MODEL", "the model was compiled for another driver", _EXPORT),
    -12: ("RKNN_ERR_INCOMPATILE_OPTIMIZATION_LEVEL_VERSION", "the model needs another driver", _EXPORT),
    -13: ("RKNN_ERR_TARGET_PLATFORM_UNMATCH", "the model is for another chip", "export the bundle for this chip"),
}
# After these a context answers nothing any more; another one may.
_LOST = frozenset((-1, -2, -3, -7))


class RknnError(OSError):
    """A call of the runtime that failed. call: its name; code, name: as in the header; subject: what it was about."""

    def __init__(self, call: str, code: int, subject: str = "") -> None:
        self.call, self.code, self.subject = call, code, subject
        self.name, meaning, cure = ERRORS.get(code, ("no code of the header", "unknown to this version", _UPDATE))
        where = f"{subject}: " if subject else ""
        super().__init__(f"{where}{call} failed with {self.name} ({code}), {meaning}; {cure}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.call, self.code, self.subject)


class RknnContextLostError(RknnError, ContextLostError):
    """A run after which the context cannot be used; a scheduler opens another one and tries the image once more."""


def check(call: str, code: int, subject: str = "", *, running: bool = False) -> None:
    """Raise RknnError unless `code` is success; RknnContextLostError where a run says that the context is lost."""
    if code < 0:
        raise (RknnContextLostError if running and code in _LOST else RknnError)(call, code, subject)


def load_library(path: Path | None = None) -> Any:
    """Load the runtime and declare its functions. path: a file; None looks where the loader and boards keep it.

    Raises OSError where it is not there, not for this processor, or too old to have them all.
    """
    names = [str(path)] if path is not None else [LIBRARY, *(f"{place}/{LIBRARY}" for place in PLACES)]
    library, first = None, None
    for name in names:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError as error:
            # One that is there but does not load explains more than one that is not there.
            if first is None or "cannot open shared object file" in str(first):
                first = error
    if library is None:
        raise OSError(
            f"{path or LIBRARY} cannot be loaded ({first}); on the board copy the vendor's aarch64 library to "
            "/usr/lib, see `rsedge doctor`; elsewhere use the onnx backend"
        )
    for name, (result, arguments) in PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise OSError(f"{path or LIBRARY} has no {name}: it is older than 2.0; {_UPDATE}") from None
        function.restype, function.argtypes = result, arguments
    return library
