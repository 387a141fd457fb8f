"""Replay of a journal: which of its lines still count for a run that goes on, and what they mean for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from .finished import Finished
from .frames import Record
from .journal_lines import Entry, name_of, record_of, scene_of, tile_of, whole_lines
from .source_identity import Identity, has_changed, identity_of


class Replay:
    """Read a journal whose first line is known to fit.

    handle: of the whole file. names: sources of the run that goes on; none: whatever they are. again: drop frames of
    videos that were not seen to their end. drops: whether any line counts no more, or reads
    otherwise now. changed: names of sources that have
    changed since. Raises ValueError for a damaged line.
    """

    def __init__(self, handle: BinaryIO, path: Path, names: Sequence[str], *, again: bool) -> None:
        self._handle, self._path, self._again = handle, path, again
        self._now: dict[str, tuple[str, Identity]] = {}
        for name in names:
            identity = identity_of(name)
            self._now[identity[0]] = (name, identity)
        self._names = frozenset(names)
        self.changed: dict[str, None] = {}
        self._ended: set[str] = set()  # videos
        self._begun: set[str] = set()  # scenes with tiles
        self._complete: set[str] = set()  # those of them that were finished
        for _, entry, file in self._entries():
            source = _source(entry, file)
            if "finished" in entry:
                self._ended.add(source)
            elif "scene" in entry:
                self._begun.add(source)
            elif "name" in entry and entry.get("complete") is not False and source in self._begun:
                self._complete.add(source)
        self.drops = any(
            not self._counts(entry, file) or self._renamed(entry, file) is not entry
            for _, entry, file in self._entries()
        )

    def kept(
        self, done: Finished, on_record: Callable[[Record], None], on_dropped: Callable[[Record], None]
    ) -> Iterator[tuple[int, Entry]]:
        """Yield (offset behind it, entry) of each line that counts, having told `done` and `on_record` of it.

        on_dropped: gets records of images and scenes that count no more, by their present names.
        """
        for end, entry, file in self._entries():
            if not self._counts(entry, file):
                if "name" in entry and entry["frame"] is None:
                    on_dropped(replace(record_of(entry), name=self._name_now(entry, file) or entry["name"]))
                continue
            entry = self._renamed(entry, file)
            name = self._name_now(entry, file)
            if "finished" in entry:
                if name is not None:
                    done.names.add(name)
            elif "scene" in entry:
                if name is not None:
                    done.begin_scene(scene_of(entry))
            elif "tile" in entry:
                if name in done.parts:
                    done.note_tile(tile_of(entry))
            else:
                record = record_of(entry)
                if name is not None:
                    done.note(replace(record, name=name))
                on_record(record)
            yield end, entry

    def _counts(self, entry: Entry, file: Identity | None) -> bool:
        """Tell whether a line still holds what the run that goes on would find."""
        source = _source(entry, file)
        if file is not None and file[0] in self._now and has_changed(file, self._now[file[0]][1]):
            self.changed[self._now[file[0]][0]] = None
            return False
        if "scene" in entry or "tile" in entry:
            return source not in self._complete
        if entry.get("complete") is False:
            return False
        return not (self._again and entry.get("frame") is not None) or source in self._ended

    def _renamed(self, entry: Entry, file: Identity | None) -> Entry:
        """Return the line of a scene that is begun, or of its tile, by its present name: more will follow by that."""
        key = "scene" if "scene" in entry else "of" if "of" in entry else None
        name = self._name_now(entry, file)
        return entry if key is None or name is None or entry[key] == name else {**entry, key: name}

    def _name_now(self, entry: Entry, file: Identity | None) -> str | None:
        """Return what the run that goes on calls a source; None for one that it does not mean by that name."""
        name = name_of(entry)
        if file is None:
            return name
        if file[0] in self._now:
            return self._now[file[0]][0]
        return None if name in self._names else name

    def _entries(self) -> Iterator[tuple[int, Entry, Identity | None]]:
        """Yield (offset behind the line, entry, the file that it is about) for all lines but the first."""
        self._handle.seek(0)
        files: dict[str, Any] = {}  # the last of each scene and video; images say it themselves
        lines = whole_lines(self._handle, self._path)
        next(lines)
        for end, entry in lines:
            name = name_of(entry)
            file = tuple(entry["file"]) if "file" in entry else files.get(name)
            if "file" in entry and ("scene" in entry or entry.get("frame") is not None):
                files[name] = file
            yield end, entry, file


def _source(entry: Entry, file: Identity | None) -> str:
    return name_of(entry) if file is None else file[0]
