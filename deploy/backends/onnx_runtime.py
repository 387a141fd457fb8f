"""ONNX Runtime on the CPU: the backend for hosts, and the float reference that the INT8 model is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..manifest import Manifest
from .onnx_session import session_options
from .protocol import check_batch


class OnnxBackend:
    """Run a bundle's ONNX file.

    threads: intra-operator threads; 0 lets ONNX Runtime use every core. Raises ValueError where the file is no ONNX
    model, or its inputs and outputs are not those of the manifest; ValueError with the cure where onnxruntime is
    missing. The manifest's mean and std are those of the network's channels, in the network's channel order.
    """

    name = "onnx"

    def __init__(self, path: Path, manifest: Manifest, threads: int = 0) -> None:
        if threads < 0:
            raise ValueError(f"threads must be 0 (all cores) or more, got {threads}")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; copy the whole bundle again")
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"the onnx backend needs onnxruntime, which cannot be imported ({error}); pip install onnxruntime"
            ) from error
        options = session_options(threads)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a family of its own that derives from Exception only
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{path} cannot be loaded by ONNX Runtime ({line}); export the bundle again") from error
        self._input_hw = manifest.input_hw
        self._bgr = manifest.channel_order == "bgr"
        mean, std = np.asarray(manifest.mean, np.float32), np.asarray(manifest.std, np.float32)
        if not (std > 0).all():
            raise ValueError(f"std must be positive, got {manifest.std}; export the bundle again")
        # One table look-up per pixel value would save nothing: multiply-add on contiguous float32 is memory bound.
        self._gain, self._offset = (1 / std)[:, None, None], (-mean / std)[:, None, None]
        self._outputs = manifest.output_names
        self._input = self._check_signature(path, manifest)

    @property
    def batch_size(self) -> int:
        """Images per call of the network: 1, exported models have a static batch."""
        return 1

    def _check_signature(self, path: Path, manifest: Manifest) -> str:
        inputs = self._session.get_inputs()
        wanted = [1, 3, *manifest.input_hw]
        if len(inputs) != 1 or list(inputs[0].shape) != wanted or inputs[0].type != "tensor(float)":
            raise ValueError(
                f"{path}: input must be one float tensor of shape {wanted}, "
                f"got {[(entry.type, entry.shape) for entry in inputs]}; export the bundle again"
            )
        shapes = {entry.name: list(entry.shape) for entry in self._session.get_outputs()}
        for name, shape in zip(manifest.output_names, manifest.output_shapes, strict=True):
            if shapes.get(name) != list(shape):
                raise ValueError(
                    f"{path}: output {name} must have shape {list(shape)} by the manifest, "
                    f"got {shapes.get(name, 'none of that name')}; export the bundle again"
                )
        return str(inputs[0].name)

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network on (b, h, w, 3) uint8 RGB; returns the raw outputs as float32, see `Backend`."""
        check_batch(batch, self._input_hw)
        if self._session is None:
            raise ValueError("the onnx backend was closed; open the bundle again")
        runs = []
        for image in batch:
            planes = image.transpose(2, 0, 1)
            if self._bgr:
                planes = planes[::-1]
            pixels = planes.astype(np.float32, order="C")
            pixels *= self._gain
            pixels += self._offset
            runs.append(self._session.run(self._outputs, {self._input: pixels[None]}))
        return [outputs[0] if len(runs) == 1 else np.concatenate(outputs) for outputs in zip(*runs, strict=True)]

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None
