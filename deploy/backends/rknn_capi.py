"""The NPU through the C interface of `librknnrt.so`: int8 heads as the NPU leaves them, images written where it reads.

Against the vendor's Python wrapper it saves the conversion of every output to float32 and the copies of input and
outputs; post-processing takes the integers. No board was at hand: layouts and calls are proved against a library with
the same interface that the tests compile, `transfer_check` repeats the proof on a board. By default each kind of model
is moved as in those of the vendor's programs that owners of an RK3588 were seen to run: int8 as in the model zoo's
zero-copy YOLOv8, others by the copying interface.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..manifest import Manifest, TensorScale
from . import rknn_abi as abi
from .context_guard import ContextGuard
from .head_order import head_order
from .protocol import Core, check_batch, core_mask
from .vendor_output import vendor_lines_on_stderr

# "nc1hwc2": shared memory, outputs as the NPU has them, put in order here, which takes 0.14 ms of an x86 core at 512 x
# 512 and 10 classes. "nchw": shared memory, the runtime puts them in order. "copied": the runtime copies everything.
Transfer = Literal["nchw", "nc1hwc2", "copied"]
TRANSFERS: tuple[Transfer, ...] = ("nc1hwc2", "nchw", "copied")

# Scales went through text and float32 on their way into the manifest; a difference of 1e-5 is a 800th of a step.
_SCALE_TOLERANCE = 1e-5


class RknnCapiBackend:
    """Run a bundle's `.rknn` file in a context of its own. Belongs to the thread that runs it first.

    core: as `core_mask` takes it; None: any. transfer: see `TRANSFERS`; None is "nc1hwc2" for int8 models, else
    "copied". library: the runtime's file; None looks where the loader and boards keep it. `infer` returns arrays of its
    own: int8 for an int8 model whose scales the manifest has, else float32.

    Raises FileNotFoundError, OSError (RknnError) for what runtime and driver refuse, ValueError where the model's
    input, outputs, scales or zero points are not the manifest's; each with the cure.
    """

    name = "rknn-capi"

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        core: Core = None,
        *,
        transfer: Transfer | None = None,
        library: Path | None = None,
    ) -> None:
        if transfer is None:
            transfer = "nc1hwc2" if gives_integers(manifest) else "copied"
        mask = _checked(core, transfer, manifest)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; copy the whole bundle again")
        model = path.read_bytes()
        self._library = abi.load_library(library)
        context = abi.Context(0)

        def begin() -> int:
            return int(self._library.rknn_init(ctypes.byref(context), model, len(model), 0, None))

        self._open(path, manifest, transfer, mask, context, "rknn_init", begin)

    def duplicate(self, core: Core = None) -> RknnCapiBackend:
        """Return one more context that shares this one's weights. Raises as the class.

        Call it from the thread that runs this one, or before any does; close this one last.
        """
        mask = _checked(core, self._transfer, self._manifest)
        twin = object.__new__(RknnCapiBackend)
        twin._library, context = self._library, abi.Context(0)

        def begin() -> int:
            with self._guard:
                return int(self._library.rknn_dup_context(ctypes.byref(self._context), ctypes.byref(context)))

        twin._open(self._path, self._manifest, self._transfer, mask, context, "rknn_dup_context", begin)
        return twin

    def _open(
        self,
        path: Path,
        manifest: Manifest,
        transfer: Transfer,
        mask: int,
        context: Any,
        call: str,
        begin: Callable[[], int],
    ) -> None:
        self._path, self._manifest, self._transfer, self._context = path, manifest, transfer, context
        self._memories: list[Any] = []
        self._guard = ContextGuard(self.name, self._free)
        self._swap = manifest.channel_order == "bgr"
        self._int8 = gives_integers(manifest)
        with vendor_lines_on_stderr():
            abi.check(call, begin(), str(path))
            try:
                if mask:
                    self._check("rknn_set_core_mask", self._library.rknn_set_core_mask(context, mask))
                self._version = abi.SdkVersion()
                self._query(abi.SDK_VERSION, self._version)
                self._set_up()
            except BaseException:
                self._free()
                raise

    @property
    def batch_size(self) -> int:
        """One image a call: models for the NPU have a static batch."""
        return 1

    @property
    def runtime_version(self) -> str:
        """What `librknnrt.so` says it is, such as "2.3.0 (c949ad889d@2024-11-07T11:35:33)"."""
        return str(self._version.api_version.decode(errors="replace"))

    @property
    def driver_version(self) -> str:
        """The version of the kernel's rknpu driver, as the runtime sees it."""
        return str(self._version.drv_version.decode(errors="replace"))

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network on (b, h, w, 3) uint8 RGB, image by image; see `Backend`.

        Raises RknnContextLostError where the context cannot be used any more, RknnError for other failures,
        RuntimeError in another thread than the first, ValueError after `close` and for wrong batches.
        """
        check_batch(batch, self._manifest.input_hw)
        with self._guard:
            heads = [np.empty((len(batch), *shape[1:]), self._dtype) for shape in self._shapes]
            run = self._run_copied if self._transfer == "copied" else self._run_shared
            for index, image in enumerate(batch):
                run(image[..., ::-1] if self._swap else image, [head[index] for head in heads])
        return heads

    def npu_us(self) -> int:
        """Return the microseconds that the last image took on the NPU, by the runtime's own clock."""
        answer = abi.PerfRun()
        with self._guard:
            self._query(abi.PERF_RUN, answer)
        return int(answer.run_duration)

    def close(self) -> None:
        """Free the context and its memory, once, from any thread; after the run where one is under way."""
        self._guard.close()

    def _run_shared(self, image: np.ndarray, heads: list[np.ndarray]) -> None:
        library, context = self._library, self._context
        np.copyto(self._pixels, image)
        self._check("rknn_mem_sync", library.rknn_mem_sync(context, self._memories[0], abi.SYNC_TO_DEVICE))
        self._check("rknn_run", library.rknn_run(context, None), running=True)
        for memory, view, head in zip(self._read, self._views, heads, strict=True):
            self._check("rknn_mem_sync", library.rknn_mem_sync(context, memory, abi.SYNC_FROM_DEVICE))
            _fill(head, view)

    def _run_copied(self, image: np.ndarray, heads: list[np.ndarray]) -> None:
        library, context = self._library, self._context
        pixels = np.ascontiguousarray(image)
        entry = abi.Input(0, pixels.ctypes.data, pixels.nbytes, 0, abi.UINT8, abi.NHWC)
        self._check("rknn_inputs_set", library.rknn_inputs_set(context, 1, ctypes.byref(entry)))
        self._check("rknn_run", library.rknn_run(context, None), running=True)
        targets = {**self._unread, **dict(zip(self._order, heads, strict=True))}
        count = len(targets)
        outputs = (abi.Output * count)()
        for index, head in targets.items():
            outputs[index] = abi.Output(not self._int8, 1, index, head.ctypes.data, head.nbytes)
        self._check("rknn_outputs_get", library.rknn_outputs_get(context, count, outputs, None), running=True)
        self._check("rknn_outputs_release", library.rknn_outputs_release(context, count, outputs))

    def _set_up(self) -> None:
        """Compare the model with the manifest, and give the NPU its memory."""
        manifest, (height, width) = self._manifest, self._manifest.input_hw
        counts = abi.InputOutputNum()
        self._query(abi.IN_OUT_NUM, counts)
        images = [self._attr(abi.NATIVE_INPUT_ATTR, i) for i in range(counts.n_input)]
        if len(images) == 1 and images[0].fmt != abi.NHWC:  # a float16 model may keep its own layout inside
            images = [self._attr(abi.INPUT_ATTR, 0)]
        if [(image.fmt, image.shape) for image in images] != [(abi.NHWC, (1, height, width, 3))]:
            raise ValueError(
                f"{self._path}: input must be one NHWC tensor {(1, height, width, 3)} by the manifest, "
                f"got {[str(image) for image in images]}; export the bundle again"
            )
        outputs = [self._attr(abi.OUTPUT_ATTR, i) for i in range(counts.n_output)]
        shapes = [_logical(output) for output in outputs]
        try:
            self._order = head_order(shapes, manifest, [output.name.decode(errors="replace") for output in outputs])
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None
        self._shapes, self._dtype = manifest.output_shapes, np.int8 if self._int8 else np.float32
        ordered = [outputs[index] for index in self._order]
        if self._int8:
            scales = [scale for head in manifest.heads for scale in (head.box_scale, head.class_scale)]
            for output, scale in zip(ordered, scales, strict=True):
                self._compare(output, scale)
        if self._transfer == "copied":
            if any(output.fmt == abi.NHWC for output in outputs):
                raise ValueError(
                    f"{self._path}: outputs must not be NHWC for transfer 'copied', "
                    f"got {[str(output) for output in outputs]}; use transfer 'nchw'"
                )
            unread = set(range(len(outputs))) - set(self._order)
            self._unread = {index: np.empty(outputs[index].n_elems, self._dtype) for index in unread}
            return
        self._share_input(images[0])
        views = [self._share_output(output) for output in outputs]
        self._views = [views[index] for index in self._order]
        self._read = [self._memories[1 + index] for index in self._order]

    def _compare(self, output: abi.TensorAttr, scale: TensorScale | None) -> None:
        """Raise ValueError unless an output is int8 with the manifest's scale and zero point."""
        assert scale is not None  # or heads would not be int8
        if output.type != abi.INT8 or output.qnt_type != abi.QNT_AFFINE:
            raise ValueError(
                f"{self._path}: outputs of an int8 model must be int8 with a scale and zero point, got {output}; "
                "export the bundle again"
            )
        if abs(output.scale - scale.scale) > _SCALE_TOLERANCE * scale.scale or output.zp != scale.zero_point:
            raise ValueError(
                f"{self._path}: output {output.name.decode(errors='replace')} must have scale {scale.scale:g} and zero "
                f"point {scale.zero_point} by the manifest, got {output.scale:g} and {output.zp}; manifest and model "
                "are from different exports: copy the whole bundle again"
            )

    def _share_input(self, attr: abi.TensorAttr) -> None:
        height, width = self._manifest.input_hw
        stride = attr.w_stride or width
        if stride < width:
            raise ValueError(f"{self._path}: w_stride must be 0 or at least the width, got {stride} for {attr}")
        # As uint8 the NPU normalises and quantises by itself.
        attr.type, attr.fmt, attr.pass_through = abi.UINT8, abi.NHWC, 0
        memory = self._share(attr, max(attr.size_with_stride, height * stride * 3))
        self._pixels = memory[: height * stride * 3].reshape(height, stride, 3)[:, :width]

    def _share_output(self, plain: abi.TensorAttr) -> np.ndarray:
        """Give one output memory; returns it as an array (c, h, w), or (c1, c2, h, w) for "nc1hwc2"."""
        if plain.n_dims != 4:
            raise ValueError(f"{self._path}: {plain} must have four dimensions to be shared; use transfer 'copied'")
        _, channels, height, width = _logical(plain)
        if self._transfer == "nc1hwc2":
            attr = self._attr(abi.NATIVE_OUTPUT_ATTR, plain.index)
            if attr.fmt == abi.NC1HWC2:
                return self._share_native(attr, channels, height, width)
        else:
            attr = plain
        attr.pass_through = 0
        if not self._int8:
            attr.type, attr.size = abi.FLOAT32, 4 * attr.n_elems
        stride = attr.w_stride or width
        if stride < width:
            raise ValueError(f"{self._path}: w_stride must be 0 or at least the width, got {stride} for {attr}")
        elements = channels * height * stride
        dtype = np.dtype(self._dtype)
        memory = self._share(attr, max(attr.size_with_stride, attr.size, elements * dtype.itemsize)).view(dtype)
        if attr.fmt == abi.NHWC:
            return memory[:elements].reshape(height, stride, channels)[:, :width].transpose(2, 0, 1)
        return memory[:elements].reshape(channels, height, stride)[:, :, :width]

    def _share_native(self, attr: abi.TensorAttr, channels: int, height: int, width: int) -> np.ndarray:
        shape = attr.shape
        if attr.type != abi.INT8 or len(shape) != 5 or shape[0] != 1:
            raise ValueError(f"{self._path}: transfer 'nc1hwc2' takes int8 outputs only, got {attr}; use 'nchw'")
        _, blocks, rows, columns, lanes = shape
        stride = attr.w_stride or columns
        if blocks * lanes < channels or rows < height or stride < width:
            raise ValueError(f"{self._path}: {attr} cannot hold {(channels, height, width)}; use transfer 'nchw'")
        elements = blocks * rows * stride * lanes
        memory = self._share(attr, max(attr.size_with_stride, elements)).view(np.int8)
        return memory[:elements].reshape(blocks, rows, stride, lanes)[:, :height, :width].transpose(0, 3, 1, 2)

    def _share(self, attr: abi.TensorAttr, size: int) -> np.ndarray:
        """Create memory for an input or output; returns its bytes, (n,) uint8 with n a multiple of 4."""
        size = (size + 3) // 4 * 4
        memory = self._library.rknn_create_mem(self._context, size)
        if not memory:
            raise abi.RknnError("rknn_create_mem", -4, str(self._path))
        self._memories.append(memory)
        address, got = memory.contents.virt_addr, memory.contents.size
        if not address or got < size:
            raise abi.RknnError("rknn_create_mem", -4, str(self._path))
        self._check("rknn_set_io_mem", self._library.rknn_set_io_mem(self._context, memory, ctypes.byref(attr)))
        return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)

    def _attr(self, command: int, index: int) -> abi.TensorAttr:
        attr = abi.TensorAttr(index=index)
        self._query(command, attr)
        return attr

    def _query(self, command: int, answer: ctypes.Structure) -> None:
        code = self._library.rknn_query(self._context, command, ctypes.byref(answer), ctypes.sizeof(answer))
        self._check("rknn_query", code)

    def _check(self, call: str, code: int, *, running: bool = False) -> None:
        abi.check(call, code, str(self._path), running=running)

    def _free(self) -> None:
        # What these calls say is of no use to anybody: the memory is not ours any more either way.
        for memory in self._memories:
            self._library.rknn_destroy_mem(self._context, memory)
        self._memories = []
        self._views, self._pixels = [], np.empty(0, np.uint8)
        self._library.rknn_destroy(self._context)


