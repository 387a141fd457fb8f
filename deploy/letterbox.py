"""Letterbox: image pixels <-> model pixels, the only place that changes between these two frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PAD_VALUE = 114


@dataclass(frozen=True)
class Letterbox:
    """Fit an image into the model's input: aspect kept, centred, the rest filled with `pad_value`.

    source_hw, model_hw, resized_hw: (height, width) in pixels of the image, the model input, the image inside it.
    pad_left, pad_top: model pixels before the image begins.

    The two axes are scaled by `resized / source` each, not by one rounded factor, so that boxes stay exact for
    images only a few pixels wide.
    """

    source_hw: tuple[int, int]
    model_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    pad_left: int
    pad_top: int
    pad_value: int = PAD_VALUE

    @classmethod
    def fit(cls, source_hw: tuple[int, int], model_hw: tuple[int, int], pad_value: int = PAD_VALUE) -> Letterbox:
        """Compute the letterbox of an image of `source_hw` pixels; smaller images are enlarged."""
        (sh, sw), (mh, mw) = source_hw, model_hw
        if min(sh, sw, mh, mw) < 1:
            raise ValueError(f"letterbox needs sizes of at least 1 pixel, got image {sw}x{sh}, model {mw}x{mh}")
        scale = min(mh / sh, mw / sw)
        rh, rw = min(mh, max(1, round(sh * scale))), min(mw, max(1, round(sw * scale)))
        return cls((sh, sw), (mh, mw), (rh, rw), (mw - rw) // 2, (mh - rh) // 2, pad_value)

    @property
    def scale(self) -> float:
        """Model pixels per image pixel along the longer side."""
        return max(self.resized_hw) / max(self.source_hw)

    def apply(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Resize and pad an image.

        image: (h, w, 3) uint8 of `source_hw`. out: optional (model_h, model_w, 3) uint8 buffer to write into.
        Returns (model_h, model_w, 3) uint8, the same channel order as `image`.
        """
        if image.shape != (*self.source_hw, 3) or image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 with shape {(*self.source_hw, 3)}, got {image.dtype} {image.shape}")
        mh, mw = self.model_hw
        rh, rw = self.resized_hw
        if out is None:
            out = np.empty((mh, mw, 3), np.uint8)
        elif out.shape != (mh, mw, 3) or out.dtype != np.uint8:
            raise ValueError(f"out must be uint8 with shape {(mh, mw, 3)}, got {out.dtype} {out.shape}")
        top, left = self.pad_top, self.pad_left
        out[:top] = self.pad_value
        out[top + rh :] = self.pad_value
        out[top : top + rh, :left] = self.pad_value
        out[top : top + rh, left + rw :] = self.pad_value
        inside = out[top : top + rh, left : left + rw]
        if (rh, rw) == self.source_hw:
            inside[...] = image
            return out
        # At whole factors INTER_AREA averages every source pixel and costs no more than bilinear; elsewhere it is
        # 10 to 20 times dearer.
        sh, sw = self.source_hw
        whole = sh % rh == 0 and sw % rw == 0 and sh // rh == sw // rw
        cv2.resize(image, (rw, rh), dst=inside, interpolation=cv2.INTER_AREA if whole else cv2.INTER_LINEAR)
        return out

    def to_model(self, xyxy: np.ndarray) -> np.ndarray:
        """Map boxes (n, 4) from image pixels to model pixels, float32."""
        return np.asarray(xyxy, np.float32) * self._gain() + self._offset()

    def to_image(self, xyxy: np.ndarray) -> np.ndarray:
        """Map boxes (n, 4) from model pixels to image pixels, float32, clipped to the image."""
        sh, sw = self.source_hw
        boxes = (np.asarray(xyxy, np.float32) - self._offset()) / self._gain()
        return np.clip(boxes, 0, np.array([sw, sh, sw, sh], np.float32))

    def _gain(self) -> np.ndarray:
        gx, gy = self.resized_hw[1] / self.source_hw[1], self.resized_hw[0] / self.source_hw[0]
        return np.array([gx, gy, gx, gy], np.float32)

    def _offset(self) -> np.ndarray:
        return np.array([self.pad_left, self.pad_top, self.pad_left, self.pad_top], np.float32)
