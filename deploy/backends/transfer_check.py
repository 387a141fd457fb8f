"""Compare the ways to move data to and from the NPU on this board, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..manifest import Manifest
from .rknn_capi import TRANSFERS, RknnCapiBackend, gives_integers


def transfers_agree(path: Path, manifest: Manifest, *, library: Path | None = None, seed: int = 0) -> bool:
    """Run one noise image through all ways of `TRANSFERS`; says whether their heads are equal, bit for bit.

    For the first run on a board with a new runtime: two ways that agree cannot both have a layout wrong. Ways that a
    model has not ("nc1hwc2" of a float16 one) are left out. Raises as `RknnCapiBackend`.
    """
    image = np.random.default_rng(seed).integers(0, 256, (1, *manifest.input_hw, 3), dtype=np.uint8)
    found = []
    for transfer in TRANSFERS:
        if transfer == "nc1hwc2" and not gives_integers(manifest):
            continue
        backend = RknnCapiBackend(path, manifest, transfer=transfer, library=library)
        try:
            found.append(backend.infer(image))
        finally:
            backend.close()
    return all(np.array_equal(a, b) for heads in found[1:] for a, b in zip(found[0], heads, strict=True))
