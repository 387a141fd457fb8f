"""rsedge detect --engine ray on a local cluster of two workers: the same files as one process, bounded memory."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from deploy import detector as detector_module
from deploy import ray_worker
from deploy.detect_command import run
from deploy.finished import Finished
from deploy.procedural import draw_scene
from deploy.ray_engine import _connected, records_by_ray
from deploy.ray_worker import RayWorker
from deploy.sources import ReadError
from deploy.work import Settings, Unit

ray = pytest.importorskip("ray")

PROCEDURAL = Path(__file__).parents[2] / "deploy/zoo/procedural"
FORMATS = ["coco", "csv", "geojson", "overlay", "video"]
OPTIONS = {"score_threshold": 0.25, "iou_threshold": 0.7}


def write(path, image):
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def write_video(path, count, side=256, seeds=6):
    drawn = [cv2.cvtColor(draw_scene(seed, (side, side)).image, cv2.COLOR_RGB2BGR) for seed in range(min(count, seeds))]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (side, side))
    for number in range(count):
        writer.write(drawn[number % len(drawn)])
    writer.release()
    return path


def write_geotiff(path, seed, side):
    import rasterio
    from rasterio.transform import Affine

    scene = draw_scene(seed, (side, side), georeference=True)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": side, "width": side, "tiled": True}
    with rasterio.open(path, "w", **options, crs=scene.crs, transform=Affine.from_gdal(*scene.geotransform)) as file:
        file.write(scene.image.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder of images with a damaged one and a scene, and two videos."""
    folder = tmp_path_factory.mktemp("sources")
    images = folder / "images"
    images.mkdir()
    for seed in range(4):
        write(images / f"{seed}.png", draw_scene(seed, (256, 256)).image)
    (images / "2b.png").write_bytes((images / "2.png").read_bytes()[:2000])
    write_geotiff(images / "scene.tif", 9, 512)
    return [str(images), str(write_video(folder / "a.avi", 5)), str(write_video(folder / "b.avi", 3))]


def detect(sources, out, engine, fails=False, **options):
    arguments = (PROCEDURAL, sources, out, FORMATS, "onnx")
    if not fails:
        run(*arguments, engine=engine, **options)
        return
    with pytest.raises(ValueError, match=r"could not be read, all others are written"):
        run(*arguments, engine=engine, **options)


def frames_of(path):
    reader = cv2.VideoCapture(str(path))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1])
    return np.array(frames)


def assert_same_files(ours, theirs):
    names = sorted(str(p.relative_to(theirs)) for p in theirs.rglob("*") if p.is_file())
    assert sorted(str(p.relative_to(ours)) for p in ours.rglob("*") if p.is_file()) == names
    for name in names:
        if name.endswith(".mkv"):
            assert len(frames_of(ours / name)) > 0
            np.testing.assert_array_equal(frames_of(ours / name), frames_of(theirs / name))
        else:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_images_scene_and_videos_give_the_files_of_one_process(cluster, sources, tmp_path, capsys):
    for engine in ("local", "ray"):
        detect(sources, tmp_path / engine, engine, fails=True)
        assert "2b.png: cannot be decoded" in capsys.readouterr().err
    assert_same_files(tmp_path / "ray", tmp_path / "local")
    journal = (tmp_path / "ray/records.jsonl").read_text()
    assert all(f'"finished":"{video}"' in journal for video in sources[1:])


def test_one_bad_video_is_told_and_a_run_that_goes_on_tries_it_again(cluster, sources, tmp_path, capsys):
    bad, whole = tmp_path / "bad.avi", Path(sources[1]).read_bytes()
    for engine in ("local", "ray"):
        out = tmp_path / engine
        bad.write_bytes(whole[:3000])
        os.utime(bad, (1e9, 1e9))  # the journal knows files by their time too
        detect([f"{sources[0]}/1.png", str(bad), sources[2]], out, engine, fails=True)
        assert "bad.avi: cannot be opened as a video" in capsys.readouterr().err
        bad.write_bytes(whole)
        os.utime(bad, (2e9, 2e9))
        detect([*sources, str(bad)], out, engine, fails=True, resume=True)
        capsys.readouterr()
        detect([*sources[1:], str(bad)], out, engine, resume=True)
        assert "nothing left to do" in capsys.readouterr().out
    assert_same_files(tmp_path / "ray", tmp_path / "local")
    names = [json.loads(line).get("name") for line in (tmp_path / "ray/records.jsonl").read_text().splitlines()]
    assert names.count(str(bad)) == names.count(sources[1]) == 5
    assert names.count(sources[2]) == 3
    assert sorted(Path(name).name for name in names if name and Path(name).suffix == ".png") == [
        *("0.png", "1.png", "2.png", "3.png")
    ]


