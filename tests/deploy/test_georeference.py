"""Georeferences against published map projection formulas, GDAL's own corners, and files that have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from deploy.georeference import Georeference, read_georeference

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # not in older releases of affine
]

A, F = 6378137.0, 1 / 298.257223563  # WGS 84
E2 = F * (2 - F)


def mercator_to_lonlat(x, y):
    """World Mercator, EPSG:3395. Snyder (1987), Map Projections, equations 7-9 to 7-12, solved by iteration."""
    e = math.sqrt(E2)
    t = math.exp(-y / A)
    latitude = math.pi / 2 - 2 * math.atan(t)
    for _ in range(20):
        part = e * math.sin(latitude)
        latitude = math.pi / 2 - 2 * math.atan(t * ((1 - part) / (1 + part)) ** (e / 2))
    return math.degrees(x / A), math.degrees(latitude)


def lonlat_to_utm(lon, lat, zone):
    """UTM on WGS 84, north. Krueger's series to the third order in n (Karney 2011, equations 7 to 11, 35)."""
    n = F / (2 - F)
    radius = A / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    alpha = (
        n / 2 - 2 * n**2 / 3 + 5 * n**3 / 16,
        13 * n**2 / 48 - 3 * n**3 / 5,
        61 * n**3 / 240,
    )
    phi, lam = math.radians(lat), math.radians(lon - (6 * zone - 183))
    c = 2 * math.sqrt(n) / (1 + n)
    t = math.sinh(math.atanh(math.sin(phi)) - c * math.atanh(c * math.sin(phi)))
    xi, eta = math.atan2(t, math.cos(lam)), math.atanh(math.sin(lam) / math.sqrt(1 + t * t))
    x = eta + sum(a * math.cos(2 * j * xi) * math.sinh(2 * j * eta) for j, a in enumerate(alpha, 1))
    y = xi + sum(a * math.sin(2 * j * xi) * math.cosh(2 * j * eta) for j, a in enumerate(alpha, 1))
    return 500000 + 0.9996 * radius * x, 0.9996 * radius * y


def rd_to_lonlat(x, y):
    """Dutch RD New, EPSG:28992: polynomials of Schreutelkamp and Strang van Hees (2001), good to 0.25 m."""
    p, q = (x - 155000) * 1e-5, (y - 463000) * 1e-5
    north = {
        **{(0, 1): 3235.65389, (2, 0): -32.58297, (0, 2): -0.2475, (2, 1): -0.84978, (0, 3): -0.0655},
        **{(2, 2): -0.01709, (1, 0): -0.00738, (4, 0): 0.0053, (2, 3): -0.00039, (4, 1): 0.00033, (1, 1): -0.00012},
    }
    east = {
        **{(1, 0): 5260.52916, (1, 1): 105.94684, (1, 2): 2.45656, (3, 0): -0.81885, (1, 3): 0.05594},
        **{(3, 1): -0.05607, (0, 1): 0.01199, (3, 2): -0.00256, (1, 4): 0.00128, (0, 2): 0.00022, (2, 0): -0.00022},
        **{(5, 0): 0.00026},
    }
    seconds = [sum(k * p**i * q**j for (i, j), k in table.items()) for table in (east, north)]
    return 5.38720621 + seconds[0] / 3600, 52.15517440 + seconds[1] / 3600


def metres_between(lonlat, other):
    lonlat, other = np.asarray(lonlat, float), np.asarray(other, float)
    per_degree = np.array([111320 * math.cos(math.radians(float(other[..., 1].mean()))), 111133])
    return np.hypot(*((lonlat - other) * per_degree).T)


POINTS = np.array([[0, 0], [1, 0], [0.5, 0.5], [2000, 1500], [1234.25, 77.5], [-3, 2004]], float)


@pytest.mark.parametrize("degrees", [0, 30, 117])
def test_mercator_scene_is_exact(degrees):
    """The pixels are 0.1 m: within a millimetre of the formula is a hundredth of a pixel."""
    affine = Affine.translation(13467532, 1632019.875) * Affine.rotation(degrees) * Affine.scale(0.1001, -0.09998)
    found = Georeference("EPSG:3395", tuple(affine)[:6]).to_lonlat(POINTS)
    truth = [mercator_to_lonlat(*(affine * xy)) for xy in map(tuple, POINTS)]
    assert metres_between(found, truth).max() < 1e-3


