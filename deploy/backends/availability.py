"""Which backends can run a bundle on this machine, and why the others cannot."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import doctor_npu as npu
from ..doctor_machine import Finding, Machine, dotted, version_in
from ..manifest import Manifest

# What "auto" tries, best first: int8 heads without conversion, float32 heads, no NPU at all.
AUTOMATIC = ("rknn-capi", "rknn-lite", "onnx")


@dataclass(frozen=True)
class BackendReport:
    """Whether a backend can run a bundle here. reason: one line, with the cure where it cannot."""

    kind: str
    usable: bool
    reason: str


def explain_backends(
    bundle: Path, manifest: Manifest, *, root: Path = Path("/"), environ: Mapping[str, str] = os.environ
) -> list[BackendReport]:
    """Say of every backend whether it can run this bundle here, best first; opens none of them.

    root: "/" for this machine; another folder is a capture of one, see `deploy.doctor.diagnose`.
    """
    machine = Machine(root, environ)
    obstacle = _npu_obstacle(machine, bundle, manifest)
    onnx = _onnx(machine, bundle, manifest)
    return [
        BackendReport("rknn-capi", True, _runtime_told(machine)) if obstacle is None else _not("rknn-capi", obstacle),
        _lite(machine) if obstacle is None else _not("rknn-lite", obstacle),
        onnx,
        BackendReport("emulated", onnx.usable, "for load tests: an NPU's latency on top of the onnx backend")
        if onnx.usable
        else _not("emulated", f"it answers with the onnx backend's heads: {onnx.reason}"),
        _not("rknn-sim", "the simulator only runs while a bundle is built; use `rsedge evaluate --backend rknn-sim`"),
    ]


def on_a_board(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this machine should have an NPU, so that going without it is worth a word."""
    return Machine(root, environ).is_board


def held_files(manifest: Manifest) -> str:
    """Return the roles of a bundle's files for a message."""
    return ", ".join(sorted(manifest.files)) or "no files"


def _not(kind: str, reason: str) -> BackendReport:
    return BackendReport(kind, False, reason)


def _npu_obstacle(machine: Machine, bundle: Path, manifest: Manifest) -> str | None:
    """Return what keeps any backend off the NPU, the first thing to mend; None where nothing does."""
    file = manifest.files.get("rknn")
    if file is None:
        return f"{bundle} holds no rknn file (it has: {held_files(manifest)}); export it with its .rknn"
    if not (bundle / file.name).is_file():
        return f"{bundle / file.name} is missing; copy the whole bundle again"
    chips = [name.split(",")[1] for name in machine.compatible if re.fullmatch(r"rockchip,r[kv]\d+\w*", name)]
    target = manifest.target.lower()
    if chips and not any(chip.removesuffix("s") == target.removesuffix("s") for chip in chips):
        return f"the model is compiled for {manifest.target}, this is a {chips[0]}; export the bundle for this chip"
    if not chips and not machine.is_board:
        return f"no Rockchip NPU here ({machine.architecture}); the .rknn needs a board with a {manifest.target}"
    checks = [npu.check_chip(machine), npu.check_driver(machine), npu.check_device(machine), npu.check_runtime(machine)]
    fault = next((found for found in checks if found is not None and found.level == "error"), None)
    if fault is not None:
        return _told(fault)
    toolkit, runtime = version_in(manifest.toolkit_version), npu.runtimes(machine)[0].version
    if toolkit and runtime and toolkit > runtime:
        return (
            f"the model is made by toolkit {dotted(toolkit)}, newer than the runtime's {dotted(runtime)}; bring "
            f"librknnrt.so to {dotted(toolkit)} or newer, or export with rknn-toolkit2 {dotted(runtime)}"
        )
    return None


def _told(fault: Finding) -> str:
    return f"{fault.check}: {fault.told}; {fault.cure}"


def _runtime_told(machine: Machine) -> str:
    """Return which runtime and driver the NPU is run with."""
    driver = npu.driver_version(machine)
    return f"{npu.check_runtime(machine).told}, rknpu driver {dotted(driver) if driver else 'of unknown version'}"


def _lite(machine: Machine) -> BackendReport:
    version = _version_of(machine, "rknnlite", "rknn-toolkit-lite2")
    if version is None:
        cure = 'pip install ".[board]" in the clone'
        return _not("rknn-lite", f"the vendor's wrapper rknn-toolkit-lite2 is not installed; {cure}")
    if not machine.exists("/usr/lib/librknnrt.so"):
        place = npu.runtimes(machine)[0].path
        cure = f"sudo ln -s {place} /usr/lib/librknnrt.so"
        return _not("rknn-lite", f"the vendor's wrapper looks for librknnrt.so in /usr/lib only; {cure}")
    return BackendReport("rknn-lite", True, f"rknn-toolkit-lite2 {version}, {_runtime_told(machine)}")


def _onnx(machine: Machine, bundle: Path, manifest: Manifest) -> BackendReport:
    file = manifest.files.get("onnx")
    if file is None:
        told = f"{bundle} holds no onnx file (it has: {held_files(manifest)})"
        return _not("onnx", f"{told}; export the bundle again with its ONNX file")
    if not (bundle / file.name).is_file():
        return _not("onnx", f"{bundle / file.name} is missing; copy the whole bundle again")
    version = _version_of(machine, "onnxruntime", "onnxruntime")
    if version is None:
        return _not("onnx", "onnxruntime is not installed; pip install onnxruntime")
    return BackendReport("onnx", True, f"ONNX Runtime {version} on the CPU")


def _version_of(machine: Machine, module: str, distribution: str) -> str | None:
    """Return the version of a Python package, "" where it can be imported but does not tell, None where it cannot."""
    told = machine.packages([distribution]).get(distribution)
    if not machine.live:
        return told
    try:
        found = importlib.util.find_spec(module) is not None
    except ValueError:  # it was put into sys.modules without a spec
        found = True
    return (told or "") if found else None
