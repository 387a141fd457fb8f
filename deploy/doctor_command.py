"""`rsedge doctor`: print what the doctor found, as an aligned list or as one JSON document."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from .doctor import diagnose, topic_of
from .doctor_machine import Finding

SCHEMA_VERSION = 1
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def run(bundle: Path | None = None, as_json: bool = False, root: Path = Path("/")) -> int:
    """Examine this machine (or the captured tree at `root`), print the findings, return the exit code.

    Exit code: 0 where no finding is an error (warnings do not count), 1 where one is. 2 stays for wrong usage.
    Raises FileNotFoundError where `root` is no folder.
    """
    findings = diagnose(root, bundle)
    if as_json:
        print(json.dumps(as_document(findings, root), indent=2, ensure_ascii=False))
    else:
        print_findings(findings, Console(highlight=False))
    return exit_code(findings)


def exit_code(findings: list[Finding]) -> int:
    """Return 1 where a finding is an error, else 0."""
    return int(any(finding.level == "error" for finding in findings))


def as_document(findings: list[Finding], root: Path = Path("/")) -> dict[str, object]:
    """Return the findings as one JSON document; `schema` grows when a field changes its meaning or goes."""
    counts = _counts(findings)
    return {
        "schema": SCHEMA_VERSION,
        "root": str(root),
        "exit_code": exit_code(findings),
        "counts": {level: counts[level] for level in _STYLES},
        "findings": [
            {"topic": topic_of(f.check), "check": f.check, "level": f.level, "told": f.told, "cure": f.cure}
            for f in findings
        ],
    }


def print_findings(findings: list[Finding], console: Console) -> None:
    """Print one line for each finding, topic by topic, a cure indented below its finding, and a last line of counts.

    The levels are written out, so that nothing is lost without colours. What was found is folded into its column; a
    cure is one line however long it is, so that a command in it can be copied.
    """
    widths = [
        2 + max((len(text) for text in column), default=0)
        for column in (
            [topic_of(f.check) for f in findings],
            [f.level for f in findings],
            [f.check for f in findings],
        )
    ]
    last = ""
    for finding in findings:
        topic = topic_of(finding.check)
        line = Text(f"{topic if topic != last else '':<{widths[0]}}", "bold")
        line.append(f"{finding.level:<{widths[1]}}", _STYLES[finding.level])
        line.append(f"{finding.check:<{widths[2]}}", "not bold")
        folded = wrap(_plain(finding.told), max(20, console.width - sum(widths)), break_long_words=False)
        line.append(f"\n{'':<{sum(widths)}}".join(folded), "not bold")
        console.print(line, soft_wrap=True)
        if finding.cure:
            console.print(Text(f"{'':<{widths[0]}}-> {_plain(finding.cure)}", "italic"), soft_wrap=True)
        last = topic
    counts = _counts(findings)
    parts = [f"{counts[level]} {_plural(level, counts[level])}" for level in ("error", "warning") if counts[level]]
    summary = ", ".join(parts) or "nothing to mend"
    console.print(Text(f"\n{len(findings)} checks: {summary}", _STYLES[_worst(counts)]))


def _plain(text: str) -> str:
    """Return a text without control characters: a bundle's name must not be able to steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _counts(findings: list[Finding]) -> Counter[str]:
    return Counter(finding.level for finding in findings)


def _worst(counts: Counter[str]) -> str:
    return next((level for level in ("error", "warning") if counts[level]), "ok")


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
