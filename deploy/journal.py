"""Journal: one line per finished record, the truth that every other output file can be rebuilt from.

`records.jsonl` holds a first line that says what the run was (settings, class names, formats), then a JSON line for
each record, handed to the operating system before `append` returns. Of a scene there are lines before that: one as it
begins, and one for each tile, so that a run that was stopped in its middle goes on with the next tile. Whatever ends
the run, the lines written stay; a last line without its line end was cut off in the middle and does not count. Boxes
and scores are float32, written as the doubles that they are exactly, so that a record read back is the record that was
written. A source is known again by its file (resolved path, size, time of change), however it is named.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from .finished import Finished
from .frames import Record
from .growing_file import append_whole, cannot_write
from .journal_lines import Entry, encode, entry_of_record, entry_of_scene, entry_of_tile, whole_lines
from .journal_replay import Replay
from .scene_parts import SceneBegun, TileFound
from .source_identity import Identity, identity_of

VERSION = 2
_PICTURES = ("overlay", "video")  # drawn while the image is at hand; the journal cannot bring them back


class Journal:
    """The journal of one output folder, locked for other processes while it is open.

    path: of the file. info, class_names, formats: what its first line says. Lines are appended with one write each;
    where that fails, the part of a line that came through is taken back. changed: sources whose files are others than
    those that `resume` found in the journal.
    """

    def __init__(self, path: Path, info: dict[str, Any], class_names: Sequence[str], formats: Sequence[str]) -> None:
        self.path = path
        self._header = {
            "journal": VERSION,
            "info": json.loads(json.dumps(info)),  # as it will read back: tuples are lists there
            "class_names": list(class_names),
            "formats": list(formats),
            "wrote": sorted(formats),
        }
        self._fd = -1
        self._size = 0
        # Of scenes and videos: as they were when they were opened.
        self._files: dict[str, Identity] = {}
        self.changed: list[str] = []

    @property
    def class_names(self) -> list[str]:
        """The names that `class_id` of the records points into."""
        return list(self._header["class_names"])

    @property
    def is_open(self) -> bool:
        """Whether lines can be appended."""
        return self._fd >= 0

    def begin(self) -> None:
        """Start a new journal in the place of the one that is there. Raises OSError like `check_free`."""
        self.check_free()
        self._replace([encode(self._header)])

    def check_free(self) -> None:
        """Raise OSError where another process writes the journal that is there."""
        if self.path.exists():
            try:
                fd = os.open(self.path, os.O_RDWR)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            try:
                _lock(fd, self.path)
            finally:
                os.close(fd)

    def resume(
        self,
        on_record: Callable[[Record], None],
        names: Sequence[str] = (),
        on_dropped: Callable[[Record], None] = lambda record: None,
    ) -> Finished:
        """Go on with the journal that is there, and hand each of its records to `on_record`, in order.

        names: sources of this run, as it names them. Those that the journal knows under another name are finished too;
        where one has changed since, what was found in it is dropped and it is listed in `changed`. on_dropped: gets
        the records of images and scenes that are to be done again.
        Without a journal, or with one that was cut off in its first line, nothing is finished and nothing is written.
        Where the annotated video is among the formats, frames of a video that was not seen to its end are dropped from
        the journal: a video file cannot be continued, it is written again from its first frame. So are records of
        scenes of which parts failed; their other tiles stay, and those of scenes that were stopped in their middle.
        Raises ValueError for a journal of other settings, or a damaged one, OSError where it cannot be read or written.
        """
        done = Finished()
        if not self.path.exists():
            return done
        try:
            fd = os.open(self.path, os.O_RDWR)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            _lock(fd, self.path)
            with open(fd, "rb", closefd=False) as handle:
                first = next(whole_lines(handle, self.path), None)
                if first is None:
                    return done
                end, header = first
                self._check(header)
                self._header["wrote"] = sorted({*header["wrote"], *self._header["formats"]})
                replay = Replay(handle, self.path, names, again="video" in self._header["formats"])
                kept = replay.kept(done, on_record, on_dropped)
                if replay.drops or header != self._header:
                    self._replace(chain([encode(self._header)], (encode(entry) for _, entry in kept)))
                else:
                    for behind, _ in kept:
                        end = behind
                self.changed = list(replay.changed)
            if self._fd < 0:
                os.ftruncate(fd, end)
                os.lseek(fd, end, os.SEEK_SET)
                self._fd, self._size, fd = fd, end, -1
        finally:
            if fd >= 0:
                os.close(fd)
        return done

    def append(self, record: Record) -> None:
        """Write one record; it is finished when this returns. Raises OSError; the journal is then as it was before."""
        self._write(entry_of_record(record, self._new_file(record)))

    def begin_scene(self, begun: SceneBegun) -> None:
        """Write that the tiles of a scene come now. Raises OSError like `append`."""
        file = self._files[begun.name] = identity_of(begun.name)
        self._write(entry_of_scene(begun, file))

    def append_tile(self, found: TileFound) -> None:
        """Write what a tile of a scene found; it is finished when this returns. Raises OSError like `append`."""
        self._write(entry_of_tile(found))

    def finish(self, name: str) -> None:
        """Write that a video or stream was seen to its end. Raises OSError."""
        self._write({"finished": name, "file": list(self._files.get(name) or identity_of(name))})

    def sync(self) -> None:
        """Have the disk hold what was written, against a power cut. Raises OSError."""
        if self.is_open:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file and free it for other runs."""
        if self.is_open:
            os.close(self._fd)
            self._fd = -1

    def _new_file(self, record: Record) -> Identity | None:
        """Return what a record was read from; None where a line before said that."""
        if record.frame_number is None:
            return self._files.pop(record.name, None) or identity_of(record.name)
        if record.name in self._files:
            return None
        self._files[record.name] = identity_of(record.name)
        return self._files[record.name]

    def _write(self, entry: Entry) -> None:
        line = encode(entry)
        append_whole(self._fd, self.path, line, self._size)
        self._size += len(line)

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Put a journal of these lines in the place of the one that is there, and keep it open."""
        scratch = self.path.with_name(self.path.name + ".part")
        try:
            fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            _lock(fd, self.path)
            size = 0
            for line in lines:
                append_whole(fd, self.path, line, size)
                size += len(line)
            os.replace(scratch, self.path)
        except (OSError, ValueError):
            os.close(fd)
            scratch.unlink(missing_ok=True)
            raise
        self._fd, self._size = fd, size

    def _check(self, header: dict[str, Any]) -> None:
        """Refuse to go on with the journal of a run that would have given other results."""
        cure = "use the settings of that run, choose another output folder, or begin anew with --overwrite"
        if header.get("journal") != VERSION:
            raise ValueError(
                f"{self.path}: a journal of version {header.get('journal')!r}, this rsedge goes on with {VERSION}; "
                "choose another output folder, or begin anew with --overwrite"
            )
        then, now = header["info"], self._header["info"]
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                raise ValueError(
                    f"{self.path}: was written with {key} {_shown(then.get(key))}, this run has "
                    f"{_shown(now.get(key))}; {cure}"
                )
        if header["class_names"] != self._header["class_names"]:
            raise ValueError(
                f"{self.path}: was written with class names {', '.join(header['class_names'])}, this run has "
                f"{', '.join(self._header['class_names'])}; {cure}"
            )
        for name in _PICTURES:
            if name in self._header["formats"] and name not in header["formats"]:
                raise ValueError(
                    f"{self.path}: was written without {name}, and pictures of finished images cannot be drawn "
                    f"afterwards; leave {name} out, choose another output folder, or begin anew with --overwrite"
                )


def _lock(fd: int, path: Path) -> None:
    """Keep other processes out. A record lock is not inherited by worker processes, which may outlive a killed run."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise OSError(
            f"{path}: another run is writing into this folder; wait for its end or choose another output folder"
        ) from None
    except OSError:  # a file system without locks; nothing is lost but this guard
        pass


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)
