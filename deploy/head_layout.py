"""HeadLayout, DecodedLayout: what the raw outputs of a model look like, for whoever decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .manifest import Head, Manifest

Scale = tuple[float, int]


@dataclass(frozen=True)
class HeadLayout:
    """Describe the raw heads of a model: per level a box and a class output, in the order of `strides`.

    strides: model pixels per cell. reg_max: bins per side. input_hw: model input in pixels. activation_applied: class
    outputs are probabilities, not logits. box_scales, class_scales: (scale, zero_point) per level for int8 heads,
    real = (integer - zero_point) * scale; None where heads are float only. Raises ValueError on what cannot be.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    reg_max: int = 16
    input_hw: tuple[int, int] = (512, 512)
    class_count: int = 1
    activation_applied: bool = False
    box_scales: tuple[Scale, ...] | None = None
    class_scales: tuple[Scale, ...] | None = None

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1 or any(side % s for s in self.strides for side in self.input_hw):
            raise ValueError(f"input_hw {self.input_hw} must be a multiple of every stride, got strides {self.strides}")
        if self.class_count < 1:
            raise ValueError(f"class_count must be at least 1, got {self.class_count}")
        if self.reg_max < 2:
            raise ValueError(f"reg_max must be at least 2, got {self.reg_max}")
        for name, scales in (("box_scales", self.box_scales), ("class_scales", self.class_scales)):
            if scales is not None and len(scales) != len(self.strides):
                raise ValueError(f"{name} must hold one (scale, zero_point) per stride, got {len(scales)}")

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> HeadLayout:
        """Read the layout from a bundle's manifest; int8 scales are taken only where every head has them.

        Raises ValueError for a model that decodes its boxes itself.
        """
        if manifest.decoded is not None:
            raise ValueError(
                f"{manifest.name} has no raw heads, it decodes its boxes itself; this needs a bundle of raw heads"
            )

        def scales(attribute: str) -> tuple[Scale, ...] | None:
            found = [getattr(head, attribute) for head in manifest.heads]
            return None if None in found else tuple((s.scale, s.zero_point) for s in found)

        heads: Sequence[Head] = manifest.heads
        return cls(
            strides=tuple(head.stride for head in heads),
            reg_max=manifest.reg_max,
            input_hw=manifest.input_hw,
            class_count=len(manifest.class_names),
            activation_applied=manifest.activation_applied,
            box_scales=scales("box_scale"),
            class_scales=scales("class_scale"),
        )

    @property
    def grids_hw(self) -> list[tuple[int, int]]:
        """Cells of each level, (height, width)."""
        return [(self.input_hw[0] // s, self.input_hw[1] // s) for s in self.strides]


@dataclass(frozen=True)
class DecodedLayout:
    """Describe the one output of a model that decodes its boxes itself; fields as of `DecodedOutput`.

    input_hw: model input in pixels. activation_applied: scores are probabilities, not logits. Raises ValueError on what
    cannot be.
    """

    boxes: int
    input_hw: tuple[int, int] = (640, 640)
    class_count: int = 1
    transposed: bool = False
    box_format: Literal["xywh", "xyxy"] = "xywh"
    box_units: Literal["pixels", "fractions"] = "pixels"
    activation_applied: bool = True

    def __post_init__(self) -> None:
        for name in ("boxes", "class_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("box_format", ("xywh", "xyxy")), ("box_units", ("pixels", "fractions"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> DecodedLayout:
        """Read the layout from a bundle's manifest. Raises ValueError for a model of raw heads."""
        output = manifest.decoded
        if output is None:
            raise ValueError(f"{manifest.name} has raw heads, not one decoded output; read it as HeadLayout")
        return cls(
            boxes=output.boxes,
            input_hw=manifest.input_hw,
            class_count=len(manifest.class_names),
            transposed=output.transposed,
            box_format=output.box_format,
            box_units=output.box_units,
            activation_applied=manifest.activation_applied,
        )

    @property
    def output_hw(self) -> tuple[int, int]:
        """Rows and columns of the output of one image."""
        sides = (4 + self.class_count, self.boxes)
        return sides[::-1] if self.transposed else sides
