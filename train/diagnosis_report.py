"""Tell what a diagnosis found: worst layers first, and the float16 island that is worth a try, with what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from deploy.convert.cycles import Convolution, total_cycles
from deploy.convert.layer_table import LayerTable
from quantize.numerics import DEPLOYED_BITS

from .diagnosis import LayerNoise

# Noise of a tenth of the signal's amplitude is too much for any layer.
WORST_DB = 20.0
# Else a layer must stick out: two bits below the network's median, 6 dB each. The layers of a YOLOv8n that lost no
# accuracy lie within 12 dB below theirs.
OUTLIER_DB = 12.0
# With a thirtieth of the amplitude there is nothing to gain, whatever the others have.
FINE_DB = 30.0

HEADINGS = ("layer", "own", "accumulated", "weights", "cut off", "integers")
EXPLAINED = (
    "Signal-to-noise of the quantised against the float network in dB (6 dB are one bit): *own* with only this "
    "layer's weights and output rounded, *accumulated* with everything before it rounded too, *weights* without the "
    "output's rounding; *cut off*: values beyond the grid's ends; *integers*: how many of the grid's appeared."
)
APPROXIMATION = (
    "The toolkit does not tell its ranges: these are the figures of a stand-in, calibrated in torch with the smallest "
    "and largest values of the same images."
)


@dataclass(frozen=True)
class Island:
    """A convolution to leave in float16. layer: its name. own_db: what it has. limit_db: what it should have.

    float16: all names for the recipe, those already there first. cycles_int8, cycles_fp16: of this convolution and of
    `readers`, which follow it into float16; estimates. cycles_total: of the whole network in its layer table; None
    where there is none. The first two are None where a shape is not known. in_concat: whether its value, or that of a
    reader, goes into a Concat: the compiler has put some of those on the CPU, and has died of one.
    """

    layer: str
    own_db: float
    limit_db: float
    readers: tuple[str, ...]
    float16: tuple[str, ...]
    cycles_int8: int | None = None
    cycles_fp16: int | None = None
    cycles_total: int | None = None
    in_concat: bool = False

    @property
    def extra_cycles(self) -> int | None:
        """What the island adds to the layer table's cycles, about."""
        if self.cycles_int8 is None or self.cycles_fp16 is None:
            return None
        return self.cycles_fp16 - self.cycles_int8

    @property
    def share(self) -> float | None:
        """The extra cycles as a share of the network's."""
        if self.extra_cycles is None or not self.cycles_total:
            return None
        return self.extra_cycles / self.cycles_total

    @property
    def recipe_line(self) -> str:
        """The line for the recipe."""
        names = ", ".join(f'"{name}"' for name in self.float16)
        return f"quantize.float16 = [{names}]"


def limit_of(noises: Sequence[LayerNoise]) -> float:
    """Return the own ratio in dB below which a layer of this network is conspicuous."""
    own = [noise.own_db for noise in noises if math.isfinite(noise.own_db)]
    return min(FINE_DB, max(WORST_DB, median(own) - OUTLIER_DB)) if own else WORST_DB


def suggest_island(
    noises: Sequence[LayerNoise], layer_table: LayerTable | None = None, present: Sequence[str] = ()
) -> Island | None:
    """Return the convolution with the worst own ratio where that is conspicuous, None where none is.

    layer_table: of the compiled network, for the share of its cycles. present: islands that the recipe has already.
    Below 8 bits nothing is suggested: such networks are never deployed.

    What an island drags along was seen with rknn-toolkit2 2.5.0 and is counted: convolutions that read it follow into
    float16, because their input has no grid, unless it is part of a Concat, which converts it; and where an island
    reads the image, a 1x1 convolution over the whole image converts that, at a third of a YOLOv8n's cycles.
    """
    candidates = [n for n in noises if n.layer and n.integers == 1 << DEPLOYED_BITS]
    if not candidates:
        return None
    worst, limit = min(candidates, key=lambda n: n.own_db), limit_of(noises)
    if worst.own_db >= limit:
        return None
    shapes = {n.layer: n.convolution for n in noises if n.layer}
    uses = Counter(n.quantiser for n in noises)
    joined = {n.layer for n in noises if n.layer and uses[n.quantiser] > 1}
    readers = () if worst.layer in joined else worst.readers
    int8, fp16 = _cycles([shapes.get(name) for name in (worst.layer, *readers)])
    if fp16 is not None and worst.reads_image and worst.convolution is not None:
        size, channels = worst.convolution.input_hw, worst.convolution.in_channels
        fp16 += total_cycles(Convolution(channels, channels, (1, 1), size, size), "int8")
    return Island(
        worst.layer,
        worst.own_db,
        limit,
        readers,
        (*present, worst.layer),
        int8,
        fp16,
        cycles_total=layer_table.cycles if layer_table else None,
        in_concat=not joined.isdisjoint((worst.layer, *readers)),
    )


