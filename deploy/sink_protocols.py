"""Sink protocols: what takes finished records, as files that can be made anew or as pictures that cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .frames import Record


class Sink(Protocol):
    """Takes finished records one by one."""

    path: Path

    def add(self, record: Record) -> None:
        """Take one record. Raises OSError; what was taken before stays readable."""

    def close(self) -> None:
        """Let go of the files."""


class FileSink(Sink, Protocol):
    """Keeps one file of all records, which can be made anew from the journal."""

    def show(self, records: Sequence[Record]) -> None:
        """Have `publish` write scenes that are done in part behind all others, until a record comes or other ones."""

    def spill(self) -> None:
        """Keep memory small while many records come at once. Raises OSError."""

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all; called by another thread than `add`. Raises OSError."""


class PictureSink(Sink, Protocol):
    """Draws what it can draw only while the image is at hand."""

    skipped: int

    def replay(self, record: Record, again: bool = False) -> None:
        """Take note of a record that an earlier run has drawn. again: it comes once more, in the place of that."""

    def drawn(self, records: Iterable[Record]) -> Iterator[Path]:
        """Yield the files that an earlier run drew of its records, given in order; some of them may not be there."""

    def finish(self, name: str) -> None:
        """Take note that a video was seen to its end. Raises OSError."""
