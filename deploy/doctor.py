"""Say what this machine can run, what is wrong with it and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import doctor_npu as npu
from . import doctor_system as system
from .doctor_machine import Finding, Machine
from .doctor_transfers import check_transfers
from .phrases import phrase

# Topic -> its checks, in the order they are told. Each finding's check stands here exactly once.
TOPICS: dict[str, tuple[str, ...]] = {
    "machine": ("chip", "kernel", "memory", "temperature", "threads"),
    "NPU": ("NPU", "NPU driver", "driver version", "NPU device", "NPU load"),
    "software": ("runtime library", "wheel", "ONNX Runtime", "model", "transfers", "Qt"),
    "speed": ("NPU clock", "DDR clock", "CPU clock", "decoders"),
}


def diagnose(
    root: Path = Path("/"), bundle: Path | None = None, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Examine this machine, or a captured file tree of another one. Changes nothing.

    root: "/" for this machine; another folder is a capture: /proc, /sys, /dev and /usr of a machine copied below it.
    bundle: a bundle whose model the runtime here should be able to load; on a board it is run once. environ: the
    environment variables that count.

    Returns the findings in the order of `TOPICS`. A machine that is no RK3588 is not asked about an NPU.
    Raises FileNotFoundError where `root` is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; name the root of a captured file tree, or none for this machine"
        )
    return examine(Machine(root.resolve(), environ), bundle)


def examine(machine: Machine, bundle: Path | None = None) -> list[Finding]:
    """Run every check that this machine's kind calls for; see `diagnose`."""
    findings: list[Finding | None] = [
        npu.check_chip(machine),
        npu.check_kernel(machine),
        system.check_memory(machine),
        system.check_temperature(machine),
        system.check_threads(machine),
    ]
    if machine.is_board:
        findings += [
            npu.check_driver(machine),
            npu.check_driver_version(machine),
            npu.check_device(machine),
            npu.check_load(machine),
            npu.check_runtime(machine),
            npu.check_wheel(machine),
        ]
    else:
        findings.append(Finding("NPU", "ok", phrase("none here: driver, runtime library and wheel are not looked for")))
    findings += [
        system.check_onnx_runtime(machine),
        npu.check_model(machine, bundle) if bundle else None,
    ]
    if bundle:
        findings.append(check_transfers(machine, bundle, [finding for finding in findings if finding is not None]))
    findings.append(system.check_qt(machine))
    if machine.is_board:
        findings += [system.check_npu_clock(machine), system.check_ddr_clock(machine)]
    findings += [system.check_cpu_clock(machine), system.check_decoders(machine)]
    return [finding for finding in findings if finding is not None]


def topic_of(check: str) -> str:
    """Return the topic that a check belongs to. Raises ValueError for a check that no topic lists."""
    for topic, checks in TOPICS.items():
        if check in checks:
            return topic
    raise ValueError(f"check {check!r} belongs to no topic; add it to deploy.doctor.TOPICS")
