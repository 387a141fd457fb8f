"""Batches: determined by seed and epoch alone, whatever the workers do."""

import dataclasses

import numpy as np
import pytest
import torch

from train.dataset import AerialDataset, EpochSampler, collate, make_loader, pad_targets
from train.recipe import Augment


def dataset(pictures, **kwargs):
    options = {"mosaic_until": 1, "seed": 5, "cache_mb": 100, **kwargs}
    return AerialDataset(pictures.images, 64, Augment(), **options)


def run(data, epoch, workers):
    sampler = EpochSampler(len(data), 4, 5)
    sampler.epoch = epoch
    return list(make_loader(data, sampler, workers, pin=False))


@pytest.mark.parametrize("epoch", [0, 1])
def test_workers_and_cache_change_nothing(pictures, epoch):
    for a, b in zip(run(dataset(pictures), epoch, 0), run(dataset(pictures, cache_mb=0), epoch, 2), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets.xyxy, b.targets.xyxy)


def test_epochs_and_seeds_differ(pictures):
    first = run(dataset(pictures), 0, 0)[0].images
    assert not torch.equal(first, run(dataset(pictures), 2, 0)[0].images)
    assert not torch.equal(first, run(dataset(pictures, seed=6), 0, 0)[0].images)


def test_difficult_objects_are_left_out(pictures):
    marked = [dataclasses.replace(i, difficult=np.ones(len(i.class_id), bool)) for i in pictures.images]
    data = AerialDataset(marked, 64, Augment(), mosaic_until=1, seed=0, cache_mb=10)
    assert len(data[0, 0, 0].xyxy) == 0


def test_plain_scales_boxes_with_the_picture(pictures):
    data = AerialDataset(pictures.images, 128, Augment(), mosaic_until=0, seed=0, cache_mb=10)
    sample = data.plain(0)
    assert sample.image.shape == (128, 128, 3)
    np.testing.assert_allclose(sample.xyxy, pictures.images[0].xyxy * 2)


def test_every_image_appears_once_before_the_last_batch_is_filled():
    sampler = EpochSampler(10, 4, 0)
    batches = list(sampler)
    assert [len(b) for b in batches] == [4, 4, 4]
    assert sorted(index for batch in batches for _, _, index in batch)[:1] == [0]
    assert {index for batch in batches for _, _, index in batch} == set(range(10))


def test_processes_share_each_batch():
    whole = [set(b) for b in EpochSampler(10, 4, 0)]
    shares = [[set(b) for b in EpochSampler(10, 4, 0, rank=r, world=2)] for r in (0, 1)]
    for all_, a, b in zip(whole, *shares, strict=True):
        assert a | b == all_
        assert not a & b
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        EpochSampler(10, 4, 0, world=3)


def test_batches_without_any_object_pad_to_nothing():
    targets = pad_targets([np.zeros((0, 4), np.float32)] * 2, [np.zeros(0, np.int32)] * 2)
    assert targets.xyxy.shape == (2, 0, 4)


def test_collate_keeps_pixels(pictures):
    data = dataset(pictures)
    samples = [data[0, i, i] for i in range(2)]
    batch = collate(samples)
    assert batch.images.dtype == torch.uint8
    np.testing.assert_array_equal(batch.images[1].permute(1, 2, 0).numpy(), samples[1].image)
    assert int(batch.targets.valid.sum()) == sum(len(s.xyxy) for s in samples)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no usable image"):
        AerialDataset([], 64, Augment(), mosaic_until=0, seed=0, cache_mb=1)
