"""Energy of one image from its multiply-adds and bytes: an analytic estimate, right to an order of magnitude only.

The constants are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, pages 10
to 14, figure 1.1.9, for 45 nm at 0.9 V: an 8-bit multiplication 0.2 pJ, a 32-bit addition 0.1 pJ; a 16-bit float
multiplication 1.1 pJ, a 32-bit float addition 0.9 pJ; 64 bits from DRAM 1.3 to 2.6 nJ. They are too high for this chip:
an RK3588 is made in 8 nm and reads LPDDR4X. So the upper end takes them as printed (for DRAM the lower figure). The
lower end divides arithmetic by 10: the energy polynomials of Stillmaker and Baas, "Scaling equations for the accurate
prediction of CMOS device performance from 180 nm to 7 nm", Integration 58, 2017, give 8.6 from 45 nm at 0.9 V to 10 nm
at 0.8 V and 10.7 to 7 nm at 0.8 V; the voltage is an assumption. For the memory it takes 4 pJ a bit, just above the 3.7
of an LPDDR3 chip (ISSCC 2012, IEEE document 6176871); simulated LPDDR4 has 13 to 14 (Ha, Stanford thesis, 2018), well
inside the interval. Both are taken from the collection github.com/Dongyunkam/DRAM_info, not from the works themselves.
The estimate is the geometric mean of both ends.

What it leaves out: leakage, clock and on-chip memory of the NPU, the CPU, whatever else the board does. It compares
networks; joules for a power supply must be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .cycles import Precision
from .layer_costs import LayerCost

# Picojoules of one multiply-add at 45 nm: multiplication and addition.
MULTIPLY_ADD_PJ = {"int8": 0.2 + 0.1, "fp16": 1.1 + 0.9}
SCALED_BY = 10.0
# Picojoules of one byte of DRAM: 4 pJ a bit, and 1.3 nJ for 64 bits.
BYTE_PJ = (8 * 4.0, 1300.0 / 8)
LABEL = "analytic estimate, not a measurement"


@dataclass(frozen=True)
class Energy:
    """Millijoules of one image on one core, arithmetic and memory of the NPU only. An estimate, not a measurement."""

    low_mj: float
    estimated_mj: float
    high_mj: float
    memory_share: float

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "label": LABEL,
            "counts": "multiply-adds and DRAM traffic of the NPU; no leakage, no on-chip memory, no CPU",
            "estimated_mj": self.estimated_mj,
            "low_mj": self.low_mj,
            "high_mj": self.high_mj,
            "memory_share": self.memory_share,
            "constants": {
                "multiply_add_pj": MULTIPLY_ADD_PJ,
                "multiply_add_scaled_by": SCALED_BY,
                "dram_byte_pj": list(BYTE_PJ),
                "source": "Horowitz, ISSCC 2014; Stillmaker and Baas, Integration 58, 2017; LPDDR3 at ISSCC 2012",
            },
        }


def energy_of(costs: Sequence[LayerCost], precision: Precision) -> Energy:
    """Return the energy of layers of these costs. memory_share: of the estimate, 0 to 1."""
    operations = 1e-9 * sum(cost.multiply_adds for cost in costs) * MULTIPLY_ADD_PJ[precision]
    size = 1e-9 * sum(cost.read_bytes + cost.written_bytes for cost in costs)
    low, high = operations / SCALED_BY + size * BYTE_PJ[0], operations + size * BYTE_PJ[1]
    memory = size * math.sqrt(BYTE_PJ[0] * BYTE_PJ[1])
    arithmetic = operations / math.sqrt(SCALED_BY)
    return Energy(low, math.sqrt(low * high), high, memory / (memory + arithmetic))
