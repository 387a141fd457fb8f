"""`rsedge gui --workers processes`: the window's own process never loads a runtime, and still shows what is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SESSION = """
import os, sys, time
from PyQt5.QtWidgets import QApplication
from gui import gui_command

def drive(_=None):
    from gui.main_window import MainWindow
    window = next(w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow))
    end = time.monotonic() + 90
    def wait(condition):
        while not condition():
            assert time.monotonic() < end, window.messages.text
            QApplication.processEvents()
            time.sleep(0.005)
    wait(lambda: len(window.session.rows) > 20 and not window.pane.running)
    window.side.setCurrentWidget(window.side.live)
    wait(lambda: window.side.live.findings.toPlainText())
    wait(lambda: "onnx" in window.side.live.state.text())
    maps = open("/proc/self/maps").read()
    print("modules", sorted({"onnxruntime", "rknnlite", "rknn"} & set(sys.modules)))
    print("libraries", [name for name in ("librknnrt", "libonnxruntime", "onnxruntime_pybind11") if name in maps])
    children = set()
    for task in os.listdir("/proc/self/task"):
        children |= set(open(f"/proc/self/task/{task}/children").read().split())
    print("children", len(children))
    window.close()
    assert window.all_ended
    wait(lambda: not any(os.path.exists(f"/proc/{child}/exe") for child in worked(children)))
    return 0

def worked(children):
    # Those that ran contexts; multiprocessing's own tracker of resources lives as long as the process.
    alive = []
    for child in children:
        try:
            if b"resource_tracker" not in open(f"/proc/{child}/cmdline", "rb").read():
                alive.append(child)
        except OSError:
            pass
    return alive

QApplication.exec_ = drive
if __name__ == "__main__":
    sys.exit(gui_command.run(backend="onnx", workers="processes"))
"""


@pytest.mark.timeout(180)
def test_the_runtime_stays_out_of_the_window(tmp_path: Path) -> None:
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    environ = {"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ |= {"XDG_CONFIG_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert told["modules"] == "[]"
    assert told["libraries"] == "[]"
    assert int(told["children"]) >= 2
