"""Wrap a model that others exported: model file and class names in, bundle out, and what was found in words."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .backends.rknn_abi import RknnError
from .class_names import read_class_names
from .foreign_model import FoundLayout, find_layout
from .manifest import MANIFEST_NAME, DecodedOutput, Head, Manifest, ModelFile, sha256_of
from .model_probe import Probed, probe
from .model_signature import LayoutName, Precision, Signature, onnx_signature, told_signature
from .onnx_graph import Activation
from .rknn_signature import check_whole, rknn_signature

_COUNTS: dict[LayoutName, int] = {"one": 1, "six": 6, "nine": 9}


def run(
    model: Path,
    classes: Path,
    out: Path,
    *,
    layout: LayoutName | None = None,
    input_size: tuple[int, int] | None = None,
    activation: Activation | None = None,
    precision: Literal["int8", "fp16"] | None = None,
    channel_order: Literal["rgb", "bgr"] = "rgb",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (255.0, 255.0, 255.0),
    name: str | None = None,
) -> Path:
    """Write a bundle around an ONNX or `.rknn` file, print what was found, return the bundle's folder.

    classes: see `read_class_names`. layout, input_size (height, width), precision: of a `.rknn` file that no runtime
    can be asked about; elsewhere they are compared with what is found. activation: where it cannot be found out.
    channel_order, mean, std: how a pixel 0..255 becomes the network's input, (pixel - mean) / std per channel; a
    `.rknn` has mean and std built in. name: of the bundle; default: the file's.

    Raises ValueError, FileNotFoundError or OSError with what does not fit or what is missing, before anything is
    written; the bundle appears with its manifest last.
    """
    _check_choices(layout=layout, activation=activation, precision=precision, channel_order=channel_order)
    _check_pixels(mean, std)
    names = read_class_names(classes)
    signature = _signature(model, len(names), layout, input_size, precision, activation)
    _compare(signature, layout, input_size, precision)
    found = find_layout(signature, len(names), str(classes))
    if found.decoded is not None and signature.precision == "int8":
        raise ValueError(
            f"{model}: one INT8 output holds boxes (up to {max(signature.input_hw)}) and scores (up to 1) in one "
            "scale, so every score becomes 0; convert raw heads (six or nine outputs), or the one output in fp16"
        )
    probed = probe(signature, found, activation)
    role = "rknn" if model.suffix.lower() == ".rknn" else "onnx"
    manifest = Manifest(
        name=name or model.stem,
        class_names=names,
        input_hw=signature.input_hw,
        channel_order=channel_order,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        reg_max=found.reg_max,
        activation_applied=probed.activation == "sigmoid",
        precision=signature.precision,
        files={role: ModelFile(name=f"model.{role}", sha256=sha256_of(model))},
        accuracy_data="not measured: the model was exported by others",
        **_described(signature, found, probed),
    )
    _write(model, out, manifest)
    _print(signature, found, probed, manifest, classes, out)
    return out


def _signature(
    model: Path,
    class_count: int,
    layout: LayoutName | None,
    input_size: tuple[int, int] | None,
    precision: Literal["int8", "fp16"] | None,
    activation: Activation | None,
) -> Signature:
    """Ask who can tell what the model takes and gives."""
    kind = model.suffix.lower()
    if kind == ".onnx":
        return onnx_signature(model)
    if kind != ".rknn":
        cure = "export it to ONNX first" if kind in (".pt", ".pth", ".torchscript") else "name one of these"
        raise ValueError(f"{model}: a model must be an .onnx or .rknn file, got {model.name!r}; {cure}")
    if not model.is_file():
        raise FileNotFoundError(f"{model} is missing; name the model's file")
    check_whole(model)
    told = {
        "--layout six|nine|one": layout,
        "--input-size H W": input_size,
        "--precision int8|fp16": precision,
        "--activation sigmoid|none": activation,
    }
    try:
        return rknn_signature(model)
    except RknnError:
        raise
    except OSError as error:
        if layout is not None and input_size is not None and precision is not None and activation is not None:
            return told_signature(model, layout, input_size, class_count, precision)
        why = str(error).partition("; ")[0].partition(" (")[0]
        missing = ", ".join(option for option, value in told.items() if value is None)
        raise ValueError(
            f"{model}: only the board's runtime can tell what a .rknn file gives, and it does not answer here "
            f"({why}); run this on the board, or give what is missing: {missing}"
        ) from error


def _compare(
    signature: Signature, layout: LayoutName | None, input_size: tuple[int, int] | None, precision: Precision | None
) -> None:
    """Raise ValueError where an option contradicts what the file says."""
    count = len(signature.outputs)
    if layout is not None and count != _COUNTS[layout]:
        raise ValueError(f"{signature.path}: --layout is {layout}, but the model has {count} outputs; leave it out")
    for option, told, found in (
        ("--input-size", input_size and tuple(input_size), signature.input_hw),
        ("--precision", precision, signature.precision),
    ):
        if told is not None and told != found:
            raise ValueError(f"{signature.path}: {option} is {told}, but the model has {found}; leave it out")


def _described(signature: Signature, found: FoundLayout, probed: Probed) -> dict[str, Any]:
    """Return the manifest's fields about the outputs."""
    if found.decoded is not None:
        decoded = DecodedOutput(
            name=found.decoded.name,
            boxes=found.boxes,
            transposed=found.transposed,
            box_format=probed.box_format,
            box_units=probed.box_units,
        )
        return {"decoded": decoded}
    heads = [
        Head(
            stride=level.stride,
            box_output=level.box.name,
            class_output=level.classes.name,
            box_scale=level.box.scale,
            class_scale=level.classes.scale,
        )
        for level in found.levels
    ]
    read = [name for head in heads for name in (head.box_output, head.class_output)]
    there = [output.name for output in signature.outputs]
    return {"heads": heads, "outputs": [] if there == read else there}


