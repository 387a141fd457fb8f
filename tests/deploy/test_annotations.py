"""Annotation readers: the same boxes in every format, boxes that come out sound, and what is missing."""

import json
import struct
import tempfile
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.annotations import read_annotations
from deploy.annotations_coco import read_coco
from deploy.annotations_dota import read_dota

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


def write_yolo(root, boxes, h=80, w=100):
    rows = [
        f"{c} {(x1 + x2) / 2 / w:.6f} {(y1 + y2) / 2 / h:.6f} {(x2 - x1) / w:.6f} {(y2 - y1) / h:.6f}\n"
        for x1, y1, x2, y2, c, _ in boxes
    ]
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels/a.txt").write_text("".join(rows))
    return root / "labels"


def write_voc(root, boxes, h=80, w=100):
    top = ET.Element("annotation")
    ET.SubElement(top, "filename").text = "a.png"
    size = ET.SubElement(top, "size")
    for tag, value in (("width", w), ("height", h), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    for x1, y1, x2, y2, c, d in boxes:
        item = ET.SubElement(top, "object")
        ET.SubElement(item, "name").text = NAMES[c]
        ET.SubElement(item, "difficult").text = str(int(d))
        corners = ET.SubElement(item, "bndbox")
        for tag, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            ET.SubElement(corners, tag).text = str(value)
    (root / "xml").mkdir(exist_ok=True)
    (root / "xml/a.xml").write_text(ET.tostring(top, encoding="unicode"))
    return root / "xml"


def write_dota(root, boxes):
    rows = ["imagesource:GoogleEarth\n", "gsd:0.146\n"]
    rows += [f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} {NAMES[c]} {int(d)}\n" for x1, y1, x2, y2, c, d in boxes]
    (root / "dota").mkdir(exist_ok=True)
    (root / "dota/a.txt").write_text("".join(rows))
    return root / "dota"


@st.composite
def whole_boxes(draw):
    """Distinct boxes on whole pixels: all four formats hold those (YOLO to six decimals of the side)."""
    h, w = draw(st.integers(2, 300)), draw(st.integers(2, 300))
    rows = {}
    for _ in range(draw(st.integers(1, 6))):
        x1, y1 = draw(st.integers(0, w - 1)), draw(st.integers(0, h - 1))
        x2, y2 = draw(st.integers(x1 + 1, w)), draw(st.integers(y1 + 1, h))
        rows[x1, y1, x2, y2, draw(st.integers(0, 2))] = draw(st.booleans())
    return h, w, [(*key, difficult) for key, difficult in rows.items()]


@settings(max_examples=25, deadline=None)
@given(whole_boxes())
def test_same_boxes_in_every_format(case):
    h, w, boxes = case
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = write_image(root / "images/a.png", h, w).parent
        found = {
            "coco": read_annotations("coco", annotations=write_coco(root, boxes, h, w), images=images),
            "yolo": read_annotations(
                "yolo", annotations=write_yolo(root, boxes, h, w), images=images, class_names=NAMES
            ),
            "voc": read_annotations("voc", annotations=write_voc(root, boxes, h, w), images=images, class_names=NAMES),
            "dota": read_annotations("dota", annotations=write_dota(root, boxes), images=images, class_names=NAMES),
        }
    for name, result in found.items():
        assert [str(p) for p in result.problems] == []
        assert result.class_names == NAMES
        (image,) = result.images
        assert image.path == images / "a.png"
        assert image.size_hw == (h, w)
        # A centre and a side, each off by half of the sixth decimal.
        atol = max(h, w) * 0.75e-6 + 1e-5 if name == "yolo" else 0
        np.testing.assert_allclose(image.xyxy, [row[:4] for row in boxes], atol=atol, rtol=1e-6 if atol else 0)
        assert image.xyxy.dtype == np.float32
        np.testing.assert_array_equal(image.class_id, [row[4] for row in boxes])
        np.testing.assert_array_equal(image.difficult, [False if name == "yolo" else row[5] for row in boxes])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True, width=32)] * 4), max_size=5))
