"""Real scenes judged: the matching against the project's own counts, annotations of three forms, the command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import real_scenes
from benchmarks.real_annotations import mapping_of, read_annotated
from benchmarks.real_overlay import FALSE_ALARM, HIT, MISS, draw_judged
from benchmarks.real_scenes import judge, main
from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import match_counts
from deploy.procedural import CLASS_NAMES, draw_scene

PROCEDURAL = Path(__file__).parents[2] / "deploy/zoo/procedural"


def truth_of(xyxy, class_id, difficult=None):
    boxes = np.array(xyxy, np.float32).reshape(-1, 4)
    hard = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult, bool)
    return AnnotatedImage(Path("drawn"), (200, 200), boxes, np.array(class_id, np.int32), hard)


def found_of(xyxy, score, class_id):
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4), np.array(score, np.float32), np.array(class_id, np.int32)
    )


@given(st.integers(0, 10_000))
def test_matching_counts_as_the_projects_own_metric(seed):
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner = rng.integers(0, 60, (n, 2))
        return np.concatenate([corner, corner + rng.integers(8, 30, (n, 2))], axis=1)

    n, g = rng.integers(0, 25, 2)
    truth = truth_of(boxes(g), rng.integers(0, 3, g), rng.random(g) < 0.2)
    found = found_of(boxes(n), rng.random(n).round(1), rng.integers(0, 3, n))
    one = judge(truth, found, frozenset({0, 1, 2}))
    (expected,) = match_counts([truth], [found], 0.0).per_image
    missed = int((~one.found & ~truth.difficult).sum())
    assert (int(one.right.sum()), int((~one.right).sum()), missed) == expected
    assert one.not_judged == 0


def test_classes_that_nobody_annotated_are_not_judged():
    truth = truth_of([(0, 0, 10, 10)], [0])
    found = found_of([(0, 0, 10, 10), (50, 50, 60, 60), (80, 80, 90, 90)], [0.9, 0.8, 0.7], [0, 1, 0])
    one = judge(truth, found, frozenset({0}))
    assert one.right.tolist() == [True, False]
    assert one.not_judged == 1


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return a folder with a COCO file, one with YOLO txt and one with a video, all of the same drawn scene."""
    root = tmp_path_factory.mktemp("scenes")
    scene = draw_scene(52_001, (512, 512))
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    x1, y1, x2, y2 = scene.xyxy.astype(float).T
    names = [CLASS_NAMES[k] for k in scene.class_id]
    for name in ("coco", "yolo", "video"):
        (root / name).mkdir()
    cv2.imwrite(str(root / "coco/scene.png"), bgr)
    cv2.imwrite(str(root / "coco/unknown.png"), bgr)
    annotations = [
        {"id": i, "image_id": 1, "category_id": CLASS_NAMES.index(n), "bbox": [a, b, c - a, d - b], "area": 1}
        for i, (n, a, b, c, d) in enumerate(zip(names, x1, y1, x2, y2, strict=True))
    ]
    coco = {
        "images": [{"id": 1, "file_name": "scene.png", "width": 512, "height": 512}],
        "categories": [{"id": i, "name": n.upper().replace("_", " ")} for i, n in enumerate(CLASS_NAMES)],
        "annotations": annotations,
    }
    (root / "coco/truth.json").write_text(json.dumps(coco))
    cv2.imwrite(str(root / "yolo/scene.png"), bgr)
    (root / "yolo/drawn.names").write_text("\n".join(f"my {n}" for n in CLASS_NAMES))
    lines = [
        f"{k} {(a + c) / 1024} {(b + d) / 1024} {(c - a) / 512} {(d - b) / 512}"
        for k, a, b, c, d in zip(scene.class_id, x1, y1, x2, y2, strict=True)
    ]
    (root / "yolo/scene.txt").write_text("\n".join(lines))
    writer = cv2.VideoWriter(str(root / "video/clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (512, 512))
    for _ in range(3):
        writer.write(bgr)
    writer.release()
    rows = [
        {"frame": frame, "category": n, "bbox": [a, b, c - a, d - b]}
        for frame in range(3)
        for n, a, b, c, d in zip(names, x1, y1, x2, y2, strict=True)
    ]
    (root / "video/clip_gt.json").write_text(json.dumps({"frames": 3, "annotations": rows}))
    return root, scene


MAP = [f"my {name}={name}" for name in CLASS_NAMES]


def test_three_forms_of_truth_are_the_same_boxes(scenes):
    root, scene = scenes
    (coco,) = read_annotated(root / "coco", CLASS_NAMES, {})
    (yolo,) = read_annotated(root / "yolo", CLASS_NAMES, mapping_of(MAP))
    (video,) = read_annotated(root / "video/clip.avi", CLASS_NAMES, {})
    assert (coco.is_video, yolo.is_video, video.is_video) == (False, False, True)
    assert video.boxes == 3 * coco.boxes == 3 * len(scene.xyxy)
    for found in (coco, yolo, video):
        assert found.judged == frozenset(scene.class_id.tolist())
        for truth in found.truth:
            assert truth.class_id.tolist() == scene.class_id.tolist()
            np.testing.assert_allclose(truth.xyxy, scene.xyxy, atol=0.02)


def test_a_class_can_be_left_out(scenes):
    root, scene = scenes
    gone = CLASS_NAMES[scene.class_id[0]]
    (found,) = read_annotated(root / "coco", CLASS_NAMES, mapping_of([f"{gone}="]))
    assert found.boxes == int((scene.class_id != scene.class_id[0]).sum())
    assert scene.class_id[0] not in found.judged


def test_the_whole_command(scenes, tmp_path, capsys):
    root, scene = scenes
    words = [str(PROCEDURAL), "--scenes", f"still={root}/coco", "--scenes", f"moving={root}/video", "--tile", "0,256"]
    words += ["--score", "0.3", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "found.json"), "--every", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    document = json.loads(printed.splitlines()[-1])
    assert json.loads((tmp_path / "found.json").read_text()) == document
    assert str(root) not in printed
    still, moving = document["sets"]
    assert (still["images"], still["boxes"]) == (1, len(scene.xyxy))
    assert (moving["images"], moving["boxes"]) == (2, 2 * len(scene.xyxy))  # frames 0 and 2
    assert [row["tile_px"] for row in still["rows"]] == ["whole", 256]
    for one in (still, moving):
        whole = one["rows"][0]
        # The bundle was trained on such scenes: 87 mAP50.
        assert whole["recall"] > 0.6
        assert whole["precision"] > 0.6
        assert whole["hits"] + whole["misses"] == one["boxes"] == sum(c["boxes"] for c in whole["classes"].values())
        assert sum(side["boxes"] for side in whole["recall_by_side_model_px"]) == one["boxes"]
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(pictures) == 2
    assert pictures[0].startswith("moving_tile_")
    assert cv2.imread(str(tmp_path / "out" / pictures[1])).shape == (512, 512, 3)


def test_tiles_see_what_a_small_input_cannot(scenes):
    """At twice the scale the side of every box in model pixels doubles; the bins say so."""
    root, _ = scenes
    (subject,) = read_annotated(root / "coco", CLASS_NAMES, {})
    rows = []
    for tile in (512, 256):
        row = real_scenes._Row(tile, 0.3)
        truth = subject.truth[0]
        row.add(judge(truth, Detections.empty(), subject.judged), 512 / tile)
        rows.append(row)
    below_16 = [sum(side[1] for side in row.sides[:2]) for row in rows]
    below_8 = rows[0].sides[0][1]
    assert below_16[1] == below_8
    assert rows[0].total.misses == rows[1].total.misses == subject.boxes


def test_strokes_tell_hits_misses_and_false_alarms():
    image = np.full((400, 400, 3), 90, np.uint8)
    truth = truth_of([(20, 20, 120, 120), (220, 20, 320, 120)], [0, 0])
    found = found_of([(20, 20, 120, 120), (20, 220, 120, 320)], [0.9, 0.8], [0, 0])
    one = judge(truth, found, frozenset({0}))
    drawn = draw_judged(image, truth, one.detections, one.right, one.found)

    def share(colour, x1, y, x2):
        return (np.abs(drawn[y, x1:x2].astype(int) - colour).max(axis=1) < 40).mean()

    assert share(HIT, 30, 20, 110) == 1.0
    assert 0.3 < share(MISS, 220, 20, 320) < 0.8  # dashes
    assert share(FALSE_ALARM, 30, 220, 110) == 1.0
    assert (np.abs(drawn[270, 70].astype(int) - FALSE_ALARM).max()) < 60  # its diagonals cross there
    assert (drawn[70, 70] == 90).all()
    assert (image == 90).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scenes", "nowhere"], "nowhere: no such file or folder; check --scenes"),
        (["--scenes", "{root}/coco", "--tile", "20"], "--tile must be 0 (the whole picture) or from 32"),
        (["--scenes", "{root}/coco", "--tile", "big"], "--tile must be numbers"),
        (["--scenes", "{root}/coco", "--score", "2"], "--score must be numbers from 0.001 to 0.999"),
        (["--scenes", "{root}/coco", "--every", "0"], "--every must be at least 1"),
        (["--scenes", "{root}/coco", "--map", "car"], "--map must be ANNOTATED=BUNDLE"),
        (["--scenes", "{root}/yolo"], "is none of the bundle's"),
        (["--scenes", "{root}"], "holds no picture or video"),
        (["--scenes", "{root}/coco/unknown.png"], "no true boxes beside its pictures"),
    ],
)
def test_wrong_use_is_one_line(scenes, capsys, words, told):
    root, _ = scenes
    assert main([str(PROCEDURAL), *(word.format(root=root) for word in words)]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_broken_truth_is_told(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json: is not valid JSON"):
        read_annotated(tmp_path, CLASS_NAMES, {})
    (tmp_path / "truth.json").unlink()
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "clip.json").write_text(json.dumps({"frames": 2, "annotations": [{"frame": 2, "category": "ship"}]}))
    with pytest.raises(ValueError, match=r"annotation 0 must have frame \(0 to 1\)"):
        read_annotated(tmp_path / "clip.mp4", CLASS_NAMES, {})
    (tmp_path / "clip.json").write_text(json.dumps({"frames": "two", "annotations": []}))
    with pytest.raises(ValueError, match="frames must be the number of frames"):
        read_annotated(tmp_path / "clip.mp4", CLASS_NAMES, {})
    (tmp_path / "clip.json").unlink()
    with pytest.raises(ValueError, match="no true boxes beside it"):
        read_annotated(tmp_path / "clip.mp4", CLASS_NAMES, {})
