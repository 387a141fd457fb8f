"""NMS against a literal double loop and a torch matrix version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deploy.nms
from deploy.nms import nms


def literal_nms(xyxy, score, group, threshold):
    """Walk the boxes from the best score down, comparing each with every survivor."""
    kept = []
    for i in sorted(range(len(score)), key=lambda k: (-score[k], k)):
        for j in kept:
            if group[i] != group[j]:
                continue
            (ax, ay, ar, ab), (bx, by, br, bb) = xyxy[i].tolist(), xyxy[j].tolist()
            shared = max(min(ar, br) - max(ax, bx), 0) * max(min(ab, bb) - max(ay, by), 0)
            if shared > threshold * ((ar - ax) * (ab - ay) + (br - bx) * (bb - by) - shared):
                break
        else:
            kept.append(i)
    return kept


def torch_nms(xyxy, score, group, threshold):
    """Suppress with the whole IoU matrix, in float64."""
    boxes = torch.from_numpy(xyxy).double()
    order = torch.argsort(torch.from_numpy(score), descending=True, stable=True)
    boxes, owner = boxes[order], torch.from_numpy(group)[order]
    size = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    shared = size.clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = shared / (area[:, None] + area[None] - shared)
    clash = (iou > threshold) & (owner[:, None] == owner[None])
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~clash[i, i + 1 :]
    return order[alive].tolist()


def crowd(rng, objects, per_object, groups, jitter=3.0):
    """Draw `objects` boxes, each repeated with jitter as neighbouring cells of a detector do."""
    centre, size = rng.uniform(20, 490, (objects, 2)), rng.uniform(12, 80, (objects, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).repeat(per_object, axis=0)
    boxes = (boxes + rng.normal(0, jitter, boxes.shape)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    score = rng.choice(np.linspace(0.1, 0.9, 50), len(boxes)).astype(np.float32)
    return boxes, score, rng.integers(0, groups, objects).repeat(per_object)


@settings(max_examples=150, deadline=None)
@given(
    data=st.lists(
        st.tuples(*[st.integers(0, 12)] * 4, st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 2)), max_size=30
    ),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
def test_small_sets_match_the_literal_loop(data, threshold):
    rows = np.array(data, np.float64).reshape(-1, 6)
    xyxy = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1).astype(np.float32)
    score, group = rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64)
    assert nms(xyxy, score, group, threshold).tolist() == literal_nms(xyxy, score, group, threshold)


@pytest.mark.parametrize(("objects", "per_object", "groups"), [(6, 7, 3), (30, 7, 10), (30, 40, 1), (20, 60, 4)])
def test_crowds_match_torch(objects, per_object, groups):
    xyxy, score, group = crowd(np.random.default_rng(objects), objects, per_object, groups)
    for threshold in (0.45, 0.7):
        assert nms(xyxy, score, group, threshold).tolist() == torch_nms(xyxy, score, group, threshold)


def test_both_ways_agree(monkeypatch):
    xyxy, score, group = crowd(np.random.default_rng(1), 60, 8, 5)
    by_pairs = nms(xyxy, score, group, 0.6)
    monkeypatch.setattr(deploy.nms, "_PAIR_LIMIT", -1)
    monkeypatch.setattr(deploy.nms, "_BLOCK", 16)
    monkeypatch.setattr(deploy.nms, "_DENSE_LIMIT", 500)
    by_blocks = nms(xyxy, score, group, 0.6)
    assert by_blocks.tolist() == by_pairs.tolist() == literal_nms(xyxy, score, group, 0.6)
    assert nms(xyxy, score, group, 0.6, 20).tolist() == by_pairs[:20].tolist()


def test_limit_keeps_the_best():
    xyxy, score, group = crowd(np.random.default_rng(2), 20, 5, 3)
    whole = nms(xyxy, score, group, 0.5)
    assert nms(xyxy, score, group, 0.5, 7).tolist() == whole[:7].tolist()
    assert len(nms(xyxy, score, group, 0.5, 0)) == 0


def test_thousands_of_equal_boxes_leave_one():
    xyxy = np.tile(np.array([[5, 5, 20, 20]], np.float32), (20000, 1))
    assert nms(xyxy, np.full(20000, 0.5, np.float32), np.zeros(20000, int), 0.5).tolist() == [0]


def test_equal_scores_keep_the_first_and_groups_do_not_mix():
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    assert nms(xyxy, np.full(3, 0.5, np.float32), np.array([4, 4, 1]), 0.5).tolist() == [0, 2]


def test_overlap_at_the_threshold_stays():
    xyxy = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], np.float32)
    score, group = np.array([0.9, 0.8], np.float32), np.zeros(2, int)
    assert len(nms(xyxy, score, group, 0.5)) == 2
    assert len(nms(xyxy, score, group, 0.49)) == 1


def test_empty():
    kept = nms(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, int), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.intp


@pytest.mark.parametrize(
    ("xyxy", "score", "group", "threshold", "message"),
    [
        (np.zeros((2, 4)), np.zeros(3), np.zeros(3, int), 0.5, r"xyxy \(n, 4\)"),
        (np.zeros((2, 4)), np.zeros(2), np.zeros(1, int), 0.5, r"group \(n,\)"),
        (np.zeros((2, 4)), np.zeros(2), np.zeros(2, int), 1.5, "iou_threshold"),
        (np.full((2, 4), np.nan), np.zeros(2), np.zeros(2, int), 0.5, "finite"),
        (np.zeros((2, 4)), np.array([0.1, np.nan]), np.zeros(2, int), 0.5, "finite"),
    ],
)
def test_bad_input_is_named(xyxy, score, group, threshold, message):
    with pytest.raises(ValueError, match=message):
        nms(xyxy, score, group, threshold)
