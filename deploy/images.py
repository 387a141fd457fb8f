"""Images: any image file as RGB uint8, its size without decoding it, and the images of a folder."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .image_header import ImageHeader, check_complete, keep_colours_of_alpha, read_header

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
STRETCH_PERCENTILES = (0.5, 99.5)

_CURE = "copy the file again, or take it out"

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # each failure becomes one ValueError below; OpenCV's own lines would only double it


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode an image file.

    Returns (h, w, 3) uint8, RGB, turned as its EXIF (or TIFF) orientation asks. Greyscale is repeated over the three
    channels, an alpha channel is dropped. More than 8 bits a channel are stretched: the 0.5 and 99.5 percentiles over
    all channels together become 0 and 255, so that 11 and 12 bit sensors are not black and colours keep their balance.

    Raises FileNotFoundError where there is no such file, PermissionError where it may not be read, ValueError with
    file, reason and cure where it is truncated, damaged or not an image. OpenCV alone would paint the missing part
    grey. A JPEG that is damaged in its middle but has its end-of-image marker cannot be told from a whole one, it
    holds no checksums: it decodes, to wrong pixels.
    """
    path = Path(path)
    _require_file(path)
    try:
        data = np.fromfile(path, np.uint8)  # imread cannot open every path that the system can
    except PermissionError as error:
        raise PermissionError(f"{path}: cannot be read ({error.strerror}); check its owner and mode") from error
    view = memoryview(data.data)
    try:
        header = read_header(view)
        check_complete(view, header)
        if header.format == "TIFF":
            keep_colours_of_alpha(view)
        pixels = _decode(data, header)
    except (ValueError, cv2.error) as error:
        reason = "OpenCV refuses it" if isinstance(error, cv2.error) else str(error)
        raise ValueError(f"{path}: cannot be decoded ({reason}); {_CURE}") from error
    if pixels.dtype != np.uint8:
        pixels = stretch(pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def image_size_hw(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) in pixels of what `read_image` gives, from the file's header alone.

    Raises FileNotFoundError or ValueError like `read_image`; a file cut off behind its header passes.
    """
    path = Path(path)
    _require_file(path)
    with open(path, "rb") as handle:
        try:
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_header(data).size_hw
        except ValueError as error:
            reason = "the file is empty" if os.fstat(handle.fileno()).st_size == 0 else str(error)
            raise ValueError(f"{path}: cannot be decoded ({reason}); {_CURE}") from error


def list_images(path: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """List the images of a folder, or a single image file, sorted by path; `recursive` takes subfolders too.

    A link that leads nowhere is listed if it is named like an image: reading it tells what is missing. Raises
    FileNotFoundError where there is nothing at `path`, OSError where a folder cannot be listed, ValueError where no
    file has an image's extension.
    """
    path = Path(path)
    if path.is_dir():
        images = sorted(
            p
            for p in _entries(path, recursive)
            if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and (p.is_file() or not p.exists())
        )
        if not images:
            raise ValueError(f"{path}: holds no image ({', '.join(EXTENSIONS)}); name a folder with images")
        return images
    _require_file(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"{path}: not an image by its extension ({', '.join(EXTENSIONS)}); name an image or a folder")
    return [path]


def stretch(pixels: np.ndarray) -> np.ndarray:
    """Bring pixels of any depth to uint8: `STRETCH_PERCENTILES` of all finite values become 0 and 255.

    pixels: any shape, integers or floats. Returns uint8 of the same shape; what is not finite becomes 0, an image of
    one single value becomes 0 everywhere.
    """
    values = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    if values.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = (float(v) for v in np.percentile(values, STRETCH_PERCENTILES))
    gain = 255.0 / (high - low) if high > low else 0.0
    if pixels.dtype == np.uint16:  # a table of all values is several times faster than arithmetic on every pixel
        table = np.rint(np.clip((np.arange(65536) - low) * gain, 0, 255)).astype(np.uint8)
        return table[pixels]
    scaled = (np.where(np.isfinite(pixels), pixels, low).astype(np.float64) - low) * gain
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _entries(folder: Path, recursive: bool) -> Iterator[Path]:
    """Yield what a folder holds. Not `rglob`: it passes over folders that it may not list, without a word."""

    def refuse(error: OSError) -> None:
        raise type(error)(
            f"{os.fsdecode(error.filename)}: the folder cannot be listed ({error.strerror}); check its owner and mode, "
            "or name the other folders"
        ) from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(where, name) for name in files)
        if not recursive:
            folders.clear()


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, an image file is needed; name the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file; check the path")


def _decode(data: np.ndarray, header: ImageHeader) -> np.ndarray:
    """Decode to (h, w, 3) BGR of the file's own depth, upright; raises ValueError or cv2.error."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(data, flags)
    if pixels is None and header.format == "TIFF":  # floats in one or four channels are only given as they are
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        elif pixels is not None and pixels.shape[2] > 3:
            pixels = np.ascontiguousarray(pixels[..., :3])
    if pixels is None:
        raise ValueError(f"damaged {header.format}, or a kind of it that OpenCV does not read")
    if header.format != "TIFF":  # OpenCV always turns a TIFF itself; the rest is turned here, alike in every version
        pixels = _turn(pixels, header.orientation)
    if pixels.shape[:2] != header.size_hw:
        (h, w), (stated_h, stated_w) = pixels.shape[:2], header.size_hw
        raise ValueError(f"damaged {header.format}: its header says {stated_w}x{stated_h} pixels, it holds {w}x{h}")
    return pixels


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright. orientation: EXIF tag 274 (CIPA DC-008, table 6)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
