"""Start the converter's child processes, show their progress, and stop every one of them however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .rknn_child import PROGRESS_NAME, RESULT_NAME

Progress = Callable[[str, int, int], None]

_POLL_S = 0.1
_STOP_S = 3.0
# The calibration's own progress bar in the log; nothing else tells how far it is.
_BAR = re.compile(rb"Quantizating[^\r\n]*?(\d+)%\|")


class ChildFailed(Exception):
    """A child process ended badly; the text says how in one line."""


class _Child:
    """One running child with its folder, log and result."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.folder = Path(job["folder"])
        self.folder.mkdir(parents=True, exist_ok=True)
        job_file = self.folder / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        self._log = open(self.folder / "log.txt", "wb")  # noqa: SIM115 closed in stop()
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root))),
            "PYTHONUNBUFFERED": "1",
            # The toolkit's imports warn about their own age; one thread each, as the children run side by side.
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        # A session of its own: Ctrl-C reaches the parent alone, which then stops the whole group.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.convert.rknn_child", str(job_file)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def result(self) -> dict[str, Any]:
        """Return what the child wrote; ChildFailed where it says so, or wrote nothing."""
        status = self.process.returncode
        if status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = str(-status)
            raise ChildFailed(
                f"rknn-toolkit2 was stopped by signal {name} (its own abort, too little memory, or a full disk)"
            )
        path = self.folder / RESULT_NAME
        if not path.is_file():
            raise ChildFailed(f"the converter's process ended with status {status} and left no result")
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "error" in result:
            raise ChildFailed(result["error"])
        if status != 0:
            raise ChildFailed(f"the converter's process ended with status {status}")
        return result

    def progress(self) -> tuple[str, int, int] | None:
        """Return the latest (phase, done, total) that the child reported."""
        path = self.folder / PROGRESS_NAME
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        if not lines:
            return None
        last = json.loads(lines[-1])
        phase, done, total = last["phase"], int(last["done"]), int(last["total"])
        if phase == "calibrate" and done < total:
            bars = _BAR.findall(_tail(self.folder / "log.txt", 2000))
            done = int(bars[-1]) if bars else done
        return phase, done, total

    def stop(self) -> None:
        """Stop the child and whatever it started, politely first, and close its files."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._log.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            self.process.poll()


def _tail(path: Path, size: int) -> bytes:
    with open(path, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - size))
        return handle.read()


def run_children(jobs: list[dict[str, Any]], progress: Progress | None, timeout_s: float) -> list[dict[str, Any]]:
    """Run one child per job side by side and return their results in order.

    jobs: what `rknn_child` reads; `folder` is the child's own working directory, where `log.txt` is left. progress:
    called with (phase, done, total) when the sum over the children has changed.

    Raises ChildFailed where a child fails, crashes or takes longer than `timeout_s`; the others are stopped then, as
    they are on Ctrl-C or any other exception.
    """
    children: list[_Child] = []
    try:
        for job in jobs:
            children.append(_Child(job))
        deadline = time.monotonic() + timeout_s
        shown: tuple[str, int, int] | None = None
        while True:
            states = [child.process.poll() for child in children]
            shown = _show(children, progress, shown)
            if all(state is not None for state in states) or any(state not in (None, 0) for state in states):
                break
            if time.monotonic() > deadline:
                raise ChildFailed(f"rknn-toolkit2 did not end within {timeout_s:g} s")
            time.sleep(_POLL_S)
        # The failed ones first: the others are only unfinished because of them.
        for child, state in zip(children, states, strict=True):
            if state not in (None, 0):
                child.result()
        return [child.result() for child in children]
    finally:
        for child in children:
            child.stop()


def _show(
    children: list[_Child], progress: Progress | None, shown: tuple[str, int, int] | None
) -> tuple[str, int, int] | None:
    """Report the children's joint progress where it has changed; returns what is shown now."""
    if progress is None:
        return None
    reports = [report for report in (child.progress() for child in children) if report is not None]
    if not reports:
        return shown
    phases = ("calibrate", "compile", "score")
    phase = max((report[0] for report in reports), key=phases.index)
    same = [report for report in reports if report[0] == phase]
    state = phase, sum(report[1] for report in same), sum(report[2] for report in same)
    if state != shown:
        progress(*state)
    return state