def _write(model: Path, out: Path, manifest: Manifest) -> None:
    """Try the model once and put the bundle into its folder, the manifest last."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose a new folder for --out")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there and not empty; choose a new folder for --out")
    ours = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".building-", dir=out, ignore_cleanup_errors=True) as scratch:
            for role, file in manifest.files.items():
                shutil.copyfile(model, Path(scratch) / file.name)
                if role == "onnx":
                    _try_out(Path(scratch) / file.name, manifest)
                os.replace(Path(scratch) / file.name, out / file.name)
            os.replace(manifest.save(Path(scratch)), out / MANIFEST_NAME)
    except BaseException:
        if ours and not any(out.iterdir()):
            out.rmdir()
        raise


def _try_out(path: Path, manifest: Manifest) -> None:
    """Run one grey image the way that detection will. Raises ValueError where the outputs are not as described."""
    from .backends.onnx_runtime import OnnxBackend

    backend = OnnxBackend(path, manifest)
    try:
        outputs = backend.infer(np.full((1, *manifest.input_hw, 3), manifest.pad_value, np.uint8))
    finally:
        backend.close()
    for name, output in zip(manifest.output_names, outputs, strict=True):
        if not np.isfinite(output).all():
            raise ValueError(f"{path.name}: output {name} holds NaN or infinity for a grey image; export it again")


def _print(
    signature: Signature, found: FoundLayout, probed: Probed, manifest: Manifest, classes: Path, out: Path
) -> None:
    height, width = signature.input_hw
    count = len(manifest.class_names)
    pixels = f"{manifest.channel_order}, (pixel - {_numbers(manifest.mean)}) / {_numbers(manifest.std)}"
    lines = [
        ("input", f"1 x 3 x {height} x {width}, {signature.precision}, {signature.source}"),
        ("layout", str(found)),
        *(("", note) for note in found.notes),
        ("classes", f"{count}: {_shortened(manifest.class_names)} (from {classes})"),
        ("scores", f"{_ACTIVATIONS[probed.activation]}: {probed.activation_why}"),
    ]
    if found.decoded is not None:
        lines.append(("boxes", f"{probed.box_format} in {probed.box_units}: {probed.boxes_why}"))
    if "rknn" in manifest.files:
        pixels = f"{manifest.channel_order}; mean and std are built into a .rknn"
        lines.append(("pixels", f"{pixels}; the order cannot be read from it, --channel-order changes it"))
    else:
        lines.append(("pixels", f"{pixels}: not read from the file, --channel-order, --mean and --std change it"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for topic, line in lines:
        table.add_row(topic, Text(line))
    console = Console(highlight=False)
    console.print(table)
    for warning in _warnings(signature, manifest):
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    console.print(f"wrote {out}", soft_wrap=True, markup=False)


_ACTIVATIONS: dict[Activation, str] = {"sigmoid": "probabilities, sigmoid inside", "none": "logits, no sigmoid inside"}


def _warnings(signature: Signature, manifest: Manifest) -> list[str]:
    """Return what a user should look at."""
    found = []
    for i, (noted, name) in enumerate(zip(signature.class_names, manifest.class_names, strict=False)):
        if noted != name:
            found.append(f"the model's own notes call class {i} {noted!r}, the file of class names {name!r}")
            break
    if manifest.precision == "int8" and manifest.heads and manifest.heads[0].box_scale is None:
        found.append("the scales of the INT8 outputs are not known here; detection takes floats from the runtime")
    if signature.source == "as the options say":
        found.append("nothing of this was read from the file; the first image on the board will show whether it fits")
    return found


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(f'{value:g}' for value in values)})"


def _shortened(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _check_choices(**told: str | None) -> None:
    known = {
        "layout": get_args(LayoutName),
        "activation": get_args(Activation),
        "precision": ("int8", "fp16"),
        "channel_order": ("rgb", "bgr"),
    }
    for name, value in told.items():
        if value is not None and value not in known[name]:
            raise ValueError(f"--{name.replace('_', '-')} must be one of {', '.join(known[name])}, got {value!r}")


def _check_pixels(mean: Sequence[float], std: Sequence[float]) -> None:
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) != 3 or not np.isfinite(values).all():
            raise ValueError(f"{name} must be 3 finite numbers, one per channel of the network, got {list(values)}")
    if min(std) <= 0:
        raise ValueError(
            f"--std must be above 0, got {list(std)}; 255 brings pixels to 0..1, 1 leaves them as they are"
        )
