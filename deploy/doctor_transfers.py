"""What the doctor tries on a board with a bundle: whether all ways to move data to and from the NPU say the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from .doctor_machine import Finding, Machine
from .manifest import load_manifest
from .phrases import phrase

CHECK = "transfers"
# A child imports NumPy from an SD card, loads a model three times and runs three images.
_TIMEOUT_S = 60.0
_PROGRAM = """
import json, sys
from pathlib import Path
from deploy.backends.transfer_check import transfers_agree
from deploy.manifest import load_manifest
bundle, library = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
manifest = load_manifest(bundle, check_hashes=False)
agree = transfers_agree(bundle / manifest.files["rknn"].name, manifest, library=library)
print(json.dumps({"agree": agree}), flush=True)
"""

Compare = Callable[[Path], bool]


def compare_in_a_child(bundle: Path, *, library: Path | None = None, timeout_s: float = _TIMEOUT_S) -> bool:
    """Return `transfers_agree` of a bundle's model, asked in a process of its own: a runtime may crash or hang.

    library: as of `RknnCapiBackend`. Raises OSError with what kept it from an answer, one line.
    """
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    command = [sys.executable, "-c", _PROGRAM, str(bundle), *([str(library)] if library else [])]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {timeout_s:g} s") from None
    if done.returncode < 0:
        raise OSError(f"the runtime ended its process by {signal.Signals(-done.returncode).name}")
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise OSError(told[-1].partition(": ")[2] or told[-1])
    return bool(json.loads(lines[-1])["agree"])


def check_transfers(
    machine: Machine, bundle: Path, before: Iterable[Finding] = (), compare: Compare = compare_in_a_child
) -> Finding:
    """Run one noise image through every way that the C interface has, and compare what comes back.

    before: what was found until here; with an error among it nothing is run. Elsewhere than on a live board the finding
    says why nothing was compared.
    """
    if not machine.live or not machine.is_board:
        if machine.live:
            return Finding(CHECK, "ok", phrase("not compared: no NPU here"))
        return Finding(CHECK, "ok", phrase("not compared: a capture has no NPU"))
    if any(finding.level == "error" for finding in before):
        return Finding(CHECK, "ok", phrase("not compared: the errors above come first"))
    if load_manifest(bundle, check_hashes=False).files.get("rknn") is None:
        return Finding(CHECK, "ok", phrase("not compared: the bundle holds no .rknn"))
    try:
        agree = compare(bundle)
    except OSError as error:
        cure = phrase(
            "see what happens: rsedge detect {bundle} IMAGE --out DIR --backend rknn-capi", bundle=str(bundle)
        )
        return Finding(CHECK, "warning", phrase("could not be compared ({error})", error=str(error)), cure)
    if not agree:
        told = phrase("two ways to move data to and from the NPU give different results")
        cure = phrase("use --backend rknn-lite, and bring driver and librknnrt.so up to date")
        return Finding(CHECK, "error", told, cure)
    return Finding(CHECK, "ok", phrase("all ways to move data to and from the NPU give the same, bit for bit"))
