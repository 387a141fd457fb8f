"""Where a benchmark's numbers come from, and where its document goes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def origin() -> dict[str, Any]:
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


def hand_over(document: dict[str, Any], path: Path | None) -> int:
    """Print a document as the last line, write it to `path` where one is given, and return the exit code."""
    line = json.dumps(document)
    print(line, flush=True)  # before the file, so that a path that cannot be written costs no measurement
    if path:
        try:
            path.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            print(f"cannot write {path}: {error.strerror}; choose another --json path", file=sys.stderr)
            return 2
    return 0