@pytest.mark.parametrize("degrees", [0, -12.5])
def test_utm_scene_is_exact(degrees):
    affine = Affine.translation(412345.5, 5512345.25) * Affine.rotation(degrees) * Affine.scale(0.5, -0.5)
    scene = Georeference("EPSG:32632", tuple(affine)[:6])
    for (lon, lat), xy in zip(scene.to_lonlat(POINTS), scene.to_projected(POINTS), strict=True):
        np.testing.assert_allclose(lonlat_to_utm(lon, lat, 32), xy, atol=2e-3)


@pytest.mark.parametrize("degrees", [0, 45])
def test_dutch_scene_is_within_half_a_pixel(degrees):
    """Another ellipsoid and datum; the published polynomials are good to 0.25 m, the pixels are 1 m."""
    affine = Affine.translation(127375, 428250) * Affine.rotation(degrees) * Affine.scale(1, -1)
    scene = Georeference("EPSG:28992", tuple(affine)[:6])
    truth = [rd_to_lonlat(*xy) for xy in scene.to_projected(POINTS)]
    assert metres_between(scene.to_lonlat(POINTS), truth).max() < 0.5


@pytest.mark.parametrize("crs", ["EPSG:28992", "EPSG:3395", "EPSG:32736", "EPSG:2056", "EPSG:3857", "EPSG:4258"])
def test_a_file_of_any_crs_agrees_with_gdal(tmp_path, crs):
    """Rotated and sheared; GDAL transforms the ring itself, from the pixel corners that rasterio calculates."""
    centre = {"EPSG:28992": (127375, 428250), "EPSG:2056": (2600000, 1200000), "EPSG:4258": (10, 50)}
    pixel = 1e-5 if crs == "EPSG:4258" else 0.25
    affine = Affine.translation(*centre.get(crs, (600000, 5000000))) * Affine.rotation(17) * Affine.shear(5, 0)
    affine = affine * Affine.scale(pixel, -pixel)
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=30, count=1, dtype="uint8", crs=crs, transform=affine
    ) as file:
        file.write(np.ones((1, 30, 40), np.uint8))
    with rasterio.open(path) as file:
        scene, text = read_georeference(file)
        ring = [file.transform * corner for corner in [(0, 0), (40, 0), (40, 30), (0, 30), (0, 0)]]
    assert scene.crs == text == crs
    want = transform_geom(crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})["coordinates"][0]
    got = scene.to_lonlat(np.array([(0, 0), (40, 0), (40, 30), (0, 30), (0, 0)]))
    assert metres_between(got, [point[:2] for point in want]).max() < 0.01


def test_a_point_raster_counts_from_its_corner(tmp_path):
    """PixelIsPoint: the file's tie point is the middle of the first pixel, half a pixel inside of its corner."""
    affine = Affine(2, 0, 500000, 0, -2, 6000000)
    options = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:32631"}
    places = []
    for kind in ("Area", "Point"):
        path = tmp_path / f"{kind}.tif"
        with rasterio.open(path, "w", transform=affine, **options) as file:
            file.update_tags(AREA_OR_POINT=kind)
            file.write(np.ones((1, 4, 4), np.uint8))
        with rasterio.open(path) as file:
            places.append(read_georeference(file)[0].to_projected(np.array([[0, 0]]))[0].tolist())
    assert places == [[500000, 6000000]] * 2


def test_a_crs_without_a_code_keeps_its_wkt(tmp_path):
    crs = "+proj=laea +lat_0=48.5 +lon_0=9.25 +ellps=GRS80 +units=m"
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=4,
        height=4,
        count=1,
        dtype="uint8",
        crs=crs,
        transform=Affine(1, 0, 0, 0, -1, 0),
    ) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
    with rasterio.open(path) as file:
        scene, _ = read_georeference(file)
    assert scene.crs.startswith("PROJCS")
    np.testing.assert_allclose(scene.to_lonlat(np.array([[0, 0]])), [[9.25, 48.5]], atol=1e-7)


