"""Where detections go: files of several formats, fed record by record, readable whatever ends the run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from .detections import Detections
from .footprints import footprints
from .frames import Record
from .growing_file import cannot_write
from .journal import Finished, Journal
from .overlay import draw_boxes
from .publisher import INTERVAL_S, Publisher

JOURNAL = "records.jsonl"
# Format -> what it writes in the output folder.
FORMATS = {
    "coco": "detections.json",
    "csv": "detections.csv",
    "geojson": "detections.geojson",
    "gpkg": "detections.gpkg",
    "overlay": "overlays",
    "video": "videos",
}


class Sink(Protocol):
    """Takes finished records one by one."""

    path: Path

    def add(self, record: Record) -> None:
        """Take one record. Raises OSError; what was taken before stays readable."""

    def close(self) -> None:
        """Let go of the files."""


class FileSink(Sink, Protocol):
    """Keeps one file of all records, which can be made anew from the journal."""

    def spill(self) -> None:
        """Keep memory small while many records come at once. Raises OSError."""

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all; called by another thread than `add`. Raises OSError."""


class PictureSink(Sink, Protocol):
    """Draws what it can draw only while the image is at hand."""

    skipped: int

    def replay(self, record: Record) -> None:
        """Take note of a record that an earlier run has drawn."""

    def finish(self, name: str) -> None:
        """Take note that a video was seen to its end. Raises OSError."""


def open_sinks(
    out: Path,
    formats: Sequence[str],
    class_names: Sequence[str],
    *,
    info: dict[str, Any],
    resume: bool = False,
    fps: float | None = None,
    interval_s: float = INTERVAL_S,
) -> SinkSet:
    """Return the sinks that write `formats` into the folder `out`, which is made if need be.

    formats: of `FORMATS`. info: what the results depend on (bundle, thresholds, ...), as JSON values; it goes into the
    COCO file, and a run is only resumed with the same. resume: go on after what the folder's journal holds; the other
    files are made anew from it. fps: of annotated videos; None takes it from the frames' timestamps. interval_s: how
    often COCO, GeoJSON and GeoPackage files are brought up to date, at most.

    Raises ValueError for an unknown format or a journal of another run, OSError where the folder cannot be written,
    ModuleNotFoundError where gpkg needs pyogrio.
    """
    formats = list(dict.fromkeys(formats))
    if not formats:
        raise ValueError(f"formats must name at least one of {', '.join(FORMATS)}; got none")
    for name in formats:
        if name not in FORMATS:
            near = difflib.get_close_matches(name.lower(), [*FORMATS, "geopackage", "json"], n=1, cutoff=0.5)
            meant = {"geopackage": "gpkg", "json": "coco"}.get(near[0], near[0]) if near else None
            hint = f"did you mean {meant}?" if meant else f"use {', '.join(FORMATS)}"
            raise ValueError(f"format {name!r} is not known; {hint}")
    files: list[FileSink] = []
    pictures: list[PictureSink] = []
    for name in formats:
        path = out / FORMATS[name]
        if name == "coco":
            from .sink_coco import CocoSink

            files.append(CocoSink(path, class_names, info))
        elif name == "csv":
            from .sink_table import TableSink

            files.append(TableSink(path, class_names))
        elif name == "geojson":
            from .sink_geojson import GeoJsonSink

            files.append(GeoJsonSink(path, class_names))
        elif name == "gpkg":
            from .sink_geopackage import GeoPackageSink

            files.append(GeoPackageSink(path, class_names))
        elif name == "overlay":
            from .sink_overlay import OverlaySink

            pictures.append(OverlaySink(path, class_names))
        else:
            from .sink_video import VideoSink

            pictures.append(VideoSink(path, class_names, fps))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    return SinkSet(Journal(out / JOURNAL, info, class_names, formats), files, pictures, resume, interval_s)


