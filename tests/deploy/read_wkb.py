"""Well-known binary read literally, as the standard says it, for tests."""

from __future__ import annotations

import struct

Ring = list[tuple[float, float]]


def polygons(data: bytes) -> list[Ring]:
    """Return the exterior rings of a Polygon or MultiPolygon."""
    rings, end = _read(data, 0)
    assert end == len(data)
    return rings


def _read(data: bytes, at: int) -> tuple[list[Ring], int]:
    order, kind, count = struct.unpack_from("<BII", data, at)
    assert order == 1
    at += 9
    rings: list[Ring] = []
    if kind == 6:
        for _ in range(count):
            inner, at = _read(data, at)
            rings += inner
        return rings, at
    assert (kind, count) == (3, 1)
    (points,) = struct.unpack_from("<I", data, at)
    values = struct.unpack_from(f"<{2 * points}d", data, at + 4)
    return [list(zip(values[::2], values[1::2], strict=True))], at + 4 + 16 * points
