"""The bundles that ship: whole, small enough, described, and of use."""

from pathlib import Path

import numpy as np
import pytest

from deploy.annotations import AnnotatedImage
from deploy.detector import open_detector
from deploy.manifest import load_manifest
from deploy.metrics import match_counts
from deploy.procedural import CLASS_NAMES, draw_scene

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo"


@pytest.mark.parametrize("name", ["procedural", "vhr10"])
def test_a_shipped_bundle_is_whole_and_described(name):
    manifest = load_manifest(ZOO / name)
    assert manifest.precision == "int8"
    assert {"onnx", "rknn"} <= manifest.files.keys()
    assert manifest.accuracy["rknn_sim"]["map50"] > 0.8
    card = (ZOO / name / "card.md").read_text()
    assert manifest.licence in card
    assert "vendor's simulator" in card


def test_the_zoo_stays_small():
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) < 30e6


def test_the_first_start_shows_boxes():
    truth, found = [], []
    with open_detector(ZOO / "procedural", "onnx") as detector:
        assert detector.class_names == CLASS_NAMES
        for seed in range(9000, 9006):
            scene = draw_scene(seed, objects=40)
            n = len(scene.class_id)
            size = scene.image.shape[:2]
            truth.append(AnnotatedImage(Path(f"{seed}"), size, scene.xyxy, scene.class_id, np.zeros(n, bool)))
            found += detector.detect([scene.image])
    counts = match_counts(truth, found, 0.25)
    assert counts.tp > 30
    assert counts.precision > 0.7
    assert counts.recall > 0.5
