"""Starting: no torch, quick, no screen and OpenCV's plugins; the languages are whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest
from PyQt5.QtCore import QCoreApplication, QTranslator

from gui.gui_command import check_display, leave_opencv_plugins
from gui.language import FOLDER
from gui.settings import Remembered
from gui.sifting import Filters

ROOT = Path(__file__).resolve().parents[2]


def test_opencv_plugins_are_left_and_others_kept() -> None:
    ours = {"QT_QPA_PLATFORM_PLUGIN_PATH": str(Path(cv2.__file__).parent / "qt" / "plugins"), "HOME": "/h"}
    leave_opencv_plugins(ours)
    assert ours == {"HOME": "/h"}
    theirs = {"QT_QPA_PLATFORM_PLUGIN_PATH": "/usr/lib/qt/plugins"}
    leave_opencv_plugins(theirs)
    assert theirs == {"QT_QPA_PLATFORM_PLUGIN_PATH": "/usr/lib/qt/plugins"}


def test_without_a_screen_it_says_so() -> None:
    with pytest.raises(OSError, match="no screen"):
        check_display({})
    check_display({"DISPLAY": ":0"})
    check_display({"WAYLAND_DISPLAY": "wayland-0"})
    check_display({"QT_QPA_PLATFORM": "offscreen"})


def test_the_window_comes_quickly_and_without_torch(tmp_path: Path) -> None:
    """Up to the first paint; 1.5 s on an idle machine, three times that here."""
    code = f"""
import time; begin = time.perf_counter()
import sys
from PyQt5.QtWidgets import QApplication
from gui import gui_command
def drive(_=None):
    QApplication.processEvents()
    print(time.perf_counter() - begin)
    heavy = {{"torch", "onnx", "onnxruntime", "rasterio", "pyqtgraph", "matplotlib", "scipy"}} & set(sys.modules)
    print(sorted(heavy))
    next(w for w in QApplication.topLevelWidgets() if w.isVisible()).close()
    return 0
QApplication.exec_ = drive
gui_command.run({str(tmp_path)!r} and None, "/none.png")
"""
    environ = {
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_CONFIG_HOME": str(tmp_path),
        "PATH": "/usr/bin",
        "HOME": str(tmp_path),
    }
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds, heavy = done.stdout.splitlines()[:2]
    assert heavy == "[]"
    assert float(seconds) < 4.5, f"{seconds} s, with Python's own start {time.perf_counter() - begin:.2f} s"


def messages() -> list[tuple[str, str, str]]:
    tree = ElementTree.parse(FOLDER / "rsedge_zh_CN.ts")
    found = []
    for context in tree.iter("context"):
        name = context.findtext("name") or ""
        for message in context.iter("message"):
            found.append((name, message.findtext("source") or "", message.findtext("translation") or ""))
    return found


def test_every_text_is_translated_with_its_placeholders() -> None:
    assert len(messages()) > 130
    for _, source, translation in messages():
        assert translation, source
        assert sorted(re.findall(r"{[^}]*}|</?\w+", translation)) == sorted(re.findall(r"{[^}]*}|</?\w+", source))
        assert ("&" in source) == ("&" in translation), source


def test_the_compiled_file_holds_what_the_source_says(qapp: object) -> None:
    translator = QTranslator()
    assert translator.load(str(FOLDER / "rsedge_zh_CN.qm"))
    QCoreApplication.installTranslator(translator)
    try:
        for context, source, translation in messages():
            told = QCoreApplication.translate(context, source)
            assert told == translation, f"{source}: run lrelease gui/i18n/*.ts"
    finally:
        QCoreApplication.removeTranslator(translator)


def test_every_text_of_the_code_is_in_the_translation(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("pylupdate5")
    if not tool.exists() and shutil.which("pylupdate5") is None:
        pytest.skip("pylupdate5 is not installed")
    fresh = tmp_path / "fresh.ts"
    files = [*(ROOT / "gui").glob("*.py"), *(ROOT / "deploy").glob("doctor*.py"), ROOT / "deploy" / "phrases.py"]
    command = [str(tool) if tool.exists() else "pylupdate5", "-tr-function", "phrase", *map(str, sorted(files))]
    subprocess.run([*command, "-ts", str(fresh)], check=True, capture_output=True, timeout=60)
    known = {(context, source) for context, source, _ in messages()}
    for context in ElementTree.parse(fresh).iter("context"):
        for message in context.iter("message"):
            assert (context.findtext("name"), message.findtext("source")) in known, "run pylupdate5 and translate"


def test_settings_that_make_no_sense_count_as_absent(remembered: Remembered) -> None:
    store = remembered._store
    for key, value in (("theme", "pink"), ("language", "xx"), ("score", "much"), ("iou", 7), ("folder", "/none")):
        store.setValue(key, value)
    assert remembered.theme == "desktop"
    assert remembered.language == ""
    assert remembered.filters == Filters()
    assert remembered.folder == Path.home()
    for i in range(12):
        remembered.add_recent("sources", f"/x/{i}")
    remembered.add_recent("sources", "/x/5")
    assert remembered.recent("sources")[:3] == ["/x/5", "/x/11", "/x/10"]
    assert len(remembered.recent("sources")) == 8
    remembered.add_recent("sources", "rtsp://user:secret@camera/1")
    assert not any("secret" in entry for entry in remembered.recent("sources"))
