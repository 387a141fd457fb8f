"""Recipe: everything a training run is told, read from one TOML file and checked before any work starts."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from .recipe_quantize import Quantize
from .recipe_section import NotNegative, Positive, Section, Share

SHIPPED = Path(__file__).parent / "recipes"

DISTILLATION_LOSSES = ("magnitude", "relation", "logit", "fitnets", "cwd", "mgd", "fgd", "ld")


class Split(Section):
    """One part of the data. Paths are relative to `data.root`.

    annotations: COCO file, or the folder of YOLO, VOC or DOTA files. images: their folder. list_file: names to keep.
    """

    annotations: str = ""
    images: str = "images"
    list_file: str | None = None
    count: Annotated[int, Field(ge=1, description="procedural only: how many scenes to draw")] = 400


class Data(Section):
    """Where the annotated images are. `format` "procedural" draws them below the output folder."""

    format: Literal["coco", "yolo", "voc", "dota", "procedural"]
    root: str = "."
    name: str = ""
    train: Split
    val: Split
    class_names: list[str] | None = None
    workers: Annotated[int, Field(ge=0, le=64)] = 2
    cache_mb: NotNegative = 2000
    strict: Annotated[bool, Field(description="stop at annotations that cannot be used; false leaves them out")] = True
    seed: Annotated[int, Field(ge=0, description="procedural only: seed of the scenes")] = 0
    objects: Annotated[int | None, Field(ge=0, description="procedural only: at most so many on a scene")] = 60
    terms: Annotated[str, Field(description="terms of the data, written into the model's card")] = ""


class Model(Section):
    """Which network. weights: a checkpoint to start from (path), "procedural" for the shipped one, "none" for none."""

    size: Literal["n", "s", "m", "l", "x"] = "n"
    weights: Annotated[str, Field(min_length=1)] = "none"


class Train(Section):
    """The loop. learning_rate is the peak after warm-up; batch is over all processes."""

    image_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 512
    epochs: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 16
    learning_rate: Positive = 0.001
    final_learning_rate: Annotated[
        float, Field(ge=0, le=1, description="last learning rate as a share of the peak")
    ] = 0.01
    warmup_epochs: NotNegative = 3.0
    weight_decay: NotNegative = 0.01
    clip_gradient: Positive = 10.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    ema_ramp_steps: Annotated[float | None, Field(gt=0, description="default: a quarter of the run's steps")] = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    freeze_batch_norm: bool = False
    validate_every: Annotated[int, Field(ge=1)] = 5
    patience: Annotated[
        int, Field(ge=0, description="validations without a better mAP50-95 before stopping; 0: never")
    ] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"


class Augment(Section):
    """Chances and ranges of the random changes; 0 turns one off."""

    mosaic: Share = 1.0
    close_mosaic_epochs: Annotated[int, Field(ge=0)] = 10
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    translate: Annotated[float, Field(ge=0, le=1)] = 0.1
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    flip: Share = 0.5
    quarter_turns: bool = True
    hue: Share = 0.015
    saturation: Share = 0.5
    value: Share = 0.4
    grey: Share = 0.0


class Loss(Section):
    """Gains of the three terms."""

    box: NotNegative = 7.5
    cls: NotNegative = 0.5
    dfl: NotNegative = 1.5


class Teacher(Section):
    """The network that a student learns from; used where `distill.losses` names any loss.

    checkpoint: a finished one (path). Empty: the same command trains one first, from `weights`, into OUT/teacher.
    epochs, learning_rate, batch, image_size: those of the student where not given; it teaches at the student's size.
    """

    size: Literal["n", "s", "m", "l", "x"] = "m"
    checkpoint: str = ""
    weights: Annotated[str, Field(min_length=1)] = "procedural"
    epochs: Annotated[int | None, Field(ge=1)] = None
    learning_rate: Annotated[float | None, Field(gt=0)] = None
    batch: Annotated[int | None, Field(ge=1)] = None
    image_size: Annotated[int | None, Field(ge=32, le=4096, multiple_of=32)] = None


class Logit(Section):
    """Logit distillation (arXiv:1503.02531). box_weight: share of the box distributions beside the classes."""

    gain: NotNegative = 0.3
    temperature: Positive = 2.0
    box_weight: NotNegative = 1.0


class FitNets(Section):
    """FitNets (arXiv:1412.6550): mean squared difference of the maps."""

    gain: NotNegative = 10.0


class ChannelWise(Section):
    """Channel-wise distillation (arXiv:2011.13256)."""

    gain: NotNegative = 25.0
    temperature: Positive = 1.0


class MaskedGenerative(Section):
    """Masked generative distillation (arXiv:2205.01529). mask_ratio: share of the cells that are hidden."""

    gain: NotNegative = 15.0
    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.65


class FocalGlobal(Section):
    """Focal and global distillation (arXiv:2111.11837). alpha, beta, gamma, delta: shares of its four terms."""

    gain: NotNegative = 0.75
    temperature: Positive = 0.5
    alpha: NotNegative = 0.4
    beta: NotNegative = 0.2
    gamma: NotNegative = 0.5
    delta: NotNegative = 2.0


class Localisation(Section):
    """Localisation distillation (arXiv:2102.12252). vlr_*: the cells around the objects' own, their share and reach."""

    gain: NotNegative = 0.2
    temperature: Positive = 10.0
    vlr_weight: NotNegative = 0.25
    vlr_ratio: Share = 0.25
    assigned_by: Literal["teacher", "student"] = "teacher"