def test_whatever_the_numbers_boxes_come_out_sound(rows):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = write_image(root / "images/a.png").parent
        result = read_dota(write_dota(root, [(*row, 0, False) for row in rows]), images, NAMES)
    (image,) = result.images
    x1, y1, x2, y2 = image.xyxy.T
    assert np.isfinite(image.xyxy).all()
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= 100) & (y2 <= 80) & (x2 > x1) & (y2 > y1)).all()
    left_out = sum(p.fatal or p.kind == "duplicate" for p in result.problems)
    assert len(image.xyxy) + left_out == len(rows)


def kinds(result):
    return [(p.line, p.kind, p.fatal) for p in result.problems]


def test_every_bad_box_is_kept_as_a_problem_with_its_line(tmp_path):
    images = write_image(tmp_path / "images/a.png").parent
    rows = (
        "0 0 10 0 10 10 0 10 ship 0",
        "nan 0 10 0 10 10 0 10 ship 0",
        "0 0 10 0 10 nan 0 10 ship 0",
        "0 0 inf 0 10 10 0 10 ship 0",
        "5 5 5 5 5 9 5 9 ship 0",
        "200 0 210 0 210 10 200 10 ship 0",
        "100 0 110 0 110 10 100 10 ship 0",
        "-5 -3 10 -3 10 12 -5 12 ship 0",
        "0 0 10 0 10 10 0 10 ship 0",
        "0 0 10 0 10 10 0 10 plane 0",
        "0 0 10 0 10 10 0 10 shp 0",
        "0 0 10 0 10 ship 0",
        "0 0 ten 0 10 10 0 10 ship 0",
        "-0.05 0 20 0 20 20 -0.05 20 ship 0",
    )
    (tmp_path / "a.txt").write_text("\n".join(rows))
    result = read_dota(tmp_path, images, NAMES)
    assert kinds(result) == [
        (2, "bad_box", True),
        (3, "bad_box", True),
        (4, "bad_box", True),
        (5, "empty_box", True),
        (6, "outside", True),
        (7, "outside", True),
        (8, "clipped", False),
        (9, "duplicate", False),
        (11, "bad_class", True),
        (12, "malformed", True),
        (13, "malformed", True),
    ]
    np.testing.assert_array_equal(
        result.images[0].xyxy, [[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 10], [0, 0, 20, 20]]
    )
    texts = [str(p) for p in result.problems]
    assert texts[0].startswith(f"{tmp_path / 'a.txt'}:2: ship box: corners (nan, nan, nan, nan) must be finite")
    assert "reach 5 px outside a.png (100x80); clipped" in texts[6]
    assert "did you mean 'ship'?" in texts[8]
    assert all("\n" not in text for text in texts)
    assert [p.line for p in result.fatal] == [2, 3, 4, 5, 6, 7, 11, 12, 13]


def test_sizes_come_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", exif=exif)
    path = write_coco(tmp_path, [(0, 0, 30, 40, 0, False)], 40, 30)
    result = read_coco(path, tmp_path)
    assert result.problems == []
    assert result.images[0].size_hw == (40, 30)


def test_missing_places(tmp_path):
    images = write_image(tmp_path / "images/a.png").parent
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        read_annotations("coco", annotations=tmp_path / "none.json", images=images)
    for format in ("yolo", "voc", "dota"):
        with pytest.raises(FileNotFoundError, match="none: no such"):
            read_annotations(format, annotations=tmp_path / "none", images=images, class_names=NAMES)
    for format in ("coco", "yolo", "voc", "dota"):
        with pytest.raises(FileNotFoundError, match="none: no such image folder"):
            read_annotations(format, annotations=tmp_path, images=tmp_path / "none", class_names=NAMES)
    for format in ("voc", "dota"):
        with pytest.raises(ValueError, match=r"holds no \.(xml|txt) file"):
            read_annotations(format, annotations=images, images=images)
    with pytest.raises(ValueError, match="annotation format must be one of coco, yolo, voc, dota, got 'kitti'"):
        read_annotations("kitti", annotations=tmp_path, images=images)
    with pytest.raises(ValueError, match="list_file"):
        read_annotations("coco", annotations=tmp_path, images=images, list_file=tmp_path)
    with pytest.raises(ValueError, match="is a folder"):
        read_annotations("coco", annotations=tmp_path, images=images)
