"""Annotated images as torch batches: cached, augmented, drawn in an order that depends only on seed and epoch.

Every random decision comes from a generator seeded with (seed, epoch, position), never from a worker's state. That is
why a resumed run continues bit for bit, and why the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deploy.annotations import AnnotatedImage
from deploy.images import read_image
from deploy.letterbox import Letterbox

from .augment import Sample, affine, clip_boxes, colour, mosaic
from .loss import Targets
from .recipe import Augment

Draw = tuple[int, int, int]  # epoch, position in the epoch, image index


@dataclass(frozen=True)
class Batch:
    """One training batch. images: (b, 3, size, size) uint8 RGB. targets: the objects, model pixels."""

    images: Tensor
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """Move to a device without waiting for the copy."""
        return Batch(self.images.to(device, non_blocking=True), self.targets.to(device))

    def pin_memory(self) -> Batch:
        """Let the loader's pinning thread copy the batch into page-locked memory."""
        t = self.targets
        return Batch(
            self.images.pin_memory(), Targets(t.xyxy.pin_memory(), t.class_id.pin_memory(), t.valid.pin_memory())
        )


class AerialDataset(Dataset[Any]):
    """Serve augmented samples of (size, size) pixels.

    mosaic_until: first epoch without mosaic. Images are kept in memory, resized as the letterbox would, up to
    `cache_mb`; the rest is read anew each time. Difficult objects are left out.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        size: int,
        augment: Augment,
        *,
        mosaic_until: int,
        seed: int,
        cache_mb: float,
    ) -> None:
        if not images:
            raise ValueError("the training split holds no usable image; run `rsedge data RECIPE` to see why")
        self.images, self.size, self.augment, self.mosaic_until, self.seed = (
            list(images),
            size,
            augment,
            mosaic_until,
            seed,
        )
        self._cache: dict[int, np.ndarray] = {}
        budget = cache_mb * 1e6
        for index in range(len(self.images)):
            if budget <= 0:
                break
            pixels = self._read(index)
            budget -= pixels.nbytes
            self._cache[index] = pixels

    def __len__(self) -> int:
        return len(self.images)

    def _read(self, index: int) -> np.ndarray:
        image = read_image(self.images[index].path)
        h, w = Letterbox.fit(image.shape[:2], (self.size, self.size)).resized_hw
        if (h, w) == image.shape[:2]:
            return image
        shrink = h < image.shape[0]
        return cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)

    def plain(self, index: int) -> Sample:
        """Return one image resized to the model's scale, unchanged otherwise, with its objects in the same pixels."""
        image = self._cache.get(index)
        if image is None:
            image = self._read(index)
        entry = self.images[index]
        gain = np.array(image.shape[1::-1], np.float32) / np.array(entry.size_hw[::-1], np.float32)
        keep = ~entry.difficult
        return Sample(image, entry.xyxy[keep] * np.tile(gain, 2), entry.class_id[keep])

    def __getitem__(self, draw: Draw) -> Sample | Exception:
        """Return the sample of (epoch, position, image index): image (size, size, 3), boxes in its pixels.

        An image that cannot be read gives the error instead.
        """
        try:
            return self._draw(draw)
        except (ValueError, OSError) as error:
            return error  # raised in the parent: out of a worker it would come wrapped in that worker's traceback

    def _draw(self, draw: Draw) -> Sample:
        epoch, position, index = draw
        rng = np.random.default_rng((self.seed, epoch, position))
        if epoch < self.mosaic_until and rng.random() < self.augment.mosaic:
            others = rng.integers(0, len(self.images), 3)
            parts = [self.plain(i) for i in (index, *(int(o) for o in others))]
            sample = affine(rng, mosaic(rng, parts, self.size), self.augment, self.size, 1.0)
        else:
            part = self.plain(index)
            sample = affine(rng, part, self.augment, self.size, self.size / max(part.image.shape[:2]))
        boxes, keep = clip_boxes(sample.xyxy, self.size)
        return Sample(colour(rng, sample.image, self.augment), boxes[keep], sample.class_id[keep])


class EpochSampler(Sampler[list[Draw]]):
    """Yield batches of (epoch, position, index), shuffled by (seed, epoch); every process gets its share of each batch.

    The last batch is filled up from the start of the order, so that all batches have the same size.
    """

    def __init__(self, count: int, batch: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        if batch % world:
            raise ValueError(f"train.batch must be a multiple of the {world} processes, got {batch}")
        self.count, self.batch, self.seed, self.rank, self.world = count, batch, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        order = np.resize(order, len(self) * self.batch)
        for start in range(0, len(order), self.batch):
            rows = range(start + self.rank, start + self.batch, self.world)
            yield [(self.epoch, position, int(order[position])) for position in rows]


def collate(samples: Sequence[Sample | Exception]) -> Batch | Exception:
    """Stack samples into a batch, targets padded to the image with the most objects; an error passes through."""
    good = []
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
        good.append(sample)
    images = torch.from_numpy(np.ascontiguousarray(np.stack([s.image for s in good]).transpose(0, 3, 1, 2)))
    return Batch(images, pad_targets([s.xyxy for s in good], [s.class_id for s in good]))


def pad_targets(xyxy: Sequence[np.ndarray], class_id: Sequence[np.ndarray]) -> Targets:
    """Pad per-image boxes (n_i, 4) and classes (n_i,) into one Targets."""
    most = max((len(boxes) for boxes in xyxy), default=0)
    out_boxes = np.zeros((len(xyxy), most, 4), np.float32)
    out_class = np.zeros((len(xyxy), most), np.int64)
    valid = np.zeros((len(xyxy), most), bool)
    for i, (boxes, classes) in enumerate(zip(xyxy, class_id, strict=True)):
        out_boxes[i, : len(boxes)], out_class[i, : len(boxes)], valid[i, : len(boxes)] = boxes, classes, True
    return Targets(torch.from_numpy(out_boxes), torch.from_numpy(out_class), torch.from_numpy(valid))


def make_loader(dataset: AerialDataset, sampler: EpochSampler, workers: int, *, pin: bool) -> DataLoader[Any]:
    """Return a loader whose workers live as long as the run; set `sampler.epoch` before each pass."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(_worker: int) -> None:
    # The step owns the cores; loader processes that start thread pools of their own only get in its way.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
