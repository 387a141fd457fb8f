"""Reading images: every kind a user may bring, Pillow as the reference, and files that must be refused."""

import io
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from deploy.image_header import read_header
from deploy.images import EXTENSIONS, image_size_hw, list_images, read_image, stretch


def picture(h=24, w=36, seed=0):
    """Coarse colour blocks, so that lossy files stay close; no two corners alike."""
    blocks = np.random.default_rng(seed).integers(0, 255, (h // 12 + 1, w // 12 + 1, 3), dtype=np.uint8)
    return blocks.repeat(12, 0).repeat(12, 1)[:h, :w].copy()


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_reads_rgb_of_every_extension(tmp_path, suffix):
    image = picture()
    path = saved(tmp_path / f"Bild ä {suffix[1:]}{suffix}", image)
    got = read_image(path)
    assert got.shape == image.shape
    assert got.dtype == np.uint8
    assert image_size_hw(path) == (24, 36)
    with Image.open(path) as reference:
        np.testing.assert_allclose(got, np.asarray(reference.convert("RGB")), atol=6)
    if suffix in (".png", ".bmp", ".tif", ".tiff"):
        np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_as_pillow_does(tmp_path, suffix, orientation):
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if suffix == ".tif" else {"exif": exif}
    if suffix == ".webp":
        options["lossless"] = True
    saved(path, picture(), **options)
    with Image.open(path) as reference:
        want = np.asarray(ImageOps.exif_transpose(reference).convert("RGB"))
    got = read_image(path)
    assert got.shape == want.shape == (*image_size_hw(path), 3)
    np.testing.assert_allclose(got, want, atol=6)
    assert got.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_ignores_an_orientation_that_means_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path / "a.jpg", picture(), exif=exif)
    assert image_size_hw(path) == read_image(path).shape[:2] == (24, 36)


def test_reads_greyscale_palette_bilevel_alpha_and_cmyk(tmp_path):
    image = picture()
    for name, mode in (("l.png", "L"), ("la.png", "LA"), ("l.jpg", "L"), ("l.tif", "L")):
        Image.fromarray(image).convert(mode).save(tmp_path / name)
        with Image.open(tmp_path / name) as reference:
            grey = np.asarray(reference.convert("L"))
        np.testing.assert_allclose(read_image(tmp_path / name), np.repeat(grey[..., None], 3, 2), atol=2)
    rgba = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])  # nearly transparent: alpha must not darken
    for name in ("a.png", "a.tif", "a.webp"):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        np.testing.assert_array_equal(read_image(saved(tmp_path / name, rgba, **options)), image)
    for name, mode in (("p.png", "P"), ("1.png", "1"), ("1.tif", "1"), ("cmyk.jpg", "CMYK")):
        Image.fromarray(image).convert(mode).save(tmp_path / name)
        with Image.open(tmp_path / name) as reference:
            np.testing.assert_allclose(read_image(tmp_path / name), np.asarray(reference.convert("RGB")), atol=25)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_reads_one_pixel(tmp_path, suffix):
    path = saved(tmp_path / f"one{suffix}", np.full((1, 1, 3), 200, np.uint8))
    assert image_size_hw(path) == (1, 1)
    np.testing.assert_allclose(read_image(path), np.full((1, 1, 3), 200), atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_stretches_sixteen_bits(tmp_path, suffix):
    twelve_bit = np.random.default_rng(1).integers(100, 4000, (60, 80, 3)).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), twelve_bit[..., ::-1])
    low, high = np.percentile(twelve_bit, (0.5, 99.5))
    want = np.clip((twelve_bit.astype(float) - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(read_image(path), want, atol=0.51)
    assert image_size_hw(path) == (60, 80)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_stretches_other_tiffs(tmp_path, channels, dtype):
    values = np.random.default_rng(2).uniform(-300, 300, (20, 30, channels)).astype(dtype)
    path = tmp_path / "deep.tif"
    cv2.imwrite(str(path), values)
    got = read_image(path)
    assert got.shape == (20, 30, 3)
    assert got.dtype == np.uint8
    assert got.min() == 0
    assert got.max() == 255


def test_stretch_of_constants_and_of_what_is_not_finite():
    assert not stretch(np.full((2, 2, 3), 900, np.uint16)).any()
    assert not stretch(np.full((2, 2, 3), np.nan, np.float32)).any()
    assert not stretch(np.array([[5.0, np.inf]])).any()
    mixed = np.array([[0.0, np.nan, np.inf, -np.inf, 1.0]])
    np.testing.assert_array_equal(stretch(mixed), [[0, 0, 0, 0, 255]])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_refuses_every_truncation(tmp_path, suffix, capfd):
    path = saved(tmp_path / f"cut{suffix}", np.random.default_rng(3).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    data = path.read_bytes()
    for length in [*range(0, 60, 7), len(data) // 2, len(data) * 9 // 10, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut.*: cannot be decoded \(.*\); copy the file again") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_says_what_a_truncated_jpeg_lacks_even_with_a_whole_thumbnail(tmp_path):
    thumbnail = io.BytesIO()
    Image.fromarray(picture()).save(thumbnail, "JPEG")
    path = saved(tmp_path / "a.jpg", np.random.default_rng(3).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    data = path.read_bytes()
    block = b"\xff\xe2" + struct.pack(">H", len(thumbnail.getvalue()) + 2) + thumbnail.getvalue()
    whole = data[:2] + block + data[2:]
    path.write_bytes(whole)
    assert read_image(path).shape == (90, 90, 3)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match="truncated JPEG: no end-of-image marker"):
        read_image(path)


def test_reads_jpegs_with_more_behind_their_end_and_progressive_ones(tmp_path):
    image = picture(60, 60)
    path = saved(tmp_path / "a.jpg", image, progressive=True, quality=95)
    path.write_bytes(path.read_bytes() + b"\xff\xd8 a second picture, as some cameras write")
    with Image.open(path) as reference:
        np.testing.assert_allclose(read_image(path), np.asarray(reference.convert("RGB")), atol=6)


def test_refuses_a_png_with_a_flipped_bit(tmp_path):
    path = saved(tmp_path / "a.png", np.random.default_rng(3).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged PNG: the checksum of block IDAT is wrong"):
        read_image(path)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"\0" * 500, b"GIF89a" + b"\0" * 50])
def test_refuses_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size_hw):
        with pytest.raises(ValueError, match=r"a\.jpg: cannot be decoded \((not a JPEG|the file is empty)"):
            read(path)


def test_missing_files_and_folders(tmp_path):
    for read in (read_image, image_size_hw):
        with pytest.raises(FileNotFoundError, match=r"none\.jpg: no such image file"):
            read(tmp_path / "none.jpg")
        with pytest.raises(ValueError, match="is a folder"):
            read(tmp_path)


def test_size_of_a_scene_too_large_to_decode(tmp_path):
    head = struct.pack(">IIBBBBB", 400_000, 300_000, 8, 2, 0, 0, 0)
    block = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + block)
    assert image_size_hw(tmp_path / "a.png") == (300_000, 400_000)


def test_header_of_lossless_and_extended_webp_and_bigtiff():
    for options in ({"lossless": True}, {"quality": 50}, {"quality": 50, "exif": Image.Exif().tobytes() + b"\0"}):
        data = io.BytesIO()
        Image.fromarray(picture(31, 57)).save(data, "WEBP", **options)
        assert read_header(data.getvalue()).size_hw == (31, 57)
    data = io.BytesIO()
    Image.fromarray(picture(31, 57)).save(data, "TIFF", big_tiff=True)
    assert read_header(data.getvalue()).size_hw == (31, 57)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**62])
