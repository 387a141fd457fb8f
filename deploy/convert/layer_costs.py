"""What each layer of a network costs, in closed form or by the compiler's table: cycles, bytes, multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cycles import (
    Precision,
    arithmetic_cycles,
    convolutions_of,
    map_bytes,
    memory_cycles,
    read_bytes,
    weight_bytes,
    written_bytes,
)
from .layer_table import LayerTable
from .network_shapes import Network, canonical


@dataclass(frozen=True)
class LayerCost:
    """One layer. Cycles of one NPU core: arithmetic_cycles and memory_cycles as the table's columns NPU and DDR.

    read_bytes: what the table's RW column counts, maps and weights that come in; written_bytes: the map that goes out,
    which the next layer reads again. weight_bytes: the part of read_bytes that is no map.
    """

    name: str
    kind: str
    arithmetic_cycles: int
    memory_cycles: int
    read_bytes: int
    written_bytes: int
    weight_bytes: int = 0
    multiply_adds: int = 0

    @property
    def cycles(self) -> int:
        """The slower of arithmetic and memory, as the table's total."""
        return max(self.arithmetic_cycles, self.memory_cycles)


def closed_form(network: Network, precision: Precision) -> tuple[LayerCost, ...]:
    """Return the cost of every layer from its shapes alone.

    Raises ValueError, with the layer's name, for a convolution in groups that is not depthwise.
    """
    costs = []
    for layer in network.layers:
        conv = layer.conv
        if conv is not None:
            try:
                arithmetic = arithmetic_cycles(conv, precision)
            except ValueError as error:
                raise ValueError(f"{network.name}, layer {layer.name}: {error}") from error
            costs.append(
                LayerCost(
                    layer.name,
                    layer.kind,
                    arithmetic,
                    memory_cycles(conv, precision),
                    read_bytes(conv, precision),
                    written_bytes(conv, precision),
                    weight_bytes(conv, precision),
                    conv.multiply_adds,
                )
            )
            continue
        leaves = layer.kind == "Output"
        read, written = (
            sum(map_bytes(network.maps[x][0], network.maps[x][1:], precision, leaves=leaves) for x in names)
            for names in (layer.inputs, layer.outputs)
        )
        costs.append(LayerCost(layer.name, layer.kind, 0, 0, read, written))
    return tuple(costs)


def from_table(table: LayerTable, precision: Precision, network: Network | None = None) -> tuple[LayerCost, ...]:
    """Return the cost of every row of the compiler's table. What the table does not print comes from the shapes.

    network: the one that was compiled; its names are then used for convolutions that the table only numbers.
    """
    names = {layer.node: layer.name for layer in network.layers if layer.node} if network else {}
    shapes = {layer.index: conv for layer, conv in convolutions_of(table)}
    costs = []
    for row in table.layers:
        conv = shapes.get(row.index)
        read = round(row.read_write_kb * 1024)
        costs.append(
            LayerCost(
                names.get(canonical(row.name), canonical(row.name)) or row.type,
                row.type,
                row.cycles_npu,
                row.cycles_ddr,
                read,
                # A row without weights writes about what it reads: it copies, picks or adds.
                written_bytes(conv, precision) if conv else read if row.type != "OutputOperator" else 0,
                weight_bytes(conv, precision) if conv else 0,
                conv.multiply_adds if conv else 0,
            )
        )
    return tuple(costs)


def total_of(costs: Sequence[LayerCost]) -> int:
    """Return the cycles of all layers together."""
    return sum(cost.cycles for cost in costs)
