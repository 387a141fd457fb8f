"""`learnt.safetensors`: integers, scales and zero points as training left them, so that a bundle can be proved anew."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from quantize.insert import Settings
from quantize.numerics import per_channel, to_real

from .model import Yolov8
from .quantised_model import QuantisedYolov8

LEARNT_NAME = "learnt.safetensors"


def save_learnt(model: QuantisedYolov8, path: Path) -> None:
    """Write a finished, folded network of 8 bits: int8 weights, float32 bias, and each scale and zero point."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in model.network.layers().items():
        integers, scale, zero_point = layer.weight_integers()
        tensors[f"{name}.integers"] = integers.to(torch.int8)
        tensors[f"{name}.scale"], tensors[f"{name}.zero_point"] = scale.float(), zero_point.to(torch.int8)
        if layer.bias is not None:
            tensors[f"{name}.bias"] = layer.bias.detach().float()
    for name, quantiser in model.network.activation_quantisers().items():
        scale, zero_point = quantiser.parameters_as_integers()
        tensors[f"{name}.scale"], tensors[f"{name}.zero_point"] = scale.float(), zero_point.to(torch.int8)
    own = model.network.graph.state_dict()
    for name in model.network.placement.islands:
        tensors |= {key: value.float() for key, value in own.items() if key.startswith(f"{name}.")}
    about = {
        "size": model.size,
        "classes": str(model.class_count),
        "float16": json.dumps(list(model.network.settings.float16)),
    }
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, str(path), metadata=about)


@torch.no_grad()
def load_learnt(path: Path) -> QuantisedYolov8:
    """Read back what `save_learnt` wrote, frozen and in eval mode.

    Raises FileNotFoundError, or ValueError where the file is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: without it nothing can be proved; export the bundle again")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 not a dict
        settings = Settings(float16=tuple(json.loads(about["float16"])))
        model = QuantisedYolov8(Yolov8(about["size"], int(about["classes"])), settings)
        model.fold()
        for name, layer in model.network.layers().items():
            integers = tensors[f"{name}.integers"].to(torch.int32)
            scale, zero_point = tensors[f"{name}.scale"], tensors[f"{name}.zero_point"].to(torch.int32)
            layer.weight.copy_(to_real(integers, *(per_channel(v, integers.ndim) for v in (scale, zero_point))))
            quantiser = layer.weight_quantiser
            quantiser.scale.copy_(scale)
            quantiser.zero_point.copy_(zero_point.float())
            quantiser.seen.fill_(True)
            if layer.bias is not None:
                layer.bias.copy_(tensors[f"{name}.bias"])
        for name, quantiser in model.network.activation_quantisers().items():
            quantiser.scale.copy_(tensors[f"{name}.scale"])
            quantiser.zero_point.copy_(tensors[f"{name}.zero_point"].float())
            quantiser.seen.fill_(True)
        own = model.network.graph.state_dict()
        for name in model.network.placement.islands:
            for key in own:
                if key.startswith(f"{name}."):
                    own[key].copy_(tensors[key])
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: damaged, or not what an export wrote ({first}); export the bundle again") from error
    model.network.freeze()
    return model.eval()
