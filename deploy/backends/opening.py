"""open_backend(): the one place that chooses a runtime for a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..manifest import Manifest
from .availability import AUTOMATIC, BackendReport, explain_backends, held_files, on_a_board
from .protocol import Backend, Core, core_mask
from .rknn_simulator import SimulatedHeads

KINDS = ("auto", *AUTOMATIC, "emulated", "rknn-sim")

_Opened = TypeVar("_Opened")

_log = logging.getLogger("rsedge.backends")


def open_backend(
    bundle: Path,
    manifest: Manifest,
    kind: str = "auto",
    *,
    threads: int = 0,
    core: Core = None,
    simulated: SimulatedHeads | None = None,
) -> Backend:
    """Open a bundle's model.

    kind: "auto" (the best that this machine can run: rknn-capi, rknn-lite, onnx), "rknn-capi" (the NPU through
    `librknnrt.so`), "rknn-lite" (the NPU through the vendor's Python wrapper), "onnx" (ONNX Runtime on the CPU),
    "emulated" (an NPU's latency on top of onnx, for load tests) or "rknn-sim" (heads that the vendor's simulator
    computed during a build, handed over as `simulated`). threads: for "onnx", 0 means every core of the CPU. core: of
    the NPU, as `core_mask` takes it; the CPU takes no notice of it.

    "auto" goes on to the next where a runtime is not there or fails (OSError); a model that is not the manifest's
    (ValueError) is told, since another runtime might not notice. On a board it logs a warning for each way to the
    NPU that it passes over (logger "rsedge.backends"). `explain_backends` tells the reasons without opening anything.

    Raises ValueError naming the kinds and why one does not work here, FileNotFoundError for a missing file, OSError for
    what the vendor's runtime refuses.
    """
    core_mask(core)
    return open_as(bundle, manifest, kind, lambda named: _open(bundle, manifest, named, threads, core, simulated))


def open_as(bundle: Path, manifest: Manifest, kind: str, opening: Callable[[str], _Opened]) -> _Opened:
    """Return what `opening` gives for a kind; for "auto" that of the best kind which works here, see `open_backend`.

    opening: gets a concrete kind; it may open it in another process. Nothing is loaded here. Raises what it raises, and
    ValueError for a kind that is none, or where none opens.
    """
    if kind not in KINDS:
        raise ValueError(f"backend must be one of {', '.join(KINDS)}, got {kind!r}")
    return _best(bundle, manifest, opening) if kind == "auto" else opening(kind)


def _open(
    bundle: Path, manifest: Manifest, kind: str, threads: int, core: Core, simulated: SimulatedHeads | None = None
) -> Backend:
    # Each runtime's module is imported when it is asked for: a board has no use for most of them.
    if kind == "rknn-sim":
        from .rknn_simulator import RknnSimulatorBackend

        if simulated is None:
            raise ValueError(
                "backend rknn-sim cannot open a finished .rknn: the simulator only runs while it builds; "
                "use `rsedge evaluate BUNDLE --backend rknn-sim --data RECIPE`, which builds again"
            )
        return RknnSimulatorBackend(simulated, manifest)
    if kind == "emulated":
        from .emulated_npu import emulate

        if isinstance(core, tuple):
            raise ValueError(f"core must be 0, 1 or 2 of an emulated NPU, got {core}; it cannot split an image")
        return emulate(bundle, manifest).open(core or 0)
    if kind == "rknn-capi":
        from .rknn_capi import RknnCapiBackend

        return RknnCapiBackend(_file_of(bundle, manifest, "rknn"), manifest, core)
    if kind == "rknn-lite":
        from .rknn_lite import RknnLiteBackend

        return RknnLiteBackend(_file_of(bundle, manifest, "rknn"), manifest, core)
    from .onnx_runtime import OnnxBackend

    return OnnxBackend(_file_of(bundle, manifest, "onnx"), manifest, threads)


def _file_of(bundle: Path, manifest: Manifest, role: str) -> Path:
    file = manifest.files.get(role)
    if file is None:
        raise ValueError(
            f"{bundle} holds no {role} file (it has: {held_files(manifest)}); export the bundle again with its {role} "
            "file, or choose another backend"
        )
    return bundle / file.name


def _best(bundle: Path, manifest: Manifest, opening: Callable[[str], _Opened]) -> _Opened:
    level = logging.WARNING if on_a_board() else logging.DEBUG
    reports = {report.kind: report for report in explain_backends(bundle, manifest)}
    passed: list[BackendReport] = []
    for kind in AUTOMATIC:
        report = reports[kind]
        if report.usable:
            try:
                return opening(kind)
            except OSError as error:
                if kind == AUTOMATIC[-1]:
                    raise
                report = BackendReport(kind, False, str(error))
        passed.append(report)
        if kind != AUTOMATIC[-1]:
            _log.log(level, "not on the NPU through %s: %s", kind, report.reason)
    raise ValueError(f"no backend opens {bundle}: " + _joined(passed))


def _joined(reports: list[BackendReport]) -> str:
    """Return the reasons in one line, each once."""
    kinds: dict[str, list[str]] = {}
    for report in reports:
        kinds.setdefault(report.reason, []).append(report.kind)
    return "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in kinds.items())
