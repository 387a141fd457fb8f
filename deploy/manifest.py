"""Manifest: what a model file is, in JSON beside it; a bundle is a folder with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
# The field, the rule and what came each get at most so many characters of a message.
_SHOWN = 80

OutputName = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelFile(_Strict):
    """One file of the bundle. name: relative to the bundle's folder. sha256: lower-case hex digest."""

    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TensorScale(_Strict):
    """Affine quantisation of one output: real = (integer - zero_point) * scale, integers are int8."""

    scale: Positive
    zero_point: Annotated[int, Field(ge=-128, le=127)]


class Head(_Strict):
    """One feature level: names of its two outputs and, in an INT8 model, their scales.

    box_output: (batch, 4 * reg_max, h, w) distribution logits. class_output: (batch, classes, h, w) logits, or
    probabilities where the manifest says `activation_applied`.
    """

    stride: Annotated[int, Field(gt=0)]
    box_output: OutputName
    class_output: OutputName
    box_scale: TensorScale | None = None
    class_scale: TensorScale | None = None


class DecodedOutput(_Strict):
    """The one output of a model that decodes its boxes itself: per box four numbers and a score per class.

    name: of the output. boxes: how many it holds. transposed: (batch, boxes, 4 + classes), else (batch, 4 + classes,
    boxes). box_format: centre and size, or corners. box_units: model pixels, or fractions of the model input.
    """

    name: OutputName
    boxes: Annotated[int, Field(gt=0)]
    transposed: bool = False
    box_format: Literal["xywh", "xyxy"] = "xywh"
    box_units: Literal["pixels", "fractions"] = "pixels"


class BandStretch(_Strict):
    """How the bands of a scene become the 8-bit RGB that the model was trained on; `deploy.scenes.open_scene` obeys it.

    indexes: three bands in the order red, green, blue, or one for grey, counted from 1; None: by their colours, else
    the first three. percentiles: of each whole scene, to become 0 and 255. low_high: fixed limits in the sensor's units
    instead, one pair for all bands or one for each. Neither: 8 bits as they are, more by `images.STRETCH_PERCENTILES`.
    """

    indexes: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    percentiles: tuple[float, float] | None = None
    low_high: tuple[tuple[float, float], ...] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> BandStretch:
        if self.indexes is not None and len(self.indexes) not in (1, 3):
            raise ValueError(f"indexes must name three bands or one, got {_short(self.indexes)}")
        if self.percentiles is not None and self.low_high is not None:
            raise ValueError("percentiles and low_high exclude each other, both came")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles must be from 0 to 100, the lower first, got {_short(self.percentiles)}")
        if self.low_high is not None:
            wanted = len(self.indexes or (1, 2, 3))
            if len(self.low_high) not in (1, wanted) or any(low >= high for low, high in self.low_high):
                raise ValueError(
                    f"low_high must be one pair (low, high) or {wanted}, the low one first, got {_short(self.low_high)}"
                )
        return self


class Calibration(_Strict):
    """How the converter was calibrated: enough to draw the same images from the same train split again."""

    images: Annotated[int, Field(gt=0)]
    algorithm: str
    seed: int


class Provenance(_Strict):
    """Where a result comes from."""

    created: str
    rsedge_version: str
    commit: str
    machine: str
    seed: int | None
    data: str
    versions: dict[str, str] = {}


