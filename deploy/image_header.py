"""Image headers: format, size and rotation from a file's first bytes, and whether the file is whole."""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Buffer = bytes | memoryview | mmap.mmap

# What reading behind the last byte raises; OverflowError from 2**63 on, where a BigTIFF's offsets may point.
_PAST_THE_END = (struct.error, IndexError, OverflowError)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers: 0xC0 to 0xCF without DHT (C4), JPG (C8) and DAC (CC). ITU-T T.81, table B.1.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Inside compressed data 0xFF is always followed by 00 or by a restart marker, so anything else is a real marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_ORIENTATION = 274
_EXTRA_SAMPLES = 338
_TIFF_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}  # BYTE, SHORT, LONG, LONG8


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of an image file say.

    format: "JPEG", "PNG", "BMP", "WebP" or "TIFF". stored_hw: (height, width) in pixels as stored.
    orientation: EXIF/TIFF tag 274, 1 to 8; 1 where the file has none.
    """

    format: str
    stored_hw: tuple[int, int]
    orientation: int = 1

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels after the rotation that `orientation` asks for."""
        h, w = self.stored_hw
        return (w, h) if self.orientation >= 5 else (h, w)


def read_header(data: Buffer) -> ImageHeader:
    """Read the header of a JPEG, PNG, BMP, WebP or TIFF file; only the pages of `data` that hold it are touched.

    Raises ValueError with the reason alone ("truncated JPEG: ..."); the caller knows the file's name.
    """
    start = bytes(data[:16])
    if not start:
        raise ValueError("the file is empty")
    if start.startswith(b"\xff\xd8"):
        name, parse = "JPEG", _jpeg_header
    elif start.startswith(_PNG_SIGNATURE):
        name, parse = "PNG", _png_header
    elif start.startswith(b"BM"):
        name, parse = "BMP", _bmp_header
    elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        name, parse = "WebP", _webp_header
    elif start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        name, parse = "TIFF", _tiff_header
    else:
        raise ValueError("not a JPEG, PNG, BMP, WebP or TIFF file")
    try:
        header = parse(data)
    except _PAST_THE_END as error:
        raise ValueError(f"truncated {name}: the file ends inside its header") from error
    if min(header.stored_hw) < 1:
        raise ValueError(f"damaged {name}: its header says {header.stored_hw[1]}x{header.stored_hw[0]} pixels")
    return header


def check_complete(data: Buffer, header: ImageHeader) -> None:
    """Raise ValueError with the reason where the file ends early or a PNG block is damaged.

    Decoders paint what is missing grey and go on, so training would never notice. Only PNG has checksums: damage in the
    middle of another format passes where it leaves the structure whole.
    """
    check = {"JPEG": _jpeg_complete, "PNG": _png_complete, "BMP": _bmp_complete, "WebP": _webp_complete}
    try:
        check.get(header.format, _tiff_complete)(data)
    except _PAST_THE_END as error:
        raise ValueError(f"truncated {header.format}: the file ends early") from error


def keep_colours_of_alpha(data: memoryview) -> None:
    """Change a TIFF in memory so that its decoder leaves the colours alone where the image is transparent.

    libtiff multiplies colours by an alpha that is marked as not yet multiplied in (ExtraSamples 2); marked as done (1)
    they come as they are stored.
    """
    for _, dtype, start, end in _tiff_entries(data, {_EXTRA_SAMPLES}):
        samples = np.frombuffer(data, np.uint8)[start:end].view(dtype)
        samples[samples == 2] = 1


def _exif_orientation(block: bytes) -> int:
    """Return tag 274 of an EXIF block; a damaged block counts as no rotation, as decoders treat it."""
    try:
        return _orientation(tiff_tags(block.removeprefix(b"Exif\0\0"), {_ORIENTATION}))
    except (ValueError, *_PAST_THE_END):
        return 1


def _orientation(tags: dict[int, np.ndarray]) -> int:
    value = int(tags[_ORIENTATION][0]) if len(tags.get(_ORIENTATION, ())) else 1
    return value if 1 <= value <= 8 else 1


def _jpeg_header(data: Buffer) -> ImageHeader:
    position, orientation = 2, 1
    while True:
        if data[position] != 0xFF:
            raise ValueError("damaged JPEG: a marker is missing in its header")
        while data[position] == 0xFF:  # any number of fill bytes may stand before a marker
            position += 1
        marker = data[position]
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("damaged JPEG: no frame before its pixels")
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return ImageHeader("JPEG", (height, width), orientation)
        if marker == 0xE1 and bytes(data[position + 2 : position + 8]) == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(bytes(data[position + 8 : position + length]))
        position += length


