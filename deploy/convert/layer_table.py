"""The converter's layer table and log: parsed, kept as JSON, and gated, because a return code of 0 proves nothing.

With `verbose=True` the toolkit prints a "Network Layer Information Table" (one row per compiled layer) and the memory
totals. Together with three kinds of log line they are the only public evidence that a model was compiled as asked:
whatever the NPU cannot do in INT8 falls back to float16 or to the CPU without an error.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

IO_TYPES = ("InputOperator", "OutputOperator")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^[DIWE] RKNN: \[[0-9:.]+\] ?")
_TITLE = "Network Layer Information Table"
_ROW = re.compile(
    r"^(?P<index>\d+)\s+(?P<type>\S+)\s+(?P<dtype>\S+)\s+(?P<target>\S+)\s+(?P<inputs>\S+)\s+(?P<outputs>\S+)\s+"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+)\s+(?P<rw>[\d.]+)(?:\s+(?P<name>\S.*?))?\s*$"
)
_MEMORY = re.compile(r"Total (?P<kind>Internal|Weight) Memory Size:\s*(?P<kb>[\d.]+)\s*KB")
_LOG_FAULTS = re.compile(r"^E |No lowering found|Unkown op target|Unknown op target")
# The toolkit frames each error with its version and the words "Traceback" and "WARN"; neither says what is wrong.
_NOISE = re.compile(r"^E (\w+: )?(rknn-toolkit2 version|=+ WARN|Traceback|\s*$)")


@dataclass(frozen=True)
class Layer:
    """One row of the table. Cycles are NPU clock cycles of one core; read_write_kb is its memory traffic in KB.

    input_shapes, output_shapes: as printed, "(1,3,512,512),(16,3,3,3)"; a backslash where there is none.
    """

    index: int
    type: str
    dtype: str
    target: str
    input_shapes: str
    output_shapes: str
    cycles_ddr: int
    cycles_npu: int
    cycles_total: int
    read_write_kb: float
    name: str


@dataclass(frozen=True)
class LayerTable:
    """All compiled layers in order, and the memory that the model needs on the NPU, in KB."""

    layers: tuple[Layer, ...]
    internal_memory_kb: float
    weight_memory_kb: float

    @property
    def cycles(self) -> int:
        """Cycles of the whole network on one core, as the table counts them."""
        return sum(layer.cycles_total for layer in self.layers)

    @property
    def traffic_kb(self) -> float:
        """Memory read and written by the whole network, in KB."""
        return sum(layer.read_write_kb for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return what `layers.json` holds."""
        return {
            "cycles_total": self.cycles,
            "traffic_kb": round(self.traffic_kb, 3),
            "internal_memory_kb": self.internal_memory_kb,
            "weight_memory_kb": self.weight_memory_kb,
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> LayerTable:
        """Read back what `to_json` returned; ValueError where it is something else."""
        try:
            layers = tuple(Layer(**row) for row in raw["layers"])
            return cls(layers, float(raw["internal_memory_kb"]), float(raw["weight_memory_kb"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a layer table ({error}); export the bundle again") from error

    def save(self, path: Path) -> None:
        """Write `layers.json`, whole or not at all."""
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def plain_log(raw: str) -> str:
    """Return a captured log without colours and without the earlier states of its progress bars."""
    text = _COLOUR.sub("", raw)
    lines = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        bars = line.split("\r")
        lines.append(bars[-1].rstrip() if len(bars) > 1 else line.rstrip())
    return "\n".join(lines)


def parse_layer_table(log: str) -> LayerTable:
    """Read the last layer table and memory totals of a log (plain or coloured).

    Raises ValueError where the log holds no table, an incomplete one, or no memory totals: the compiler stopped early,
    or a new toolkit prints it differently.
    """
    lines = [_PREFIX.sub("", line).strip() for line in plain_log(log).split("\n")]
    starts = [number for number, line in enumerate(lines) if line == _TITLE]
    if not starts:
        raise ValueError(f'the log holds no "{_TITLE}": the compiler stopped before it')
    layers: list[Layer] = []
    # Title, rule, column names, rule, rows, rule.
    for line in lines[starts[-1] + 1 :]:
        if layers and line.startswith("---"):
            break
        row = _ROW.match(line)
        if row:
            layers.append(_layer(row))
        elif layers:
            raise ValueError(f"row after layer {layers[-1].index} of the layer table cannot be read: {line[:120]!r}")
    if [layer.index for layer in layers] != list(range(len(layers))) or not layers:
        raise ValueError(f"the layer table must number its rows from 0, got {[layer.index for layer in layers][:8]}...")
    memory = {hit["kind"]: float(hit["kb"]) for hit in _MEMORY.finditer("\n".join(lines[starts[-1] :]))}
    if set(memory) != {"Internal", "Weight"}:
        raise ValueError("the log holds no memory totals after the layer table: the compiler stopped before them")
    return LayerTable(tuple(layers), memory["Internal"], memory["Weight"])


def _layer(row: re.Match[str]) -> Layer:
    return Layer(
        index=int(row["index"]),
        type=row["type"],
        dtype=row["dtype"],
        target=row["target"],
        input_shapes=row["inputs"],
        output_shapes=row["outputs"],
        cycles_ddr=int(row["ddr"]),
        cycles_npu=int(row["npu"]),
        cycles_total=int(row["total"]),
        read_write_kb=float(row["rw"]),
        name=row["name"] or "",  # the compiler's own additions may have none
    )


def layer_faults(table: LayerTable, precision: str, *, islands: bool = False) -> list[str]:
    """Name every layer that was not compiled as asked.

    precision: "int8" (all rows INT8) or "fp16" (any type). islands: layers left in float16 on purpose, and those that
    the compiler takes along, may be FLOAT16 in an int8 model. All layers must run on the NPU, but for the model's
    inputs and outputs, which the toolkit always books on the CPU.
    """
    faults = []
    for layer in table.layers:
        wrong = []
        if precision == "int8" and layer.dtype != "INT8" and not (islands and layer.dtype == "FLOAT16"):
            wrong.append(f"is {layer.dtype}")
        if layer.target != "NPU" and layer.type not in IO_TYPES:
            wrong.append(f"runs on the {layer.target}")
        if wrong:
            faults.append(f"layer {layer.index} {layer.name} {' and '.join(wrong)}")
    return faults


def log_faults(log: str) -> list[str]:
    """Return the log lines that mean failure whatever the return code says; the most telling first."""
    hits = []
    for line in plain_log(log).split("\n"):
        if _LOG_FAULTS.search(line) and not _NOISE.match(line):
            hits.append(_PREFIX.sub("", line).removeprefix("E ").strip())
    return list(dict.fromkeys(hits))
