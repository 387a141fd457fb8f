"""Where detections go: files of several formats, fed record by record, readable whatever ends the run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .detections import Detections
from .earlier_run import EarlierRun
from .finished import Finished
from .footprints import footprints
from .frames import Record
from .growing_file import cannot_write
from .journal import Journal
from .overlay import draw_boxes
from .publisher import INTERVAL_S, Publisher
from .scene_parts import SceneBegun, ScenePart, TileFound
from .sink_formats import check_formats, sinks_of
from .sink_protocols import FileSink, PictureSink

JOURNAL = "records.jsonl"


def open_sinks(
    out: Path,
    formats: Sequence[str],
    class_names: Sequence[str],
    *,
    info: dict[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    names: Sequence[str] = (),
    fps: float | None = None,
    interval_s: float = INTERVAL_S,
) -> SinkSet:
    """Return the sinks that write `formats` into the folder `out`, which is made if need be.

    formats: of `deploy.sink_formats.FORMATS`. info: what the results depend on (bundle, thresholds, ...), as JSON
    values; it goes into the COCO file, and a run is only resumed with the same. resume: go on after what the folder's
    journal holds; the other files are made anew from it. overwrite: replace what is there; with the first record, the
    files of the earlier run go. names: of the sources, so that a resumed run knows those that were named otherwise or
    have changed. fps: of annotated videos; None takes it from the frames' timestamps. interval_s: how often COCO,
    GeoJSON and GeoPackage files are brought up to date, at most.

    Raises ValueError for an unknown format, a journal of another run, and without resume or overwrite for any journal
    that holds something; OSError where the folder cannot be written, ModuleNotFoundError where gpkg needs pyogrio.
    """
    if resume and overwrite:
        raise ValueError("--resume goes on with an earlier run, --overwrite replaces it; choose one of them")
    formats = check_formats(formats)
    journal = Journal(out / JOURNAL, info, class_names, formats)
    earlier = None
    if not resume:
        journal.check_free()
        earlier = EarlierRun.find(out, JOURNAL)
        if earlier is not None and not overwrite:
            earlier.refuse()
    files, pictures = sinks_of(out, formats, class_names, info, fps)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    return SinkSet(journal, files, pictures, resume, interval_s, names=names, earlier=earlier)


class SinkSet:
    """All outputs of one run. A record is finished when `add` returns: its pictures and its journal line are written.

    The CSV file has it then too; COCO, GeoJSON and GeoPackage files are brought up to date in the background, at most
    a second or so later, and with `close`. They are valid at any moment. Of a scene whose tiles are given one by one
    the files show what was found so far, until its record takes that place. Nothing is touched before the first record
    or tile: a run that fails on its first image leaves the result of an earlier one alone.

    done: what an earlier run has finished, and this one since. count: records taken by this object. changed: sources
    whose files have changed since an earlier run, which are to be done again.
    """

    def __init__(
        self,
        journal: Journal,
        files: Sequence[FileSink],
        pictures: Sequence[PictureSink],
        resume: bool = False,
        interval_s: float = INTERVAL_S,
        *,
        names: Sequence[str] = (),
        earlier: EarlierRun | None = None,
    ) -> None:
        self.count = 0
        self._earlier = earlier
        self._lock = threading.Lock()
        self._journal = journal
        self._files, self._pictures = files, pictures
        self._interval_s = interval_s
        self._publisher: Publisher | None = None
        self._classes = len(journal.class_names)
        self._resumed = 0
        try:
            if not resume:
                journal.check_free()
            self.done = journal.resume(self._replay, names, self._drop) if resume else Finished()
            self.changed = journal.changed
            # Scenes that the files show in part, by name.
            self._parts: dict[str, ScenePart] = dict(self.done.parts)
            self._parts_told = bool(self._parts)
            if journal.is_open:
                for job in (self._show_parts, *(sink.publish for sink in files)):
                    job()
        except BaseException:
            self._release()
            raise

    @property
    def paths(self) -> list[Path]:
        """The files and folders that this run writes, without the journal."""
        return [sink.path for sink in (*self._files, *self._pictures)]

    @property
    def resumed(self) -> int:
        """Records that an earlier run has finished."""
        return self._resumed

    @property
    def unfinished(self) -> bool:
        """Whether a scene is done in part."""
        return bool(self._parts)

    def add(self, record: Record) -> None:
        """Write one record. Frames of one video come in order, an image comes once.

        Raises ValueError for a record that cannot be written, before anything is, and OSError that names the file and
        says what is kept; the run cannot go on then.
        """
        self._check(record)
        self._guard(self._add, record)

    def begin_scene(self, begun: SceneBegun) -> None:
        """Say that the tiles of a scene come now, before its record; tiles of an earlier run count no more.

        Raises OSError like `add`.
        """
        self._guard(self._begin_scene, begun)

    def add_tile(self, found: TileFound) -> None:
        """Write what a tile of a scene found; a resumed run passes over it. Raises ValueError or OSError like `add`."""
        self._check_boxes(found.name, found.detections)
        self._guard(self._add_tile, found)

    def source_finished(self, name: str) -> None:
        """Say that a video or stream was seen to its end: a resumed run has nothing more to do for it."""
        self._guard(self._finish, name)

    def close(self) -> None:
        """Bring all files up to date and close them. Raises OSError like `add`, after all of them were tried."""
        errors: list[OSError] = []
        jobs: list[Callable[[], None]] = [sink.close for sink in self._pictures]
        if self._journal.is_open:
            if self._publisher is not None:
                self._publisher.stop()
                self._publisher = None
            jobs += [self._journal.sync, self._show_parts, *(sink.publish for sink in self._files)]
        for job in jobs:
            try:
                job()
            except OSError as error:
                errors.append(error)
        kept = self._kept()
        self._release()
        if errors:
            raise _with_kept(errors[0], kept) from errors[0]

    def __enter__(self) -> SinkSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def notes(self) -> list[str]:
        """Return a line for each output that does not hold all records, and why."""
        notes = [
            f"{name}: {len(part)} of its tiles are done and in the files, --resume goes on with the others"
            for name, part in self._parts.items()
        ]
        total = self.count + self._resumed
        for sink in (*self._files, *self._pictures):
            without, skipped = getattr(sink, "without", 0), getattr(sink, "skipped", 0)
            if without:
                notes.append(f"{sink.path}: {without} of {total} have no georeference and are not in it")
            if skipped:
                why = "in part, too large, or no frame of a video"
                notes.append(f"{sink.path}: {skipped} of {self.count} were not drawn ({why})")
        return notes

    def _check_boxes(self, name: str, found: Detections) -> None:
        if not (np.isfinite(found.xyxy).all() and np.isfinite(found.score).all()):
            raise ValueError(f"{name}: boxes and scores must be finite; look at the model's outputs")
        if len(found) and not 0 <= found.class_id.min() <= found.class_id.max() < self._classes:
            raise ValueError(
                f"{name}: class_id must be below {self._classes}, the number of class names, got "
                f"{found.class_id.min()} to {found.class_id.max()}"
            )

    def _check(self, record: Record) -> None:
        found = record.detections
        self._check_boxes(record.name, found)
        if self.done.has(record.name, record.frame_number):
            what = record.name if record.frame_number is None else f"frame {record.frame_number} of {record.name}"
            raise ValueError(f"{what} is written already; give each image once, and frames in order")
        if record.georeference is not None:
            try:
                footprints(found, record.georeference)  # before the record is written anywhere
            except ValueError as error:
                raise ValueError(f"{record.name}: {error}") from error

    def _add(self, record: Record) -> None:
        self._forget_earlier()
        for picture in self._pictures:
            picture.add(record)
        first = self._begin()
        self._journal.append(record)
        self.done.note(record)
        errors: list[OSError] = []
        with self._lock:
            self.count += 1
            self._parts.pop(record.name, None)
            for sink in self._files:  # the record is finished: what fails in one file is no reason to miss in another
                try:
                    sink.add(record)
                except OSError as error:
                    errors.append(error)
            self._parts_told = bool(self._parts)
        if errors:
            raise errors[0]
        self._tell(first)

    def _begin_scene(self, begun: SceneBegun) -> None:
        self._forget_earlier()
        first = self._begin()
        self._journal.begin_scene(begun)
        self.done.begin_scene(begun)
        with self._lock:
            self._parts[begun.name] = self.done.parts[begun.name]
        self._tell(first)

    def _add_tile(self, found: TileFound) -> None:
        self._journal.append_tile(found)
        with self._lock:
            self.done.note_tile(found)
            self._parts_told = True
        self._tell(False)

    def _begin(self) -> bool:
        """Begin the journal, if it is not; says whether that was done."""
        if self._journal.is_open:
            return False
        self._journal.begin()
        return True

    def _forget_earlier(self) -> None:
        """Delete what an earlier run wrote that this one replaces; its journal goes when the new one is there."""
        if self._earlier is not None and not self._journal.is_open:
            self._earlier.remove(self.paths)
            self._earlier = None

    def _tell(self, first: bool) -> None:
        """Have the files be brought up to date: the first time at once, later in the background."""
        if first:  # or the files of an earlier run would stand beside the new journal
            for sink in self._files:
                sink.publish()
        elif self._publisher is None:
            jobs = [self._journal.sync, self._show_parts, *(sink.publish for sink in self._files)]
            self._publisher = Publisher(jobs, self._interval_s)
            self._publisher.tell()
        else:
            self._publisher.check()
            self._publisher.tell()

    def _show_parts(self) -> None:
        """Have the files show what was found in scenes that are not finished."""
        with self._lock:
            if not self._parts_told:
                return
            self._parts_told, count = False, self.count
            parts = [part.copy() for part in self._parts.values()]
        records = [part.record() for part in parts]  # takes its time, in which more tiles may come,
        for sink in self._files:
            sink.show(records)
        with self._lock:
            if self.count != count:  # and records: what is shown must not stand beside or before them
                self._parts_told = bool(self._parts)
                for sink in self._files:
                    sink.show([])

    def _finish(self, name: str) -> None:
        for picture in self._pictures:
            picture.finish(name)
        if self._journal.is_open:
            self._journal.finish(name)
            self.done.names.add(name)

    def _replay(self, record: Record) -> None:
        self._resumed += 1
        for picture in self._pictures:
            picture.replay(record)
        for sink in self._files:
            sink.add(record)
            sink.spill()

    def _drop(self, record: Record) -> None:
        for picture in self._pictures:
            picture.replay(record, again=True)

    def _guard(self, function: Callable[[Any], None], value: Any) -> None:
        try:
            function(value)
        except OSError as error:
            raise _with_kept(error, self._kept()) from error

    def _kept(self) -> str:
        total = self.count + self._resumed
        tiles = sum(len(part) for part in self._parts.values())
        if not self._journal.is_open or not (total or tiles):
            return ""
        counts = [str(total)] * bool(total) + [f"{tiles} tile{'s' * (tiles > 1)}"] * bool(tiles)
        kept = f"the {' and '.join(counts)} finished before are kept in {self._journal.path}"
        return f"; {kept}, --resume goes on after them"

    def _release(self) -> None:
        """Close everything without another attempt to write."""
        for sink in self._files:
            sink.close()
        self._journal.close()


def _with_kept(error: OSError, kept: str) -> OSError:
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return OSError(error.errno, f"{file}{error.strerror or error}{kept}")


def write_overlay(
    path: Path, image: np.ndarray, detections: Detections, class_names: Sequence[str], pen_side: int | None = None
) -> None:
    """Write an RGB uint8 image (h, w, 3) with its boxes drawn in. pen_side: see `draw_boxes`. Raises OSError."""
    write_image(path, draw_boxes(image, detections, class_names, pen_side=pen_side))


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode an RGB image by the path's extension and write it, whole or not at all. Raises OSError."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if not cv2.haveImageWriter(f"x{path.suffix}"):
        raise OSError(f"{path}: OpenCV cannot encode {path.suffix} pictures; use .jpg or .png")
    _, data = cv2.imencode(path.suffix, bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_bytes(data.tobytes())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def unused_name(name: str, taken: set[str]) -> str:
    """Number a file name that is in `taken`, and add it there: images of one name may lie in several folders."""
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{stem}_{number}{dot}{suffix}", number + 1
    taken.add(unique)
    return unique
