"""COCO annotations: every problem with its line, broken files in one line, the order of classes."""

import json
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.annotations_coco import read_coco

NAMES = ["ship", "plane", "small-vehicle"]


def write_image(path, h=80, w=100):
    """Write only a PNG header: the readers look no further, and whole images would make the property tests slow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)))
    return path


def write_coco(root, boxes, h=80, w=100, indent=None):
    """boxes: rows (x1, y1, x2, y2, class_id, difficult) of one image a.png."""
    annotations = [
        {"id": i, "image_id": 5, "category_id": 10 * c + 10, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(d)}
        for i, (x1, y1, x2, y2, c, d) in enumerate(boxes, 1)
    ]
    content = {
        "categories": [{"id": 10 * i + 10, "name": name} for i, name in enumerate(NAMES)],
        "images": [{"id": 5, "file_name": "a.png", "width": w, "height": h}],
        "annotations": annotations,
    }
    path = root / "coco.json"
    path.write_text(json.dumps(content, indent=indent))
    return path


def kinds(result):
    return [(p.line, p.kind, p.fatal) for p in result.problems]


COCO = """{
 "categories": [{"id": 3, "name": "plane"}, {"id": 1, "name": "ship"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10]},
  {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 20, -4, 10]},
  {"id": 3, "image_id": 9, "category_id": 1, "bbox": [20, 20, 4, 10]},
  {"id": 4, "image_id": 1, "category_id": 2, "bbox": [20, 20, 4, 10]},
  {"id": 5, "image_id": 1, "category_id": 1, "bbox": [NaN, 20, 4, 10]},
  {"id": 6, "image_id": 1, "category_id": 1, "bbox": [1e999, 20, 4, 10]},
  {"id": 7, "image_id": 1, "category_id": 1, "bbox": [20, 20, 4]},
  {"id": 8, "image_id": 1, "category_id": 1},
  17, {"id": 9, "image_id": [1], "category_id": 1, "bbox": [20, 20, 4, 10]},
  {"id": 10, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [95, 70.5, 10, 9]},
  {"id": 11, "image_id": 4, "category_id": 1, "bbox": [20, 20, 4, 10]}
 ],
 "images": [
  {"id": 1, "file_name": "a.png", "width": 80, "height": 100},
  {"id": 1, "file_name": "b.png", "width": 100, "height": 80},
  {"id": 2, "file_name": "./a.png", "width": 100, "height": 80},
  {"id": 3},
  {"id": 4, "file_name": "none.png", "width": 100, "height": 80}, {"id": 5, "file_name": "text.png"},
  {"id": 6, "file_name": "b.png"}
 ]
}
"""


def test_coco_problems_have_lines(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "coco.json").write_text(COCO)
    result = read_coco(tmp_path / "coco.json", tmp_path)
    assert kinds(result) == [
        (5, "empty_box", True),
        (6, "unknown_image", True),
        (7, "bad_class", True),
        (8, "bad_box", True),
        (9, "bad_box", True),
        (10, "malformed", True),
        (11, "malformed", True),
        (12, "malformed", True),
        (12, "unknown_image", True),
        (13, "clipped", False),
        (17, "wrong_size", False),
        (18, "duplicate_image", True),
        (19, "duplicate_image", True),
        (20, "malformed", True),
        (21, "missing_image", True),
        (21, "unreadable_image", True),
    ]
    assert result.class_names == ["ship", "plane"]
    first, second = result.images
    assert (first.path, first.size_hw) == (tmp_path / "a.png", (80, 100))
    np.testing.assert_array_equal(first.xyxy, [[0, 0, 10, 10], [95, 70.5, 100, 79.5]])
    np.testing.assert_array_equal(first.class_id, [1, 0])
    np.testing.assert_array_equal(first.difficult, [False, True])
    assert (second.path, second.xyxy.shape, second.class_id.shape) == (tmp_path / "b.png", (0, 4), (0,))
    # One long line: the number alone would not help, the id does.
    (tmp_path / "coco.json").write_text(COCO.replace("\n", " "))
    flat = read_coco(tmp_path / "coco.json", tmp_path)
    assert {p.line for p in flat.problems} == {1}
    assert any("annotation 4: category_id 2" in str(p) for p in flat.problems)


def test_coco_order_of_classes_is_the_callers(tmp_path):
    write_image(tmp_path / "a.png")
    path = write_coco(tmp_path, [(0, 0, 9, 9, 0, False), (0, 0, 9, 9, 2, False)])
    result = read_coco(path, tmp_path, ["small-vehicle", "plane", "ship"])
    np.testing.assert_array_equal(result.images[0].class_id, [2, 0])
    with pytest.raises(ValueError, match=r"not named \['plane'\], not in the file \['plan'\]"):
        read_coco(path, tmp_path, ["small-vehicle", "plan", "ship"])
    with pytest.raises(ValueError, match="'ship' twice"):
        read_coco(path, tmp_path, ["ship", "ship"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 1]))
def test_truncated_coco_is_one_line_with_the_place(cut, indent):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = write_coco(root, [(0, 0, 9, 9, 0, False), (1, 1, 5, 5, 1, True)], indent=indent)
        text = path.read_text()
        path.write_text(text[: cut % len(text)])
        with pytest.raises(ValueError, match=r"coco\.json:\d+: not valid JSON") as caught:
            read_coco(path, root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n"annotations": [{"id": }]}', "coco.json:2: not valid JSON"),
        ("[1, 2]", "coco.json:1: not valid JSON: '{' is expected"),
        ('{"images": {},\n"annotations": []}', "coco.json:1: not valid JSON: 'images' must be a list"),
        ('{"images": [], "annotations": []} x', "more behind the end"),
        ('{"annotations": [], "categories": []}', "has no 'images' list"),
        ('{"images": [], "annotations": []}', "categories must be a list"),
        ('{"images": [], "annotations": [], "categories": [{"id": "1", "name": "a"}]}', "whole number id"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "unique"),
        ('{"images": ' + "[" * 100_000, "coco.json"),
        ('{"images": [], "annotations": [' + "9" * 5000 + "]", "coco.json"),
    ],
)
def test_malformed_coco(tmp_path, text, message):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read_coco(tmp_path / "coco.json", tmp_path)
    assert message in str(caught.value)


def test_coco_line_numbers_agree_with_a_slow_search(tmp_path):
    write_image(tmp_path / "a.png")
    boxes = [(i, i, i, i + 4, i % 3, False) for i in range(30)]  # no width: each is a problem
    path = write_coco(tmp_path, boxes, indent=2)
    lines = path.read_text().splitlines()
    found = read_coco(path, tmp_path).problems
    assert len(found) == 30
    for number, problem in enumerate(found, 1):
        assert lines[problem.line - 1].strip() == "{"
        assert lines[problem.line].strip() == f'"id": {number},'
