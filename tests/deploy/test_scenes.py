"""Scenes: windows of every kind of file against what was written into it; rasterio and Pillow write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from deploy.images import read_image, stretch
from deploy.manifest import BandStretch, Manifest, load_manifest
from deploy.scenes import Scene, looks_empty, open_scene
from deploy.stretch import Stretch, choose_bands, find_limits

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NORTH_UP = Affine(0.5, 0, 400000, 0, -0.5, 5500000)


def noise(h=90, w=140, bands=3, dtype="uint8", high=None, seed=0):
    """(bands, h, w) of random values, none of them 0."""
    high = high or (255 if dtype == "uint8" else 4000)
    return np.random.default_rng(seed).integers(1, high, (bands, h, w)).astype(dtype)


def written(path, values, mask=None, colorinterp=None, colormap=None, **options):
    """Write (bands, h, w) as GeoTIFF."""
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", **profile, dtype=values.dtype, **options) as file:
        if colorinterp:
            file.colorinterp = [ColorInterp[name] for name in colorinterp]
        if colormap:
            file.write_colormap(1, colormap)
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def rgb(values):
    return np.ascontiguousarray(values[:3].transpose(1, 2, 0))


LAYOUTS = {
    "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"},
    "strips": {"blockysize": 5, "compress": "lzw"},
    "planes": {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band", "compress": "zstd"},
    "bigtiff": {"BIGTIFF": "YES", "compress": "deflate", "predictor": 2},
    "bare": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_are_the_pixels_written(tmp_path, layout):
    values = noise()
    path = written(tmp_path / "scene.tif", values, crs="EPSG:32632", transform=NORTH_UP, **LAYOUTS[layout])
    with open_scene(path) as scene:
        assert scene.size_hw == (90, 140)
        assert (scene.name, scene.driver, scene.band_count, scene.dtype) == (str(path), "GTiff", 3, np.dtype("uint8"))
        assert scene.bands == (1, 2, 3)
        assert scene.georeference.crs == "EPSG:32632"
        assert scene.georeference.transform == tuple(NORTH_UP)[:6]
        for x, y, w, h in [(0, 0, 140, 90), (0, 0, 1, 1), (139, 89, 1, 1), (30, 15, 37, 41), (100, 60, 40, 30)]:
            window = scene.read(x, y, w, h)
            assert window.flags.c_contiguous
            np.testing.assert_array_equal(window, rgb(values)[y : y + h, x : x + w])
        np.testing.assert_array_equal(scene.overview(1000), rgb(values))


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 86, 5, 5), (136, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 91)])
def test_windows_outside_are_told(tmp_path, window):
    with (
        open_scene(written(tmp_path / "scene.tif", noise())) as scene,
        pytest.raises(ValueError, match="is not inside the scene of 140x90 pixels"),
    ):
        scene.read(*window)


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [(".bmp", 1), *((suffix, turn) for suffix in (".png", ".jpg", ".webp", ".tif") for turn in (1, 3, 6, 8, 5))],
)
def test_photos_read_like_read_image(tmp_path, suffix, orientation):
    """The same pixels in the same place, upright as the orientation asks, window by window and as an overview."""
    blocks = noise(9, 14).repeat(10, 1).repeat(10, 2)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {} if suffix == ".bmp" else {"exif": exif}
    options |= {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(rgb(blocks)).save(path, **options)
    with Image.open(path) as picture:
        want = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    with open_scene(path) as scene:
        assert scene.size_hw == want.shape[:2]
        assert scene.georeference is None
        assert scene.found == "no georeference"
        np.testing.assert_allclose(scene.read(20, 30, 50, 45), want[30:75, 20:70], atol=3)
        np.testing.assert_allclose(scene.overview(10_000), read_image(path), atol=3)
        small = scene.overview(max(want.shape[:2]) // 10)
        assert small.shape[:2] == (want.shape[0] // 10, want.shape[1] // 10)
        np.testing.assert_allclose(small, want[5::10, 5::10], atol=16)


def test_a_georeferenced_file_is_not_turned(tmp_path):
    path = written(tmp_path / "scene.tif", noise(20, 30), crs="EPSG:32632", transform=NORTH_UP)
    data = bytearray(path.read_bytes())
    with Image.open(path) as picture:
        offset = picture.tag_v2._offset  # the directory; its first entry is ImageWidth (256), 12 bytes each
    entries = int.from_bytes(data[offset : offset + 2], "little")
    places = [offset + 2 + 12 * i for i in range(entries)]
    (sampling,) = [at for at in places if int.from_bytes(data[at : at + 2], "little") == 277]
    (planar,) = [at for at in places if int.from_bytes(data[at : at + 2], "little") == 284]
    assert sampling < planar  # 284 says "pixel interleaved", which is the default; make it 274, turned upside down
    entry = bytearray(data[planar : planar + 12])
    entry[:2], entry[8:10] = (274).to_bytes(2, "little"), (3).to_bytes(2, "little")
    rest = [data[at : at + 12] for at in places if at != planar] + [entry]
    rest.sort(key=lambda item: int.from_bytes(item[:2], "little"))
    data[offset + 2 : offset + 2 + 12 * entries] = b"".join(bytes(item) for item in rest)
    path.write_bytes(data)
    stored = rgb(noise(20, 30))
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 30, 20), stored)
    np.testing.assert_array_equal(read_image(path), stored[::-1, ::-1])  # without a georeference it would be


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64", "int8"])
def test_deep_scenes_are_stretched_as_images_are(tmp_path, dtype):
    """The whole of a small scene is looked at, so that its limits are exactly those of `images.stretch`."""
    values = noise(dtype=dtype, high=100 if dtype == "int8" else 3000)
    if dtype.startswith(("int", "float")):
        values = values - values.dtype.type(40)
        values[values == 0] = 1
    path = written(tmp_path / "scene.tif", values, tiled=True, blockxsize=32, blockysize=32)
    with open_scene(path) as scene:
        assert scene.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(scene.read(0, 0, 140, 90), stretch(rgb(values)))
        np.testing.assert_array_equal(scene.read(60, 20, 50, 40), stretch(rgb(values))[20:60, 60:110])


def test_limits_belong_to_the_scene_not_to_the_tile(tmp_path):
    """A dark half stays dark; the same values give the same pixels in every tile."""
    values = noise(2000, 1700, dtype="uint16", high=200)
    values[:, :, 850:] += 3000
    path = written(tmp_path / "scene.tif", values, tiled=True, blockxsize=256, blockysize=256)
    with open_scene(path) as scene:
        assert scene.read(0, 0, 800, 800).max() < 20
        assert scene.read(900, 0, 800, 800).min() > 230
        low, high = np.percentile(values, (0.5, 99.5))  # of all pixels; the scene samples 24 x 24 windows
        assert scene.stretch.low == pytest.approx((low,) * 3, abs=5)
        assert scene.stretch.high == pytest.approx((high,) * 3, abs=5)


def test_given_limits_and_percentiles_replace_the_rule(tmp_path):
    values = noise(dtype="uint16")
    path = written(tmp_path / "scene.tif", values)

    def literal(low, high):
        return np.rint(np.clip((rgb(values).astype(float) - low) * (255 / (np.array(high) - low)), 0, 255))

    with open_scene(path, low_high=[(100, 2000)]) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 140, 90), literal(100, 2000))
    each = [(0, 1000), (500, 3000), (10, 4000)]
    with open_scene(path, low_high=each) as scene:
        np.testing.assert_array_equal(
            scene.read(0, 0, 140, 90), literal(*(np.array([pair[i] for pair in each]) for i in (0, 1)))
        )
    with open_scene(path, percentiles=(10, 60)) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 140, 90), literal(*np.percentile(values, (10, 60))))
    eight = written(tmp_path / "eight.tif", noise(high=90))
    with open_scene(eight) as plain, open_scene(eight, percentiles=(0, 100)) as stretched:
        assert plain.read(0, 0, 140, 90).max() < 90  # 8 bits stay as they are unless told otherwise
        assert stretched.read(0, 0, 140, 90).max() == 255


def test_the_manifest_field_names_the_same_three(tmp_path):
    values = noise(bands=4, dtype="uint16")
    path = written(tmp_path / "scene.tif", values, photometric="minisblack")
    wanted = BandStretch(indexes=(4, 3, 2), low_high=((0, 4000),))
    with open_scene(path, bands=wanted.indexes, percentiles=wanted.percentiles, low_high=wanted.low_high) as scene:
        want = np.rint(values[[3, 2, 1]].transpose(1, 2, 0) * (255 / 4000))
        np.testing.assert_array_equal(scene.read(0, 0, 140, 90), want)


def test_a_manifest_keeps_the_field_and_older_ones_read_without_it(tmp_path):
    fields = {
        **{"name": "fake", "class_names": ["ship"], "input_hw": (64, 64), "precision": "fp32"},
        "heads": [{"stride": 8, "box_output": "box", "class_output": "class"}],
        "files": {"onnx": {"name": "model.onnx", "sha256": "0" * 64}},
    }
    for i, bands in enumerate([None, BandStretch(indexes=(4, 3, 2), percentiles=(2, 98)), BandStretch(indexes=(1,))]):
        bundle = tmp_path / str(i)
        bundle.mkdir()
        Manifest.model_validate({**fields, "bands": bands}).save(bundle)
        assert ("bands" in json.loads((bundle / "manifest.json").read_text())) == (bands is not None)
        assert load_manifest(bundle, check_hashes=False).bands == bands


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"indexes": (1, 2)}, "indexes must name three bands or one"),
        ({"indexes": (0, 1, 2)}, "greater than or equal to 1"),
        ({"percentiles": (98, 2)}, "from 0 to 100, the lower first"),
        ({"low_high": ((0, 1), (0, 1))}, r"one pair \(low, high\) or 3"),
        ({"low_high": ((5, 5),)}, "the low one first"),
        ({"percentiles": (2, 98), "low_high": ((0, 1),)}, "exclude each other"),
    ],
)
def test_a_bad_manifest_field_is_told(fields, message):
    with pytest.raises(ValueError, match=message):
        BandStretch(**fields)


@pytest.mark.parametrize(
    ("colours", "bands", "want"),
    [
        (["gray"], None, (1,)),
        (["gray", "alpha"], None, (1,)),
        (["gray", "undefined"], None, (1,)),
        (["red", "green", "blue"], None, (1, 2, 3)),
        (["blue", "green", "red", "undefined"], None, (3, 2, 1)),
        (["red", "green", "blue", "alpha"], None, (1, 2, 3)),
        (["gray", "undefined", "undefined", "undefined", "undefined"], None, (1, 2, 3)),
        (["gray", "undefined", "undefined", "undefined", "undefined"], (5, 3, 2), (5, 3, 2)),
        (["red", "green", "blue"], (2,), (2,)),
    ],
)
def test_bands_are_chosen_by_colour_or_by_hand(tmp_path, colours, bands, want):
    values = noise(bands=len(colours))
    if "alpha" in colours:
        values[colours.index("alpha")] = 255
    path = written(tmp_path / "scene.tif", values, colorinterp=colours, photometric="minisblack")
    with open_scene(path, bands=bands) as scene:
        assert scene.bands == want
        assert scene.band_count == len(colours)
        picked = [values[i - 1] for i in want] * (3 // len(want))
        np.testing.assert_array_equal(scene.read(5, 6, 70, 80), np.stack(picked, axis=2)[6:86, 5:75])


def test_a_colour_table_is_expanded(tmp_path):
    index = np.random.default_rng(1).integers(0, 4, (1, 60, 80), dtype=np.uint8)
    table = {0: (10, 20, 30, 255), 1: (255, 0, 0, 255), 2: (0, 90, 255, 255), 3: (7, 7, 7, 0)}
    path = written(tmp_path / "scene.tif", index, colormap=table, photometric="palette")
    want = np.array([table[i][:3] for i in range(3)] + [(0, 0, 0)], np.uint8)  # 3 is transparent: no data, black
    with open_scene(path) as scene:
        image, valid = scene.read_valid(0, 0, 80, 60)
        if (scene.colours[:4, 3] == 255).all():  # TIFF itself keeps no alpha of a table
            want[3] = table[3][:3]
            assert valid is None
        np.testing.assert_array_equal(image, want[index[0]])
        reduced = scene.overview(20)
        assert {tuple(colour) for colour in reduced.reshape(-1, 3).tolist()} <= {tuple(c) for c in want.tolist()}
    png = tmp_path / "palette.png"
    picture = Image.fromarray(index[0])
    picture.putpalette([c for i in range(4) for c in table[i][:3]])
    picture.save(png, transparency=3)
    with open_scene(png) as scene:
        image, valid = scene.read_valid(0, 0, 80, 60)
        np.testing.assert_array_equal(valid, index[0] != 3)
        np.testing.assert_array_equal(image, np.array([*(table[i][:3] for i in range(3)), (0, 0, 0)])[index[0]])


def masked_kinds(tmp_path, kind):
    """A scene whose left 60 columns hold no data by `kind`; returns path and values of its colours."""
    values = noise()
    hole = np.zeros((90, 140), bool)
    hole[:, :60] = True
    if kind == "no-data value":
        values[:, hole] = 77
        return written(tmp_path / "a.tif", values, nodata=77), values, hole | (values == 77).all(axis=0)
    if kind == "alpha":
        bands = np.concatenate([values, np.where(hole, 0, 255)[None].astype(np.uint8)])
        path = written(tmp_path / "b.tif", bands, colorinterp=["red", "green", "blue", "alpha"], photometric="rgb")
        return path, values, hole
    if kind == "mask":
        return written(tmp_path / "c.tif", values, mask=np.where(hole, 0, 255).astype(np.uint8)), values, hole
    floats = values.astype(np.float32)
    floats[1, hole] = np.nan
    return written(tmp_path / "d.tif", floats), floats, hole


@pytest.mark.parametrize("kind", ["no-data value", "alpha", "mask", "NaN"])
def test_pixels_without_data_are_black_and_told(tmp_path, kind):
    path, values, hole = masked_kinds(tmp_path, kind)
    with open_scene(path, low_high=[(0, 255)]) as scene:
        image, valid = scene.read_valid(20, 10, 100, 70)
        np.testing.assert_array_equal(valid, ~hole[10:80, 20:120])
        want = np.where(hole[..., None], 0, np.nan_to_num(rgb(values)))[10:80, 20:120]
        np.testing.assert_array_equal(image, want)
        assert scene.read_valid(61, 0, 70, 70)[1] is None
        assert scene.is_empty(0, 0, 60, 90)
        assert scene.is_empty(10, 10, 50, 50)
        assert not scene.is_empty(10, 10, 51, 50)
        assert not scene.is_empty(60, 0, 80, 90)


def test_a_hole_does_not_move_the_limits(tmp_path):
    values = noise(dtype="uint16", high=900)
    values[:, :, 70:] = 65535
    with open_scene(written(tmp_path / "a.tif", values, nodata=65535)) as scene:
        assert scene.stretch.high[0] < 900
    values[:, :, 70:] = 0  # nothing declared: a border that is 0 in every band
    values[:, :, :70] += 100
    with open_scene(written(tmp_path / "b.tif", values)) as scene:
        assert scene.stretch.low[0] > 100
    floats = np.full((1, 40, 40), -9999, np.float32)
    floats[:, 5:20, 5:20] = np.linspace(1, 2, 225).reshape(15, 15)
    with open_scene(written(tmp_path / "c.tif", floats, nodata=-9999)) as scene:
        assert 1 <= scene.stretch.low[0] < scene.stretch.high[0] <= 2
    with open_scene(written(tmp_path / "d.tif", np.full((1, 40, 40), np.nan, np.float32))) as scene:
        assert scene.is_empty(0, 0, 40, 40)


def test_black_borders_without_a_declaration_are_empty(tmp_path):
    values = noise()
    values[:, :50, :60] = np.random.default_rng(0).integers(0, 4, (3, 50, 60))  # black as JPEG leaves it
    with open_scene(written(tmp_path / "scene.tif", values)) as scene:
        assert scene.is_empty(0, 0, 60, 50)
        assert not scene.is_empty(0, 0, 61, 51)


@settings(max_examples=100, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    spot=st.tuples(st.integers(0, 39), st.integers(0, 39), st.integers(0, 2)),
)
def test_one_pixel_of_another_colour_is_something(h, w, colour, spot):
    image = np.full((h, w, 3), colour, np.uint8)
    assert looks_empty(image)
    y, x, channel = spot[0] % h, spot[1] % w, spot[2]
    image[y, x, channel] = 255 - image[y, x, channel] // 2
    changed = len(np.unique(image.reshape(-1, 3), axis=0)) > 1
    assert looks_empty(image) == (not changed or image.max() <= 4)
    assert looks_empty(image, np.zeros((h, w), bool))


def test_overviews_in_the_file_are_used(tmp_path):
    """Overviews of another colour than the pixels: what comes out shows which were read."""
    values = np.full((3, 512, 512), 50, np.uint8)
    path = written(tmp_path / "scene.tif", values, tiled=True)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
    with rasterio.open(path, "r+", OVERVIEW_LEVEL=2) as file:
        file.write(np.full((3, 64, 64), 200, np.uint8))
    with open_scene(path) as scene:
        assert (scene.overview(64) == 200).all()
        assert (scene.overview(512) == 50).all()
        assert (scene.read(0, 0, 512, 512) == 50).all()
        with pytest.raises(ValueError, match="max_side must be at least 1"):
            scene.overview(0)


def test_overview_averages_and_keeps_the_shape(tmp_path):
    values = noise(200, 300)
    with open_scene(written(tmp_path / "scene.tif", values)) as scene:
        small = scene.overview(30)
        assert small.shape == (20, 30, 3)
        want = rgb(values).reshape(20, 10, 30, 10, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(small, want, atol=1.01)


def damaged(path, out, block, how):
    with rasterio.open(path) as file:
        at = int(file.get_tag_item(f"BLOCK_OFFSET_{block[0]}_{block[1]}", "TIFF", 1))
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: at + 10]
    else:
        data[at + 2 : at + 200] = b"\xff" * 198
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("how", ["cut", "overwritten"])
@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_a_damaged_part_is_told_and_the_rest_is_read(tmp_path, capfd, how, compress):
    values = noise(256, 256)
    path = written(tmp_path / "whole.tif", values, tiled=True, blockxsize=128, blockysize=128, compress=compress)
    with open_scene(path) as scene:
        want = scene.read(0, 0, 128, 128)
    damaged(path, tmp_path / "scene.tif", (1, 1), how)
    with open_scene(tmp_path / "scene.tif") as scene:
        for _ in range(3):  # the same each time: GDAL's threads would keep the damaged block as one of zeros
            with pytest.raises(ValueError, match=r"scene\.tif: its window x=100, y=120, w=60, h=40 cannot be") as told:
                scene.read(100, 120, 60, 40)
        with pytest.raises(ValueError, match="cannot be read"):
            scene.read(200, 200, 10, 10)
        assert "copy it again" in str(told.value)
        assert "\n" not in str(told.value)
        np.testing.assert_array_equal(scene.read(0, 0, 128, 128), want)
    assert capfd.readouterr().err == ""


def test_what_is_no_scene_is_told(tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match="no such scene"):
        open_scene(tmp_path / "none.tif")
    with pytest.raises(ValueError, match="is a folder"):
        open_scene(tmp_path)
    odd = tmp_path / os.fsdecode(b"\xff.tif")
    odd.write_text("in Latin-1, say")
    with pytest.raises(ValueError, match="GDAL takes names in UTF-8 only, this one is not; rename the file"):
        open_scene(odd)
    text = tmp_path / "text.tif"
    text.write_text("no pixels here")
    with pytest.raises(ValueError, match=r"text\.tif: GDAL cannot open it"):
        open_scene(text)
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ValueError, match=r"empty\.tif: GDAL cannot open it"):
        open_scene(tmp_path / "empty.tif")
    photo = tmp_path / "photo.jpg"
    Image.fromarray(rgb(noise(200, 200))).save(photo)
    photo.write_bytes(photo.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"photo\.jpg: cannot be decoded \(truncated JPEG"):
        open_scene(photo)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": (1, 2)}, "bands must name three or one of its 3, counted from 1"),
        ({"bands": (0, 1, 2)}, "bands must name three or one of its 3, counted from 1"),
        ({"bands": (1, 2, 4)}, "bands must name three or one of its 3, counted from 1"),
        ({"percentiles": (5, 5)}, "percentiles must be two numbers from 0 to 100"),
        ({"percentiles": (1, 101)}, "percentiles must be two numbers from 0 to 100"),
        ({"low_high": [(0, 1), (0, 1)]}, "low_high must be one pair"),
        ({"low_high": [(5, 1)]}, "the low one first"),
        ({"low_high": [(0, float("inf"))]}, "finite"),
        ({"low_high": [(0, 1)], "percentiles": (1, 99)}, "exclude each other"),
    ],
)
def test_bad_options_are_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_scene(written(tmp_path / "scene.tif", noise()), **options)


def test_files_that_need_another_form_are_told(tmp_path):
    with pytest.raises(ValueError, match="real numbers are needed"):
        open_scene(written(tmp_path / "a.tif", noise(bands=1).astype(np.complex64)))
    with open_scene(written(tmp_path / "b.tif", noise(bands=4), photometric="cmyk")) as scene:
        cyan, black = noise(bands=4)[[0, 3]].astype(float)  # GDAL turns 8-bit CMYK into RGB itself
        np.testing.assert_allclose(scene.read(0, 0, 140, 90)[..., 0], (255 - cyan) * (255 - black) / 255, atol=1)
    with pytest.raises(ValueError, match="its colours are CMYK"):  # and leaves deeper ones to us
        choose_bands("scene.tif", ["cyan", "magenta", "yellow", "black"], None)
    table = written(tmp_path / "c.tif", noise(bands=1, high=3), colormap={1: (9, 9, 9)}, photometric="palette")
    with pytest.raises(ValueError, match="has a colour table"):
        open_scene(table, percentiles=(1, 99))


def test_a_scene_in_one_block_is_told_before_it_takes_the_memory(tmp_path):
    path = tmp_path / "scene.tif"
    options = {"driver": "GTiff", "width": 10000, "height": 10000, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **options, blockxsize=10000, blockysize=10000, compress="deflate", SPARSE_OK=True):
        pass
    with pytest.raises(ValueError, match=r"blocks of 10000x10000 pixels, 300 MB each.*TILED=YES"):
        open_scene(path)


def test_several_threads_get_their_own_windows(tmp_path):
    values = noise(400, 500)
    path = written(tmp_path / "scene.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    image, wrong = rgb(values), []

    def read_some(seed, scene):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            x, y = int(rng.integers(0, 400)), int(rng.integers(0, 300))
            if not np.array_equal(scene.read(x, y, 90, 80), image[y : y + 80, x : x + 90]):
                wrong.append((x, y))

    with open_scene(path) as scene:
        threads = [threading.Thread(target=read_some, args=(seed, scene)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    with pytest.raises(ValueError, match="the scene was closed"):
        scene.read(0, 0, 5, 5)


def test_opening_warns_of_nothing(tmp_path):
    path = written(tmp_path / "scene.tif", noise())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_scene(path) as scene:
            assert isinstance(scene, Scene)


MEMORY = """
import sys
sys.path.insert(0, sys.argv[2])
from deploy.scenes import open_scene
scene = open_scene(sys.argv[1])
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
scene.read(0, 0, 512, 512)
before = peak()
for y in range(0, 7680, 512):
    for x in range(0, 7680, 512):
        scene.read(x, y, 512, 512)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_scene_is_never_whole_in_memory(tmp_path):
    """177 MB of pixels are read, GDAL may keep 20: the peak stays far below the scene."""
    path = tmp_path / "scene.tif"
    block = noise(512, 512)
    options = {"driver": "GTiff", "width": 7680, "height": 7680, "count": 3, "dtype": "uint8", "compress": "lzw"}
    block[:, :, 8:] = 9  # compresses well and decodes fast
    with rasterio.open(path, "w", **options, tiled=True, blockxsize=512, blockysize=512) as file:
        for y in range(0, 7680, 512):
            for x in range(0, 7680, 512):
                file.write(block, window=rasterio.windows.Window(x, y, 512, 512))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(Path(__file__).parents[2])],
        env={**os.environ, "GDAL_CACHEMAX": "20"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert float(done.stdout) < 60


def test_stretch_checks_and_degenerate_limits():
    with pytest.raises(ValueError, match="a low and a high for each band"):
        Stretch((1.0,), (1.0, 2.0))
    with pytest.raises(ValueError, match=r"bands must have shape \(1, h, w\)"):
        Stretch((0.0,), (1.0,))(np.zeros((2, 3, 3)))
    for dtype in (np.uint8, np.int16, np.float32):
        assert not Stretch((3.0,), (3.0,))(np.full((1, 4, 4), 5, dtype)).any()
    assert find_limits(np.empty((3, 0), np.uint16)) == (0.0, 0.0)
    assert find_limits(np.array([np.nan, 2, np.inf, 4]), (0, 100)) == (2.0, 4.0)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32"]),
    limits=st.tuples(st.floats(-500, 500), st.floats(-500, 500)).map(sorted),
    seed=st.integers(0, 999),
)
def test_stretch_is_the_line_between_its_limits(dtype, limits, seed):
    kind = np.dtype(dtype)
    values = np.random.default_rng(seed).uniform(-700, 700, (1, 8, 8))
    if kind.kind in "iu":
        values = np.clip(values, np.iinfo(kind).min, np.iinfo(kind).max)
    values = values.astype(kind)
    low, high = limits
    for value, got in zip(values.ravel().tolist(), Stretch((low,), (high,))(values).ravel().tolist(), strict=True):
        share = min(max((value - low) / (high - low) * 255, 0), 255) if high > low else 0
        assert abs(got - share) <= 0.5 + 1e-6


