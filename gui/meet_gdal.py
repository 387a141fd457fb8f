"""Meet GDAL: do what its first scene costs without the interpreter lock, so that the window is not held up by it.

Python keeps its lock while it loads an extension's libraries, 20 to 40 ms for GDAL's, and rasterio keeps it while PROJ
reads its first coordinate system, another 20 ms. A call of the same C functions through ctypes keeps no lock.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path

_met = False


def meet_gdal(scene: str) -> None:
    """Load GDAL and let it look at a scene, once in the life of the process; not in the thread of the window.

    Whatever goes wrong is left to rasterio, which is asked next and tells it better.
    """
    global _met
    if _met:
        return
    _met = True
    extension = _extension()
    if extension is None:
        return
    load = ctypes.CDLL(None).dlopen
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    if not load(os.fsencode(extension), os.RTLD_NOW):  # as Python does it, so that its names stay its own
        return
    try:
        rasterio = importlib.import_module("rasterio")
        gdal = ctypes.CDLL(str(extension))  # names are looked up in the libraries that it needs, too
        opened, projection, close = gdal.GDALOpen, gdal.GDALGetProjectionRef, gdal.GDALClose
    except (ImportError, OSError, AttributeError):
        return
    opened.restype, opened.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    projection.restype = ctypes.c_char_p
    projection.argtypes = close.argtypes = [ctypes.c_void_p]
    with rasterio.Env():  # knows where PROJ's tables lie, and keeps GDAL from printing
        dataset = opened(os.fsencode(scene), 0)
        if dataset:
            projection(dataset)
            close(dataset)


def _extension() -> Path | None:
    """Return rasterio's extension module that needs GDAL, None where rasterio is not installed."""
    found = importlib.util.find_spec("rasterio")
    for place in (found.submodule_search_locations or []) if found else []:
        for file in sorted(Path(place).glob("_base.*.so")):
            return file
    return None