class SinkSet:
    """All outputs of one run. A record is finished when `add` returns: its pictures and its journal line are written.

    The CSV file has it then too; COCO, GeoJSON and GeoPackage files are brought up to date in the background, at most
    a second or so later, and with `close`. They are valid at any moment. Nothing is touched before the first record: a
    run that fails on its first image leaves the result of an earlier one alone.

    done: what an earlier run has finished, and this one since. count: records taken by this object.
    """

    def __init__(
        self,
        journal: Journal,
        files: Sequence[FileSink],
        pictures: Sequence[PictureSink],
        resume: bool = False,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.count = 0
        self._journal = journal
        self._files, self._pictures = files, pictures
        self._interval_s = interval_s
        self._publisher: Publisher | None = None
        self._classes = len(journal.class_names)
        self._resumed = 0
        try:
            if not resume:
                journal.check_free()
            self.done = journal.resume(self._replay) if resume else Finished()
            if journal.is_open:
                for sink in files:
                    sink.publish()
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

    def add(self, record: Record) -> None:
        """Write one record. Frames of one video come in order, an image comes once.

        Raises ValueError for a record that cannot be written, before anything is, and OSError that names the file and
        says what is kept; the run cannot go on then.
        """
        self._check(record)
        self._guard(self._add, record)

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
            jobs += [self._journal.sync, *(sink.publish for sink in self._files)]
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
        notes = []
        total = self.count + self._resumed
        for sink in (*self._files, *self._pictures):
            without, skipped = getattr(sink, "without", 0), getattr(sink, "skipped", 0)
            if without:
                notes.append(f"{sink.path}: {without} of {total} have no georeference and are not in it")
            if skipped:
                notes.append(
                    f"{sink.path}: {skipped} of {self.count} were not drawn (too large, or no frame of a video)"
                )
        return notes

    def _check(self, record: Record) -> None:
        found = record.detections
        if not (np.isfinite(found.xyxy).all() and np.isfinite(found.score).all()):
            raise ValueError(f"{record.name}: boxes and scores must be finite; look at the model's outputs")
        if len(found) and not 0 <= found.class_id.min() <= found.class_id.max() < self._classes:
            raise ValueError(
                f"{record.name}: class_id must be below {self._classes}, the number of class names, got "
                f"{found.class_id.min()} to {found.class_id.max()}"
            )
        if self.done.has(record.name, record.frame_number):
            what = record.name if record.frame_number is None else f"frame {record.frame_number} of {record.name}"
            raise ValueError(f"{what} is written already; give each image once, and frames in order")
        if record.georeference is not None:
            try:
                footprints(found, record.georeference)  # before the record is written anywhere
            except ValueError as error:
                raise ValueError(f"{record.name}: {error}") from error

    def _add(self, record: Record) -> None:
        for picture in self._pictures:
            picture.add(record)
        first = not self._journal.is_open
        if first:
            self._journal.begin()
        self._journal.append(record)
        self.done.note(record)
        self.count += 1
        errors: list[OSError] = []
        for sink in self._files:  # the record is finished: what fails in one file is no reason to miss in another
            try:
                sink.add(record)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        if first:  # or the files of an earlier run would stand beside the new journal
            for sink in self._files:
                sink.publish()
        elif self._publisher is None:
            jobs = [self._journal.sync, *(sink.publish for sink in self._files)]
            self._publisher = Publisher(jobs, self._interval_s)
            self._publisher.tell()
        else:
            self._publisher.check()
            self._publisher.tell()

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

    def _guard(self, function: Callable[[Any], None], value: Any) -> None:
        try:
            function(value)
        except OSError as error:
            raise _with_kept(error, self._kept()) from error

    def _kept(self) -> str:
        total = self.count + self._resumed
        if not self._journal.is_open or not total:
            return ""
        return f"; the {total} finished before are kept in {self._journal.path}, --resume goes on after them"

    def _release(self) -> None:
        """Close everything without another attempt to write."""
        for sink in self._files:
            sink.close()
        self._journal.close()


def _with_kept(error: OSError, kept: str) -> OSError:
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return OSError(error.errno, f"{file}{error.strerror or error}{kept}")


def write_overlay(path: Path, image: np.ndarray, detections: Detections, class_names: Sequence[str]) -> None:
    """Write the image with its boxes drawn in. image: (h, w, 3) uint8 RGB. Raises OSError."""
    write_image(path, draw_boxes(image, detections, class_names))


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
