"""YOLO, VOC and DOTA annotations: hand-worked boxes, layouts of folders, problems with file and line."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from deploy.annotations_dota import read_dota
from deploy.annotations_voc import read_voc
from deploy.annotations_yolo import labels_beside, read_yolo

NAMES = ["ship", "plane", "small-vehicle"]


def write_image(path, h=80, w=100):
    """Write only a PNG header: the readers look no further, and whole images would make the property tests slow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)))
    return path


def kinds(result):
    return [(p.line, p.kind, p.fatal) for p in result.problems]


def test_voc_counts_pixels_from_one(tmp_path):
    """The first pixel alone is xmin = xmax = 1 in VOC, and (0, 0, 1, 1) here; the whole image is 1 to width."""
    images = write_image(tmp_path / "images/a.png").parent
    (tmp_path / "a.xml").write_text(
        "<annotation>\n<filename>a.png</filename>\n"
        "<object><name>ship</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></object>\n"
        "<object><name>ship</name><difficult>1</difficult>\n"
        "<bndbox><xmax>100</xmax><ymax>80</ymax><xmin>1</xmin><ymin>1</ymin></bndbox>\n"
        "<part><name>bow</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part></object>\n"
        "</annotation>\n"
    )
    result = read_voc(tmp_path, images)
    np.testing.assert_array_equal(result.images[0].xyxy, [[0, 0, 1, 1], [0, 0, 100, 80]])
    np.testing.assert_array_equal(result.images[0].difficult, [False, True])
    assert result.class_names == ["ship"]
    assert result.problems == []


def test_dota_takes_the_box_around_a_quadrilateral(tmp_path):
    images = write_image(tmp_path / "images/P1.png").parent
    (tmp_path / "P1.txt").write_text(
        "imagesource:GoogleEarth\ngsd:null\n\n"
        "30.5 10 50 30 30 50 10 30.25 plane 0\n"  # a diamond
        "1 2 9 2 9 6 1 6 ship 2\n"
        "60 60 70 60 70 70 60 70 ship\n"
    )
    result = read_dota(tmp_path, images)
    np.testing.assert_array_equal(result.images[0].xyxy, [[10, 10, 50, 50], [1, 2, 9, 6], [60, 60, 70, 70]])
    np.testing.assert_array_equal(result.images[0].difficult, [False, True, False])
    assert result.class_names == ["plane", "ship"]
    np.testing.assert_array_equal(result.images[0].class_id, [0, 1, 1])
    assert result.problems == []


def test_yolo_layouts(tmp_path):
    images = tmp_path / "data/images"
    write_image(images / "train/a.png")
    write_image(images / "train/deep/b.png")
    write_image(images / "val/a.png")
    for name in ("train/a", "train/deep/b", "val/a"):
        (tmp_path / f"data/labels/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/labels/{name}.txt").write_text(f"{len(name) % 3} 0.5 0.5 0.2 0.5\n")
    everything = read_yolo(images, class_names=NAMES)
    assert [i.path.relative_to(images).as_posix() for i in everything.images] == [
        "train/a.png",
        "train/deep/b.png",
        "val/a.png",
    ]
    np.testing.assert_allclose(everything.images[0].xyxy, [[40, 20, 60, 60]], atol=1e-4)
    assert [int(i.class_id[0]) for i in everything.images] == [1, 0, 2]
    assert everything.problems == []
    given_folder = read_yolo(images / "train", tmp_path / "data/labels/train", class_names=NAMES)
    assert [len(i.xyxy) for i in given_folder.images] == [1, 1]
    listing = tmp_path / "data/val.txt"
    listing.write_text("# validation\n./images/val/a.png\n\nimages/none.png\n")
    for result in (read_yolo(listing, class_names=NAMES), read_yolo(images, class_names=NAMES, list_file=listing)):
        assert [i.path.resolve() for i in result.images] == [images / "val/a.png"]
        assert [(p.file, p.line, p.kind) for p in result.problems] == [(listing, 4, "missing_image")]
    with pytest.raises(ValueError, match="not one label file"):
        read_yolo(images, tmp_path, class_names=NAMES)
    with pytest.raises(ValueError, match="class_names must be given for YOLO"):
        read_yolo(images)
    assert labels_beside(Path("/images/x/images/train")) == Path("/images/x/labels/train")
    assert labels_beside(Path("/x/train")) == Path("/x/train")


