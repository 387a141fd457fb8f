"""What the NPU backends' tests share: the C stand-in compiled, models for it, and what they must answer."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deploy.manifest import Head, Manifest, ModelFile, TensorScale, sha256_of

HW = (64, 96)
STRIDES = (8, 16, 32)
CLASSES = 21  # no multiple of the NPU's 16 lanes
REG_MAX = 4
SOURCE = Path(__file__).with_name("fake_librknnrt.c")


def compile_library(folder: Path) -> Path:
    """Compile the stand-in; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler (apt install gcc)")
    target = folder / "librknnrt.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE)], check=True, capture_output=True, text=True)
    return target


class Control:
    """The stand-in's own functions: what it recorded, and what it shall do."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.fake_calls.restype = self._library.fake_layout.restype = ctypes.c_char_p
        self._library.fake_reset()
        self._before = (self._library.fake_live_contexts(), self._library.fake_live_memories())

    @property
    def calls(self) -> list[str]:
        return self._library.fake_calls().decode().splitlines()

    def reset(self) -> None:
        """Forget the calls, and what shall fail."""
        self._library.fake_reset()

    def count(self, call: str) -> int:
        return sum(line.split()[0] == call for line in self.calls)

    def layout(self) -> str:
        return self._library.fake_layout().decode()

    def fail(self, call: str, code: int, after: int = 0, times: int = 1 << 30) -> None:
        """Let the calls of a function answer `code` from the one number `after` on, so many times."""
        self._library.fake_fail(call.encode(), code, after, times)

    def latency(self, us: int) -> None:
        self._library.fake_latency(us)

    def chatter(self) -> None:
        self._library.fake_chatter(1)

    def left(self) -> tuple[int, int, int, int]:
        """Return contexts and memories not given back, calls that overlapped, borders written over."""
        library, (contexts, memories) = self._library, self._before
        return (
            library.fake_live_contexts() - contexts,
            library.fake_live_memories() - memories,
            library.fake_overlaps(),
            library.fake_broken_borders(),
        )


@dataclass(frozen=True)
class Output:
    """One output of a model for the stand-in. w_stride: of the plain layout; native_*: of NC1HWC2; extra: bytes."""

    name: str
    hw: tuple[int, int]
    channels: int
    scale: float
    zero_point: int
    type: str = "int8"
    fmt: str = "NCHW"
    w_stride: int = 0
    lanes: int = 16
    more_blocks: int = 0
    native_w_stride: int = 0
    more_rows: int = 0
    extra: int = 0

    def line(self) -> str:
        (h, w), blocks = self.hw, -(-self.channels // self.lanes) + self.more_blocks
        return (
            f"output {self.name} {self.channels} {h} {w} {self.scale!r} {self.zero_point} {self.type} {self.fmt} "
            f"{self.w_stride} {blocks} {h + self.more_rows} {w} {self.lanes} {self.native_w_stride} {self.extra}"
        )


def outputs(**change: object) -> list[Output]:
    """Return the six outputs, box and class of each stride, with scales and zero points of their own."""
    found = []
    for level, stride in enumerate(STRIDES):
        hw = (HW[0] // stride, HW[1] // stride)
        for kind, channels in (("box", 4 * REG_MAX), ("class", CLASSES)):
            n = len(found)
            fields = {
                "channels": channels,
                "scale": float(np.float32(0.07 + 0.031 * n)),
                "zero_point": 30 * level - 50 + n,
                **change,
            }
            found.append(Output(f"{kind}_{stride}", hw=hw, **fields))  # type: ignore[arg-type]
    return found


def write_model(path: Path, found: list[Output], *, w_stride: int = HW[1], hw: tuple[int, int] = HW) -> Path:
    lines = ["fake-rknn", f"input {hw[0]} {hw[1]} 3 {w_stride}", *(output.line() for output in found)]
    path.write_text("\n".join(lines) + "\n")
    return path


def manifest_of(path: Path, found: list[Output], **change: object) -> Manifest:
    scale = {output.name: TensorScale(scale=output.scale, zero_point=output.zero_point) for output in found}
    heads = [
        Head(
            stride=s,
            box_output=f"box_{s}",
            class_output=f"class_{s}",
            box_scale=scale[f"box_{s}"],
            class_scale=scale[f"class_{s}"],
        )
        for s in STRIDES
    ]
    fields = {
        "name": "fake",
        "class_names": [f"class {i}" for i in range(CLASSES)],
        "input_hw": HW,
        "reg_max": REG_MAX,
        "heads": heads,
        "precision": "int8",
        "files": {"rknn": ModelFile(name=path.name, sha256=sha256_of(path))},
        "toolkit_version": "2.5.0",
    }
    return Manifest.model_validate({**fields, **change})


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *HW, 3), dtype=np.uint8)


def expected(batch: np.ndarray, found: list[Output]) -> list[np.ndarray]:
    """Return the int8 heads by the stand-in's formula, in the order of the outputs."""
    heads = []
    for o, output in enumerate(found):
        h, w = output.hw
        cell_h, cell_w = HW[0] // h, HW[1] // w
        mixed = (batch.astype(np.int64) * [1, 3, 5]).sum(axis=3).reshape(len(batch), h, cell_h, w, cell_w)
        place = 1 + np.arange(cell_h * cell_w).reshape(cell_h, cell_w)
        sums = np.einsum("bhiwj,ij->bhw", mixed, place)[:, None]
        c, y, x = np.ogrid[: output.channels, :h, :w]
        heads.append(((sums + 7 * c + 13 * o + 31 * y + 17 * x) % 256 - 128).astype(np.int8))
    return heads


def real(heads: list[np.ndarray], found: list[Output]) -> list[np.ndarray]:
    """Return float32 heads as the runtime dequantises them."""
    return [
        (head.astype(np.float32) - np.float32(output.zero_point)) * np.float32(output.scale)
        for head, output in zip(heads, found, strict=True)
    ]
