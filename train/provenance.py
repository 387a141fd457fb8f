"""Where a result comes from: commit, machine, versions. Every report carries it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from deploy.manifest import Provenance

_NAMED = ("torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "rknn-toolkit2", "faster-coco-eval")


def describe_run(seed: int | None, data: str) -> Provenance:
    """Collect the provenance of what runs now."""
    return Provenance(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        rsedge_version=_version("rsedge") or "source",
        commit=_commit(),
        machine=f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, {_accelerator()}",
        seed=seed,
        data=data,
        versions={"python": platform.python_version(), **{n: v for n in _NAMED if (v := _version(n))}},
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the commit that the source tree stands at, with "+" where files were changed since."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "no repository"
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