def actors():
    """Return the process numbers of the actors of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if (folder / "cmdline").read_bytes().startswith(b"ray::RayWorker"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def resident_mb(pid):
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_long_video_with_pictures_is_in_nobodys_memory_and_outlives_its_machine(cluster, tmp_path):
    """34 frames of 12 MB would be 430 MB; the actors are killed in the middle."""
    side, count = 2048, 34
    video = write_video(tmp_path / "long.avi", count, side=side, seeds=2)
    units = [Unit("video", (str(video),)), Unit("video", (str(write_video(tmp_path / "other.avi", 9)),))]
    highest, stop = {}, threading.Event()

    def sample():
        while not stop.wait(0.02):
            for pid in (os.getpid(), *actors()):
                now = resident_mb(pid)
                low, high = highest.get(pid, (now, now))
                highest[pid] = (low, max(high, now))

    sampler = threading.Thread(target=sample)
    found, killed = [], []
    made = records_by_ray(PROCEDURAL, units, Settings(), Finished(), backend="onnx", options=OPTIONS)
    try:
        for record in made:
            if not found:
                sampler.start()
            found.append((record.name, record.frame_number))
            assert record.image.shape[:2] == record.size_hw
            if len(found) == 12:
                killed = actors()
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
    finally:
        stop.set()
        sampler.join()
    assert killed
    assert found == [(str(video), n) for n in range(count)] + [(units[1].what[0], n) for n in range(9)]
    ours = highest.pop(os.getpid())
    assert ours[1] - ours[0] < 150
    assert highest
    assert max(high for _, high in highest.values()) < 600, "Python, OpenCV, ONNX Runtime and Ray are some 250 MB"


def test_a_bundle_that_a_machine_cannot_open_is_told(cluster, sources, tmp_path):
    with pytest.raises(ValueError, match="backend must be one of"):
        list(records_by_ray(PROCEDURAL, [Unit("video", (sources[1],))], Settings(), Finished(), backend="rknn",
                            options=OPTIONS))  # fmt: skip


def test_an_actor_opens_its_detector_once_and_sends_a_few_records_at_a_time(monkeypatch, tmp_path):
    opened = []
    original = detector_module.open_detector

    def counting(*args, **options):
        opened.append(original(*args, **options))
        return opened[-1]

    monkeypatch.setattr(detector_module, "open_detector", counting)
    monkeypatch.setattr(ray_worker, "CHUNK_S", 60.0)
    worker = RayWorker(str(PROCEDURAL), "onnx", {"contexts_per_core": 1, "cpus": 1})
    assert worker.open() == "onnx"
    crew = opened[0]._crew
    monkeypatch.setattr(ray_worker, "CHUNK", 8)
    video = str(write_video(tmp_path / "v.avi", 13))
    for begin in (-1, 8):
        chunks = list(
            worker.run(Unit("video", (video,)), {video: "given"}, Settings(), Finished(set(), {video: begin}))
        )
        assert [len(chunk) for chunk in chunks] == ([8, 5] if begin < 0 else [4])
        records = list(itertools.chain.from_iterable(chunks))
        assert [r.frame_number for r in records] == list(range(begin + 1, 13))
        assert {r.name for r in records} == {"given"}
    gone = str(tmp_path / "gone.png")
    ((failed,),) = worker.run(Unit("images", (gone,)), {gone: "gone.png"}, Settings(), Finished())
    assert isinstance(failed, ReadError)
    assert failed.name == "gone.png"
    assert len(opened) == 1
    assert opened[0]._crew is crew
    opened[0].close()


def test_nothing_of_rays_own_talk_reaches_the_user(capfd):
    log = logging.getLogger("ray._private.authentication")

    def init(**options):
        logging.getLogger("ray").handlers.clear()  # as Ray does with configure_logging=False
        log.warning("Token authentication is enabled for this Ray cluster.")

    played = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: log.info("bye"))
    with _connected(played, None):
        pass
    assert capfd.readouterr() == ("", "")

    def refuse(**options):
        raise ConnectionError("ray did not answer\nand a page more")

    told = r"no Ray cluster answers \(ray did not answer\); start one with"
    refusing = SimpleNamespace(is_initialized=lambda: False, init=refuse)
    with pytest.raises(ValueError, match=told), _connected(refusing, "somewhere:1"):
        pass
