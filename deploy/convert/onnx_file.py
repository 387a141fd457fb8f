"""What an ONNX file says about itself, read without torch."""

from __future__ import annotations

from pathlib import Path

import onnx


def output_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the static shape of each output of an ONNX file in order; ValueError where it is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; export the model to ONNX first")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError derives from Exception only
        raise ValueError(f"{path} is not an ONNX file ({error}); export the model again") from error
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in graph.output}
