"""Idle options: refused where they would change nothing, told where they hold for some sources only."""

from __future__ import annotations

import pytest

from deploy.idle_options import check_options
from deploy.work import Settings, Unit

IMAGES = Unit("images", ("a.png", "b.png"))
ONE = Unit("images", ("a.png",))
SCENE = Unit("scene", ("s.tif",))
VIDEO = Unit("video", ("v.mp4",))
LIVE = Unit("live", ("rtsp://camera/1",))


def check(units, *, sources=("x",), formats=("coco",), fps=None, workers="threads", **settings):
    return check_options(units, sources, Settings(**settings), formats, fps=fps, workers=workers)


@pytest.mark.parametrize("units", [[IMAGES], [SCENE], [VIDEO], [LIVE], [IMAGES, SCENE, VIDEO]])
def test_defaults_are_no_options(units):
    assert check(units) == []


@pytest.mark.parametrize(
    ("units", "options", "told"),
    [
        ([IMAGES], {"bands": (3, 2, 1)}, "--bands: for scenes .*; add --scene to cut images into tiles, or leave it"),
        ([IMAGES], {"tile_px": 300, "overlap": 0.1}, "--tile and --overlap: .*, or leave them away"),
        ([IMAGES], {"stretch": (2, 98), "scene": False}, "--stretch: .*leave --no-scene away, or --stretch"),
        ([VIDEO], {"stretch": (2, 98)}, "--stretch: for scenes .*; leave it away"),
        ([VIDEO], {"scene": True}, "--scene: says how images are read, and no source is an image"),
        ([LIVE], {"scene": False}, "--no-scene: says how images are read"),
        ([IMAGES], {"recursive": True}, "--recursive: for folders, and no source is one"),
        ([IMAGES, SCENE], {"frames": 3}, "--frames: for a video, camera or stream, .*; leave it away"),
        ([VIDEO], {"policy": "block"}, "--every-frame: for a camera or stream"),
        ([IMAGES], {"stall_s": 2.0, "tries": 0}, "--stall and --reconnect: for a camera or stream, .*leave them away"),
        ([VIDEO], {"fps": 10}, "--fps: for annotated videos, and none is to be written; add --format video"),
        ([SCENE], {"formats": ("csv", "video")}, "--format video: draws into a video, camera or stream"),
        ([IMAGES], {"workers": "processes", "postprocess_batch": 4}, "--postprocess-batch: a process decodes"),
    ],
)  # fmt: skip
def test_without_effect_is_refused_in_one_line_with_the_cure(units, options, told):
    with pytest.raises(ValueError, match=told) as caught:
        check(units, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("units", "options"),
    [
        ([SCENE], {"bands": (1,), "tile_px": 300, "overlap": 0.0, "stretch": (2, 98)}),
        ([IMAGES], {"scene": False}),
        ([SCENE], {"scene": True}),
        ([VIDEO], {"frames": 3, "fps": 5, "formats": ("video",)}),
        ([LIVE], {"frames": 3, "policy": "block", "stall_s": 2.0, "tries": 0, "formats": ("video",)}),
        ([IMAGES], {"postprocess_batch": 4}),
        ([IMAGES], {"workers": "processes"}),
        ([IMAGES, VIDEO], {"frames": 3, "formats": ("overlay", "video")}),
    ],
)
def test_with_effect_passes(units, options):
    assert check(units, **options) == []


def test_recursive_needs_one_folder(tmp_path):
    assert check([IMAGES], sources=["a.png", tmp_path], recursive=True) == []


def test_images_that_are_not_cut_are_worth_a_line():
    assert check([ONE, SCENE], tile_px=300) == ["--tile: for the scene only; 1 image is not cut, --scene cuts it too"]
    assert check([IMAGES, SCENE, SCENE], bands=(1, 2, 3), stretch=(2, 98)) == [
        "--bands and --stretch: for the 2 scenes only; 2 images are not cut, --scene cuts them too"
    ]
