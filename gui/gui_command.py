"""Start the desktop app: what `rsedge gui` does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Set by `import cv2` of OpenCV's wheels with Qt; PyQt5 would load OpenCV's plugins from there, and abort.
_PLUGIN_VARIABLES = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")


def leave_opencv_plugins(environ: MutableMapping[str, str]) -> None:
    """Take OpenCV's Qt plugins out of the environment; to be called after cv2 was imported, before QApplication.

    Paths that the user has set and that lead elsewhere stay.
    """
    import cv2

    home = Path(cv2.__file__).resolve().parent
    for name in _PLUGIN_VARIABLES:
        value = environ.get(name)
        if value and (home in Path(value).resolve().parents or "cv2" in Path(value).parts):
            del environ[name]


def check_display(environ: Mapping[str, str]) -> None:
    """Raise OSError where there is no screen to open a window on: Qt itself would abort the process."""
    named = environ.get("QT_QPA_PLATFORM", "").split(":")[0]
    if named and named not in ("xcb", "wayland", "wayland-egl"):
        return
    if not environ.get("DISPLAY") and not environ.get("WAYLAND_DISPLAY"):
        raise OSError(
            "there is no screen (neither DISPLAY nor WAYLAND_DISPLAY is set); start it on the desktop, or over ssh -X"
        )


def run(
    bundle: Path | None = None,
    source: str | None = None,
    *,
    backend: str = "auto",
    workers: str = "threads",
) -> int:
    """Open the window and stay until it is closed; returns the exit status.

    bundle: None takes the one that ships with drawn scenes. source: an image, folder, scene, video, camera or address;
    None draws a scene, unless a bundle is given. Raises OSError without a screen, ModuleNotFoundError without PyQt5.
    """
    check_display(os.environ)
    leave_opencv_plugins(os.environ)
    from PyQt5.QtCore import QCoreApplication, Qt, QTimer
    from PyQt5.QtWidgets import QApplication

    for attribute in (Qt.AA_EnableHighDpiScaling, Qt.AA_UseHighDpiPixmaps):
        QCoreApplication.setAttribute(attribute)
    app = QApplication.instance() or QApplication(["rsedge"])
    app.setApplicationName("rsedge")

    from .dressing import Dressing
    from .language import desktop_language
    from .letters import Letters
    from .main_window import MainWindow
    from .opening import PROCEDURAL
    from .running import DRAWN
    from .settings import Remembered
    from .short_pauses import settle_memory, take_turns_often

    take_turns_often()
    remembered = Remembered()
    dressing = Dressing(app)
    dressing.use_theme(remembered.theme)
    language = remembered.language or desktop_language()
    try:
        dressing.use_language(language)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
    window = MainWindow(remembered, backend=backend, workers=workers)
    window.choices.use_dressing(dressing)
    window.show()
    QTimer.singleShot(0, settle_memory)  # once the first picture of the window is there
    Letters(app)
    # Python only sees Ctrl+C while it runs, which Qt's loop hardly lets it do.
    signal.signal(signal.SIGINT, lambda *_: window.close())
    beat = QTimer()
    beat.timeout.connect(lambda: None)
    beat.start(250)
    window.opening.bundle(bundle or PROCEDURAL)
    if source is not None:
        window.opening.source(source)
    elif bundle is None:
        window.opening.source(DRAWN)
    status = int(app.exec_())
    beat.stop()
    if not window.all_ended:  # a network stream that hangs in its library: Qt would abort over the running thread
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
