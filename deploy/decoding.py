"""Which decoder a bundle's outputs need."""

from __future__ import annotations

from typing import Any

from .head_layout import DecodedLayout, HeadLayout
from .manifest import Manifest
from .pipeline import Decoder
from .postprocess import PostProcessor
from .postprocess_decoded import DecodedPostProcessor


def decoder_of(manifest: Manifest, **options: Any) -> Decoder:
    """Return what turns the raw outputs of a manifest's model into Detections; options as of `Selection`."""
    if manifest.decoded is not None:
        return DecodedPostProcessor(DecodedLayout.from_manifest(manifest), **options)
    return PostProcessor(HeadLayout.from_manifest(manifest), **options)
