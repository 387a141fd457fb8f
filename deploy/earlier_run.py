"""Earlier run: what one left in an output folder, told where another would replace it, or removed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .frames import Record
from .growing_file import cannot_write
from .journal_lines import Entry, record_of, whole_lines
from .sink_formats import FORMATS, sinks_of


@dataclass(frozen=True)
class EarlierRun:
    """A run whose journal lies in a folder. wrote: its formats. finished: records. tiles: of scenes not finished."""

    out: Path
    journal: Path
    wrote: tuple[str, ...]
    finished: int
    tiles: int

    @classmethod
    def find(cls, out: Path, journal: str) -> EarlierRun | None:
        """Return the run that a folder's journal tells of; None without one, or if it finished nothing.

        Raises OSError where the journal cannot be read. One that is damaged counts up to there.
        """
        path = out / journal
        wrote: tuple[str, ...] = ()
        finished, tiles = 0, 0
        try:
            with open(path, "rb") as handle:
                for entry in _good_lines(handle, path):
                    if "journal" in entry:
                        wrote = tuple(entry.get("wrote") or entry.get("formats") or ())
                    elif "name" in entry:
                        finished += 1
                        tiles = 0
                    elif "tile" in entry:
                        tiles += 1
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(out, path, wrote, finished, tiles) if finished or tiles else None

    def refuse(self) -> None:
        """Raise ValueError: what is there, and the cures."""
        tiles = f" and {self.tiles} tiles of a scene" if self.tiles else ""
        raise ValueError(
            f"{self.out}: holds an earlier run, {self.finished} images, frames or scenes{tiles} are finished "
            f"({self.journal.name}); --resume goes on after them, --overwrite begins anew, or choose another folder"
        )

    def remove(self, replaced: Sequence[Path]) -> None:
        """Delete what the run wrote, and folders that are empty then; its journal stays. Raises OSError.

        replaced: files that stay as well, because the next run replaces them whole.
        """
        files, pictures = sinks_of(self.out, [name for name in self.wrote if name in FORMATS], (), {}, None)
        path = self.out
        try:
            for path in (sink.path for sink in files):
                if path not in replaced:
                    path.unlink(missing_ok=True)
            for sink in pictures:
                folders = {sink.path: None}
                for path in sink.drawn(self._records()):
                    path.unlink(missing_ok=True)
                    folders[path.parent] = None
                for path in sorted(folders, key=lambda folder: -len(folder.parts)):
                    if path.is_dir() and not os.listdir(path):
                        path.rmdir()
        except OSError as error:
            raise cannot_write(path, error) from error

    def _records(self) -> Iterator[Record]:
        with open(self.journal, "rb") as handle:
            for entry in _good_lines(handle, self.journal):
                if "name" in entry and "frame" in entry:
                    yield record_of(entry)


def _good_lines(handle: BinaryIO, path: Path) -> Iterator[Entry]:
    """Yield the entries up to the first that is damaged."""
    with suppress(ValueError):
        for _, entry in whole_lines(handle, path):
            yield entry