def test_bigtiff_directory_far_behind_the_end(tmp_path, order, offset):
    path = tmp_path / "far.tif"
    path.write_bytes((b"II" if order == "<" else b"MM") + struct.pack(order + "HHHQ", 43, 8, 0, offset))
    for read in (read_image, image_size_hw):
        with pytest.raises(ValueError, match=r"far\.tif: cannot be decoded \(truncated TIFF: .*\); copy the file"):
            read(path)


def test_lists_images_sorted(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.png", "sub/d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.JPG"]
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["a.png", "b.JPG", "d.tif"]
    assert list_images(tmp_path / "a.png") == [tmp_path / "a.png"]
    with pytest.raises(ValueError, match=r"c\.txt: not an image by its extension"):
        list_images(tmp_path / "c.txt")
    with pytest.raises(FileNotFoundError):
        list_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        list_images(tmp_path / "empty")


def test_a_link_that_leads_nowhere_is_listed_and_told_when_it_is_read(tmp_path):
    saved(tmp_path / "a.png", picture())
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.png"]
    with pytest.raises(FileNotFoundError, match=r"b\.png: no such image file"):
        read_image(tmp_path / "b.png")


LOCKED = """
import os, sys
from deploy.images import list_images, read_image
if os.getuid() == 0:
    os.setuid(65534)
os.chdir(sys.argv[1])
for ask in (lambda: list_images(".", recursive=True), lambda: list_images("sub"), lambda: read_image("a.png")):
    try:
        print(ask())
    except PermissionError as error:
        print(error)
print([p.name for p in list_images(".")])
"""


def test_what_may_not_be_read_is_told_not_passed_over():
    # Not below pytest's folder, which is closed to others than its owner.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        saved(folder / "a.png", picture()).chmod(0)
        (folder / "sub").mkdir(mode=0)
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-c", LOCKED, name]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    folder_told = "sub: the folder cannot be listed (Permission denied); check its owner and mode, or name the other"
    whole, sub, image, flat = run.stdout.splitlines()
    assert whole.startswith(f"./{folder_told}")
    assert sub.startswith(folder_told)
    assert image == "a.png: cannot be read (Permission denied); check its owner and mode"
    assert flat == "['a.png']", "a subfolder that nobody asked for is none of its business"
