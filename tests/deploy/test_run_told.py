"""What the person at the terminal sees: failures once and on standard error, few of many, and a summary that fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from deploy.detections import Detections
from deploy.finished import Finished
from deploy.frames import Frame, Record, Result
from deploy.run_told import SHOWN_FAILURES, Told
from deploy.sources import ReadError, SourceEvent
from deploy.work import Unit

IMAGES = Unit("images", ("a.png", "b.png", "c.png"))
SCENE = Unit("scene", ("s.tif",))
VIDEO = Unit("video", ("v.mp4",))
LIVE = Unit("live", ("rtsp://me:secret@camera/1",))


def told_of(*units, done=None, **options) -> Told:
    return Told(Console(width=200), ["ship"], (512, 512), units, done or Finished(), **options)


def sinks(resumed=0) -> Any:
    return cast(Any, SimpleNamespace(resumed=resumed, unfinished=False, paths=[], notes=list))


def record(name, hw=(512, 512), **fields):
    return Record(name, hw, Detections.empty(), **fields)


def failure(name, number=0, text=None):
    return ReadError(number, name, ValueError(text or f"{name}: cannot be decoded; copy it again"))


def test_a_failure_is_told_once_and_counted_in_the_end(capsys):
    told = told_of(IMAGES)
    told.begin(IMAGES)
    told.found(record("a.png"))
    told.failed(failure("b.png"))
    told.found(record("c.png"))
    with pytest.raises(ValueError, match=r"^1 of 3 images could not be read, all others are written; see above"):
        told.end(sinks())
    out, err = capsys.readouterr()
    assert err == "passed over: b.png: cannot be decoded; copy it again\n"
    assert out.startswith("2 images in ")


def test_the_only_images_failure_is_the_commands_error(capsys):
    told = told_of(Unit("images", ("a.png",)))
    told.begin(Unit("images", ("a.png",)))
    told.failed(failure("a.png"))
    with pytest.raises(ValueError, match=r"^a\.png: cannot be decoded; copy it again$"):
        told.end(sinks())
    assert capsys.readouterr() == ("", "")


def test_of_many_tiles_a_few_are_told(capsys):
    told = told_of(SCENE, IMAGES)
    told.begin(SCENE)
    for tile in range(SHOWN_FAILURES + 7):
        told.failed(failure("s.tif", tile))
    told.found(record("s.tif", complete=False))
    told.begin(IMAGES)
    err = capsys.readouterr().err.splitlines()
    assert len(err) == SHOWN_FAILURES + 1
    assert err[-1] == "s.tif: 7 more tiles could not be read"
    with pytest.raises(ValueError, match=r"^12 tiles of 1 scene could not be read, all others are written"):
        told.end(sinks())


def test_the_first_of_several_failures_of_the_only_scene_is_not_lost(capsys):
    told = told_of(SCENE)
    told.begin(SCENE)
    told.failed(failure("s.tif", 0, "s.tif: first"))
    assert capsys.readouterr().err == "", "it may be all there is to tell"
    told.failed(failure("s.tif", 1, "s.tif: second"))
    assert capsys.readouterr().err == "passed over: s.tif: first\npassed over: s.tif: second\n"


def test_a_failure_without_a_name_gets_it(capsys):
    told = told_of(IMAGES)
    told.begin(IMAGES)
    told.failed(failure("b.png", 1, "no answer from core 0\nwithin 20 s"))
    assert capsys.readouterr().err == "passed over: b.png: no answer from core 0 within 20 s\n"


def test_a_streams_secret_stays_one_and_its_frames_are_frames(capsys):
    told = told_of(LIVE)
    told.begin(LIVE)
    name = "rtsp://***@camera/1"
    told.watch.opened(cast(Any, SimpleNamespace(kind="stream", name=name, count=None)))
    told.found(record(name, frame_number=0))
    told.watch.scheduler(cast(Any, SimpleNamespace(dropped=3, replaced=0, reopened=0)))
    told.end(sinks())
    out, err = capsys.readouterr()
    assert "secret" not in out + err
    assert out.startswith("1 frame in ")
    assert "3 frames dropped for newer ones" in out
    assert "contexts" not in out, "all stayed"


def test_contexts_that_did_not_stay_are_told(capsys):
    told = told_of(IMAGES)
    told.begin(IMAGES)
    told.found(record("a.png"))
    for counts in ({"replaced": 2, "reopened": 0}, {"replaced": 1, "reopened": 1}):
        told.watch.scheduler(cast(Any, SimpleNamespace(dropped=0, **counts)))
    told.end(sinks())
    expected = "contexts of the runtime: hung and replaced 3 times, lost and opened again once; rsedge doctor looks for"
    assert expected in capsys.readouterr().out


def test_what_the_system_refuses_is_told_without_its_number(capsys):
    told = told_of(IMAGES)
    told.begin(IMAGES)
    told.failed(ReadError(0, "a.png", PermissionError(13, "Permission denied", "a.png")))
    err = capsys.readouterr().err
    assert err.startswith("passed over: a.png: Permission denied; check its owner and mode")


def test_a_scene_tells_its_tiles_and_clocks(capsys):
    told = told_of(SCENE)
    told.begin(SCENE)
    told.watch.opened(cast(Any, SimpleNamespace(kind="scene", name="s.tif", count=25)))
    told.watch.result(Result(Frame(0, "s.tif", np.empty((0, 0, 3), np.uint8), 4.0), Detections.empty(), 1.0, 2.0, 3.0))
    told.watch.empty_tiles = 5
    told.watch.event(SourceEvent("skipped", "s.tif: 3 of the windows"))
    told.found(record("s.tif", (9000, 9000), image=np.empty((3000, 3000, 3), np.uint8)))
    told.end(sinks())
    out = capsys.readouterr().out
    assert "s.tif: 3 of the windows\n" in out
    assert "s.tif: 9000x9000 pixels, its overlay is 3 times smaller\n" in out
    assert "1 scene with 25 tiles (5 without data) in " in out
    assert "medians of each tile: read 4.0, preprocess 1.0, infer 2.0, postprocess 3.0 ms\n" in out


def test_a_cluster_has_one_clock(capsys):
    told = told_of(IMAGES, VIDEO, in_turn=False)
    told.begin(IMAGES)
    told.found(record("a.png"))
    told.begin(VIDEO)
    told.found(record("v.mp4", frame_number=0))
    told.end(sinks())
    assert capsys.readouterr().out.startswith("1 image, 1 frame in ")


@pytest.mark.parametrize(
    ("units", "resumed", "line"),
    [
        ([IMAGES], 3, "nothing left to do, 3 images were finished before"),
        ([SCENE], 1, "nothing left to do, 1 scene was finished before"),
        ([VIDEO], 9, "nothing left to do, 9 frames were finished before"),
        ([IMAGES, SCENE], 4, "nothing left to do, 4 records were finished before"),
    ],
)
def test_nothing_left_to_do(units, resumed, line, capsys):
    told = told_of(*units, done=Finished(set("abc")))
    told.end(sinks(resumed))
    assert capsys.readouterr().out.startswith(f"{line}\n")


def test_images_of_an_earlier_run_count_as_done():
    told = told_of(IMAGES, done=Finished({"a.png", "b.png"}))
    told.begin(IMAGES)
    assert (told.progress._done, told.progress._before, told.progress._total) == (2, 2, 3)
    told.found(record("c.png"))
    assert (told.progress._done, told.progress._items_done) == (3, 3)