class Distill(Section):
    """What the student learns from the teacher besides the annotations. No loss named: plain training.

    magnitude: alpha (foreground), beta (background). relation: gamma (object pairs), delta (object and background).
    level_offset: moves the borders between levels, 2 means: level 2 from an eighth of the image's side.
    standardise: measure magnitude gaps in standard deviations of the teacher channels.
    fit_adapters: how many batches the least-squares start of the adapters sees; 0: a random start.
    cache: folder that keeps the teacher's outputs, for runs that see the same augmented images again; empty: none.
    """

    losses: list[str] = []
    alpha: NotNegative = 6.0
    beta: NotNegative = 6.0
    gamma: NotNegative = 15.0
    delta: NotNegative = 10.0
    attention: Literal["teacher", "own", "none"] = "teacher"
    size_aware: bool = True
    levels: Literal["size", "all"] = "size"
    level_offset: Annotated[float, Field(ge=-8, le=8)] = 0.0
    eps: Share = 0.0
    normalise: Literal["batch", "sum"] = "batch"
    standardise: bool = False
    fit_adapters: Annotated[int, Field(ge=0, description="batches for the adapters' start; 0: at random")] = 8
    cache: str = ""
    logit: Logit = Logit()
    fitnets: FitNets = FitNets()
    cwd: ChannelWise = ChannelWise()
    mgd: MaskedGenerative = MaskedGenerative()
    fgd: FocalGlobal = FocalGlobal()
    ld: Localisation = Localisation()

    @model_validator(mode="after")
    def _losses_known(self) -> Distill:
        self.check_losses(self.losses, "distill.losses")
        return self

    def check_losses(self, names: list[str], where: str) -> None:
        """Raise ValueError for a loss that is unknown, named twice, or that has no gain here."""
        for name in names:
            if name not in DISTILLATION_LOSSES:
                near = difflib.get_close_matches(name, DISTILLATION_LOSSES, 1, 0.4)
                cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(DISTILLATION_LOSSES)}"
                raise ValueError(f"{where} names an unknown loss {name!r}; {cure}")
        if len(set(names)) < len(names):
            raise ValueError(f"{where} must name each loss once, got {names}")
        gains = {"magnitude": ("alpha", "beta"), "relation": ("gamma", "delta")}
        for name in names:
            keys = gains.get(name, (f"{name}.gain",))
            if not any(self._gain(key) for key in keys):
                told = " or ".join(f"distill.{key}" for key in keys)
                raise ValueError(f"{where} names {name!r}: then {told} must be above 0, or leave the name out")

    def _gain(self, key: str) -> float:
        section, _, name = key.partition(".")
        return float(getattr(getattr(self, section), name) if name else getattr(self, section))


