"""rsedge detect: images, scenes and videos to files; what fails is told and passed over; a stopped run goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.detect_command import run, settings_from
from deploy.detector import open_detector
from deploy.journal import Finished
from deploy.procedural import draw_scene
from deploy.sources import ReadError
from deploy.work import Settings, Unit, records_of, units_of

ROOT = Path(__file__).parents[2]
PROCEDURAL = ROOT / "deploy/zoo/procedural"


def write(path, image):
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def write_geotiff(path, seed, size):
    import rasterio
    from rasterio.transform import Affine

    scene = draw_scene(seed, (size, size), georeference=True)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": size, "width": size, "tiled": True}
    transform = Affine.from_gdal(*scene.geotransform)
    with rasterio.open(path, "w", **options, crs=scene.crs, transform=transform) as file:
        file.write(scene.image.transpose(2, 0, 1))
    return scene


def write_video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (256, 256))
    for seed in range(count):
        writer.write(cv2.cvtColor(draw_scene(seed, (256, 256)).image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a folder: four images, a damaged one, a georeferenced scene."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        write(folder / f"{seed}.png", draw_scene(seed, (256, 256)).image)
    (folder / "2b.png").write_bytes((folder / "2.png").read_bytes()[:2000])
    write_geotiff(folder / "scene.tif", 9, 1024)
    return folder


def test_sources_become_units(pictures, tmp_path):
    video = write_video(tmp_path / "v.avi", 2)
    units = units_of(
        [str(pictures), str(video), str(pictures / "0.png"), "rtsp://camera/1", "0"], Settings()
    )  # one image twice
    assert [(u.kind, len(u.what)) for u in units] == [
        ("images", 5), ("scene", 1), ("video", 1), ("live", 1), ("live", 1)
    ]  # fmt: skip
    assert len(units_of([str(pictures)], Settings(), images_each=2)) == 4


def test_everything_at_once(pictures, tmp_path, capsys):
    """Each image has the boxes that the detector finds in it alone; the damaged one is told, and fails the command."""
    with pytest.raises(ValueError, match=r"1 could not be read, all others are written: .*2b\.png: cannot be decoded"):
        run(PROCEDURAL, [str(pictures)], tmp_path, ["coco", "csv", "geojson", "gpkg", "overlay"])
    found = json.loads((tmp_path / "detections.json").read_text())
    by_name = {Path(i["file_name"]).name: i["id"] for i in found["images"]}
    assert list(by_name) == ["0.png", "1.png", "2.png", "3.png", "scene.tif"]
    with open_detector(PROCEDURAL, "onnx") as detector:
        for seed in range(4):
            expected = detector.detect([draw_scene(seed, (256, 256)).image])[0]
            boxes = [a["bbox"] for a in found["annotations"] if a["image_id"] == by_name[f"{seed}.png"]]
            corners = expected.xyxy.copy()
            corners[:, 2:] -= corners[:, :2]
            np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), corners, atol=0.011)
    rows = list(csv.DictReader((tmp_path / "detections.csv").open(newline="")))
    assert len(rows) == len(found["annotations"]) > 20
    features = json.loads((tmp_path / "detections.geojson").read_text())["features"]
    on_scene = [a for a in found["annotations"] if a["image_id"] == by_name["scene.tif"]]
    assert len(features) == len(on_scene) > 5
    assert {p.name for p in (tmp_path / "overlays").iterdir()} == {"0.jpg", "1.jpg", "2.jpg", "3.jpg", "scene.jpg"}
    told = capsys.readouterr().out
    assert "passed over:" in told
    assert "4 of 5 have no georeference" in told


def test_tiles_find_what_the_whole_scene_holds(pictures, tmp_path):
    """Tiled at the model's own scale, nearly every drawn object of a 1024 px scene is found once."""
    run(PROCEDURAL, [str(pictures / "scene.tif")], tmp_path, ["coco"], score=0.3)
    found = np.array([a["bbox"] for a in json.loads((tmp_path / "detections.json").read_text())["annotations"]])
    truth = draw_scene(9, (1024, 1024), georeference=True).xyxy
    centres = found[:, :2] + found[:, 2:] / 2
    inside = (centres[:, None] > truth[None, :, :2]).all(2) & (centres[:, None] < truth[None, :, 2:]).all(2)
    assert (inside.any(axis=0)).mean() > 0.85
    assert (inside.any(axis=1)).mean() > 0.85


def test_video_frames_have_numbers_and_times(tmp_path):
    video = write_video(tmp_path / "v.avi", 5)
    run(PROCEDURAL, [str(video)], tmp_path / "out", ["csv", "video"], settings=Settings(frames=3))
    rows = list(csv.DictReader((tmp_path / "out/detections.csv").open(newline="")))
    assert {row["frame"] for row in rows} == {"0", "1", "2"}
    assert {float(row["timestamp"]) for row in rows} == {0.0, 0.1, 0.2}
    assert len(list((tmp_path / "out/videos").iterdir())) == 1


