"""Scenes: images too large for memory, read window by window as 8-bit RGB; any file that GDAL opens."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from .georeference import Georeference, read_georeference
from .image_header import ImageHeader, check_complete, read_header
from .images import _turn as turn_upright
from .stretch import Stretch, check_percentiles, choose_bands, colour_table, find_stretch, is_no_data

# What GDAL may keep of decoded blocks, for all scenes of the process together. It has to hold one row of tiles, so that
# no block is decoded twice: 160 MB do for 8-bit RGB that is 50,000 pixels wide.
CACHE_MB = 160
# A block is decoded whole. Files with larger ones (one strip for the whole scene) would take their memory all at once.
BLOCK_LIMIT_MB = 256
# So many threads decode the blocks of one window (GeoTIFF).
DECODING_THREADS = 2
# Windows along each side of a scene that the limits of a stretch are taken from, and the side of each in pixels. Scenes
# up to their product are looked at whole.
_SAMPLES, _SAMPLE_PX = 24, 64
# A tile without a pixel brighter than this shows nothing: borders without data that no mask declares are black, and
# JPEG compression leaves them nearly so.
_BLACK = 4

Window4 = tuple[int, int, int, int]  # x, y, w, h in pixels
Loaded = tuple[np.ndarray, np.ndarray | None]  # pixels, and where there is data; None: everywhere


class Scene:
    """One open scene; `open_scene` makes it.

    name: the path. size_hw: (height, width) in pixels, upright. georeference: None where the scene has none that boxes
    could be placed by; `found` says what it has. driver, band_count, dtype: of the file. bands: those read, from 1.
    stretch: how their values become 8 bits; None where they are as they should be. colours: (values, 4) uint8 RGBA of a
    file with a colour table, else None. unread_samples: windows that `sample` had to do without.

    May be used from several threads. GDAL's handles may not, so that reads wait for each other; GDAL itself decodes
    with several. Pixels without data (mask, alpha, no-data value, NaN) are black.
    """

    def __init__(
        self, path: Path, dataset: Any, bands: Sequence[int] | None, georeference: Georeference | None, found: str
    ) -> None:
        self.name, self.driver, self._path = str(path), str(dataset.driver), path
        self.georeference, self.found = georeference, found
        self.band_count = int(dataset.count)
        self.stretch: Stretch | None = None
        self.unread_samples = 0
        self._dataset, self._lock = dataset, threading.Lock()
        interpretation = [kind.name for kind in dataset.colorinterp]
        self._alpha = interpretation.index("alpha") + 1 if "alpha" in interpretation else None
        self.bands = choose_bands(self.name, interpretation, bands)
        self.dtype = np.dtype(dataset.dtypes[self.bands[0] - 1])
        if self.dtype.kind not in "iuf":
            raise ValueError(
                f"{path}: its values are {self.dtype}, real numbers are needed; take their magnitude first"
            )
        self.colours = None
        if interpretation[self.bands[0] - 1] == "palette":
            self.colours = colour_table(dataset.colormap(self.bands[0]))
        flags = {flag.name for flag in dataset.mask_flag_enums[self.bands[0] - 1]}
        self._masked = "per_dataset" in flags and self._alpha is None
        no_data = [dataset.nodatavals[band - 1] for band in self.bands]
        self._no_data = None if self._masked or None in no_data else no_data
        # Where the file says nothing about data, black borders are taken for none, see `looks_empty`.
        self._undeclared = not self._masked and self._alpha is None and self._no_data is None
        # GIS programs leave a georeferenced TIFF as it is stored; photos are turned upright, as `read_image` does.
        header = None if georeference is not None else _header_of(path)
        self._orientation = header.orientation if header is not None else 1
        turned = self._orientation >= 5
        self.size_hw: tuple[int, int] = (dataset.width, dataset.height) if turned else (dataset.height, dataset.width)

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Return the window whose top left pixel is (x, y): (h, w, 3) uint8 RGB.

        Raises ValueError for a window that is not inside the scene, and for one that the file cannot give, because it
        is damaged or cut off there.
        """
        return self.read_valid(x, y, w, h)[0]

    def read_valid(self, x: int, y: int, w: int, h: int) -> Loaded:
        """Return the window as `read` does, and where it has data: (h, w) bool, or None where it has everywhere."""
        height, width = self.size_hw
        if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
            raise ValueError(
                f"{self.name}: window x={x}, y={y}, w={w}, h={h} is not inside the scene of {width}x{height} pixels"
            )
        return self._rgb(*self._load(self._stored(x, y, w, h)))

    def is_empty(self, x: int, y: int, w: int, h: int) -> bool:
        """Whether a window shows nothing: no data, black, or one single colour. Raises ValueError like `read`."""
        return looks_empty(*self.read_valid(x, y, w, h))

    def overview(self, max_side: int) -> np.ndarray:
        """Return the whole scene at most `max_side` pixels long: (h, w, 3) uint8 RGB, never enlarged.

        Read through the file's own reduced copies where it has them; otherwise every block is decoded once, which takes
        as long as reading all tiles, but no more memory. Raises ValueError like `read`.
        """
        if max_side < 1:
            raise ValueError(f"max_side must be at least 1 pixel, got {max_side}")
        height, width = self.size_hw
        factor = min(1.0, max_side / max(height, width))
        size_hw = (max(1, round(height * factor)), max(1, round(width * factor)))
        if self._orientation >= 5:
            size_hw = size_hw[::-1]
        return self._rgb(*self._load(self._stored(0, 0, width, height), size_hw))[0]

    def close(self) -> None:
        """Close the file; a window that is being read is finished first."""
        with self._lock:
            self._dataset.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, x: int, y: int, w: int, h: int) -> Window4:
        """Return the window of the file that an upright window shows; EXIF orientations as in `images.read_image`."""
        height, width = self.size_hw
        if self._orientation in (2, 3, 6, 7):
            x = width - x - w
        if self._orientation in (3, 4, 7, 8):
            y = height - y - h
        return (y, x, h, w) if self._orientation >= 5 else (x, y, w, h)

    def _load(self, window: Window4, size_hw: tuple[int, int] | None = None) -> Loaded:
        """Read a window of the file, reduced to `size_hw`: values (bands, h, w), and (h, w) bool of data or None."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        indexes = [*self.bands, *([self._alpha] if self._alpha else [])]
        hw = size_hw or (window[3], window[2])
        exact = hw == (window[3], window[2]) or self.colours is not None
        kind = Resampling.nearest if exact else Resampling.average
        options: dict[str, Any] = {"window": Window(*window), "resampling": kind}
        mask = None
        with self._lock:
            if self._dataset.closed:
                raise ValueError(f"{self.name}: the scene was closed; open it again")
            try:
                values = self._dataset.read(indexes, out_shape=(len(indexes), *hw), **options)
                if self._masked:
                    mask = self._dataset.read_masks(self.bands[0], out_shape=hw, **options)
            except Exception as error:  # rasterio lets GDAL's own errors through, and they have no public class
                if isinstance(error, MemoryError):
                    raise
                # After a failure with several threads GDAL takes the damaged block for a good one, of zeros, ever after
                # (seen with 3.10). A new handle with one thread fails each time, as it should.
                self._dataset.close()
                self._dataset = _open_file(self._path, None)
                where = ", ".join(f"{side}={value}" for side, value in zip("xywh", window, strict=True))
                raise ValueError(
                    f"{self.name}: its window {where} cannot be read ({_reason(error)}); the file is damaged or cut "
                    "off there, copy it again"
                ) from error
        valid = mask > 0 if mask is not None else None
        if self._alpha:
            values, valid = values[:-1], values[-1] > 0
        if self._no_data is not None:
            missing = [is_no_data(band, value) for band, value in zip(values, self._no_data, strict=True)]
            valid = ~np.logical_and.reduce(missing)
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=0)
            valid = finite if valid is None else valid & finite
        return values, None if valid is None or valid.all() else valid

    def _rgb(self, values: np.ndarray, valid: np.ndarray | None) -> Loaded:
        """Turn what `_load` gives into upright RGB, black where there is no data."""
        if self.colours is not None:
            rgba = self.colours.take(values[0].view(f"u{values.itemsize}"), axis=0, mode="clip")
            image = np.ascontiguousarray(rgba[..., :3])
            if (self.colours[:, 3] == 0).any():
                opaque = rgba[..., 3] > 0
                valid = opaque if valid is None else valid & opaque
        else:
            if self.stretch is not None:
                values = self.stretch(values)
            image = cv2.merge([values[i % len(values)] for i in range(3)])
        if valid is not None:
            image[~valid] = 0
        if self._orientation > 1:
            image = turn_upright(image, self._orientation)
            if valid is not None:
                valid = turn_upright(valid[..., None], self._orientation)[..., 0]
        return image, valid

    def sample(self) -> np.ndarray:
        """Return values of the bands read from all over the scene, (bands, n) in the file's dtype, data only.

        24 x 24 windows of 64 x 64 pixels, or all of a scene that is no larger. Windows that cannot be read, because the
        file is damaged or cut off there, are passed over and counted in `unread_samples`. Raises ValueError like `read`
        where none can.
        """
        height, width = self.size_hw
        parts = []
        self.unread_samples, fault = 0, None
        for y, h in _spread(height):
            for x, w in _spread(width):
                try:
                    values, valid = self._load(self._stored(x, y, w, h))
                except ValueError as error:
                    self.unread_samples, fault = self.unread_samples + 1, error
                    continue
                if valid is None and self._undeclared:
                    valid = (values != 0).any(axis=0)
                parts.append(values.reshape(len(values), -1) if valid is None else values[:, valid])
        if fault is not None and not parts:
            raise fault
        return np.concatenate(parts, axis=1)


def open_scene(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    percentiles: Sequence[float] | None = None,
    low_high: Sequence[Sequence[float]] | None = None,
) -> Scene:
    """Open a scene: GeoTIFF, BigTIFF, JPEG 2000, JPEG, PNG and whatever else GDAL reads.

    bands: three for red, green and blue, or one for grey, counted from 1; None: by the colours that the file states,
    else its first three, or its first where it has fewer. percentiles: of the whole scene's values, all bands together,
    that become 0 and 255; None: 0.5 and 99.5 for more than 8 bits, 8 bits stay as they are. low_high: limits in the
    file's units instead, one pair for all bands or one for each. The manifest's `bands` holds the same three.

    Limits are found here, once, from windows spread over the scene. GDAL_CACHEMAX in the environment, where it is set,
    replaces `CACHE_MB`. Raises FileNotFoundError, or ValueError with file, rule and cure.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, a scene is one file; name the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such scene; check the path")
    if percentiles is not None and low_high is not None:
        raise ValueError("percentiles and low_high exclude each other, both came; give one of them")
    share = None if percentiles is None else check_percentiles(percentiles)
    # GDAL looks at this once, when it decodes its first block; its own default is 5 % of the machine's memory.
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))
    # What GDAL logs becomes one ValueError here; without a handler Python would print it too.
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    header = _header_of(path)
    if header is not None and header.format != "TIFF":  # read from the top down; GDAL would paint what is missing
        _check_complete(path, header)
    dataset = _open_file(path, DECODING_THREADS if header is not None and header.format == "TIFF" else None)
    try:
        if not dataset.count:
            inside = f"; it holds {', '.join(dataset.subdatasets[:3])}" if dataset.subdatasets else ""
            raise ValueError(f"{path}: holds no raster of its own{inside}; take one out with gdal_translate")
        _check_blocks(path, dataset)
        scene = Scene(path, dataset, bands, *read_georeference(dataset))
        if scene.colours is not None and (share or low_high) is not None:
            raise ValueError(f"{path}: has a colour table, its values cannot be stretched; leave the stretch away")
        if scene.colours is None:
            scene.stretch = find_stretch(scene.dtype, len(scene.bands), share, low_high, scene.sample)
    except BaseException:
        dataset.close()
        raise
    return scene


