"""`rsedge estimate`: find out which network is meant, print what it will cost on the NPU, write it as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cycles import Precision
from .estimate import Estimate, estimate, estimate_json, memory_json
from .layer_costs import total_of
from .layer_table import LayerTable
from .network_shapes import Network, network_of_table, precision_of
from .roofline import estimate_ms
from .widths import Width

LAYERS_NAME = "layers.json"
TOP = 10
_SHOWN_NAMES = 2
# Characters of "32: -13.0 % cycles -2.00 ms".
_CELL = 27


@dataclass(frozen=True)
class Subject:
    """What an estimate was asked of. told: where it comes from, without folders; precision: what it is compiled to."""

    network: Network
    told: str
    table: LayerTable | None = None
    precision: Precision = "int8"
    notes: tuple[str, ...] = ()


def show(subject: Subject, precision: Precision | None = None, json_file: Path | None = None) -> dict[str, Any]:
    """Estimate, print and return the JSON document; with `json_file`, write it there too.

    precision: default: the subject's own. Raises ValueError or OSError with one line.
    """
    precision = precision or subject.precision
    table, notes = subject.table, subject.notes
    if table is not None and precision_of(table) != precision:
        notes += (f"the bundle was compiled to {precision_of(table)}; {precision} is estimated in closed form",)
        table = None
    found = estimate(subject.network, precision, table=table, notes=notes)
    document = estimate_json(found, _origin(subject.told))
    if json_file is not None:
        _write(json_file, document)
    print_estimate(found, Console(highlight=False))
    return document


def subject_of_onnx(path: Path) -> Subject:
    """Return the network of an ONNX file. Raises FileNotFoundError or ValueError with one line."""
    from .onnx_shapes import network_of_onnx

    network, unknown = network_of_onnx(path)
    notes = (f"no cycles are known for {', '.join(unknown)}: they are left out",) if unknown else ()
    return Subject(network, path.name, notes=notes)


def subject_of_bundle(bundle: Path) -> Subject:
    """Return the network of a bundle, with the compiler's table where it has one.

    Raises FileNotFoundError or ValueError with one line, for a bundle with neither ONNX file nor table too.
    """
    from ..manifest import load_manifest

    manifest = load_manifest(bundle, check_hashes=False)
    table = _table_of(bundle / LAYERS_NAME)
    precision: Precision = "fp16" if manifest.precision == "fp16" else "int8"
    if table is not None:
        precision = "int8" if precision_of(table) == "int8" else "fp16"
    told, classes = f"bundle {manifest.name}", len(manifest.class_names)
    file = manifest.files.get("onnx")
    if file is not None and (bundle / file.name).is_file():
        found = subject_of_onnx(bundle / file.name)
        network = Network(manifest.name, found.network.input_hw, classes, found.network.layers, found.network.maps)
        return Subject(network, told, table, precision, found.notes)
    if table is None:
        raise ValueError(
            f"{bundle}: holds neither an ONNX file nor {LAYERS_NAME}, so nothing tells its layers; export it again, or "
            "give its checkpoint"
        )
    network = network_of_table(manifest.name, manifest.input_hw, classes, table)
    return Subject(network, told, table, precision, ("no ONNX file: which channel counts go together is not known",))


def _table_of(path: Path) -> LayerTable | None:
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("not a layer table")
        return LayerTable.from_json(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}; export the bundle again") from error


def print_estimate(found: Estimate, console: Console) -> None:
    """Print an estimate: the figures, the dearest layers, what the channel counts waste; under 40 lines."""
    _say(console, _title(found), "bold")
    console.print(_figures(found))
    console.print()
    console.print(_dearest(found))
    console.print()
    _print_widths(found, console)
    for note in found.notes:
        _say(console, f"note: {note}", "dim")


def _title(found: Estimate) -> str:
    classes = f", {found.class_count} classes" if found.class_count else ""
    size = f"{found.input_hw[0]} x {found.input_hw[1]}"
    return f"{found.name}, {size}{classes}, {_shown(found.precision)}, one NPU core of an RK3588"


def _shown(precision: str) -> str:
    return {"int8": "INT8", "fp16": "float16"}[precision]


def _figures(found: Estimate) -> Table:
    ms, constants, energy, memory = found.milliseconds, found.constants, found.energy, memory_json(found)
    rows = [("cycles, closed form", f"{total_of(found.shapes):,}", "")]
    if found.compiled is not None:
        rows.append(("cycles, compiler's table", f"{total_of(found.compiled):,}", ""))
    rows += [
        (
            "time, an estimate",
            f"{ms.estimated_ms:.1f} ms",
            f"{ms.low_ms:.1f} to {ms.high_ms:.1f} ms, {1000 / ms.estimated_ms:.0f} images/s; not a measurement",
        ),
        (
            "  by a roofline",
            "",
            f"{constants.bytes_per_s / 1e9:.2f} GB/s by {len(constants.points)} {constants.source}; "
            f"leave-one-out error {100 * constants.leave_one_out_error:.1f} %",
        ),
        ("multiply-adds", f"{sum(c.multiply_adds for c in found.costs) / 1e9:.2f} G", _share(found)),
        (
            "traffic",
            f"{_mb(memory['read_bytes'])} MB",
            f"read; {_mb(memory['written_bytes'])} MB written; weights {_mb(memory['weight_bytes'])} MB",
        ),
        ("memory for maps", *_maps(memory)),
        (
            "energy, analytic",
            f"{energy.estimated_mj:.1f} mJ",
            f"{energy.low_mj:.1f} to {energy.high_mj:.1f} mJ of arithmetic and DRAM, order of magnitude only",
        ),
    ]
    return _columns(rows)


def _share(found: Estimate) -> str:
    return f"{100 * found.utilisation:.0f} % of what the arrays can do in these cycles"


def _maps(memory: dict[str, Any]) -> tuple[str, str]:
    if memory["table_internal_kb"] is not None:
        return f"{memory['table_internal_kb'] / 1024:.1f} MB", "by the compiler"
    return f"{_mb(memory['maps_bytes_at_least'])} MB", "at least: input and output of the largest layer"


def _mb(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _columns(rows: list[tuple[str, str, str]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _dearest(found: Estimate) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", title_justify="left")
    table.add_column(f"the {TOP} dearest layers", no_wrap=True, overflow="ellipsis")
    for name in ("cycles", "read MB", "ms", "share", "the limit"):
        table.add_column(name, justify="left" if name == "the limit" else "right", no_wrap=True)
    for cost, ms, share in found.dearest[:TOP]:
        limit = "arithmetic" if ms <= 1e3 * cost.cycles / 1e9 else "memory"
        kind = "" if cost.kind == "Conv" or cost.kind.startswith("Conv") else f" ({cost.kind})"
        cells = (f"{cost.name}{kind}", f"{cost.cycles:,}", _mb(cost.read_bytes), f"{ms:.2f}", f"{100 * share:.1f} %")
        table.add_row(*(Text(cell) for cell in (*cells, limit)))
    return table


def _print_widths(found: Estimate, console: Console) -> None:
    """Print what rounding each channel count to 32 costs or saves, the best gains first."""
    lost = sum(loss.lost_cycles for loss in found.losses)
    paid = sum(cost.arithmetic_cycles for cost in found.shapes)
    image = sum(loss.lost_cycles for loss in found.losses if loss.in_channels <= 4)
    said = f"of the arithmetic, {100 * lost / paid:.0f} % is paid for channels that are not there"
    said += f" ({100 * image / paid:.0f} % for the image's own few)" if image else ""
    _say(console, said if lost else "every channel count fills the arrays", "bold")
    if not found.widths:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    narrow = any(width.narrower for width in found.widths)
    table.add_column("channels", justify="right", min_width=8)
    table.add_column("shared by", no_wrap=True, overflow="ellipsis", max_width=32 if narrow else 56)
    table.add_column("wider, the whole network", no_wrap=True, min_width=_CELL)
    table.add_column("narrower", no_wrap=True, min_width=_CELL if narrow else None)
    for width in found.widths[:8]:
        table.add_row(str(width.channels), Text(_names(width)), *_others(found, width))
    console.print(table)
    hidden = len(found.widths) - 8
    now = estimate_ms(found.shapes, found.constants).estimated_ms
    if found.rounded_up and found.rounded_down:
        up, down = (f"{ms.estimated_ms - now:+.1f} ms" for ms in (found.rounded_up, found.rounded_down))
        more = f"{hidden} more with --json; " if hidden > 0 else ""
        _say(
            console, f"{more}all at once: wider {up}, narrower (at least 32) {down}; accuracy is another matter", "dim"
        )


def _names(width: Width) -> str:
    hidden = len(width.layers) - _SHOWN_NAMES
    more = f"{len(width.layers)}: " if hidden > 0 else ""
    return more + ", ".join(name.removesuffix(".conv") for name in width.layers[:_SHOWN_NAMES])


def _others(found: Estimate, width: Width) -> list[Text]:
    """Return the two cells of a run: to which width, cycles and milliseconds of the whole network."""
    now, whole = estimate_ms(found.shapes, found.constants).estimated_ms, total_of(found.shapes)
    cells = []
    for other in (width.wider, width.narrower):
        if other is None:
            cells.append(Text("-"))
            continue
        ms = estimate_ms(other.costs, found.constants).estimated_ms - now
        cells.append(Text(f"{other.channels}: {100 * other.cycles / whole:+.1f} % cycles {ms:+.2f} ms"))
    return cells


def _say(console: Console, line: str, style: str) -> None:
    console.print(Text(line, style), soft_wrap=True)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _origin(told: str) -> dict[str, Any]:
    """Return where an estimate comes from. No machine has a part in it, so none is named."""
    try:
        version = metadata.version("rsedge")
    except metadata.PackageNotFoundError:
        version = "source"
    root = Path(__file__).resolve().parent.parent.parent
    try:
        head = ["git", "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(head, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "no repository"
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "of": told,
        "rsedge_version": version,
        "commit": commit,
        "python": platform.python_version(),
        "cycles_of": "rknn-toolkit2 2.5.0",
    }