class Manifest(_Strict):
    """Everything inference needs to know about a model. Raises ValueError (pydantic) with the field that is wrong.

    files: by role ("onnx", "rknn", "checkpoint", ...). input_hw: model input in pixels. channel_order, mean, std:
    how a pixel 0..255 becomes the network's input, (pixel - mean) / std. heads: by ascending stride; where precision is
    "int8" each with both scales, or none with any (a model of others, whose runtime has to hand out floats). decoded:
    instead of heads. outputs: all outputs of the model file in its order, where those are more than the manifest reads
    or come in another order; empty: box and class output of each head in turn. accuracy: by backend ("torch", "onnx",
    "rknn_sim"), each with map50 and map50_95 in 0..1, measured at export on what `accuracy_data` says. bands: what
    makes such pixels of a scene's bands.
    """

    format_version: int = FORMAT_VERSION
    name: str
    class_names: Annotated[list[str], Field(min_length=1)]
    input_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (255.0, 255.0, 255.0)
    heads: list[Head] = []
    decoded: DecodedOutput | None = None
    outputs: list[OutputName] = []
    reg_max: Annotated[int, Field(ge=2, le=64)] = 16
    activation_applied: bool = False
    bands: BandStretch | None = None
    precision: Literal["int8", "fp16", "fp32"]
    files: Annotated[dict[str, ModelFile], Field(min_length=1)]
    target: str = "rk3588"
    toolkit_version: str | None = None
    calibration: Calibration | None = None
    accuracy: dict[str, dict[str, float | None]] = {}
    accuracy_data: str = ""
    licence: str = ""
    provenance: Provenance | None = None

    @field_validator("class_names")
    @classmethod
    def _names_tell_classes_apart(cls, names: list[str]) -> list[str]:
        if not all(name.strip() for name in names):
            raise ValueError("every class must have a name that is not blank")
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"every class must have a name of its own, {_short(twice)} comes twice")
        return names

    @field_validator("heads")
    @classmethod
    def _heads_in_order(cls, heads: list[Head]) -> list[Head]:
        strides = [head.stride for head in heads]
        if strides != sorted(set(strides)):
            raise ValueError(f"strides must ascend, each once, got {_short(strides)}")
        outputs = [name for head in heads for name in (head.box_output, head.class_output)]
        if len(set(outputs)) < len(outputs):
            twice = next(name for i, name in enumerate(outputs) if name in outputs[:i])
            raise ValueError(f"every output must have a name of its own, {_short(twice)} comes twice")
        return heads

    @model_validator(mode="after")
    def _int8_has_scales(self) -> Manifest:
        if not any(head.box_scale or head.class_scale for head in self.heads):
            return self
        for head in self.heads:
            if self.precision == "int8" and (head.box_scale is None or head.class_scale is None):
                raise ValueError(
                    f"heads of an int8 model need box_scale and class_scale, the head of stride {_short(head.stride)} "
                    "lacks one"
                )
        return self

    @model_validator(mode="after")
    def _one_layout(self) -> Manifest:
        if bool(self.heads) == (self.decoded is not None):
            raise ValueError(
                f"one of heads and decoded must describe the outputs, got {len(self.heads)} heads and "
                f"{'no decoded output' if self.decoded is None else 'a decoded output'}"
            )
        if self.decoded is not None and self.precision == "int8":
            raise ValueError("a decoded output cannot be int8: boxes and scores share one scale, every score becomes 0")
        missing = [name for name in self.output_names if self.outputs and name not in self.outputs]
        if missing:
            raise ValueError(f"outputs must hold every output that is read, {_short(missing[0])} is not among them")
        return self

    @property
    def output_names(self) -> list[str]:
        """The outputs that are read, in the order in which a backend gives them."""
        if self.decoded is not None:
            return [self.decoded.name]
        return [name for head in self.heads for name in (head.box_output, head.class_output)]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of these outputs for one image."""
        classes, (height, width) = len(self.class_names), self.input_hw
        if self.decoded is not None:
            sides = (4 + classes, self.decoded.boxes)
            return [(1, *(sides[::-1] if self.decoded.transposed else sides))]
        return [
            (1, channels, height // head.stride, width // head.stride)
            for head in self.heads
            for channels in (4 * self.reg_max, classes)
        ]

    @model_validator(mode="after")
    def _strides_fit_input(self) -> Manifest:
        for head in self.heads:
            if self.input_hw[0] % head.stride or self.input_hw[1] % head.stride:
                raise ValueError(
                    f"input_hw {_short(self.input_hw)} must be a multiple of every stride, "
                    f"got stride {_short(head.stride)}"
                )
        return self

    def _unused(self) -> set[str]:
        # An rsedge that does not know these fields reads every bundle that does without them.
        return {name for name in ("decoded", "outputs", "bands") if not getattr(self, name)}

    def save(self, bundle: Path) -> Path:
        """Write the manifest into the bundle's folder, whole or not at all."""
        path = bundle / MANIFEST_NAME
        scratch = path.with_suffix(".json.part")
        fields = self.model_dump(mode="json", exclude=self._unused())
        scratch.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(scratch, path)
        return path


def sha256_of(path: Path) -> str:
    """Return the lower-case hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_manifest(bundle: Path, *, check_hashes: bool = True) -> Manifest:
    """Read and validate a bundle's manifest; with `check_hashes`, every file it names must be there and unchanged.

    Raises ValueError or FileNotFoundError with the file, the rule and the cure.
    """
    path = bundle / MANIFEST_NAME
    if not bundle.exists():
        raise FileNotFoundError(f"{bundle} is not a bundle: there is no such folder; check the path")
    if not path.is_file():
        raise FileNotFoundError(f"{bundle} is not a bundle: it holds no {MANIFEST_NAME}; `rsedge export` writes one")
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, an endless integer, or nested without end
        raise ValueError(f"{path} is not valid JSON ({_cut(str(error))}); export the bundle again") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(raw).__name__}; export the bundle again")
    version = raw.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(
            f"{path}: format_version must be a whole number from 1, got {_short(version)}; export the bundle again"
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {_short(version)}, this rsedge reads up to {FORMAT_VERSION}; "
            "update rsedge on this machine"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{path}: {_fault(error)}; export the bundle again") from error
    if check_hashes:
        for role, file in manifest.files.items():
            target = bundle / file.name
            if not target.is_file():
                raise FileNotFoundError(f"{target} is missing ({role} file of the bundle); copy the whole folder again")
            found = sha256_of(target)
            if found != file.sha256:
                raise ValueError(
                    f"{target} is damaged or was changed: SHA-256 should be {file.sha256[:12]}..., "
                    f"got {found[:12]}...; copy the whole folder again"
                )
    return manifest


def _fault(error: ValidationError) -> str:
    """Return the first fault of a manifest in one short line: where, the rule, what came."""
    first = error.errors()[0]
    where = ".".join(_plain(str(part)) for part in first["loc"])
    told = _cut(first["msg"].removeprefix("Value error, "), 2 * _SHOWN)
    if first["type"] == "value_error" or not where:
        return f"{_cut(where) or 'manifest'}: {told}"  # the rule says what came; the input is a whole list or file
    return f"{_cut(where)}: {told}, got {_short(first['input'])}"


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _short(value: object) -> str:
    """Return the repr of something read from a file, however long, deep or unprintable that is."""
    shape = reprlib.Repr()
    shape.maxstring = shape.maxother = shape.maxlong = _SHOWN
    return _cut(shape.repr(value))


def _cut(text: str, length: int = _SHOWN) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
