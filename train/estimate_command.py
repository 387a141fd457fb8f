"""`rsedge estimate`: what a network will cost on the NPU, asked of a name, a recipe, a checkpoint, ONNX or a bundle."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from deploy.convert.cycles import Precision
from deploy.convert.estimate_command import Subject, show, subject_of_bundle, subject_of_onnx
from deploy.convert.network_shapes import SIZES, Network, size_named, yolov8

DEFAULT_SIZE = 512
DEFAULT_CLASSES = 10
WEIGHTS = (".pt", ".pth", ".safetensors")
_FILES = "recipe, a checkpoint (.pt), an .onnx file or a bundle's folder"
RECIPES = Path(__file__).parent / "recipes"


def run(
    subject: str,
    size: int | None = None,
    classes: int | None = None,
    precision: Precision | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Print an estimate, write it to `json_file` where one is given, and return it as JSON.

    subject: "yolov8n" and its like, a recipe (shipped name or TOML file), a checkpoint, an ONNX file, a bundle. size:
    model input in pixels, square; classes: how many; both default to what the subject says, else 512 and 10. Raises
    ValueError, FileNotFoundError or OSError with one line.
    """
    return show(subject_of(subject, size, classes), precision, json_file)


def subject_of(subject: str, size: int | None = None, classes: int | None = None) -> Subject:
    """Return the network that is meant. Raises ValueError or FileNotFoundError with one line."""
    path = Path(subject)
    named = None if path.exists() else size_named(subject)
    if named is not None:
        side = DEFAULT_SIZE if size is None else size
        count = DEFAULT_CLASSES if classes is None else classes
        return Subject(yolov8(named, (side, side), count), f"yolov8{named} by name")
    if path.is_dir():
        return _fixed(subject_of_bundle(path), size, classes)
    if path.suffix == ".onnx":
        return _fixed(subject_of_onnx(path), size, classes)
    if path.suffix in WEIGHTS:
        return _of_checkpoint(path, size, classes)
    if path.suffix == ".toml" or (RECIPES / f"{subject}.toml").is_file():
        return _of_recipe(subject, size, classes)
    if path.is_file():
        closed = " a .rknn is closed, its bundle's folder tells its layers;" if path.suffix == ".rknn" else ""
        raise ValueError(f"{subject}: no file that tells a network;{closed} give a {_FILES}")
    known = [*(f"yolov8{letter}" for letter in SIZES), *sorted(file.stem for file in RECIPES.glob("*.toml"))]
    near = difflib.get_close_matches(subject, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"{subject}: no such network, recipe or file; {meant}give {', '.join(known[: len(SIZES)])}, a {_FILES}"
    )


def _fixed(found: Subject, size: int | None, classes: int | None) -> Subject:
    """Return a subject whose size is its own; ValueError where another is asked for."""
    network = found.network
    if size is not None and network.input_hw != (size, size):
        told = " x ".join(map(str, network.input_hw))
        raise ValueError(f"--size {size}: {found.told} is made for {told}; leave it out, or give a checkpoint")
    if classes is not None and network.class_count not in (None, classes):
        raise ValueError(f"--classes {classes}: {found.told} has {network.class_count}; leave it out")
    return found


def _of_recipe(subject: str, size: int | None, classes: int | None) -> Subject:
    from .recipe import load_recipe

    recipe = load_recipe(subject)
    names = recipe.data.class_names
    if names is None and recipe.data.format == "procedural":
        from deploy.procedural import CLASS_NAMES

        names = list(CLASS_NAMES)
    if names is None and classes is None:
        raise ValueError(f"{subject}: data.class_names is not given, so give the number of classes: --classes N")
    if names is not None and classes not in (None, len(names)):
        raise ValueError(f"--classes {classes}: the recipe {recipe.name} names {len(names)}; leave it out")
    side = recipe.train.image_size if size is None else size
    count = len(names) if names is not None else classes
    assert count is not None
    return Subject(yolov8(recipe.model.size, (side, side), count), f"recipe {recipe.name}")


def _of_checkpoint(path: Path, size: int | None, classes: int | None) -> Subject:
    """Return the network of a checkpoint of rsedge, or of weights under the customary names."""
    from .checkpoint import KIND, _read, load_checkpoint, read_weights
    from .grow import size_of

    content = _read(path)
    side = DEFAULT_SIZE if size is None else size
    if isinstance(content, dict) and content.get("kind") == KIND:
        content = load_checkpoint(path)
        letter, count = content["size"], len(content["class_names"])
        side = content["image_size"] if size is None else size
        weights = content["model"]
    else:
        weights = read_weights(path)
        found, last = size_of(weights), weights.get("model.22.cv3.0.2.weight")
        if found is None or last is None:
            raise ValueError(f"{path}: no YOLOv8 of a known size; export it to ONNX and give that file")
        letter, count = found, int(last.shape[0])
    if classes not in (None, count):
        raise ValueError(f"--classes {classes}: {path.name} has {count}; leave it out")
    network = yolov8(letter, (side, side), count)
    _check_weights(network, weights, path)
    return Subject(network, f"checkpoint {path.name}")


def _check_weights(network: Network, weights: dict[str, Any], path: Path) -> None:
    """Raise ValueError where a convolution of the file has another shape than the network of its size."""
    for layer in network.convolutions:
        given = weights.get(f"{layer.name}.weight")
        conv = layer.conv
        if given is None or conv is None:
            continue
        wanted = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_hw)
        if tuple(given.shape) != wanted:
            raise ValueError(
                f"{path}: {layer.name}.weight is {tuple(given.shape)}, {network.name} has {wanted}; export it to ONNX "
                "and give that file"
            )
