"""A backend that finds bright cells, and frames whose one bright cell tells their number."""

from __future__ import annotations

import threading

import numpy as np

from deploy.frames import Frame, Result
from deploy.manifest import Head, Manifest, ModelFile

MANIFEST = Manifest(
    name="fake",
    class_names=["bright", "dark"],
    input_hw=(64, 96),
    heads=[Head(stride=s, box_output=f"b{s}", class_output=f"c{s}") for s in (8, 16, 32)],
    precision="fp32",
    files={"onnx": ModelFile(name="model.onnx", sha256="0" * 64)},
)
CELLS = 8 * 12


def find_bright_cells(batch: np.ndarray) -> list[np.ndarray]:
    """Answer with a box around every bright cell of stride 8."""
    heads = []
    for stride in (8, 16, 32):
        h, w = 64 // stride, 96 // stride
        box = np.zeros((len(batch), 4, 16, h, w), np.float32)
        box[:, :, 1] = 40
        cls = np.full((len(batch), 2, h, w), -9, np.float32)
        if stride == 8:
            cls[:, 0] = np.where(batch.reshape(-1, h, 8, w, 8, 3).mean(axis=(2, 4, 5)) > 200, 3, -9)
        heads += [box.reshape(-1, 64, h, w), cls]
    return heads


def frame(number: int, name: str = "drawn", offset: int = 0) -> Frame:
    """Return a frame whose one bright cell tells its number (and an offset), modulo the number of cells."""
    image = np.zeros((64, 96, 3), np.uint8)
    y, x = divmod((number + offset) % CELLS, 12)
    image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 255
    return Frame(number, name, image)


def cell_of(result: Result) -> int:
    ((x1, y1, x2, y2),) = result.detections.xyxy  # clipped at the border, but the cell's centre lies inside
    cells = [(y, x) for y in range(8) for x in range(12) if x1 < 8 * x + 4 < x2 and y1 < 8 * y + 4 < y2]
    y, x = cells[0]
    return 12 * y + x


def threads_now() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("rsedge")}


def wait_for_hung_threads() -> None:
    """A thread that hung is left behind, and ends when its call does."""
    for thread in threading.enumerate():
        if thread.name.startswith("rsedge"):
            thread.join(5)
    assert threads_now() == set()
