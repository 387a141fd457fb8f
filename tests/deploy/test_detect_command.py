"""rsedge detect: images, scenes and videos to files; what fails is told and passed over; a stopped run goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.detect_command import run, settings_from
from deploy.detector import open_detector
from deploy.finished import Finished
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


def test_what_is_gone_costs_only_itself(tmp_path, capsys):
    """A link that leads nowhere among images that are cut into tiles, and a scene that went after it was listed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.png", draw_scene(0, (256, 256)).image)
    (folder / "b.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(ValueError, match=r"^the image could not be read, all others are written; see above"):
        run(PROCEDURAL, [str(folder)], tmp_path / "out", ["csv"], settings=Settings(scene=True))
    assert "b.png: no such image file" in capsys.readouterr().err
    with open_detector(PROCEDURAL, "onnx") as detector:
        gone = Unit("scene", (str(folder / "gone.tif"),))
        (made,) = records_of(detector, gone, Settings(), Finished())
    assert isinstance(made, ReadError)
    assert "no such scene" in str(made.error)


def test_everything_at_once(pictures, tmp_path, capsys):
    """Each image has the boxes that the detector finds in it alone; the damaged one is told, and fails the command."""
    with pytest.raises(ValueError, match=r"^1 of 5 images could not be read, all others are written; see above"):
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
    told = capsys.readouterr()
    assert told.err.count("2b.png") == 1, "told once"
    assert re.search(r"passed over: .*2b\.png: cannot be decoded", told.err)
    assert "2b.png" not in told.out
    assert "4 of 5 have no georeference" in told.out
    assert re.search(
        r"4 images in [\d.]+ s \([\d.]+ images/s\), 1 scene with 9 tiles in .* tiles/s, .* MPixel/s", told.out
    )
    assert re.search(
        r"medians of each model input: read [\d.]+, preprocess .*, infer .*, postprocess [\d.]+ ms", told.out
    )


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
    assert "1 image was shrunk more than 3 times" in capsys.readouterr().out
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
        with pytest.raises(ValueError, match=r"^\d tiles of 1 scene could not be read, all others are written"):
            run(PROCEDURAL, [str(path)], tmp_path / "out", ["csv"], resume=True)
        part = len((tmp_path / "out/detections.csv").read_text().splitlines())
    path.write_bytes(whole)
    run(PROCEDURAL, [str(path)], tmp_path / "out", ["csv"], resume=True)
    run(PROCEDURAL, [str(path)], tmp_path / "undisturbed", ["csv"])
    assert (tmp_path / "out/detections.csv").read_bytes() == (tmp_path / "undisturbed/detections.csv").read_bytes()
    assert len((tmp_path / "out/detections.csv").read_text().splitlines()) > part > 1


def test_one_image_that_fails_is_the_one_error(pictures, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"2b\.png: cannot be decoded \(truncated PNG: no IEND block\)"):
        run(PROCEDURAL, [str(pictures / "2b.png")], tmp_path / "out", ["csv"])
    told = capsys.readouterr()
    assert "2b.png" not in told.out + told.err
    assert "0 images" not in told.out


def test_a_large_scene_is_drawn_reduced(pictures, tmp_path, capsys, monkeypatch):
    """Above the limit the overlay is the scene's overview, with a line on the left edge of each box at its scale."""
    monkeypatch.setattr("deploy.work.DRAWN_MEGAPIXELS", 1.0)
    monkeypatch.setattr("deploy.work.DRAWN_SIDE_PX", 512)
    run(PROCEDURAL, [str(pictures / "scene.tif")], tmp_path, ["coco", "overlay"])
    assert "scene.tif: 1024x1024 pixels, its overlay is 2 times smaller" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "overlays/scene.jpg")).astype(int)
    assert picture.shape == (512, 512, 3)
    bare = cv2.cvtColor(draw_scene(9, (1024, 1024), georeference=True).image, cv2.COLOR_RGB2BGR)
    differs = np.abs(picture - cv2.resize(bare, (512, 512), interpolation=cv2.INTER_AREA)).max(axis=2) > 60
    assert differs.mean() < 0.5
    boxes = [a["bbox"] for a in json.loads((tmp_path / "detections.json").read_text())["annotations"]]
    edges = [(int((y + h / 2) / 2), int(x / 2)) for x, y, w, h in boxes if x > 8]
    assert len(edges) > 20
    assert np.mean([differs[row, column - 1 : column + 2].any() for row, column in edges]) > 0.95


def test_ctrl_c_says_what_was_done(pictures, tmp_path, capsys, monkeypatch):
    from deploy.sinks import SinkSet

    add = SinkSet.add

    def interrupted(self, record):
        if self.count == 2:
            raise KeyboardInterrupt
        add(self, record)

    monkeypatch.setattr(SinkSet, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(PROCEDURAL, [str(pictures)], tmp_path / "out", ["csv"])
    told = capsys.readouterr().out
    assert "2 images in " in told
    assert "wrote " in told
    assert not [t.name for t in threading.enumerate() if t.name.startswith("rsedge-core")], "no context is left running"


def test_a_reader_that_goes_away_ends_it_quietly(pictures, tmp_path):
    """As `rsedge detect ... | head -1` does: exit code 141, nothing said, what was finished kept."""
    command = [
        sys.executable,
        "-m",
        "rsedge",
        "detect",
        str(PROCEDURAL),
        str(pictures / "0.png"),
        str(pictures / "1.png"),
    ]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--format", "csv"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


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
    with pytest.raises(
        ValueError, match="--timeout: replaces a context of the NPU that hangs, the backend onnx has none"
    ):
        run(PROCEDURAL, [str(pictures)], tmp_path, backend="onnx", timeout_s=3)
    with pytest.raises(ValueError, match="--frames: for a video, camera or stream"):
        run(PROCEDURAL, [str(pictures)], tmp_path, settings=Settings(frames=3))
    with pytest.raises(ValueError, match="is a file, a folder is needed"):
        run(PROCEDURAL, [str(pictures)], pictures / "0.png")
    with pytest.raises(ValueError, match="did you mean geojson"):
        run(PROCEDURAL, [str(pictures)], tmp_path, ["geojsn"])
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_timeout_is_refused_once_auto_has_chosen_the_cpu(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"--timeout: .* the backend onnx has none"):
        run(PROCEDURAL, [str(pictures)], tmp_path / "out", ["csv"], timeout_s=3)
    assert not list((tmp_path / "out").iterdir()), "nothing was begun"