def _jpeg_complete(data: Buffer) -> None:
    position, scans = 2, 0
    while match := _JPEG_MARKER.search(data, position):
        marker = data[match.start() + 1]
        position = match.end()
        if marker == 0xD9:
            if not scans:
                raise ValueError("damaged JPEG: it holds no pixels")
            return
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):
            position += struct.unpack_from(">H", data, position)[0]
    raise ValueError("truncated JPEG: no end-of-image marker")


def _png_header(data: Buffer) -> ImageHeader:
    if bytes(data[12:16]) != b"IHDR":
        raise ValueError("damaged PNG: IHDR is not its first block")
    width, height = struct.unpack_from(">II", data, 16)
    position, orientation = 8, 1
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf":
            orientation = _exif_orientation(bytes(data[position + 8 : position + 8 + length]))
        position += 12 + length
    return ImageHeader("PNG", (height, width), orientation)


def _png_complete(data: Buffer) -> None:
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"damaged PNG: the checksum of block {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"IEND":
            return
        position = end + 4
    raise ValueError("truncated PNG: no IEND block")


def _bmp_header(data: Buffer) -> ImageHeader:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    return ImageHeader("BMP", (abs(height), width))  # a negative height means that the top row comes first


def _bmp_complete(data: Buffer) -> None:
    height, width = _bmp_header(data).stored_hw
    offset, length = struct.unpack_from("<II", data, 10)
    (bits,) = struct.unpack_from("<H", data, 24 if length == 12 else 28)
    compressed = length != 12 and struct.unpack_from("<I", data, 30)[0] not in (0, 3)
    needed = offset + (width * bits + 31) // 32 * 4 * height
    if not compressed and len(data) < needed:
        raise ValueError(f"truncated BMP: {len(data)} of {needed} bytes are there")


def _webp_header(data: Buffer) -> ImageHeader:
    kind = bytes(data[12:16])
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        return ImageHeader("WebP", (height, width))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WebP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
    if kind != b"VP8X":
        raise ValueError("damaged WebP: it holds no pixels")
    low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
    size_hw, orientation, position = (low_h + (high_h << 16) + 1, low_w + (high_w << 16) + 1), 1, 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            orientation = _exif_orientation(bytes(data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return ImageHeader("WebP", size_hw, orientation)


def _webp_complete(data: Buffer) -> None:
    needed = 8 + struct.unpack_from("<I", data, 4)[0]
    if len(data) < needed:
        raise ValueError(f"truncated WebP: {len(data)} of {needed} bytes are there")


def _tiff_header(data: Buffer) -> ImageHeader:
    tags = tiff_tags(data, {256, 257, _ORIENTATION})
    if not len(tags.get(256, ())) or not len(tags.get(257, ())):
        raise ValueError("damaged TIFF: its header has no size")
    return ImageHeader("TIFF", (int(tags[257][0]), int(tags[256][0])), _orientation(tags))


def _tiff_complete(data: Buffer) -> None:
    tags = tiff_tags(data, {273, 279, 324, 325})
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if int(offset) + int(count) > len(data):
                raise ValueError(f"truncated TIFF: {len(data)} of at least {int(offset) + int(count)} bytes are there")


def tiff_tags(data: Buffer, wanted: set[int]) -> dict[int, np.ndarray]:
    """Read whole-number tags of the first directory of a TIFF or BigTIFF."""
    return {tag: np.frombuffer(bytes(data[start:end]), dtype) for tag, dtype, start, end in _tiff_entries(data, wanted)}


def _tiff_entries(data: Buffer, wanted: set[int]) -> Iterator[tuple[int, np.dtype, int, int]]:
    """Yield (tag, dtype, first byte, byte behind the last) of each whole-number tag (TIFF 6.0, section 2)."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    pointer = order + ("Q" if big else "I")
    (position,) = struct.unpack_from(pointer, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, position)
    position += 8 if big else 2
    entry_format, inline = (order + "HHQ", 8) if big else (order + "HHI", 4)
    head = struct.calcsize(entry_format)
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(entry_format, data, position)
        if tag in wanted and kind in _TIFF_INTEGERS:
            dtype = np.dtype(order + _TIFF_INTEGERS[kind])
            size, start = count * dtype.itemsize, position + head
            if size > inline:
                (start,) = struct.unpack_from(pointer, data, start)
            if start + size > len(data):
                raise ValueError(f"truncated TIFF: {len(data)} of at least {start + size} bytes are there")
            yield tag, dtype, start, start + size
        position += head + inline