def _cycles(shapes: Sequence[Convolution | None]) -> tuple[int | None, int | None]:
    """Return the cycles of some convolutions in INT8 and in float16, None where one of them is not known."""
    int8 = fp16 = 0
    for shape in shapes:
        if shape is None or (shape.groups > 1 and not shape.depthwise):
            return None, None
        int8 += total_cycles(shape, "int8")
        fp16 += total_cycles(shape, "fp16")
    return int8, fp16


def worst_first(noises: Sequence[LayerNoise]) -> list[LayerNoise]:
    """Return the layers by their own ratio, the lowest first; equal ones keep the network's order."""
    return sorted(noises, key=lambda noise: noise.own_db)


def diagnosis_lines(noises: Sequence[LayerNoise], island: Island | None, count: int = 8) -> list[str]:
    """Return the `count` worst layers and the suggestion as lines for the console."""
    rows = [HEADINGS, *[_cells(noise) for noise in worst_first(noises)[:count]]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [f"signal-to-noise in dB by layer, worst first ({min(count, len(noises))} of {len(noises)})"]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells]))
    return [*lines, *island_lines(noises, island)]


def island_lines(noises: Sequence[LayerNoise], island: Island | None) -> list[str]:
    """Return the suggestion, or that there is none, in one to three lines."""
    if island is None:
        return [f"no layer sticks out (own ratio below {limit_of(noises):.0f} dB): no float16 island is suggested"]
    lines = [
        f"{island.layer} has {_db(island.own_db)} dB of its own, under {island.limit_db:.0f} dB; try it in float16: "
        f"{island.recipe_line}",
    ]
    extra = island.extra_cycles
    if extra is None:
        lines.append("what that costs is not known for this kind of layer; the layer table tells after the export")
    else:
        share = "" if island.share is None else f" ({island.share:+.1%} of {island.cycles_total:,})"
        also = f", with {_several(island.readers)}, which must follow" if island.readers else ""
        lines.append(f"that costs about {extra:+,} cycles{share}{also}; the compiler's own table decides")
    if island.in_concat:
        lines.append("its values go into a Concat, which the compiler may then put on the CPU: the export refuses that")
    return lines


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more layers"


def diagnosis_markdown(
    noises: Sequence[LayerNoise],
    island: Island | None,
    *,
    images: int,
    picture: str = "",
    approximate: bool = False,
    count: int = 8,
) -> list[str]:
    """Return the section of report.md, line by line.

    images: how many were diagnosed. picture: path of the plot, relative to the page. approximate: the figures are those
    of `calibrated_stand_in`.
    """
    lines = ["## Rounding, layer by layer", "", f"{EXPLAINED} Over {images} images; the {count} worst.", ""]
    if approximate:
        lines += [f"**Approximation.** {APPROXIMATION}", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"| --- |{' ---: |' * (len(HEADINGS) - 1)}"]
    lines += [f"| {' | '.join(_cells(noise))} |" for noise in worst_first(noises)[:count]]
    lines += ["", *[f"{line[0].upper()}{line[1:]}." for line in _page(noises, island)], ""]
    if picture:
        lines += [f"![signal-to-noise by layer]({picture})", ""]
    return lines


def _page(noises: Sequence[LayerNoise], island: Island | None) -> list[str]:
    told = island_lines(noises, island)
    if island is None:
        return told
    return [
        told[0].replace(island.recipe_line, f"`{island.recipe_line}`").replace(island.layer, f"`{island.layer}`", 1),
        *told[1:],
    ]


def noise_json(
    noises: Sequence[LayerNoise], island: Island | None, *, images: int, approximate: bool = False
) -> dict[str, Any]:
    """Return what report.json keeps: all layers in the network's order. A ratio without noise is None."""

    def plain(value: float) -> float | None:
        return round(value, 3) if math.isfinite(value) else None

    layers = []
    for noise in noises:
        row = {k: v for k, v in asdict(noise).items() if k not in ("convolution", "readers")}
        row.update({key: plain(row[key]) for key in ("own_db", "accumulated_db", "weights_db")})
        layers.append(row)
    suggested = None
    if island is not None:
        suggested = {**asdict(island), "extra_cycles": island.extra_cycles, "share": island.share}
        suggested["recipe_line"] = island.recipe_line
        suggested["own_db"], suggested["limit_db"] = plain(island.own_db), plain(island.limit_db)
    return {"images": images, "approximate": approximate, "layers": layers, "island": suggested}


def _cells(noise: LayerNoise) -> tuple[str, ...]:
    return (
        noise.label,
        _db(noise.own_db),
        _db(noise.accumulated_db),
        _db(noise.weights_db) if noise.layer else "-",
        f"{noise.saturated:.2%}",
        f"{noise.integers_used}/{noise.integers}",
    )


def _db(value: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.1f}"
