"""Open dialogues: ask for a bundle, a source or annotations; what was dropped on the window."""

from __future__ import annotations

from pathlib import Path

from PyQt5.QtCore import QCoreApplication, QMimeData
from PyQt5.QtWidgets import QFileDialog, QInputDialog, QWidget

from deploy.images import EXTENSIONS
from deploy.manifest import MANIFEST_NAME
from deploy.sources import VIDEO_EXTENSIONS


def ask_bundle(parent: QWidget, folder: Path) -> Path | None:
    """Ask for a bundle's folder; None where the user cancels."""
    title = QCoreApplication.translate("OpenDialogs", "Open a bundle: the folder that holds manifest.json")
    chosen = QFileDialog.getExistingDirectory(parent, title, str(folder))
    return Path(chosen) if chosen else None


def ask_file(parent: QWidget, folder: Path) -> str | None:
    """Ask for an image, scene or video."""
    images, videos = (" ".join(f"*{e} *{e.upper()}" for e in group) for group in (EXTENSIONS, VIDEO_EXTENSIONS))
    filters = ";;".join((
        QCoreApplication.translate("OpenDialogs", "Images, scenes and videos ({patterns})").format(
            patterns=f"{images} *.jp2 {videos}"
        ),
        QCoreApplication.translate("OpenDialogs", "All files (*)"),
    ))  # fmt: skip
    title = QCoreApplication.translate("OpenDialogs", "Open an image, a scene or a video")
    chosen, _ = QFileDialog.getOpenFileName(parent, title, str(folder), filters)
    return chosen or None


def ask_folder(parent: QWidget, folder: Path) -> str | None:
    """Ask for a folder of images."""
    title = QCoreApplication.translate("OpenDialogs", "Open a folder of images")
    return QFileDialog.getExistingDirectory(parent, title, str(folder)) or None


def ask_address(parent: QWidget, recent: list[str]) -> str | None:
    """Ask for a camera's number or a stream's address."""
    title = QCoreApplication.translate("OpenDialogs", "Open a camera or a stream")
    text = QCoreApplication.translate("OpenDialogs", "Number of a camera (0), its device, or an address (rtsp://…)")
    known = [*dict.fromkeys([*(r for r in recent if "://" in r or r.isdecimal()), "0"])]
    chosen, fine = QInputDialog.getItem(parent, title, text, known, 0, True)
    return chosen.strip() if fine and chosen.strip() else None


def ask_truth(parent: QWidget, folder: Path, *, whole_folder: bool) -> Path | None:
    """Ask for annotations: a COCO file (or any file of a folder of others), or that folder."""
    title = QCoreApplication.translate("OpenDialogs", "Open annotations (COCO, YOLO, VOC, DOTA)")
    if whole_folder:
        chosen = QFileDialog.getExistingDirectory(parent, title, str(folder))
    else:
        kinds = QCoreApplication.translate("OpenDialogs", "Annotations ({patterns})").format(
            patterns="*.json *.txt *.xml"
        )
        chosen, _ = QFileDialog.getOpenFileName(parent, title, str(folder), kinds)
    return Path(chosen) if chosen else None


def dropped(mime: QMimeData | None) -> list[str]:
    """Return the paths or addresses that something dragged over the window holds."""
    if mime is None:
        return []
    if mime.hasUrls():
        return [url.toLocalFile() if url.isLocalFile() else url.toString() for url in mime.urls()]
    text = mime.text().strip()
    return [text] if "://" in text and "\n" not in text else []


def is_bundle(path: str) -> bool:
    """Whether a path is a bundle's folder, or its manifest."""
    return Path(path, MANIFEST_NAME).is_file() or Path(path).name == MANIFEST_NAME


def is_annotation(path: str) -> bool:
    """Whether a path is a file of annotations and no bundle's manifest."""
    return Path(path).suffix.lower() in (".json", ".xml", ".txt") and Path(path).is_file() and not is_bundle(path)
