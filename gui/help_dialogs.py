"""Help dialogues: every shortcut on one page, and what this program is."""

from __future__ import annotations

import html
import importlib.metadata
import re
from collections.abc import Mapping

from PyQt5.QtCore import PYQT_VERSION_STR, QT_VERSION_STR, QCoreApplication
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import QAction, QDialog, QDialogButtonBox, QMenu, QTextBrowser, QVBoxLayout, QWidget


def shortcut_page(menus: Mapping[str, QMenu]) -> str:
    """Return the shortcuts of all menus as HTML, menu by menu in their order, as the menus name them now."""
    rows = []
    for menu in menus.values():
        found = [action for action in _all_actions(menu) if not action.shortcut().isEmpty()]
        if found:
            rows.append(f"<tr><td colspan='2'><h4>{_plain(menu.title())}</h4></td></tr>")
        for action in found:
            keys = html.escape(action.shortcut().toString(QKeySequence.NativeText))
            rows.append(f"<tr>{_cell(_plain(action.text()))}{_cell(f'<b>{keys}</b>')}</tr>")
    return f"<table cellspacing='0' cellpadding='2'>{''.join(rows)}</table>"


def about_page() -> str:
    """Return what this program is as HTML: version, licences, versions of what it stands on."""
    told = QCoreApplication.translate("HelpDialogs", "From annotated aerial images to an INT8 detector on the RK3588.")
    licence = QCoreApplication.translate(
        "HelpDialogs", "The Apache licence 2.0 applies to rsedge. Qt and PyQt5 are there under the GPL 3."
    )
    return (
        f"<h3>rsedge {html.escape(_version())}</h3><p>{html.escape(told)}</p><p>{html.escape(licence)}</p>"
        f"<p>Qt {QT_VERSION_STR}, PyQt {PYQT_VERSION_STR}</p>"
    )


def page_dialog(parent: QWidget, title: str, page: str) -> QDialog:
    """Return a dialogue with one page of HTML and a button that closes it; as large as the page, where it fits."""
    dialog = QDialog(parent)
    dialog.setWindowTitle(title)
    browser = QTextBrowser(dialog)
    browser.setHtml(page)
    buttons = QDialogButtonBox(QDialogButtonBox.Close, dialog)
    buttons.button(QDialogButtonBox.Close).setText(QCoreApplication.translate("HelpDialogs", "&Close"))
    buttons.rejected.connect(dialog.reject)
    layout = QVBoxLayout(dialog)
    layout.addWidget(browser)
    layout.addWidget(buttons)
    document = browser.document()
    document.setTextWidth(max(340, min(document.idealWidth(), 460)))
    browser.setMinimumSize(
        round(document.size().width()) + 36, min(round(document.size().height()) + 12, parent.height() - 120)
    )
    return dialog


def _version() -> str:
    try:
        return importlib.metadata.version("rsedge")
    except importlib.metadata.PackageNotFoundError:  # run from a tree that was not installed
        return ""


def _all_actions(menu: QMenu) -> list[QAction]:
    found = []
    for action in menu.actions():
        found += _all_actions(action.menu()) if action.menu() is not None else [action]
    return found


def _cell(content: str) -> str:
    return f"<td style='padding-right:24px;white-space:nowrap'>{content}</td>"


def _plain(text: str) -> str:
    """Return a menu's text without the mark of its letter: "&Open…" and "打开(&O)…" alike."""
    return html.escape(re.sub(r"\(&\w\)|&", "", text))
