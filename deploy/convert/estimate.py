"""What a network will cost on an RK3588's NPU, in three tiers: closed form, the compiler's table, milliseconds.

Every number says which tier it is of. The closed form needs only shapes; the table is what the vendor's compiler
printed for the file in a bundle; milliseconds are an estimate by the roofline, from the table where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cycles import IN_GROUP, OUT_GROUP, Precision
from .energy import Energy, energy_of
from .layer_costs import LayerCost, closed_form, from_table, total_of
from .layer_table import LayerTable
from .network_shapes import Network, precision_of
from .roofline import Constants, Milliseconds, constants_json, estimate_ms, load_constants
from .widths import Loss, OtherWidth, Width, losses, rounded, widths

SCHEMA_VERSION = 1
TIERS = ("closed form", "compiler's table")


@dataclass(frozen=True)
class Estimate:
    """What a network costs. Bytes and multiply-adds are of one image, cycles and milliseconds of one core.

    tier: where `costs` come from. shapes: layers in closed form; compiled: rows of the compiler's table, None without
    one. rounded_up, rounded_down: milliseconds with every free channel count at a multiple of 32, None where all are.
    notes: what the numbers leave out.
    """

    name: str
    input_hw: tuple[int, int]
    class_count: int | None
    precision: Precision
    shapes: tuple[LayerCost, ...]
    compiled: tuple[LayerCost, ...] | None
    table: LayerTable | None
    milliseconds: Milliseconds
    constants: Constants
    energy: Energy
    losses: tuple[Loss, ...]
    widths: tuple[Width, ...]
    rounded_up: Milliseconds | None
    rounded_down: Milliseconds | None
    notes: tuple[str, ...]

    @property
    def tier(self) -> str:
        """The better of the tiers that there are."""
        return TIERS[self.compiled is not None]

    @property
    def costs(self) -> tuple[LayerCost, ...]:
        """The layers that memory, traffic and milliseconds are of."""
        return self.shapes if self.compiled is None else self.compiled

    @property
    def cycles(self) -> int:
        """Cycles of one core for one image, in the better tier."""
        return total_of(self.costs)

    @property
    def dearest(self) -> list[tuple[LayerCost, float, float]]:
        """The layers that cost most time: layer, milliseconds, share of the whole."""
        rows = [(cost, estimate_ms((cost,), self.constants).estimated_ms) for cost in self.costs]
        whole = sum(ms for _, ms in rows)
        return [(cost, ms, ms / whole) for cost, ms in sorted(rows, key=lambda row: -row[1])]

    @property
    def utilisation(self) -> float:
        """Share of the arrays' multiplications that the network's own are, in the cycles that it takes, 0 to 1."""
        peak = IN_GROUP * OUT_GROUP[self.precision]
        return sum(cost.multiply_adds for cost in self.costs) / (self.cycles * peak)


def estimate(
    network: Network,
    precision: Precision,
    *,
    table: LayerTable | None = None,
    constants: Constants | None = None,
    notes: tuple[str, ...] = (),
) -> Estimate:
    """Return what a network costs. table: what the compiler printed for it, of this precision.

    constants: for milliseconds; default: this user's calibrated board, or the published figures. Raises ValueError for
    a layer that no closed form knows, and for a table of another precision.
    """
    if table is not None and precision_of(table) != precision:
        raise ValueError(f"the layer table is of {precision_of(table)}, asked for {precision}; leave --precision out")
    constants = constants or load_constants()
    shapes = closed_form(network, precision)
    compiled = from_table(table, precision, network) if table is not None else None
    up, down = (rounded(network, precision, up) for up in (True, False))
    if precision == "fp16":
        notes += ("no published time is of float16: milliseconds and their interval rest on INT8",)
        if compiled is None:
            notes += ("compiled to float16, large convolutions are cut up: up to 1 % more cycles, 20 % more traffic",)
    return Estimate(
        network.name,
        network.input_hw,
        network.class_count,
        precision,
        shapes,
        compiled,
        table,
        estimate_ms(compiled or shapes, constants),
        constants,
        energy_of(compiled or shapes, precision),
        tuple(losses(network, precision)),
        tuple(widths(network, precision)),
        estimate_ms(up, constants) if up else None,
        estimate_ms(down, constants) if down else None,
        notes,
    )


def estimate_json(found: Estimate, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return an estimate as one JSON document. `schema_version` grows when a field changes its meaning or goes."""
    ms = found.milliseconds
    now = estimate_ms(found.shapes, found.constants).estimated_ms

    def other(width: OtherWidth | None) -> dict[str, Any] | None:
        if width is None:
            return None
        change = estimate_ms(width.costs, found.constants).estimated_ms - now
        return {"channels": width.channels, "cycles": width.cycles, "estimated_ms": change}

    return {
        "schema_version": SCHEMA_VERSION,
        "name": found.name,
        "target": "rk3588, one core",
        "input_hw": list(found.input_hw),
        "class_count": found.class_count,
        "precision": found.precision,
        "tier": found.tier,
        "npu_cycles": found.cycles,
        "npu_cycles_by_tier": {
            "closed_form": total_of(found.shapes),
            "table": total_of(found.compiled) if found.compiled is not None else None,
        },
        "estimated_ms": ms.estimated_ms,
        "estimated_ms_low": ms.low_ms,
        "estimated_ms_high": ms.high_ms,
        "estimated_ms_label": "estimate, not a measurement",
        "leave_one_out_error": found.constants.leave_one_out_error,
        "constants": constants_json(found.constants),
        "multiply_adds": sum(cost.multiply_adds for cost in found.costs),
        "utilisation": found.utilisation,
        "memory": memory_json(found),
        "energy": found.energy.to_json(),
        "layers": [
            {
                "name": cost.name,
                "kind": cost.kind,
                "cycles_npu": cost.arithmetic_cycles,
                "cycles_ddr": cost.memory_cycles,
                "cycles": cost.cycles,
                "read_bytes": cost.read_bytes,
                "written_bytes": cost.written_bytes,
                "weight_bytes": cost.weight_bytes,
                "multiply_adds": cost.multiply_adds,
                "estimated_ms": estimate_ms((cost,), found.constants).estimated_ms,
            }
            for cost in found.costs
        ],
        "waste": {
            "layers": [
                {
                    "layer": loss.layer,
                    "in_channels": loss.in_channels,
                    "out_channels": loss.out_channels,
                    "filled": loss.filled,
                    "lost_cycles": loss.lost_cycles,
                }
                for loss in found.losses
            ],
            "widths": [
                {
                    "channels": width.channels,
                    "layers": list(width.layers),
                    "wider": other(width.wider),
                    "narrower": other(width.narrower),
                }
                for width in found.widths
            ],
            "all_wider_ms": found.rounded_up.estimated_ms - now if found.rounded_up else None,
            "all_narrower_ms": found.rounded_down.estimated_ms - now if found.rounded_down else None,
        },
        "notes": list(found.notes),
        "provenance": provenance,
    }


def memory_json(found: Estimate) -> dict[str, Any]:
    """Return bytes: of weights, read and written by one image, and of the maps in memory at the same time."""
    table = found.table
    return {
        "weight_bytes": sum(cost.weight_bytes for cost in found.costs),
        "read_bytes": sum(cost.read_bytes for cost in found.costs),
        "written_bytes": sum(cost.written_bytes for cost in found.costs),
        # Of the closed form a lower bound: what the largest layer reads and writes, other maps may wait meanwhile.
        "maps_bytes_at_least": max(c.read_bytes - c.weight_bytes + c.written_bytes for c in found.shapes),
        "table_internal_kb": table.internal_memory_kb if table else None,
        "table_weight_kb": table.weight_memory_kb if table else None,
    }
