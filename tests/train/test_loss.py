"""The loss against hand-worked cases and a literal loop of the same definition."""

import math

import numpy as np
import pytest
import torch

from train.boxes import anchor_points, complete_iou, decode_distribution
from train.dataset import pad_targets
from train.loss import DetectionLoss, assign, distribution_focal
from train.model import Yolov8

CPU = torch.device("cpu")


def random_targets(rng, per_image, size=128, classes=3):
    boxes, ids = [], []
    for n in per_image:
        xy = rng.uniform(0, size * 0.7, (n, 2))
        wh = rng.uniform(4, size * 0.3, (n, 2))
        boxes.append(np.concatenate((xy, xy + wh), 1).astype(np.float32))
        ids.append(rng.integers(0, classes, n).astype(np.int32))
    return pad_targets(boxes, ids)


def random_heads(batch=2, size=128, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, size // s, size // s, generator=g).requires_grad_()
        for s in (8, 16, 32)
        for c in (64, classes)
    ]


def literal_ciou(a, b):
    iw = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    ih = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = iw * ih / (aw * ah + bw * bh - iw * ih)
    c2 = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    d2 = ((a[0] + a[2]) / 2 - (b[0] + b[2]) / 2) ** 2 + ((a[1] + a[3]) / 2 - (b[1] + b[3]) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return iou - d2 / c2 - (v * v / (1 - iou + v) if v else 0.0)


def test_anchor_points_are_cell_centres():
    points, strides = anchor_points([(2, 2), (1, 1)], (8, 16), CPU)
    assert points.tolist() == [[4, 4], [12, 4], [4, 12], [12, 12], [8, 8]]
    assert strides.tolist() == [8, 8, 8, 8, 16]


def test_decode_of_sharp_distributions():
    logits = torch.full((1, 1, 64), -100.0)
    for side, bin_ in enumerate((1, 2, 3, 4)):
        logits[0, 0, side * 16 + bin_] = 100
    box = decode_distribution(logits, torch.tensor([[20.0, 20.0]]), torch.tensor([8.0]))
    assert box[0, 0].tolist() == pytest.approx([12, 4, 44, 52])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10]),
        ([0, 0, 10, 10], [5, 0, 15, 10]),
        ([0, 0, 4, 8], [20, 20, 30, 22]),
        ([1, 2, 3, 9], [2, 2, 9, 4]),
    ],
)
def test_complete_iou_by_hand(a, b):
    got = complete_iou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert float(got) == pytest.approx(literal_ciou(a, b), abs=1e-5)


def test_complete_iou_of_half_overlap_is_one_third_minus_centre_term():
    # Overlap 50 of union 150; centres 5 apart; hull 15 x 10, diagonal squared 325.
    got = complete_iou(torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10]))
    assert float(got) == pytest.approx(1 / 3 - 25 / 325, abs=1e-5)


def test_distribution_focal_by_hand():
    logits = torch.zeros(1, 4, 16)
    assert float(distribution_focal(logits, torch.full((1, 4), 2.25))) == pytest.approx(math.log(16), rel=1e-5)
    logits[..., 3] = 50.0  # all mass on bin 3: distance 3 costs nothing
    assert float(distribution_focal(logits, torch.full((1, 4), 3.0))) == pytest.approx(0, abs=1e-4)
    with_share = distribution_focal(logits, torch.full((1, 4), 3.25))
    assert float(with_share) == pytest.approx(0.25 * 50, rel=1e-3)


def literal_assign(scores, boxes, points, strides, gt, labels, top=10):
    """Write the definition out as loops: one image, float64."""
    a, classes = scores.shape
    wanted = {}
    align, overlap = np.zeros((len(gt), a)), np.zeros((len(gt), a))
    for j, (box, label) in enumerate(zip(gt, labels, strict=True)):
        cand = [i for i in range(a) if box[0] < points[i][0] < box[2] and box[1] < points[i][1] < box[3]]
        if not cand:
            fine = [i for i in range(a) if strides[i] == min(strides)]
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            cand = [min(fine, key=lambda i: (points[i][0] - centre[0]) ** 2 + (points[i][1] - centre[1]) ** 2)]
        for i in cand:
            overlap[j, i] = max(0.0, literal_ciou(box, boxes[i]))
            align[j, i] = scores[i, label] ** 0.5 * overlap[j, i] ** 6
        best = sorted(cand, key=lambda i: -align[j, i])[:top]
        for i in best:
            wanted.setdefault(i, []).append(j)
    owner = {i: max(js, key=lambda j: overlap[j, i]) if len(js) > 1 else js[0] for i, js in wanted.items()}
    target = np.zeros((a, classes))
    for j in range(len(gt)):
        mine = [i for i, o in owner.items() if o == j]
        if mine:
            top_align, top_overlap = max(align[j, i] for i in mine), max(overlap[j, i] for i in mine)
            for i in mine:
                target[i, labels[j]] = align[j, i] * top_overlap / (top_align + 1e-9)
    return owner, target


