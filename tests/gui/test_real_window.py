"""The real window on an X server, both import orders of cv2 and PyQt5, through a whole session."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("xcb-xinerama", "xcb-icccm", "xcb-image", "xcb-keysyms", "xcb-render-util", "xkbcommon-x11")


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A screen of its own; skipped with the reason where this machine cannot have one."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed; apt-get install xvfb")
    missing = [name for name in LIBRARIES if ctypes.util.find_library(name) is None]
    if missing:
        pytest.skip(f"Qt's xcb plugin needs {', '.join(missing)}; apt-get install libxcb-... and libxkbcommon-x11-0")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "3840x2160x24", "-nolisten", "tcp"],
        pass_fds=[writer],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as told:
        number = told.readline().strip()
    try:
        if not number:
            pytest.skip("Xvfb does not start here")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("first", ["cv2", "PyQt5.QtWidgets"])
def test_a_whole_session(display: str, first: str, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    pictures = Path(os.environ.get("RSEDGE_SCREENSHOTS", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QT_")}
    environ |= {"DISPLAY": display, "XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    environ |= {"XDG_RUNTIME_DIR": str(tmp_path)}
    script = Path(__file__).with_name("whole_session.py")
    arguments = [str(script), str(pictures), str(tmp_path), *(["all"] if first == "cv2" else [])]
    # Which of the two comes first is settled before the script imports either.
    start = f"import sys, runpy, {first}; sys.argv = {arguments}; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", start]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    shown = {path.stem: cv2.imread(str(path)) for path in pictures.glob("*.png")}
    for name in ("scene", "video", "comparison"):
        light, dark = shown[f"{name}_light"], shown[f"{name}_dark"]
        assert light.shape == dark.shape == (800, 1280, 3)
        assert min(light.std(), dark.std()) > 20  # not one colour
        # The window follows the theme, the picture does not.
        assert light[:60].mean() > dark[:60].mean() + 100
    if first == "cv2":
        for name in ("filters", "table", "machine", "bundle"):
            assert shown[f"small_{name}_en_light"].shape == shown[f"small_{name}_zh_CN_dark"].shape == (600, 1024, 3)
        assert shown["large_dark"].shape == (2160, 3840, 3)
