"""Journal: one line per finished record, the truth that every other output file can be rebuilt from.

`records.jsonl` holds a first line that says what the run was (settings, class names, formats), then a JSON line for
each record, handed to the operating system before `append` returns. Whatever ends the run, the lines written stay; a
last line without its line end was cut off in the middle and does not count. Boxes and scores are float32, written as
the doubles that they are exactly, so that a record read back is the record that was written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .detections import Detections
from .frames import Record
from .growing_file import append_whole, cannot_write

VERSION = 1
_PICTURES = ("overlay", "video")  # drawn while the image is at hand; the journal cannot bring them back


@dataclass
class Finished:
    """What is done already.

    names: images and scenes, and videos seen to their end. last_frame: of each video or stream.
    """

    names: set[str] = field(default_factory=set)
    last_frame: dict[str, int] = field(default_factory=dict)

    def has(self, name: str, frame_number: int | None = None) -> bool:
        """Tell whether an image or scene, or a frame of a video, is finished. Frames before a finished one are."""
        return name in self.names or (frame_number is not None and frame_number <= self.last_frame.get(name, -1))

    def note(self, record: Record) -> None:
        """Count a record as finished, unless parts of it failed."""
        if not record.complete:
            return
        if record.frame_number is None:
            self.names.add(record.name)
        else:
            self.last_frame[record.name] = record.frame_number


class Journal:
    """The journal of one output folder, locked for other processes while it is open.

    path: of the file. info, class_names, formats: what its first line says. Lines are appended with one write each;
    where that fails, the part of a line that came through is taken back.
    """

    def __init__(self, path: Path, info: dict[str, Any], class_names: Sequence[str], formats: Sequence[str]) -> None:
        self.path = path
        self._header = {
            "journal": VERSION,
            "info": json.loads(json.dumps(info)),  # as it will read back: tuples are lists there
            "class_names": list(class_names),
            "formats": list(formats),
        }
        self._fd = -1
        self._size = 0

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
        self._replace([_encode(self._header)])

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

    def resume(self, on_record: Callable[[Record], None]) -> Finished:
        """Go on with the journal that is there, and hand each of its records to `on_record`, in order.

        Without a journal, or with one that was cut off in its first line, nothing is finished and nothing is written.
        Where the annotated video is among the formats, frames of a video that was not seen to its end are dropped from
        the journal: a video file cannot be continued, it is written again from its first frame. So are scenes of which
        parts failed: they are done again.
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
                first = next(_whole_lines(handle, self.path), None)
                if first is None:
                    return done
                end, header = first
                self._check(header)
                again = "video" in self._header["formats"]
                handle.seek(0)
                partial = any(entry.get("complete") is False for _, entry in _whole_lines(handle, self.path))
                kept = self._replay(handle, again, done, on_record)
                if again or partial or header != self._header:
                    self._replace(chain([_encode(self._header)], (_encode(entry) for _, entry in kept)))
                    return done
                for behind, _ in kept:
                    end = behind
            os.ftruncate(fd, end)
            os.lseek(fd, end, os.SEEK_SET)
            self._fd, self._size, fd = fd, end, -1
        finally:
            if fd >= 0:
                os.close(fd)
        return done

    def _replay(
        self, handle: BinaryIO, again: bool, done: Finished, on_record: Callable[[Record], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (offset behind it, entry) of each line that stays, having told `done` and `on_record` of it."""
        handle.seek(0)
        whole = {entry["finished"] for _, entry in _whole_lines(handle, self.path) if "finished" in entry}
        handle.seek(0)
        lines = _whole_lines(handle, self.path)
        next(lines)
        for end, entry in lines:
            if "finished" in entry:
                done.names.add(entry["finished"])
            elif entry.get("complete") is False:
                continue
            elif not again or entry["frame"] is None or entry["name"] in whole:
                record = _record_of(entry)
                done.note(record)
                on_record(record)
            else:
                continue
            yield end, entry

    def append(self, record: Record) -> None:
        """Write one record; it is finished when this returns. Raises OSError; the journal is then as it was before."""
        where = record.georeference
        found = record.detections
        self._write(
            {
                "name": record.name,
                "size_hw": [int(side) for side in record.size_hw],
                "frame": record.frame_number,
                "time": record.timestamp_s,
                "crs": None if where is None else where.crs,
                "transform": None if where is None else [float(v) for v in where.transform],
                "boxes": found.xyxy.tolist(),
                "score": found.score.tolist(),
                "class_id": found.class_id.tolist(),
                **({} if record.complete else {"complete": False}),
            }
        )

    def finish(self, name: str) -> None:
        """Write that a video or stream was seen to its end. Raises OSError."""
        self._write({"finished": name})

    def sync(self) -> None:
        """Have the disk hold what was written, against a power cut. Raises OSError."""
        if self.is_open:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file and free it for other runs."""
        if self.is_open:
            os.close(self._fd)
            self._fd = -1

    def _write(self, entry: dict[str, Any]) -> None:
        line = _encode(entry)
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
        cure = "use the settings of that run, choose another output folder, or run without --resume"
        if header.get("journal") != VERSION:
            raise ValueError(
                f"{self.path}: a journal of version {header.get('journal')!r}, this rsedge goes on with {VERSION}; "
                "choose another output folder, or run without --resume"
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
                    f"afterwards; leave {name} out, choose another output folder, or run without --resume"
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


def _encode(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def _whole_lines(handle: BinaryIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset behind the line, entry) for each line that was written whole. Raises ValueError."""
    end = 0
    for number, line in enumerate(handle, 1):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not entry.keys() >= ({"journal", "info"} if number == 1 else set()):
            raise ValueError(f"{path}: line {number} is damaged; choose another output folder, or run without --resume")
        yield end, entry


def _record_of(entry: dict[str, Any]) -> Record:
    """Return the record that a line holds, without its image."""
    where = None
    if entry["crs"] is not None:
        from .georeference import Georeference

        where = Georeference(entry["crs"], tuple(entry["transform"]))
    found = Detections(
        np.array(entry["boxes"], np.float32).reshape(-1, 4),
        np.array(entry["score"], np.float32),
        np.array(entry["class_id"], np.int32),
    )
    h, w = entry["size_hw"]
    return Record(entry["name"], (h, w), found, where, entry["frame"], entry["time"])
