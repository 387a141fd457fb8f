"""Tiles in the journal: a scene that was stopped anywhere goes on, under any name, until its file changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from deploy.detections import Detections
from deploy.finished import Finished
from deploy.frames import Record
from deploy.georeference import Georeference
from deploy.journal import Journal
from deploy.scene_parts import SceneBegun, TileFound, merged
from deploy.tiling import merge, plan_tiles
from tests.deploy.drawn_records import NAMES, boxes, frame, record

WHERE = Georeference("EPSG:32633", (0.3, 0.0, 391000.0, 0.0, -0.3, 5820000.0))
TILES = plan_tiles((900, 900), (400, 400), 0.2)


def make(path: Path) -> Journal:
    return Journal(path, {"score": 0.25}, NAMES, ("csv",))


def found(number: int, name: str, empty: tuple[int, ...] = ()) -> TileFound:
    return TileFound(name, number, TILES[number], boxes(number, number % 4), empty)


def begun(name: str, plan: str = "nine") -> SceneBegun:
    return SceneBegun(name, (900, 900), plan, WHERE)


def resumed(path: Path, names=()) -> tuple[list[Record], Finished, list[str]]:
    records: list[Record] = []
    journal = make(path)
    done = journal.resume(records.append, names)
    journal.close()
    return records, done, journal.changed


@pytest.fixture
def scene(tmp_path):
    """Return the path of a file, which need not be a scene here."""
    path = tmp_path / "scene.tif"
    path.write_bytes(bytes(100))
    return path


def write(path: Path, scene: Path, tiles, *, finish=False) -> None:
    journal = make(path)
    journal.begin()
    journal.append(record(0))
    journal.begin_scene(begun(str(scene)))
    for tile in tiles:
        journal.append_tile(tile)
    if finish:
        journal.append(Record(str(scene), (900, 900), boxes(1, 3), WHERE))
    journal.close()


def test_cut_at_any_byte_the_whole_lines_before_it_count(tmp_path, scene):
    path = tmp_path / "records.jsonl"
    tiles = [found(0, str(scene)), found(3, str(scene), (1, 2)), found(4, str(scene))]
    write(path, scene, tiles)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in {*range(ends[0], len(data), 11), *ends, *(end - 1 for end in ends[1:])}:
        path.write_bytes(data[:cut])
        lines = sum(end <= cut for end in ends)
        _, done, _ = resumed(path)
        if lines < 3:
            assert not done.parts
            continue
        part = done.parts[str(scene)]
        assert (part.begun.size_hw, part.begun.plan, part.begun.georeference) == ((900, 900), "nine", WHERE)
        assert list(part.tiles) == [tile.number for tile in tiles[: lines - 3]]
        assert part.empty == ({1, 2} if lines > 4 else set())
        for tile in tiles[: lines - 3]:
            back = part.tiles[tile.number]
            assert back.tile == tile.tile
            for name in ("xyxy", "score", "class_id"):
                assert getattr(back.detections, name).tobytes() == getattr(tile.detections, name).tobytes()


def test_tiles_merge_in_the_order_of_their_numbers():
    same = Detections([[10, 10, 40, 40], [350, 350, 399, 399]], [0.5, 0.5], [0, 0])
    tiles = [TileFound("s", n, tile, same) for n, tile in enumerate(TILES)]
    expected = merge([same] * len(TILES), TILES, (900, 900))
    shuffled = [tiles[i] for i in np.random.default_rng(0).permutation(len(tiles))]
    got = merged(shuffled, (900, 900))
    assert got.xyxy.tobytes() == expected.xyxy.tobytes()
    assert len(got) > 5


def test_tiles_of_a_finished_scene_leave_the_journal_with_the_next_run(tmp_path, scene):
    path = tmp_path / "records.jsonl"
    write(path, scene, [found(0, str(scene)), found(1, str(scene))], finish=True)
    for _ in range(2):
        records, done, _ = resumed(path)
        assert [one.name for one in records] == ["scenes/000.tif", str(scene)]
        assert not done.parts
        assert done.has(str(scene))
        assert b'"tile"' not in path.read_bytes()


def test_another_plan_begins_anew(tmp_path, scene):
    path = tmp_path / "records.jsonl"
    write(path, scene, [found(0, str(scene)), found(1, str(scene))])
    journal = make(path)
    journal.resume(lambda _: None)
    journal.begin_scene(begun(str(scene), "other"))
    journal.append_tile(found(5, str(scene)))
    journal.close()
    part = resumed(path)[1].parts[str(scene)]
    assert (part.begun.plan, list(part.tiles)) == ("other", [5])


def test_a_scene_goes_on_under_another_name(tmp_path, scene, monkeypatch):
    path = tmp_path / "records.jsonl"
    write(path, scene, [found(0, str(scene))])
    monkeypatch.chdir(tmp_path)
    journal = make(path)
    done = journal.resume(lambda _: None, ["scene.tif"])
    assert list(done.parts) == ["scene.tif"]
    journal.append_tile(found(1, "scene.tif"))
    journal.close()
    (tmp_path / "link.tif").symlink_to(scene)
    for name in ("link.tif", str(scene), "scene.tif"):
        _, done, changed = resumed(path, [name])
        assert list(done.parts[name].tiles) == [0, 1]
        assert not changed
    journal = make(path)
    journal.resume(lambda _: None, ["link.tif"])
    journal.append(Record("link.tif", (900, 900), boxes(1, 3), WHERE))
    journal.close()
    records, done, _ = resumed(path, ["scene.tif"])
    assert done.has("scene.tif")
    assert not done.parts
    assert [one.name for one in records] == ["scenes/000.tif", "link.tif"]


@pytest.mark.parametrize("how", ["longer", "touched"])
@pytest.mark.parametrize("finish", [False, True])
def test_a_changed_file_is_done_again_and_told(tmp_path, scene, how, finish):
    path = tmp_path / "records.jsonl"
    write(path, scene, [found(0, str(scene))], finish=finish)
    before = scene.stat()
    if how == "longer":
        scene.write_bytes(bytes(101))
        os.utime(scene, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(scene, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    # Not among this run's sources: nothing would come in its place.
    assert len(resumed(path, ["other.tif"])[0]) == 1 + finish
    records, done, changed = resumed(path, [str(scene)])
    assert changed == [str(scene)]
    assert not done.has(str(scene))
    assert not done.parts
    assert [one.name for one in records] == ["scenes/000.tif"]
    assert str(scene).encode() not in path.read_bytes()
    assert not resumed(path, [str(scene)])[2], "told once"


def test_a_changed_video_is_done_again_from_its_first_frame(tmp_path):
    path, video = tmp_path / "records.jsonl", tmp_path / "v.mp4"
    video.write_bytes(b"one")
    journal = make(path)
    journal.begin()
    for number in range(3):
        journal.append(frame(number, str(video)))
    journal.finish(str(video))
    journal.close()
    assert resumed(path, [str(video)])[1].has(str(video), 9)
    video.write_bytes(b"another")
    records, done, changed = resumed(path, [str(video)])
    assert (records, changed) == ([], [str(video)])
    assert not done.has(str(video), 0)


def test_a_stream_is_its_address(tmp_path):
    path = tmp_path / "records.jsonl"
    journal = make(path)
    journal.begin()
    journal.append(frame(0, "rtsp://***@camera/1"))
    journal.append(frame(1, "rtsp://***@camera/1"))
    journal.close()
    done = resumed(path, ["rtsp://me:secret@camera/1"])[1]
    assert done.last_frame == {"rtsp://***@camera/1": 1}
    assert b"secret" not in path.read_bytes()
