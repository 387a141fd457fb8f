"""The layers and maps of a network, and of YOLOv8 by name: all that cycles, traffic and widths are computed from.

The layers are those that the compiler's table lists for a network as it is exported: a convolution with its activation,
Split, Concat, Add, MaxPool, Resize and Output. YOLOv8 is written down from its published width and depth rules, so that
asking what a size costs needs neither torch nor a file and takes a millisecond.

With ranges of its own (calibration, float16) the compiler may split a convolution behind a Concat into two and a sum.
That moves a total by half a percent, and no closed form says when it happens: ask the table.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field

from .cycles import Convolution, convolutions_of
from .layer_table import LayerTable

# (depth, width, most channels) by size, as published with the family: github.com/ultralytics/ultralytics#yolov8.
SIZES = {
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.50, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.00, 1.00, 512),
    "x": (1.00, 1.25, 512),
}
REG_MAX = 16
STRIDE = 32
INPUT = "images"

_NAME = re.compile(r"yolov8([a-z])")


@dataclass(frozen=True)
class NetworkLayer:
    """One layer. name: as in a state dict, "model.2.cv1.conv". inputs, outputs: names of maps; conv: where it is one.

    node: what the compiler's table calls it, where that is another name.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    conv: Convolution | None = None
    node: str = ""


@dataclass(frozen=True)
class Network:
    """A network's layers in their order. maps: (channels, height, width) by name; input_hw: in pixels.

    connected: maps tell which layers read which; false where only the shapes of convolutions are known.
    """

    name: str
    input_hw: tuple[int, int]
    class_count: int | None
    layers: tuple[NetworkLayer, ...]
    maps: dict[str, tuple[int, int, int]] = field(hash=False)
    connected: bool = True

    @property
    def convolutions(self) -> list[NetworkLayer]:
        """The layers that carry cycles."""
        return [layer for layer in self.layers if layer.conv is not None]


def size_named(name: str) -> str | None:
    """Return "n" for "yolov8n", None for what is no name of the family; ValueError for one that is nearly right."""
    hit = _NAME.fullmatch(name.lower())
    if hit and hit[1] in SIZES:
        return hit[1]
    known = [f"yolov8{size}" for size in SIZES]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    if near and "/" not in name and "." not in name:
        raise ValueError(f"{name}: no such network; did you mean {near[0]}? Known by name: {', '.join(known)}")
    return None


