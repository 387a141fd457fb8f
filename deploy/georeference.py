"""Georeference: where a scene's pixels lie on the earth, and how large they are there.

Pixels count from the outer corner of the top left pixel, as GDAL counts them: the middle of that pixel is (0.5, 0.5).
GDAL also brings files that state the position of the pixel's middle (GeoTIFF's PixelIsPoint) to this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# WGS 84: semi-major axis in metres, first eccentricity squared (NGA.STND.0036, tables 3.1 and 3.5).
_SEMI_MAJOR_M, _ECCENTRICITY_2 = 6378137.0, 6.69437999014e-3


@dataclass(frozen=True)
class Georeference:
    """Map a scene's pixels to its coordinate reference system and to longitude and latitude.

    crs: "EPSG:n" or WKT. transform: (a, b, c, d, e, f) of x = a * col + b * row + c, y = d * col + e * row + f, with
    (col, row) in pixels and (x, y) in units of the CRS, easting or longitude first; any rotation and shear.

    Raises ValueError where `transform` is not six finite numbers that span a plane, or `crs` is empty.
    """

    crs: str
    transform: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.crs, str) or not self.crs.strip():
            raise ValueError(f"crs must be an EPSG code such as EPSG:32631, or WKT, got {self.crs!r}")
        values = tuple(float(v) for v in self.transform)
        if len(values) != 6 or not all(math.isfinite(v) for v in values):
            raise ValueError(f"transform must be six finite numbers (a, b, c, d, e, f), got {values}")
        a, b, _, d, e, _ = values
        if a * e - b * d == 0:
            raise ValueError(f"transform must give pixels an area, got a * e - b * d = 0 of {values}")
        object.__setattr__(self, "transform", values)

    def to_projected(self, xy: np.ndarray) -> np.ndarray:
        """Return where pixels lie in the CRS. xy: (n, 2) column, row. Returns (n, 2) float64 in units of the CRS."""
        xy = _pairs(xy)
        a, b, c, d, e, f = self.transform
        return np.stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f], axis=1)

    def to_lonlat(self, xy: np.ndarray) -> np.ndarray:
        """Return where pixels lie on the earth. xy: (n, 2) column, row.

        Returns (n, 2) float64: longitude (-180 to 180) and latitude in degrees, WGS 84. Raises ValueError for a CRS
        that PROJ does not know or cannot bring to WGS 84, and for pixels outside of the area that the CRS covers.
        """
        projected = self.to_projected(xy)
        if not len(projected):
            return projected
        from rasterio.warp import transform

        try:
            lon, lat = transform(self.crs, "EPSG:4326", projected[:, 0], projected[:, 1])[:2]
        except Exception as error:  # rasterio lets GDAL's own errors through, and they have no public class
            raise ValueError(
                f"crs {_short(self.crs)}: no way from there to WGS 84 ({_short(str(error))}); "
                "check the scene with gdalinfo, state the right one with gdal_edit.py -a_srs EPSG:n"
            ) from error
        lonlat = np.stack([np.asarray(lon, np.float64), np.asarray(lat, np.float64)], axis=1)
        outside = ~(np.isfinite(lonlat).all(axis=1) & (np.abs(lonlat[:, 1]) <= 90))
        if outside.any():
            i = int(outside.argmax())
            col, row = _pairs(xy)[i].tolist()
            raise ValueError(
                f"pixel ({col:g}, {row:g}) has no place on the earth: {projected[i].tolist()} lies outside of what crs "
                f"{_short(self.crs)} covers; check the scene's georeference with gdalinfo"
            )
        turned = np.abs(lonlat[:, 0]) > 180  # scenes in degrees may count from 0 to 360; RFC 7946 does not
        lonlat[turned, 0] = (lonlat[turned, 0] + 180) % 360 - 180
        return lonlat

    def ground_sample_distance_m(self, size_hw: tuple[int, int]) -> float:
        """Return the mean edge of the pixel in the middle of a scene of (height, width) pixels, in metres.

        Measured on the ellipsoid, not in the projection: Mercator's metres are twice too long at 60 degrees.
        """
        row, col = size_hw[0] / 2, size_hw[1] / 2
        ends = np.array([(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)])
        lonlat = self.to_lonlat(ends)
        latitude = math.radians(float(lonlat[:, 1].mean()))
        bend = 1 - _ECCENTRICITY_2 * math.sin(latitude) ** 2
        # Radii of curvature of the parallel's normal section and of the meridian (Snyder 1987, equations 4-20, 4-18).
        east_m = _SEMI_MAJOR_M / math.sqrt(bend) * math.cos(latitude)
        north_m = _SEMI_MAJOR_M * (1 - _ECCENTRICITY_2) / bend**1.5
        steps = lonlat[1::2] - lonlat[::2]
        steps[:, 0] = (steps[:, 0] + 180) % 360 - 180
        metres = np.radians(steps) * (east_m, north_m)
        return float(np.hypot(metres[:, 0], metres[:, 1]).mean())


def read_georeference(dataset: Any) -> tuple[Georeference | None, str]:
    """Return the georeference of an open rasterio dataset, and one line on what was found.

    None where boxes could not be placed on the earth by one affine map: no CRS, no transform, ground control points or
    rational polynomials only, a CRS that has no place on the earth. The line then says which, and the cure.
    """
    points, points_crs = dataset.gcps
    crs = dataset.crs or points_crs
    placed = not dataset.transform.is_identity
    if not placed and points:
        return None, f"{len(points)} ground control points instead of a transform; rectify the scene with gdalwarp"
    if not placed and dataset.rpcs is not None:
        return None, "rational polynomials (RPC) instead of a transform; rectify the scene with gdalwarp -rpc"
    if not crs and not placed:
        return None, "no georeference"
    if not crs:
        return None, "a transform but no coordinate reference system; state it with gdal_edit.py -a_srs EPSG:n"
    if not placed:
        return None, f"{_name(crs)} but no transform; state the corners with gdal_edit.py -a_ullr"
    try:
        found = Georeference(_name(crs), tuple(dataset.transform)[:6])
        found.to_lonlat(np.array([[dataset.width / 2, dataset.height / 2]]))
    except ValueError as error:
        return None, str(error)
    return found, _short(found.crs)


def _name(crs: Any) -> str:
    """Return "EPSG:n" where that says all that the CRS says, else its WKT."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        code = crs.to_epsg()
        if code is not None and CRS.from_epsg(code) == crs:
            return f"EPSG:{code}"
    except CRSError:  # a CRS without a name in the registry
        pass
    return str(crs.to_wkt())


def _pairs(xy: np.ndarray) -> np.ndarray:
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"xy must have shape (n, 2), got {xy.shape}")
    return xy


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