def test_a_part_of_a_video_goes_on(tmp_path, capsys):
    video = write_video(tmp_path / "v.avi", 5)
    for frames, count in ((2, 2), (2, 2), (4, 4), (None, 5), (None, 5)):
        run(PROCEDURAL, [str(video)], tmp_path / "out", ["coco"], settings=Settings(frames=frames), resume=True)
        images = json.loads((tmp_path / "out/detections.json").read_text())["images"]
        assert [image["frame_number"] for image in images] == list(range(count))
    assert "nothing left to do, 5 frames were finished before" in capsys.readouterr().out


def test_a_large_image_that_is_shrunk_is_worth_a_word(tmp_path, capsys):
    write(tmp_path / "large.png", draw_scene(1, (1600, 1600)).image)
    run(PROCEDURAL, [str(tmp_path / "large.png")], tmp_path / "a", ["csv"])
    assert "1 images were shrunk more than 3 times" in capsys.readouterr().out
    run(PROCEDURAL, [str(tmp_path / "large.png")], tmp_path / "b", ["csv"], settings=Settings(scene=True))
    assert "shrunk" not in capsys.readouterr().out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_goes_on_and_ends_like_an_undisturbed_one(how, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(60):
        write(folder / f"{seed:02}.png", draw_scene(seed % 6, (256, 256)).image)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "rsedge", "detect", str(PROCEDURAL), str(folder), "--out", str(out)]
    command += ["--format", "coco,csv", "--backend", "emulated", "--contexts", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    journal = out / "records.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 6):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.kill(process.pid, how)
    process.wait(20)
    process.stdout.close()
    before = journal.read_bytes().count(b"\n") - 1
    assert 5 <= before < 60
    json.loads((out / "detections.json").read_text())
    assert subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, check=False).returncode == 0
    run(PROCEDURAL, [str(folder)], tmp_path / "whole", ["coco", "csv"], "emulated")
    for name in ("detections.json", "detections.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_tile_is_told_and_the_rest_of_the_scene_is_written(tmp_path):
    path = tmp_path / "cut.tif"
    write_geotiff(path, 3, 1024)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with open_detector(PROCEDURAL, "onnx") as detector:
        made = list(records_of(detector, Unit("scene", (str(path),)), Settings(), Finished()))
    failed = [m for m in made if isinstance(m, ReadError)]
    assert failed
    assert all("cut.tif" in str(m.error) for m in failed)
    assert len(made) == len(failed) + 1
    assert len(made[-1].detections) > 0
    assert made[-1].image is None
    assert not made[-1].complete


def test_a_scene_of_which_parts_failed_is_done_again(tmp_path):
    path = tmp_path / "cut.tif"
    write_geotiff(path, 3, 1024)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    for _ in range(2):
        with pytest.raises(ValueError, match="could not be read, all others are written"):
            run(PROCEDURAL, [str(path)], tmp_path / "out", ["csv"], resume=True)
        part = len((tmp_path / "out/detections.csv").read_text().splitlines())
    path.write_bytes(whole)
    run(PROCEDURAL, [str(path)], tmp_path / "out", ["csv"], resume=True)
    run(PROCEDURAL, [str(path)], tmp_path / "undisturbed", ["csv"])
    assert (tmp_path / "out/detections.csv").read_bytes() == (tmp_path / "undisturbed/detections.csv").read_bytes()
    assert len((tmp_path / "out/detections.csv").read_text().splitlines()) > part > 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bands": "4,3"}, "--bands must be three numbers from 1, such as 4,3,2, or one for grey; got '4,3'"),
        ({"bands": "0,1,2"}, "--bands must be three numbers from 1"),
        ({"stretch": "2"}, "--stretch must be two percentiles, such as 2,98; got '2'"),
        ({"stretch": "98,2"}, "--stretch must be from 0 to 100, the lower first; got '98,2'"),
    ],
)
def test_options_as_typed(options, told):
    with pytest.raises(ValueError, match=told):
        settings_from(**{"bands": None, "stretch": None, **options})


def test_what_cannot_go_together(tmp_path, pictures):
    with pytest.raises(ValueError, match="has no end: name a camera or stream alone"):
        run(PROCEDURAL, ["rtsp://me:secret@camera/1", str(pictures)], tmp_path)
    with pytest.raises(ValueError, match="is live: --engine ray takes images"):
        run(PROCEDURAL, ["0"], tmp_path, engine="ray")
    with pytest.raises(ValueError, match="belong to one machine"):
        run(PROCEDURAL, [str(pictures)], tmp_path, engine="ray", workers="processes")
    with pytest.raises(ValueError, match="did you mean geojson"):
        run(PROCEDURAL, [str(pictures)], tmp_path, ["geojsn"])
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_two_workers_of_a_ray_cluster_say_the_same_as_one_process(pictures, tmp_path):
    ray = pytest.importorskip("ray")
    sources = [str(pictures / f"{seed}.png") for seed in range(4)] + [str(pictures / "scene.tif")]
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        run(PROCEDURAL, sources, tmp_path / "ray", ["coco", "csv", "geojson"], "onnx", engine="ray")
    finally:
        ray.shutdown()
    run(PROCEDURAL, sources, tmp_path / "local", ["coco", "csv", "geojson"], "onnx")
    for name in ("detections.json", "detections.csv", "detections.geojson"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