def yolov8(size: str, input_hw: tuple[int, int], class_count: int) -> Network:
    """Return YOLOv8 of a size ("n", "s", "m", "l", "x") with six raw heads, as `rsedge export` writes it.

    Raises ValueError for an unknown size, an input that is no multiple of 32, and less than one class.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    if min(input_hw) < STRIDE or input_hw[0] % STRIDE or input_hw[1] % STRIDE:
        side = max(STRIDE, round(input_hw[0] / STRIDE) * STRIDE)
        raise ValueError(f"--size must be a multiple of {STRIDE}, got {input_hw[0]}; the nearest is {side}")
    if class_count < 1:
        raise ValueError(f"--classes must be at least 1, got {class_count}")
    depth, width, most = SIZES[size]
    c1, c2, c3, c4, c5 = (math.ceil(min(base, most) * width / 8) * 8 for base in (64, 128, 256, 512, 1024))
    r3, r6 = max(1, round(3 * depth)), max(1, round(6 * depth))
    build = _Builder(input_hw)
    x = build.conv("model.0.conv", INPUT, c1, 3, 2)
    x = build.conv("model.1.conv", x, c2, 3, 2)
    x = build.c2f("model.2", x, c2, r3, True)
    x = build.conv("model.3.conv", x, c3, 3, 2)
    p3 = build.c2f("model.4", x, c3, r6, True)
    x = build.conv("model.5.conv", p3, c4, 3, 2)
    p4 = build.c2f("model.6", x, c4, r6, True)
    x = build.conv("model.7.conv", p4, c5, 3, 2)
    x = build.c2f("model.8", x, c5, r3, True)
    p5 = build.sppf("model.9", x, c5)
    x = build.concat("model.11", build.upsample("model.10", p5), p4)
    down4 = build.c2f("model.12", x, c4, r3, False)
    x = build.concat("model.14", build.upsample("model.13", down4), p3)
    out3 = build.c2f("model.15", x, c3, r3, False)
    x = build.concat("model.17", build.conv("model.16.conv", out3, c3, 3, 2), down4)
    out4 = build.c2f("model.18", x, c4, r3, False)
    x = build.concat("model.20", build.conv("model.19.conv", out4, c4, 3, 2), p5)
    out5 = build.c2f("model.21", x, c5, r3, False)
    box_width, class_width = max(16, c3 // 4, 4 * REG_MAX), max(c3, min(class_count, 100))
    for level, x in enumerate((out3, out4, out5)):
        for kind, tower, hidden, out in (
            ("box", "cv2", box_width, 4 * REG_MAX),
            ("class", "cv3", class_width, class_count),
        ):
            stem = f"model.22.{tower}.{level}"
            y = build.conv(f"{stem}.1.conv", build.conv(f"{stem}.0.conv", x, hidden, 3), hidden, 3)
            build.output(f"{kind}_{8 << level}", build.conv(f"{stem}.2", y, out, 1, leaves=True))
    return Network(f"yolov8{size}", input_hw, class_count, tuple(build.layers), build.maps)


class _Builder:
    """Collect layers; every method returns the name of the map that it makes."""

    def __init__(self, input_hw: tuple[int, int]) -> None:
        self.layers: list[NetworkLayer] = []
        self.maps: dict[str, tuple[int, int, int]] = {INPUT: (3, *input_hw)}

    def add(self, kind: str, name: str, inputs: tuple[str, ...], *maps: tuple[int, int, int]) -> tuple[str, ...]:
        """Append a layer without weights and return the names of its outputs."""
        names = tuple(name if len(maps) == 1 else f"{name}:{number}" for number in range(len(maps)))
        self.maps.update(zip(names, maps, strict=True))
        self.layers.append(NetworkLayer(name, kind, inputs, names))
        return names

    def conv(self, name: str, x: str, out: int, kernel: int, stride: int = 1, *, leaves: bool = False) -> str:
        """Append a convolution that pads by half its kernel."""
        channels, height, width = self.maps[x]
        size = (-(-height // stride), -(-width // stride))
        shape = Convolution(channels, out, (kernel, kernel), (height, width), size, leaves=leaves)
        self.maps[name] = (out, *size)
        self.layers.append(NetworkLayer(name, "Conv", (x,), (name,), shape))
        return name

    def concat(self, name: str, *inputs: str) -> str:
        _, height, width = self.maps[inputs[0]]
        return self.add("Concat", name, inputs, (sum(self.maps[x][0] for x in inputs), height, width))[0]

    def upsample(self, name: str, x: str) -> str:
        channels, height, width = self.maps[x]
        return self.add("Resize", name, (x,), (channels, 2 * height, 2 * width))[0]

    def c2f(self, name: str, x: str, out: int, repeats: int, shortcut: bool) -> str:
        hidden = out // 2
        x = self.conv(f"{name}.cv1.conv", x, 2 * hidden, 1)
        half = (hidden, *self.maps[x][1:])
        stages = list(self.add("Split", f"{name}.split", (x,), half, half))
        for number in range(repeats):
            stem = f"{name}.m.{number}"
            y = self.conv(f"{stem}.cv2.conv", self.conv(f"{stem}.cv1.conv", stages[-1], hidden, 3), hidden, 3)
            stages.append(self.add("Add", f"{stem}.add", (stages[-1], y), half)[0] if shortcut else y)
        return self.conv(f"{name}.cv2.conv", self.concat(f"{name}.concat", *stages), out, 1)

    def sppf(self, name: str, x: str, out: int) -> str:
        stages = [self.conv(f"{name}.cv1.conv", x, self.maps[x][0] // 2, 1)]
        for number in range(3):
            stages.append(self.add("MaxPool", f"{name}.m.{number}", (stages[-1],), self.maps[stages[0]])[0])
        return self.conv(f"{name}.cv2.conv", self.concat(f"{name}.concat", *stages), out, 1)

    def output(self, name: str, x: str) -> None:
        self.layers.append(NetworkLayer(name, "Output", (x,), ()))


def network_of_table(name: str, input_hw: tuple[int, int], class_count: int | None, table: LayerTable) -> Network:
    """Return the convolutions of a layer table as a network; what lies between them the table does not tell."""
    layers, maps = [], {}
    for row, conv in convolutions_of(table):
        ends = (f"{row.index}:in", f"{row.index}:out")
        maps[ends[0]] = (conv.in_channels, *conv.input_hw)
        maps[ends[1]] = (conv.out_channels, *conv.output_hw)
        layers.append(NetworkLayer(canonical(row.name), "Conv", ends[:1], ends[1:], conv))
    return Network(name, input_hw, class_count, tuple(layers), maps, connected=False)


def canonical(node: str) -> str:
    """Return the state dict's name of an ONNX node or table row: "Conv:/model.2/cv1/conv/Conv" is "model.2.cv1.conv".

    The exporter repeats the path of a list's members ("/model.22/cv2.0/cv2.0.2/Conv" is "model.22.cv2.0.2").
    """
    path = node.partition(":")[2] if ":" in node else node
    if not path.startswith("/"):
        return path
    parts = path.strip("/").split("/")
    kept: list[str] = []
    for number, part in enumerate(parts[:-1] or parts):
        if number and part.startswith(f"{parts[number - 1]}."):
            kept.pop()
        kept.append(part)
    return ".".join(kept)


def precision_of(table: LayerTable) -> str:
    """Return "int8" or "fp16": what most of a table's convolutions were compiled to."""
    kinds = [layer.dtype for layer in table.layers if layer.type.startswith("Conv")]
    return "int8" if 2 * kinds.count("INT8") >= len(kinds) else "fp16"