@pytest.mark.parametrize("seed", range(6))
def test_assignment_equals_a_literal_loop(seed):
    rng = np.random.default_rng(seed)
    points, strides = anchor_points([(16, 16), (8, 8), (4, 4)], (8, 16, 32), CPU)
    targets = random_targets(rng, [5, 0, 2])
    # Predictions near the objects, so that overlaps are not all zero.
    half = torch.tensor(rng.uniform(4, 30, (3, len(points), 4)), dtype=torch.float32)
    boxes = torch.cat((points - half[..., :2], points + half[..., 2:]), -1)
    scores = torch.tensor(rng.uniform(0.01, 0.99, (3, len(points), 3)), dtype=torch.float32)
    got = assign(scores, boxes, points, strides, targets)
    for image in range(3):
        n = int(targets.valid[image].sum())
        owner, target = literal_assign(
            scores[image].double().numpy(),
            boxes[image].double().numpy(),
            points.double().numpy(),
            strides.numpy(),
            targets.xyxy[image, :n].double().numpy(),
            targets.class_id[image, :n].numpy(),
        )
        # Candidates without any overlap are interchangeable; compare those that carry weight.
        np.testing.assert_allclose(got.scores[image].numpy(), target, atol=2e-4)
        for i, j in owner.items():
            if target[i].max() > 1e-3:
                assert bool(got.positive[image, i])
                assert got.xyxy[image, i].tolist() == targets.xyxy[image, j].tolist()


def test_a_box_smaller_than_a_cell_still_gets_an_anchor():
    points, strides = anchor_points([(4, 4), (2, 2), (1, 1)], (8, 16, 32), CPU)
    targets = pad_targets([np.array([[17, 17, 19, 19]], np.float32)], [np.array([1])])
    boxes = torch.cat((points - 2, points + 2), -1)[None]
    got = assign(torch.full((1, len(points), 2), 0.5), boxes, points, strides, targets)
    assert got.positive[0].nonzero().flatten().tolist() == [10]  # the centre (20, 20): row 2, column 2 of stride 8


def test_a_contested_anchor_goes_to_the_larger_overlap():
    points, strides = anchor_points([(1, 1)], (8,), CPU)
    gt = np.array([[0, 0, 8, 8], [1, 1, 20, 20]], np.float32)
    got = assign(
        torch.full((1, 1, 2), 0.5),
        torch.tensor([[[0.0, 0, 8, 8]]]),
        points,
        strides,
        pad_targets([gt], [np.array([0, 1])]),
    )
    assert got.xyxy[0, 0].tolist() == [0, 0, 8, 8]
    assert got.scores[0, 0].tolist() == pytest.approx([1, 0], abs=1e-4)


def test_empty_targets_give_zero_box_terms_and_gradients_everywhere():
    heads = random_heads()
    losses = DetectionLoss()(heads, pad_targets([np.zeros((0, 4), np.float32)] * 2, [np.zeros(0, np.int32)] * 2))
    assert losses["box"].item() == 0
    assert losses["dfl"].item() == 0
    assert losses["cls"].item() > 0
    sum(losses.values()).backward()
    assert all(h.grad is not None and bool(torch.isfinite(h.grad).all()) for h in heads)


def test_a_batch_equals_its_images_one_by_one():
    rng = np.random.default_rng(3)
    counts = [4, 0, 7]
    targets, heads = random_targets(rng, counts), random_heads(3)
    criterion = DetectionLoss()
    together, weight = criterion.sums([h.detach() for h in heads], targets)
    parts = []
    for i, n in enumerate(counts):
        one = type(targets)(targets.xyxy[i : i + 1, :n], targets.class_id[i : i + 1, :n], targets.valid[i : i + 1, :n])
        parts.append(criterion.sums([h[i : i + 1].detach() for h in heads], one))
    assert float(weight) == pytest.approx(sum(float(w) for _, w in parts), rel=1e-5)
    for name in together:
        assert float(together[name]) == pytest.approx(sum(float(s[name]) for s, _ in parts), rel=1e-4)


def test_gains_multiply_their_terms():
    heads, targets = random_heads(), random_targets(np.random.default_rng(0), [3, 2])
    plain, twice = DetectionLoss(1, 1, 1)(heads, targets), DetectionLoss(7.5, 0.5, 1.5)(heads, targets)
    for name, gain in {"box": 7.5, "cls": 0.5, "dfl": 1.5}.items():
        assert twice[name].item() == pytest.approx(gain * plain[name].item(), rel=1e-5)


def test_the_loss_is_computed_in_float32_under_autocast():
    heads, targets = random_heads(), random_targets(np.random.default_rng(4), [3, 2])
    plain = DetectionLoss()(heads, targets)
    with torch.autocast("cpu", torch.bfloat16):
        under = DetectionLoss()(heads, targets)
    for name in plain:
        assert under[name].item() == plain[name].item()


def test_a_small_model_learns_one_picture():
    torch.manual_seed(0)
    model = Yolov8("n", 2)
    image = torch.full((1, 3, 64, 64), 0.4)
    image[:, :, 16:48, 8:40] = 1.0
    targets = pad_targets([np.array([[8, 16, 40, 48]], np.float32)], [np.array([1])])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    criterion, first = DetectionLoss(), None
    for _ in range(40):
        loss = sum(criterion(model(image), targets).values())
        first = first or float(loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss) < 0.5 * first