@pytest.mark.parametrize(
    ("crs", "x", "y", "pixel", "want"),
    [
        ("EPSG:32632", 500000, 5500000, 0.5, 0.5 / 0.9996),  # the scale on the central meridian
        ("EPSG:3857", 0, 8399737.89, 1.0, None),
        ("EPSG:4326", 7, 0, 1 / 3600, (30.922 + 30.715) / 2),  # a second of arc at the equator: GRS 80 tables
        ("EPSG:2263", 984000, 208000, 1.0, 0.3048),  # feet
    ],
)
@pytest.mark.parametrize("degrees", [0, 33])
def test_ground_sample_distance(crs, x, y, pixel, want, degrees):
    affine = Affine.translation(x, y) * Affine.rotation(degrees) * Affine.scale(pixel, -pixel)
    scene = Georeference(crs, tuple(affine)[:6])
    if want is None:  # spherical Mercator at 60 degrees north: half a metre, a little different along both axes
        assert scene.ground_sample_distance_m((10, 10)) == pytest.approx(0.5, rel=0.01)
    else:
        assert scene.ground_sample_distance_m((10, 10)) == pytest.approx(want, rel=2e-3 if degrees else 2e-4)


def test_degrees_from_0_to_360_come_out_from_minus_180_to_180():
    scene = Georeference("EPSG:4326", (0.5, 0, 179, 0, -0.5, 10))
    np.testing.assert_allclose(scene.to_lonlat([[0, 0], [2, 0], [3, 0]]), [[179, 10], [180, 10], [-179.5, 10]])


def test_no_points_give_no_places():
    assert Georeference("EPSG:4326", (1, 0, 0, 0, -1, 0)).to_lonlat(np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        ("", (1, 0, 0, 0, 1, 0), "crs must be an EPSG code"),
        ("EPSG:4326", (1, 0, 0, 0, 1), "six finite numbers"),
        ("EPSG:4326", (1, 0, 0, 0, 1, math.nan), "six finite numbers"),
        ("EPSG:4326", (1, 1, 0, 1, 1, 0), "give pixels an area"),
    ],
)
def test_bad_georeferences_are_told(crs, transform, message):
    with pytest.raises(ValueError, match=message):
        Georeference(crs, transform)


@pytest.mark.parametrize("crs", ["EPSG:999999", "nonsense", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_a_crs_without_a_way_to_wgs_84_is_told(crs):
    with pytest.raises(ValueError, match="no way from there to WGS 84") as told:
        Georeference(crs, (1, 0, 0, 0, -1, 0)).to_lonlat([[0, 0]])
    assert "\n" not in str(told.value)


def test_pixels_off_the_earth_are_told():
    with pytest.raises(ValueError, match=r"EPSG:32631.*gdalinfo"):
        Georeference("EPSG:32631", (1e9, 0, 0, 0, -1e9, 0)).to_lonlat([[5, 5]])
    with pytest.raises(ValueError, match=r"pixel \(0, 7\).*gdalinfo"):
        Georeference("EPSG:4326", (1, 0, 0, 0, 20, 0)).to_lonlat([[0, 0], [0, 7]])


def test_bad_pixels_are_told():
    with pytest.raises(ValueError, match=r"xy must have shape \(n, 2\)"):
        Georeference("EPSG:4326", (1, 0, 0, 0, -1, 0)).to_lonlat(np.zeros(2))


def described(path, **options):
    """Write a file with `options` and return what its georeference reads as."""
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8"}
    gcps = options.pop("gcps", None)
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
        if gcps:
            file.gcps = gcps
    with rasterio.open(path) as file:
        return read_georeference(file)


def test_what_cannot_place_boxes_is_none_and_told(tmp_path):
    north_up = Affine(1, 0, 500000, 0, -1, 6000000)
    assert described(tmp_path / "a.tif") == (None, "no georeference")
    assert described(tmp_path / "b.tif", crs="EPSG:32631") == (
        None,
        "EPSG:32631 but no transform; state the corners with gdal_edit.py -a_ullr",
    )
    scene, text = described(tmp_path / "c.tif", transform=north_up)
    assert scene is None
    assert text.startswith("a transform but no coordinate reference system")
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    points = [GroundControlPoint(row, col, 7 + col / 100, 50 - row / 100) for row, col in corners]
    scene, text = described(tmp_path / "d.tif", gcps=(points, rasterio.CRS.from_epsg(4326)))
    assert scene is None
    assert text.startswith("4 ground control points instead of a transform; rectify")
    scene, text = described(tmp_path / "e.tif", crs='LOCAL_CS["site",UNIT["metre",1]]', transform=north_up)
    assert scene is None
    assert "no way from there to WGS 84" in text
    scene, text = described(tmp_path / "f.tif", crs="EPSG:32631", transform=north_up)
    assert scene == Georeference("EPSG:32631", (1, 0, 500000, 0, -1, 6000000))
