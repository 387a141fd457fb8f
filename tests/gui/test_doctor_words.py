"""What the doctor finds is told in the window's language, on every machine that the doctor's tests know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PyQt5.QtCore import QCoreApplication

from deploy.doctor import TOPICS, diagnose
from deploy.doctor_machine import Finding
from deploy.phrases import Phrase, phrase
from gui.doctor_words import CHECKS, check_name, in_words
from gui.dressing import Dressing
from gui.main_window import MainWindow
from gui.opening import PROCEDURAL
from tests.deploy import boards
from tests.deploy.boards import plant
from tests.deploy.test_doctor import ALL_BOARDS

CHINESE = re.compile(r"[\u4e00-\u9fff]")
# What may be no phrase though it looks like a sentence: a command to copy, and nothing else.
COMMAND = re.compile(r"(echo|unset) ")


@pytest.fixture
def chinese(dressing: Dressing) -> Iterator[Dressing]:
    dressing.use_language("zh_CN")
    yield dressing
    dressing.use_language("en")


def templates_with_words(text: object) -> Iterator[str]:
    """Yield the templates that a text is made of, innermost ones too, where they hold words beside what is put in."""
    if isinstance(text, Phrase):
        if re.search(r"[A-Za-z]", re.sub(r"{[^}]*}", "", text.template)):
            yield text.template
        for value in text.values.values():
            yield from templates_with_words(value)


@pytest.mark.parametrize("tree", ALL_BOARDS)
def test_every_finding_is_told_in_chinese(chinese: Dressing, tmp_path: Path, tree: Callable[[], Any]) -> None:
    findings = diagnose(plant(tree(), tmp_path), PROCEDURAL, {})
    assert findings
    told = 0
    for text in (text for finding in findings for text in (finding.told, finding.cure)):
        templates = list(templates_with_words(text))
        for template in templates:
            assert CHINESE.search(QCoreApplication.translate("@default", template)), template
        if templates:
            assert CHINESE.search(in_words(text)), text
            told += 1
        elif not isinstance(text, Phrase):
            assert COMMAND.match(text) or not re.search(r"[a-z]{2} [a-z]{2}", text), f"{text!r} should be a phrase"
    assert told > len(findings) / 2  # most findings hold words, not versions alone


def test_lists_are_joined_as_the_language_does(chinese: Dressing, tmp_path: Path) -> None:
    found = {finding.check: finding for finding in diagnose(plant(boards.healthy_board(), tmp_path), PROCEDURAL, {})}
    assert in_words(found["NPU load"].told) == "核心 0：0 %，核心 1：0 %，核心 2：0 %"
    assert "（onnx 和 rknn）" in in_words(found["model"].told)


def test_every_check_has_a_name(chinese: Dressing) -> None:
    assert set(CHECKS) == {check for checks in TOPICS.values() for check in checks}
    assert check_name("temperature") == "温度"


def test_findings_follow_the_language(window: MainWindow, dressing: Dressing, qtbot: Any) -> None:
    live = window.side.live
    window.opening.examined = True  # this machine's own doctor stays out of it
    window.side.setCurrentWidget(live)
    cure = phrase("stop what is not needed (the desktop first), or add swap")
    told = phrase("{free} of {total} MiB available", free=1, total=2)
    board = phrase("{chip}: {model}", chip="RK3588", model="<b>mine</b>")
    live.show_findings([Finding("memory", "error", told, cure), Finding("chip", "ok", board)])
    assert "memory 1 of 2 MiB available" in live.findings.toPlainText()
    dressing.use_language("zh_CN")
    qtbot.waitUntil(lambda: "内存 可用 1 MiB" in live.findings.toPlainText())
    assert "交换空间" in live.findings.toPlainText()
    assert "芯片 RK3588：<b>mine</b>" in live.findings.toPlainText()
    dressing.use_language("en")
    qtbot.waitUntil(lambda: "add swap" in live.findings.toPlainText())
