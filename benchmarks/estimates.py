"""What a bundle should cost on an RK3588's NPU by `rsedge estimate`: for charts, and where nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def estimate_of(bundle: Path) -> dict[str, Any]:
    """Return the estimate of a bundle, or why there is none.

    estimated_ms, low_ms, high_ms: of one image on one core. float16: the same of the network in float16, None where it
    is in float16 anyway. energy: analytic. layers: name, kind, cycles of arithmetic and of memory, milliseconds, of
    each row. error: why none of these is there; the estimator belongs to the host and may be missing on a board.
    """
    try:
        from deploy.convert.estimate import estimate
        from deploy.convert.estimate_command import subject_of_bundle
        from deploy.convert.network_shapes import precision_of
        from deploy.convert.roofline import estimate_ms

        subject = subject_of_bundle(bundle)
        table = subject.table if subject.table and precision_of(subject.table) == subject.precision else None
        found = estimate(subject.network, subject.precision, table=table, notes=subject.notes)
        half = None if subject.precision == "fp16" else estimate(subject.network, "fp16").milliseconds
    except ImportError as error:
        return {"error": f"the estimate needs the Python package {error.name or error}, which only a host has"}
    except (ValueError, OSError) as error:
        # A report goes to others: it names the bundle, not where it lies on this machine.
        return {"error": str(error).splitlines()[0].replace(str(bundle), bundle.name)}
    ms = found.milliseconds
    return {
        "label": "estimate, not a measurement",
        "tier": found.tier,
        "precision": found.precision,
        "npu_cycles": found.cycles,
        "estimated_ms": ms.estimated_ms,
        "low_ms": ms.low_ms,
        "high_ms": ms.high_ms,
        "float16": half and {"estimated_ms": half.estimated_ms, "low_ms": half.low_ms, "high_ms": half.high_ms},
        "constants": found.constants.source,
        "energy": found.energy.to_json(),
        "layers": [
            {
                "name": cost.name,
                "kind": cost.kind,
                "cycles_npu": cost.arithmetic_cycles,
                "cycles_ddr": cost.memory_cycles,
                "estimated_ms": estimate_ms((cost,), found.constants).estimated_ms,
            }
            for cost in found.costs
        ],
    }


def costs_of(bundle: Path) -> tuple[Any, ...]:
    """Return the layer costs of a bundle, for a fit. Raises ValueError, OSError or ImportError as the estimator."""
    from deploy.convert.estimate_command import subject_of_bundle
    from deploy.convert.layer_costs import closed_form, from_table
    from deploy.convert.network_shapes import precision_of

    subject = subject_of_bundle(bundle)
    if subject.table is not None and precision_of(subject.table) == subject.precision:
        return tuple(from_table(subject.table, subject.precision, subject.network))
    return tuple(closed_form(subject.network, subject.precision))