def _checked(core: Core, transfer: str, manifest: Manifest) -> int:
    """Return the core mask, after a look at the choices. Raises ValueError."""
    if transfer not in TRANSFERS:
        raise ValueError(f"transfer must be one of {', '.join(TRANSFERS)}, got {transfer!r}")
    if transfer == "nc1hwc2" and not gives_integers(manifest):
        raise ValueError(f"transfer 'nc1hwc2' needs an int8 model with scales, got {manifest.precision}; use 'copied'")
    return core_mask(core)


def gives_integers(manifest: Manifest) -> bool:
    """Return whether heads are int8: the manifest of an int8 model that others made may lack the scales they need."""
    return manifest.precision == "int8" and all(head.box_scale and head.class_scale for head in manifest.heads)


def _logical(attr: abi.TensorAttr) -> tuple[int, ...]:
    """Return the shape of an output as (1, c, h, w), whatever its layout in memory; its own where it has not four."""
    shape = attr.shape
    if attr.fmt == abi.NHWC and len(shape) == 4:
        return shape[0], shape[3], shape[1], shape[2]
    return shape


def _fill(head: np.ndarray, view: np.ndarray) -> None:
    """Copy an output (c, h, w) or (c1, c2, h, w), c1 * c2 at least c, into a head (c, h, w)."""
    if view.ndim == 3:
        np.copyto(head, view)
        return
    lanes = view.shape[1]
    for block in range(-(-len(head) // lanes)):
        part = head[block * lanes : (block + 1) * lanes]
        np.copyto(part, view[block, : len(part)])