def test_yolo_problems(tmp_path):
    images = tmp_path / "images"
    for name in "abcd":
        write_image(images / f"{name}.png")
    (images / "e.jpg").write_bytes(b"")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text(
        "0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n0 50 40 10 8\n"
        "0 nan 0.5 0.1 0.1\n0 0.5 0.5 -0.1 0.1\n0 1 0.5 0.1 0.1\n0 0.1 0.1 0.1 0.1 0.2 0.2\nship 0.5 0.5 0.1 0.1\n"
        "1.0 0.5 0.5 1 1\n"
    )
    (labels / "b.txt").write_text("")
    (labels / "d.txt").write_bytes(b"0 0.5 0.5 0.1 \xff\n")
    (labels / "stray.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (labels / "classes.txt").write_text("ship\n")
    result = read_yolo(images, class_names=NAMES)
    assert [(p.file.name, p.line, p.kind, p.fatal) for p in result.problems] == [
        ("e.jpg", 0, "unreadable_image", True),
        ("a.txt", 2, "bad_class", True),
        ("a.txt", 3, "bad_class", True),
        ("a.txt", 4, "bad_class", True),
        ("a.txt", 5, "bad_box", True),
        ("a.txt", 6, "bad_box", True),
        ("a.txt", 7, "empty_box", True),
        ("a.txt", 8, "clipped", False),
        ("a.txt", 9, "malformed", True),
        ("a.txt", 10, "malformed", True),
        ("c.txt", 0, "no_labels", False),
        ("d.txt", 1, "malformed", True),
        ("stray.txt", 0, "missing_image", True),
    ]
    assert [(i.path.name, len(i.xyxy)) for i in result.images] == [("a.png", 3), ("b.png", 0), ("c.png", 0)]


def test_voc_problems_and_lists(tmp_path):
    images = tmp_path / "JPEGImages"
    for name in ("a", "b.2", "c"):
        write_image(images / f"{name}.png")
    xml = tmp_path / "Annotations"
    xml.mkdir()
    (xml / "a.xml").write_text(
        "<annotation>\n<filename>other.png</filename>\n<size><width>9</width><height>8</height></size>\n"
        "<object><name>ship</name></object>\n<object>\n<name>ship</name>\n<bndbox><xmin>x</xmin></bndbox>\n</object>\n"
        "<object><bndbox/></object>\n<object><name>bike</name>\n"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>\n</annotation>"
    )
    (xml / "b.2.xml").write_text("<annotation></annotation>")
    (xml / "gone.xml").write_text("<annotation><filename>gone.jpg</filename></annotation>")
    result = read_voc(xml, images, NAMES)
    assert [(p.file.name, *k) for p, k in zip(result.problems, kinds(result), strict=True)] == [
        ("a.xml", 2, "wrong_name", False),
        ("a.xml", 3, "wrong_size", False),
        ("a.xml", 4, "malformed", True),
        ("a.xml", 7, "malformed", True),
        ("a.xml", 9, "malformed", True),
        ("a.xml", 11, "bad_class", True),
        ("gone.xml", 1, "missing_image", True),
    ]
    assert [i.path.name for i in result.images] == ["a.png", "b.2.png"]
    listing = tmp_path / "train.txt"
    listing.write_text("b.2\na.png\n\nc  1\n")
    listed = read_voc(xml, images, NAMES, listing)
    assert [i.path.name for i in listed.images] == ["b.2.png", "a.png"]
    assert [(p.file.name, p.line) for p in listed.problems if p.file == listing] == [("train.txt", 4)]
    (xml / "b.2.xml").write_text("<annotation>\n<object>\n</annotation>")
    with pytest.raises(ValueError, match=r"b\.2\.xml:3: not valid XML: mismatched tag") as caught:
        read_voc(xml, images, NAMES)
    assert "\n" not in str(caught.value)
    (xml / "b.2.xml").write_text("<html></html>")
    with pytest.raises(ValueError, match="root element must be annotation, got html"):
        read_voc(xml, images, NAMES)


def test_dota_problems_about_files(tmp_path):
    images = write_image(tmp_path / "images/a.png").parent
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "gone.txt").write_text("0 0 5 0 5 5 0 5 ship 0\n")
    (labels / "a.txt").write_bytes(b"0 0 5 0 5 5 0 5 ship 0\n\xff\xfe\n")
    result = read_dota(labels, images)
    assert [(p.file.name, *k) for p, k in zip(result.problems, kinds(result), strict=True)] == [
        ("a.txt", 2, "malformed", True),
        ("gone.txt", 0, "missing_image", True),
    ]
    assert result.images == []
