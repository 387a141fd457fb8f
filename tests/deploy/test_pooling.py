"""Poolings wider than their map: what the compiler makes of them, and that such a model is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from deploy.convert import rknn_build
from deploy.convert.onnx_export import export_onnx
from deploy.convert.pooling import WidePool, survives, wide_pools
from deploy.convert.rknn_build import build_rknn
from train.model import Yolov8


def as_compiled(rows: Tensor, pool: nn.MaxPool1d) -> Tensor:
    """Pool (b, c, cells) as the compiler does: a window wider than the map becomes one maximum, spread."""
    wanted = pool(rows)
    if pool.kernel_size <= rows.shape[2]:
        return wanted
    return rows.amax(2, keepdim=True).expand_as(wanted)


@given(
    cells=st.integers(1, 9),
    kernel=st.integers(1, 11),
    stride=st.integers(1, 4),
    share=st.floats(0, 1),
    ceil_mode=st.booleans(),
)
def test_a_pooling_survives_where_every_window_covers_the_map(cells, kernel, stride, share, ceil_mode):
    padding = int(share * (kernel // 2))
    assume(cells + 2 * padding >= kernel)
    pool = nn.MaxPool1d(kernel, stride, padding, ceil_mode=ceil_mode)
    # Each cell in turn is the largest one: any window that misses it tells.
    rows = functional.one_hot(torch.arange(cells), cells).float()[:, None]
    same = torch.equal(pool(rows), as_compiled(rows, pool))
    assert survives(cells, kernel, stride, (padding, padding), ceil_mode=ceil_mode) == same


class Pooled(nn.Module):
    """Box and class heads behind one pooling each, both of 5 x 5, over maps of 8 x 4 and of 3 x 2 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.small = nn.Conv2d(32, 32, (6, 3))
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.box, self.cls = nn.Conv2d(32, 64, 1), nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.box(self.pool(x)), self.cls(self.pool(self.small(x)))


def write_pooled(path: Path) -> None:
    torch.manual_seed(0)
    names = ["box_2", "class_2"]
    torch.onnx.export(
        Pooled().eval(),
        (torch.zeros(1, 3, 16, 8),),
        str(path),
        opset_version=19,
        dynamo=False,
        input_names=["images"],
        output_names=names,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_takes_such_a_window_for_the_whole_map(tmp_path, monkeypatch):
    """Why the gate is there, and that what it lets through is right. In float16, which needs one child less.

    A new toolkit may do better: then the gate can go.
    """
    path = tmp_path / "pooled.onnx"
    write_pooled(path)
    found = wide_pools(onnx.load(str(path)))
    assert found == [WidePool("/pool/MaxPool", (8, 4), (5, 5), (10, 10))]
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 8, 3), dtype=np.uint8)
    for precision in ("int8", "fp16"):
        said = rf"^pooled\.onnx to {precision} rk3588: layer /pool/MaxPool pools a map of 8 x 4 .*size to at least 10$"
        with pytest.raises(ValueError, match=said):
            build_rknn(path, tmp_path / "out", precision=precision, calibration=images)
    assert not (tmp_path / "out").exists(), "refused before any work"
    monkeypatch.setattr(rknn_build, "wide_pools", lambda _model: [])
    build = build_rknn(path, tmp_path / "out", precision="fp16", evaluate=images, processes=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    wanted = [np.concatenate(x) for x in zip(*(session.run(None, {"images": p[None]}) for p in pixels), strict=True)]
    wide, small = build.simulated.heads(range(4))
    assert np.abs(small - wanted[1]).max() < 0.01
    assert np.abs(wide - wanted[0]).max() > 0.1
    # Along the axis of four cells one value for all, along that of eight as it should be.
    assert np.ptp(wide, axis=3).max() == 0
    assert np.ptp(wide, axis=2).max() > 0.1
    assert np.ptp(wanted[0], axis=3).max() > 0.1


def test_a_yolov8_at_128_pixels_is_refused_and_told_the_size_that_works(tmp_path):
    """Where a split works its size out in the graph, as C2f does, the map's size is known all the same."""
    export_onnx(Yolov8("n", 2), tmp_path / "model.onnx", (128, 128))
    found = wide_pools(onnx.load(str(tmp_path / "model.onnx")))
    assert [pool.layer for pool in found] == ["/model.9/m/MaxPool", "/model.9/m_1/MaxPool", "/model.9/m_2/MaxPool"]
    assert found[0].map_hw == (4, 4)
    assert "4 x 4 cells with a window of 5 x 5" in found[0].told()
    assert found[0].told().endswith("set train.image_size to at least 160")
