"""open_backend(): the one place that chooses a runtime for a bundle."""

from __future__ import annotations

from pathlib import Path

from ..manifest import Manifest
from .onnx_runtime import OnnxBackend
from .protocol import Backend
from .rknn_simulator import RknnSimulatorBackend, SimulatedHeads

KINDS = ("auto", "onnx", "rknn-sim")


def open_backend(
    bundle: Path,
    manifest: Manifest,
    kind: str = "auto",
    *,
    threads: int = 0,
    simulated: SimulatedHeads | None = None,
) -> Backend:
    """Open a bundle's model.

    kind: "auto" (the best that this machine can run), "onnx" (ONNX Runtime on the CPU) or "rknn-sim" (heads that the
    vendor's simulator computed during a build, handed over as `simulated`). threads: for "onnx", 0 means every core.

    Raises ValueError naming the kinds and why one does not work here, FileNotFoundError for a missing file.
    """
    if kind not in KINDS:
        raise ValueError(f"backend must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "rknn-sim":
        if simulated is None:
            raise ValueError(
                "backend rknn-sim cannot open a finished .rknn: the simulator only runs while it builds; "
                "use `rsedge evaluate BUNDLE --backend rknn-sim --data RECIPE`, which builds again"
            )
        return RknnSimulatorBackend(simulated, manifest)
    file = manifest.files.get("onnx")
    if file is None:
        held = ", ".join(sorted(manifest.files)) or "no files"
        raise ValueError(
            f"{bundle} holds no onnx file (it has: {held}), and its .rknn needs the RK3588's own runtime; "
            "export the bundle again with its ONNX file"
        )
    return OnnxBackend(bundle / file.name, manifest, threads)
