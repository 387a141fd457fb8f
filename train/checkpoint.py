"""Checkpoints: written whole or not at all, read without running code, weights matched by name and shape."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .model import Yolov8

KIND = "rsedge-checkpoint"
VERSION = 1
_NEEDED = {"version", "model", "size", "class_names", "image_size"}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a full disk or a crash leaves the old one in place. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    try:
        with open(scratch, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"{path}: cannot be written ({error.strerror}); the previous file is kept"
        ) from error


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Save tensors and plain values, atomically."""
    # Into memory first: torch's own writer hides a full disk behind a RuntimeError.
    buffer = io.BytesIO()
    torch.save({"kind": KIND, "version": VERSION, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that rsedge wrote. Raises FileNotFoundError or ValueError with the cure."""
    content = _read(path)
    if not isinstance(content, dict) or content.get("kind") != KIND or not content.keys() >= _NEEDED:
        raise ValueError(f"{path}: not a checkpoint of rsedge; give the checkpoint.pt of a `rsedge train` run")
    if content["version"] > VERSION:
        raise ValueError(
            f"{path}: checkpoint version {content['version']}, this rsedge reads up to {VERSION}; update rsedge"
        )
    return content


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged safetensors file ({error}); copy it again") from error
    # torch's own words for a text file or a torn copy are those for a dangerous pickle: tell the two apart first.
    with open(path, "rb") as handle:
        if handle.read(2) not in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise ValueError(f"{path}: damaged or not a torch checkpoint; copy it again or use another")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "can still be loaded" not in str(error):  # what torch says of a sound file with code in it
            raise ValueError(f"{path}: damaged or not a torch checkpoint; copy it again or use another") from error
        raise ValueError(
            f"{path}: holds more than tensors, loading it could run code; save only its state_dict, "
            "or as .safetensors, with the tool that wrote it"
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: damaged or not a torch checkpoint ({first}); copy it again or use another"
        ) from error


def model_from(content: dict[str, Any], origin: str) -> Any:
    """Rebuild the network of a checkpoint that rsedge wrote, in eval mode: a Yolov8, or a QuantisedYolov8."""
    if content.get("quantised"):
        from .quantised_model import rebuild

        return rebuild(content, origin)
    model = Yolov8(content["size"], len(content["class_names"]))
    load_weights(model, content["model"], origin)
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of rsedge's own checkpoint, a plain state dict, or one nested under "model" or "state_dict"."""
    content = _read(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: holds no state dict (name -> tensor); save model.state_dict() there")
    return content


def load_weights(model: Yolov8, weights: dict[str, Tensor], origin: str, *, other_classes: bool = False) -> list[str]:
    """Copy weights into the model and return the names that kept their fresh start.

    other_classes: the class outputs (`model.22.cv3.*.2`) may differ in size and are then left out; with them the class
    tower when its width follows the number of classes. Everything else must match: ValueError names the tensors and
    both shapes. The fixed `dfl` weights of customary checkpoints and batch counters are ignored.
    """
    own = model.state_dict()
    given = {k: v for k, v in weights.items() if ".dfl." not in k and not k.endswith("num_batches_tracked")}
    wanted = {k for k in own if not k.endswith("num_batches_tracked")}
    loose = {k for k in wanted if other_classes and k.startswith("model.22.cv3.")}
    fresh = {k for k in loose if k not in given or given[k].shape != own[k].shape}
    wrong = [
        f"{k} is {tuple(given[k].shape)}, should be {tuple(own[k].shape)}"
        for k in sorted(wanted - fresh)
        if k in given and given[k].shape != own[k].shape
    ]
    missing = sorted(wanted - fresh - given.keys())
    unknown = sorted(given.keys() - wanted)
    if wrong or missing or unknown:
        parts = [
            f"{len(names)} {label}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for label, names in (("of another shape", wrong), ("missing", missing), ("unknown", unknown))
            if names
        ]
        raise ValueError(
            f"{origin}: weights do not fit YOLOv8{model.size} with {model.class_count} classes; {'; '.join(parts)}; "
            "check model.size and the class list"
        )
    nn.Module.load_state_dict(model, {k: given[k].float() for k in wanted - fresh}, strict=False)
    return sorted(fresh)
