"""Export: same numbers as torch, static shapes, names, half weights, and nothing left behind on failure."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy.convert import onnx_export
from deploy.convert.onnx_export import compare_with_torch, export_onnx, output_names
from deploy.convert.onnx_file import output_shapes
from tests.deploy.standin import StandIn, make_standin

HW = (64, 96)
NAMES = ["box_8", "class_8", "box_16", "class_16", "box_32", "class_32"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = make_standin()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path, HW)
    return model, path


def images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, *HW, 3), dtype=np.uint8))


def test_names_shapes_and_opset(exported) -> None:
    _, path = exported
    graph = onnx.load(str(path))
    assert [opset.version for opset in graph.opset_import if opset.domain == ""] == [19]
    assert [value.name for value in graph.graph.input] == ["images"]
    shapes = output_shapes(path)
    assert list(shapes) == NAMES == output_names([8, 16, 32])
    assert shapes["box_8"] == (1, 64, 8, 12)
    assert shapes["class_32"] == (1, 3, 2, 3)
    assert graph.graph.node[0].name == "/stem/stem.0/conv/Conv", "node names are the model's own"


def test_agrees_with_torch(exported) -> None:
    model, path = exported
    report = compare_with_torch(model, path, images(3))
    assert list(report) == NAMES
    for numbers in report.values():
        assert numbers["max_abs"] <= 1e-4 * max(1.0, numbers["range"])
        assert 0 <= numbers["mean_abs"] <= numbers["max_abs"]
        assert numbers["range"] > 0


def test_comparison_sees_a_difference(exported) -> None:
    model, path = exported
    other = make_standin()
    with torch.no_grad():
        other.cls[1].bias += 0.5
    report = compare_with_torch(other, path, images(1))
    assert report["class_16"]["max_abs"] == pytest.approx(0.5, abs=1e-4)
    assert report["class_16"]["mean_abs"] == pytest.approx(0.5, abs=1e-4)
    assert report["box_16"]["max_abs"] < 1e-4
    with pytest.raises(ValueError, match="got none"):
        compare_with_torch(model, path, [])


def test_half_weights_are_torch_with_rounded_weights(exported, tmp_path) -> None:
    model, path = exported
    half = tmp_path / "half.onnx"
    export_onnx(model, half, HW, half_weights=True)
    assert half.stat().st_size < 0.62 * path.stat().st_size
    stored = onnx.load(str(half)).graph
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in stored.initializer)
    # Batch norms are folded before rounding, so round the folded weights of the float file, and compare those.
    whole = onnx.load(str(path))
    for tensor in whole.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.size >= 256:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    rounded = tmp_path / "rounded.onnx"
    onnx.save(whole, str(rounded))
    import onnxruntime

    x = np.random.default_rng(2).random((1, 3, *HW), np.float32)
    results = [
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(NAMES, {"images": x})
        for file in (half, rounded)
    ]
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_model_is_left_as_it_was_and_nothing_is_printed(tmp_path, capfd) -> None:
    model = make_standin().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx", HW)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_export.onnx, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(make_standin(), path, HW)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class _Wrong(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, StandIn()

    def forward(self, x: torch.Tensor):
        heads = self.inner(x)
        if self.kind == "tensor":
            return heads[0]
        if self.kind == "descending":
            return heads[4:] + heads[:4]
        return [head * float("nan") for head in heads]


@pytest.mark.parametrize(
    ("kind", "message"), [("tensor", "list of"), ("descending", "ascending stride"), ("nan", "not finite")]
)
def test_other_heads_are_refused(kind: str, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(_Wrong(kind), tmp_path / "model.onnx", HW)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_onnx_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing"):
        output_shapes(tmp_path / "none.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x00\xff garbage")
    with pytest.raises(ValueError, match=r"bad\.onnx is not an ONNX file"):
        output_shapes(bad)
