"""Sources: what is what, folders with damaged images, resuming, and names that tell no secrets."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.frames import Frame
from deploy.sources import FolderSource, ReadError, classify, open_source, shown
from tests.deploy.numbered_pictures import draw_number, number_of, write_video


def write_image(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw_number(number))
    return path


def write_tiff(path: Path, size_wh=(8, 8), geo: bool = False, big_endian: bool = False) -> Path:
    """Write a TIFF by hand: one strip of grey pixels, with GeoKeys on request (TIFF 6.0, section 2)."""
    order = ">" if big_endian else "<"
    w, h = size_wh
    entries = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 1000), (277, 3, 1, 1), (278, 4, 1, h), (279, 4, 1, w * h)]
    if geo:
        entries.append((34735, 3, 8, 500))
    content = bytearray(b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        content += struct.pack(order + "HHI", tag, kind, count)
        content += struct.pack(
            order + ("HH" if kind == 3 and count == 1 else "I"), *([value, 0][: 2 if kind == 3 and count == 1 else 1])
        )
    content += bytes(4)
    content = content.ljust(500, b"\0") + struct.pack(order + "8H", 1, 1, 0, 1, 1024, 0, 1, 1)
    path.write_bytes(content.ljust(1000, b"\0") + bytes(w * h))
    return path


def png_header(path: Path, size_wh: tuple[int, int]) -> Path:
    """Write as much of a PNG as tells its size."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", *size_wh) + bytes(50))
    return path


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (0, "camera"),
        ("12", "camera"),
        ("/dev/video3", "camera"),
        ("rtsp://u:p@10.0.0.4:554/stream1", "stream"),
        ("RTSPS://host/x", "stream"),
        ("udp://@239.0.0.1:1234", "stream"),
        ("http://10.0.0.4/mjpg/video.cgi?x=.mp4", "stream"),
        ("https://host/live/index.m3u8", "stream"),
        ("https://host/flight.MP4?token=1", "video"),
        ("http://host/live.ts", "stream"),
    ],
)
def test_numbers_and_urls_are_told_apart(what, kind):
    assert classify(what) == kind


def test_files_are_told_apart(tmp_path):
    assert classify(tmp_path) == "folder"
    assert classify(write_image(tmp_path / "a.jpg")) == "image"
    assert classify(str(write_image(tmp_path / "b.PNG"))) == "image"
    assert classify(write_tiff(tmp_path / "plain.tif")) == "image"
    assert classify(write_tiff(tmp_path / "geo.tif", geo=True)) == "scene"
    assert classify(write_tiff(tmp_path / "geo_mm.tiff", geo=True, big_endian=True)) == "scene"
    assert classify(write_video(tmp_path / "v.mp4", 2)) == "video"
    (tmp_path / "no_suffix").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert classify(tmp_path / "no_suffix") == "image"


def test_size_makes_a_scene_unless_told_otherwise(tmp_path):
    large, edge = png_header(tmp_path / "l.png", (8000, 5001)), png_header(tmp_path / "e.png", (8000, 5000))
    assert [classify(large), classify(edge)] == ["scene", "image"]
    assert classify(large, scene_megapixels=41) == "image"
    assert [classify(large, scene=False), classify(edge, scene=True)] == ["image", "scene"]
    assert classify(write_tiff(tmp_path / "geo.tif", geo=True), scene=False) == "image"


def test_what_is_none_of_these_is_told_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.jpg: no such file or folder"):
        classify(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt: neither an image nor a video by its extension"):
        classify(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"gopher:// is not known; use rtsp, "):
        classify("gopher://joe:pw@host")
    with pytest.raises(ValueError, match=r"is a scene, which is read by windows"):
        open_source(write_tiff(tmp_path / "geo.tif", geo=True))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("rtsp://host/x", "rtsp://host/x"),
        ("rtsp://joe:pw@host/x", "rtsp://***@host/x"),
        ("rtsp://joe:p@w/1@host/x", "rtsp://***@host/x"),
        ("http://h/v?user=joe&Password=pw&channel=1", "http://h/v?user=***&Password=***&channel=1"),
        ("rtsp://h/user=joe_password=pw_channel=1", "rtsp://h/user=***"),
        ("/data/joe:pw@host", "/data/joe:pw@host"),
        (3, "3"),
    ],
)
def test_credentials_are_masked(what, told):
    assert shown(what) == told


