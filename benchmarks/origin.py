"""Where a benchmark's numbers come from: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import numpy as np


def origin() -> dict[str, object]:
    """Return machine, versions and commit of this run."""
    try:
        shown = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        commit = shown.stdout.strip() if shown.returncode == 0 else "unknown"
    except OSError:
        commit = "unknown"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "commit": commit,
    }