def _open_file(path: Path, threads: int | None) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: GDAL takes names in UTF-8 only, this one is not; rename the file") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(path, **({"NUM_THREADS": threads} if threads else {}))
        except Exception as error:  # rasterio lets GDAL's own errors through, and they have no public class
            raise ValueError(
                f"{path}: GDAL cannot open it ({_reason(error)}); name an image, or copy it again"
            ) from error


def looks_empty(image: np.ndarray, valid: np.ndarray | None = None) -> bool:
    """Whether a tile shows nothing that could be detected: no data at all, black all over, or one single colour.

    image: (h, w, 3) uint8, black where there is no data. valid: (h, w) bool, where there is data; None: everywhere.
    """
    if valid is not None and not valid.any():
        return True
    if image[::16, ::16].max() > _BLACK and (image[::16, ::16] != image[0, 0]).any():
        return False  # most tiles are settled by a few of their pixels
    return bool(image.max() <= _BLACK or (image == image[0, 0]).all())


def _check_blocks(path: Path, dataset: Any) -> None:
    """Raise ValueError where one block of the file alone would take too much memory."""
    height, width = dataset.block_shapes[0]
    planes = dataset.count if dataset.interleaving is not None and dataset.interleaving.name == "pixel" else 1
    megabytes = height * width * np.dtype(dataset.dtypes[0]).itemsize * planes / 1e6
    if megabytes > BLOCK_LIMIT_MB:
        raise ValueError(
            f"{path}: is stored in blocks of {width}x{height} pixels, {megabytes:.0f} MB each, at most "
            f"{BLOCK_LIMIT_MB} MB can be read; store it in tiles with gdal_translate -co TILED=YES -co COMPRESS=DEFLATE"
        )


def _header_of(path: Path) -> ImageHeader | None:
    """Return the header of the formats that `image_header` knows, None of the others."""
    with open(path, "rb") as handle:
        try:
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_header(data)
        except ValueError:
            return None


def _check_complete(path: Path, header: ImageHeader) -> None:
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            check_complete(data, header)
        except ValueError as error:
            raise ValueError(f"{path}: cannot be decoded ({error}); copy the file again") from error


def _spread(length: int) -> list[tuple[int, int]]:
    """Return (start, size) of windows spread over one side of a scene; together all of it where it is short."""
    step = max(_SAMPLE_PX, length / _SAMPLES)
    starts = [int(i * step) for i in range(_SAMPLES) if int(i * step) < length]
    return [(start, min(_SAMPLE_PX, length - start)) for start in starts]


def _reason(error: BaseException) -> str:
    """Return GDAL's own words in one short line; rasterio keeps them in the error's cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