@given(st.text("abc/:@?#&=%._-", min_size=1), st.text("abc/:@?#&=%._-", min_size=1))
def test_no_password_is_ever_shown(user, password):
    secret = f"<{password}>"
    assert secret not in shown(f"rtsp://{user}:{secret}@host:554/live")


def test_a_folder_comes_in_order_with_its_damaged_images_in_their_places(tmp_path):
    for number in range(12):
        write_image(tmp_path / f"{number:02}.png", number)
    (tmp_path / "03.png").write_bytes((tmp_path / "03.png").read_bytes()[:100])
    (tmp_path / "07.png").write_bytes(b"")
    write_image(tmp_path / "deeper" / "x.png", 99)
    with open_source(tmp_path, readers=3) as source:
        assert (source.kind, source.live, source.count, source.fps) == ("folder", False, 12, None)
        got = list(source)
    assert [f.number for f in got] == list(range(12))
    assert [f.name for f in got] == [str(tmp_path / f"{n:02}.png") for n in range(12)]
    assert [f.number for f in got if isinstance(f, ReadError)] == [3, 7]
    for error in (got[3].error, got[7].error):
        assert isinstance(error, ValueError)
        assert "cannot be decoded" in str(error)
        assert "\n" not in str(error)
    frames = [f for f in got if isinstance(f, Frame)]
    assert [number_of(f.image) for f in frames] == [f.number for f in frames]
    assert all(f.read_ms > 0 and f.timestamp_s is None for f in frames)
    with open_source(tmp_path, recursive=True) as source:
        assert source.count == 13


def test_an_image_is_a_folder_of_one(tmp_path):
    with open_source(str(write_image(tmp_path / "a.png", 5))) as source:
        assert (source.kind, source.count, source.size_hw) == ("image", 1, (64, 256))
        assert [number_of(f.image) for f in source] == [5]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with open_source(tmp_path / "bad.png") as source:
        (only,) = source
    assert isinstance(only, ReadError)


def test_scenes_of_a_folder_are_left_out_and_named(tmp_path):
    write_image(tmp_path / "a.png")
    geo, large = write_tiff(tmp_path / "b.tif", geo=True), png_header(tmp_path / "c.png", (9000, 9000))
    with open_source(tmp_path) as source:
        assert source.scenes == (geo, large)
        assert [Path(f.name).name for f in source] == ["a.png"]
    with open_source(tmp_path, scene=True) as source:
        assert source.count == 0
        assert list(source) == []


def test_files_done_are_passed_over_and_keep_their_numbers(tmp_path):
    paths = [write_image(tmp_path / f"{n}.png", n) for n in range(8)]
    with open_source(tmp_path) as source:
        source.skip(names={str(paths[i]) for i in (0, 1, 5)}, numbers=range(8))
        assert [(f.number, number_of(f.image)) for f in source] == [(n, n) for n in (2, 3, 4, 6, 7)]
    with open_source(tmp_path, loop=True) as source:
        source.skip(names={str(p) for p in paths})
        assert list(source) == []


def test_iterating_again_goes_on(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
    with open_source(tmp_path) as source:
        assert [next(iter(source)).number for _ in range(3)] == [0, 1, 2]
        assert [f.number for f in source] == [3, 4, 5]
        assert list(source) == []


def test_a_loop_goes_on_with_its_numbers(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", number)
    with open_source(tmp_path, loop=True) as source:
        assert source.count is None
        frames = [frame for frame, _ in zip(source, range(10), strict=False)]
    assert [f.number for f in frames] == list(range(10))
    assert [number_of(f.image) for f in frames] == [n % 3 for n in range(10)]


def test_several_readers_read_at_once_and_not_too_far_ahead(tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    lock, now, most, begun = threading.Lock(), [0], [0], []

    def slow(path):
        with lock:
            begun.append(path)
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("deploy.sources.read_image", slow)
    source = FolderSource(tmp_path, paths, "folder", readers=3)
    ahead = [len(begun) - frame.number for frame in source]
    assert most[0] == 3
    assert max(ahead) <= 3 + 2
    with pytest.raises(ValueError, match="readers must be at least 1, got 0"):
        FolderSource(tmp_path, paths, "folder", readers=0)


def test_close_from_another_thread_ends_the_iteration(tmp_path):
    write_image(tmp_path / "a.png")
    source = open_source(tmp_path, loop=True)
    going, ended = threading.Event(), threading.Event()

    def read():
        for _ in source:
            going.set()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert going.wait(5)
    source.close()
    assert ended.wait(5)