def cut_16_bit(path, kept):
    """A 16-bit scene in one strip a row, of which the file holds the first rows only. Returns its values."""
    values = noise(h=256, w=192, dtype="uint16")
    written(path, values, blockysize=1)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    return values


def test_a_stretch_does_without_windows_that_cannot_be_read(tmp_path):
    """The limits are those of the part that is there; the number of windows without is kept."""
    path = tmp_path / "cut.tif"
    values = cut_16_bit(path, 0.6)
    with open_scene(path, percentiles=(0, 100)) as scene:
        assert scene.unread_samples == 6  # of 4 rows of windows by 3, the lower two
        assert scene.stretch.low[0] == values[:, :128].min()
        assert scene.stretch.high[0] == values[:, :128].max()
        assert scene.read(0, 0, 192, 100).any()
        with pytest.raises(ValueError, match="cannot be read"):
            scene.read(0, 200, 192, 56)


def test_a_stretch_of_a_whole_file_misses_nothing(tmp_path):
    with open_scene(written(tmp_path / "a.tif", noise(dtype="uint16"))) as scene:
        assert scene.unread_samples == 0


def test_a_scene_of_which_nothing_can_be_read_has_no_stretch(tmp_path):
    path = tmp_path / "cut.tif"
    cut_16_bit(path, 0.05)
    with pytest.raises(ValueError, match="the file is damaged or cut off there"):
        open_scene(path)
