"""Backends: the same numbers as the network itself, checked inputs, and reasons where a backend does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.backends.emulated_npu import EmulatedNpu
from deploy.backends.onnx_runtime import OnnxBackend
from deploy.backends.opening import open_backend
from deploy.backends.protocol import Backend
from deploy.backends.rknn_simulator import RknnSimulatorBackend, SimulatedHeads, image_key
from deploy.convert.onnx_export import export_onnx
from deploy.manifest import Head, Manifest, ModelFile, TensorScale, sha256_of
from tests.deploy.standin import StandIn, make_standin

HW = (64, 96)
STRIDES = (8, 16, 32)


def manifest_of(path: Path, **change: object) -> Manifest:
    fields = {
        "name": "standin",
        "class_names": ["a", "b", "c"],
        "input_hw": HW,
        "heads": [Head(stride=s, box_output=f"box_{s}", class_output=f"class_{s}") for s in STRIDES],
        "precision": "fp32",
        "files": {"onnx": ModelFile(name=path.name, sha256=sha256_of(path))},
    }
    return Manifest.model_validate({**fields, **change})


@pytest.fixture(scope="module")
def model() -> StandIn:
    return make_standin()


@pytest.fixture(scope="module")
def path(model: StandIn, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "model.onnx"
    export_onnx(model, path, HW)
    return path


def batch_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *HW, 3), dtype=np.uint8)


def by_torch(model: StandIn, pixels: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [head.numpy() for head in model(torch.from_numpy(np.ascontiguousarray(pixels)))]


@pytest.mark.parametrize("count", [1, 3])
def test_onnx_equals_torch(model: StandIn, path: Path, count: int) -> None:
    backend: Backend = open_backend(path.parent, manifest_of(path))
    assert backend.name == "onnx"
    assert backend.batch_size == 1
    batch = batch_of(count)
    heads = backend.infer(batch)
    for got, want in zip(heads, by_torch(model, batch.transpose(0, 3, 1, 2).astype(np.float32) / 255), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    backend.close()
    with pytest.raises(ValueError, match="was closed"):
        backend.infer(batch)


def test_mean_std_and_channel_order_come_from_the_manifest(model: StandIn, path: Path) -> None:
    mean, std = (10.0, 20.0, 30.0), (50.0, 60.0, 70.0)
    backend = OnnxBackend(path, manifest_of(path, mean=mean, std=std, channel_order="bgr"), threads=1)
    batch = batch_of(2)
    # mean and std are those of the network's channels, so they follow the swap.
    pixels = (batch[..., ::-1].astype(np.float64) - mean) / std
    for got, want in zip(
        backend.infer(batch), by_torch(model, pixels.transpose(0, 3, 1, 2).astype(np.float32)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_heads_come_in_the_manifest_order(path: Path) -> None:
    swapped = manifest_of(path).model_copy(update={"heads": list(reversed(manifest_of(path).heads))})
    shapes = [head.shape for head in OnnxBackend(path, swapped).infer(batch_of(1))]
    assert shapes == [(1, 64, 2, 3), (1, 3, 2, 3), (1, 64, 4, 6), (1, 3, 4, 6), (1, 64, 8, 12), (1, 3, 8, 12)]


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, *HW, 3), np.float32),
        np.zeros((1, HW[1], HW[0], 3), np.uint8),
        np.zeros((*HW, 3), np.uint8),
        np.zeros((0, *HW, 3), np.uint8),
        np.zeros((1, 3, *HW), np.uint8),
    ],
)
def test_wrong_batches_are_refused(batch: np.ndarray, path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch must be uint8 with shape \(b, 64, 96, 3\), got"):
        OnnxBackend(path, manifest_of(path)).infer(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_hw": (96, 96)}, "input must be one float tensor"),
        ({"class_names": ["a"]}, "output class_8 must have shape"),
        ({"reg_max": 8}, "output box_8 must have shape"),
        ({"heads": [{"stride": 8, "box_output": "boxes", "class_output": "class_8"}]}, "got none of that name"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change: dict, message: str, path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        OnnxBackend(path, manifest_of(path, **change))


def test_std_that_no_manifest_file_can_hold_is_refused_too(path: Path) -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        OnnxBackend(path, manifest_of(path).model_copy(update={"std": (0.0, 1.0, 1.0)}))


def test_damaged_and_missing_files(path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match="is missing"):
        OnnxBackend(bad, manifest_of(path))
    bad.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        OnnxBackend(bad, manifest_of(path))
    assert "\n" not in str(caught.value)


def test_missing_runtime_is_told_with_its_cure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        OnnxBackend(path, manifest_of(path))


def test_opening_says_what_works_and_why_not(path: Path) -> None:
    kinds = "must be one of auto, rknn-capi, rknn-lite, onnx, emulated, rknn-sim, got 'tpu'"
    with pytest.raises(ValueError, match=kinds):
        open_backend(path.parent, manifest_of(path), "tpu")
    with pytest.raises(ValueError, match="only runs while it builds"):
        open_backend(path.parent, manifest_of(path), "rknn-sim")
    board = manifest_of(path, files={"rknn": ModelFile(name="model.rknn", sha256="0" * 64)})
    with pytest.raises(ValueError, match=r"holds no onnx file \(it has: rknn\)"):
        open_backend(path.parent, board)


def test_simulated_heads_are_found_by_content_and_dequantised(path: Path) -> None:
    manifest = manifest_of(path)
    images = batch_of(5)
    rng = np.random.default_rng(1)
    shapes = {f"{kind}_{s}": (5, n, HW[0] // s, HW[1] // s) for s in STRIDES for kind, n in (("box", 64), ("class", 3))}
    arrays = {name: rng.integers(-128, 128, shape, dtype=np.int8) for name, shape in shapes.items()}
    scales = {name: TensorScale(scale=0.5 + index, zero_point=index - 3) for index, name in enumerate(arrays)}
    # One output without a scale: float values are handed through.
    del scales["class_16"]
    arrays["class_16"] = rng.random(shapes["class_16"], np.float32)
    simulated = SimulatedHeads(arrays, tuple(image_key(image) for image in images), scales)
    backend = open_backend(path.parent, manifest, "rknn-sim", simulated=simulated)
    order = [3, 0, 3]
    for name, got in zip(arrays, backend.infer(images[order]), strict=True):
        stored = arrays[name][order].astype(np.float64)
        scale = scales.get(name)
        want = stored if scale is None else (stored - scale.zero_point) * scale.scale
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(ValueError, match="image was not simulated"):
        backend.infer(batch_of(1, seed=9))
    with pytest.raises(ValueError, match="simulated outputs must be"):
        RknnSimulatorBackend(SimulatedHeads({}, (), {}), manifest)


def test_an_emulated_context_without_a_core_takes_the_least_busy_one() -> None:
    """While core 0 is held, the next images go to 1 and 2; where one is free again, it is the one."""
    npu = EmulatedNpu(HW, lambda batch: [], latency_ms=0.0)
    anywhere = npu.open(None)
    batch = np.zeros((1, *HW, 3), np.uint8)
    anywhere.infer(batch)
    assert npu.load.calls == [1, 0, 0]
    with npu.held(None) as first, npu.held(None) as second:
        assert (first, second) == (0, 1)
        anywhere.infer(batch)
        assert npu.load.calls == [1, 0, 1]
    anywhere.infer(batch)
    assert npu.load.calls == [2, 0, 1]
    with npu.held(0):
        npu.open(1).infer(batch)
    assert npu.load.calls == [2, 1, 1]
    with pytest.raises(ValueError, match="core must be between 0 and 2, or None for any, got 3"):
        npu.open(3)