class Export(Section):
    """What follows training. calibration_images: how many train images the toolkit sees."""

    enabled: bool = True
    precision: Literal["int8", "fp16"] = "int8"
    calibration_images: Annotated[int, Field(ge=1, le=5000)] = 64
    algorithm: Literal["normal", "mmse", "kl_divergence"] = "normal"
    half_weights: bool = False
    simulate: bool = True
    simulate_limit: Annotated[int | None, Field(ge=1)] = None
    processes: Annotated[int, Field(ge=1, le=16)] = 2


class Recipe(Section):
    """One training run. Raises ValueError with field, rule, value and cure."""

    name: str
    data: Data
    model: Model = Model()
    train: Train = Train()
    augment: Augment = Augment()
    loss: Loss = Loss()
    teacher: Teacher = Teacher()
    distill: Distill = Distill()
    quantize: Quantize = Quantize()
    export: Export = Export()

    @model_validator(mode="after")
    def _integers_reach_the_npu(self) -> Recipe:
        q = self.quantize
        self.distill.check_losses(q.losses, "quantize.losses")
        if q.method == "none" and self.export.enabled and self.export.precision != "fp16":
            raise ValueError(
                "quantize.method none keeps the network in float, then export.precision must be fp16, got 'int8'"
            )
        if q.learns and self.export.enabled:
            q.check_deployable()
            if self.export.precision != "int8":
                raise ValueError(
                    f"export.precision must be int8 with quantize.method {q.method!r}, got "
                    f"{self.export.precision!r}; set quantize.method to toolkit for a float16 model"
                )
        return self

    @model_validator(mode="after")
    def _annotations_named(self) -> Recipe:
        if self.data.format != "procedural":
            for split in ("train", "val"):
                if not getattr(self.data, split).annotations:
                    raise ValueError(
                        f"data.{split}.annotations must name the {self.data.format} annotations, it is empty"
                    )
        return self


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by path or shipped name and apply `KEY=VALUE` overrides, for instance "train.epochs=3".

    Raises FileNotFoundError for an unknown recipe, ValueError for anything in it that is not right.
    """
    path = Path(name)
    if not path.is_file():
        path = SHIPPED / f"{name}.toml"
        if not path.is_file():
            near = difflib.get_close_matches(name, shipped_recipes(), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            shipped = ", ".join(shipped_recipes())
            raise FileNotFoundError(
                f"recipe {name}: no such file, and not one of the shipped recipes ({shipped}){hint}"
            )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}; mend that line") from error
    raw.setdefault("name", path.stem)
    apply_overrides(raw, overrides or [])
    return parse_recipe(raw, str(path))


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> None:
    """Set each `KEY=VALUE` in a recipe given as nested dicts; the value is TOML, a bare word counts as a string."""
    for item in overrides:
        _override(raw, item)


def parse_recipe(raw: dict[str, Any], origin: str) -> Recipe:
    """Validate a recipe given as nested dicts; `origin` names it in messages."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{origin}: {_explain(error)}") from error


def _override(raw: dict[str, Any], item: str) -> None:
    key, sign, text = item.partition("=")
    if not sign or not key:
        raise ValueError(f"--set must look like KEY=VALUE, for instance train.epochs=3, got {item!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: --set data.root=../images needs no quotes
    *sections, last = key.strip().split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ValueError(
                f"--set {key}: {section} is a value, not a section; give its full name, for instance train.epochs"
            )
    place[last] = value


def _keys_of(section: str) -> list[str]:
    """Return the keys of a top-level section; none where the name is a plain value."""
    kind = Recipe.model_fields[section].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _explain(error: ValidationError) -> str:
    """Say the first problem in one line, with the nearest right key for an unknown one."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in first["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        known = list(section.model_fields)
        wrong = str(first["loc"][-1])
        homes = [f"{name}.{wrong}" for name in Recipe.model_fields if wrong in _keys_of(name)]
        near = homes or difflib.get_close_matches(wrong, known, 1, 0.5)
        cure = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"{where} is not a key of a recipe; {cure}"
    if first["type"] == "missing":
        return f"{where} is missing; add it to the recipe or pass --set {where}=VALUE"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    return f"{where}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
