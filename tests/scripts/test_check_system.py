"""The system check: finds a Python that runs, names what apt-get should bring, never guesses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_system.sh"


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        [str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def put(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_prints_the_python_that_was_asked_for() -> None:
    done = check(PYTHON=sys.executable)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)
    assert check("--packages", PYTHON=sys.executable).stdout == ""


def test_passes_over_a_shim_that_does_not_run(tmp_path: Path) -> None:
    put(tmp_path, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    put(tmp_path, "python3.11", f'exec {sys.executable} "$@"')
    done = check(PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)


@pytest.mark.parametrize("python", ["/nowhere/python3", "false"])
def test_refuses_a_python_that_cannot_serve(python: str) -> None:
    done = check(PYTHON=python)
    assert done.returncode == 2
    assert python in done.stderr
    assert done.stdout == ""


# Answers like a Python as Debian splits it: no ensurepip, which lives in python3-venv.
SPLIT_PYTHON = """
import sys
sys.executable = {path!r}
sys.modules["ensurepip"] = None
what = sys.argv[1]
exec(sys.stdin.read() if what == "-" else sys.argv[2])
"""


def test_names_the_package_that_lacks(tmp_path: Path) -> None:
    (tmp_path / "split.py").write_text(SPLIT_PYTHON.format(path=str(tmp_path / "python3.12")))
    put(tmp_path, "python3.12", f'exec {sys.executable} {tmp_path}/split.py "$@"')
    done = check(PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 2
    assert "sudo apt-get install -y python3-venv" in done.stderr
    assert check("--packages", PATH=f"{tmp_path}:/usr/bin:/bin").stdout.strip() == "python3-venv"
