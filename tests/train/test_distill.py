"""Distillation losses: cases worked by hand, a literal reference, and what must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.train import distill_reference as reference
from train.dataset import pad_targets
from train.distill import MethodDistillation, covered_cells, level_of, regions_of, size_weights
from train.teacher_student import Outputs

STRIDES = (8, 16, 32)
CHANNELS = {8: 5, 16: 6, 32: 7}
SIZE = 64


def maps(seed, count, channels=CHANNELS, size=SIZE):
    rng = torch.Generator().manual_seed(seed)
    return {s: torch.randn(count, c, size // s, size // s, generator=rng) for s, c in channels.items()}


def boxes_of(seed, counts, size=SIZE):
    rng = np.random.default_rng(seed)
    found = []
    for count in counts:
        wh = size * rng.choice([0.04, 0.1, 0.3, 0.6, 0.95], (count, 1)) * rng.uniform(0.8, 1.0, (count, 2))
        low = rng.uniform(0, 1, (count, 2)) * (size - wh)
        found.append(np.concatenate([low, low + wh], 1).astype(np.float32))
    return found


def targets_of(boxes):
    return pad_targets(boxes, [np.zeros(len(b), np.int64) for b in boxes])


def run(module, student, teacher, boxes):
    return module(Outputs(student, []), Outputs(teacher, []), targets_of(boxes))


@pytest.mark.parametrize(
    ("w", "h", "level", "moved"),
    [
        (512, 512, 3, 3),  # the whole image: floor(3 + 0)
        (256, 256, 2, 3),  # half the side: floor(3 - 1)
        (255, 256, 1, 3),  # just below: floor(3 - 1.003) = 1; with 2 added 3
        (64, 64, 1, 2),  # an eighth: floor(3 - 3) = 0, clamped; with 2 added 2
        (32, 120, 1, 1),  # sqrt(32 * 120) = 62: floor(3 - 3.05) = -1, clamped; with 2 added 1
    ],
)
def test_level_of_five_sizes(w, h, level, moved):
    box = torch.tensor([[10.0, 20.0, 10.0 + w, 20.0 + h]])
    assert level_of(box, (512, 512)).tolist() == [level]
    assert level_of(box, (512, 512), offset=2).tolist() == [moved]


def test_two_boxes_and_their_overlap():
    # Areas 32 * 16 = 512 and 16 * 16 = 256, mean 384: weights 0.75 and 1.5. Both below half of 64 x 64: level 1.
    targets = targets_of([np.array([[0, 0, 32, 16], [24, 8, 40, 24]], np.float32)])
    assert size_weights(targets.xyxy, targets.valid).tolist() == [[0.75, 1.5]]
    weight = regions_of(targets, 8, (8, 8), 1).weight[0]
    expected = torch.zeros(8, 8)
    expected[0:2, 0:4] = 0.75  # rows 0-1, columns 0-3
    expected[1:3, 3:5] = 1.5  # rows 1-2, columns 3-4; the shared cell (1, 3) takes the smaller object's weight
    assert torch.equal(weight, expected)
    assert torch.equal(regions_of(targets, 8, (8, 8), 1, size_aware=False).weight[0], (expected > 0).float())


def test_a_box_smaller_than_a_cell_covers_one_cell():
    targets = targets_of([np.array([[17, 9, 19, 12], [15, 9, 18, 12], [24, 24, 24, 24]], np.float32)])
    cells = covered_cells(targets.xyxy, 8, (8, 8))[0]
    assert cells[0].nonzero().tolist() == [[1, 2]]
    assert cells[1].nonzero().tolist() == [[1, 1], [1, 2]]  # across a border it shares area with two
    assert cells[2].nonzero().tolist() == [[3, 3]]  # without area: still one
    assert covered_cells(targets.xyxy, 32, (2, 2))[0].sum((1, 2)).tolist() == [1, 1, 1]


def test_boxes_of_other_levels_are_neither_foreground_nor_background():
    targets = targets_of([np.array([[0, 0, 64, 64], [0, 0, 8, 8]], np.float32)])
    fine, coarse = regions_of(targets, 8, (8, 8), 1), regions_of(targets, 32, (2, 2), 3)
    assert fine.member.tolist() == [[False, True]]
    assert coarse.member.tolist() == [[True, False]]
    assert int((fine.weight > 0).sum()) == 1
    assert not fine.background.any()
    assert bool((coarse.weight > 0).all())


def test_an_image_without_boxes_is_all_background():
    student, teacher, none = maps(0, 1), maps(1, 1), [np.zeros((0, 4), np.float32)]
    module = MethodDistillation(CHANNELS, CHANNELS, gamma=1, delta=1)
    found = run(module, student, teacher, none)
    assert found["fg"] == found["relation_object"] == found["relation_context"] == 0
    assert torch.isclose(found["bg"], torch.tensor(reference_magnitude(student, teacher, none)[1]).float(), rtol=1e-5)
    assert bool(regions_of(targets_of(none), 8, (8, 8), 1).background.all())


def test_one_object_in_the_batch_has_no_pairs():
    boxes = [np.array([[8, 8, 20, 20]], np.float32), np.zeros((0, 4), np.float32)]
    found = run(MethodDistillation(CHANNELS, CHANNELS, gamma=1, delta=1), maps(0, 2), maps(1, 2), boxes)
    assert found["relation_object"] == 0
    assert found["relation_context"] > 0
    assert found["fg"] > 0


@pytest.mark.parametrize("attention", ["teacher", "own", "none"])
def test_equal_teacher_and_student_give_exactly_zero(attention):
    same = maps(3, 2)
    module = MethodDistillation(CHANNELS, CHANNELS, gamma=1, delta=1, attention=attention)
    found = run(module, {s: m.clone() for s, m in same.items()}, same, boxes_of(0, (3, 5)))
    assert [float(v) for v in found.values()] == [0.0] * 4


def test_gradients_reach_student_and_adapters():
    student = {s: m.requires_grad_() for s, m in maps(0, 2, dict.fromkeys(STRIDES, 3)).items()}
    teacher = maps(1, 2)
    module = MethodDistillation(dict.fromkeys(STRIDES, 3), CHANNELS, gamma=1, delta=1)
    boxes = [np.array([[0, 0, 40, 40], [4, 4, 12, 9]], np.float32), np.array([[34, 34, 38, 50]], np.float32)]
    sum(run(module, student, teacher, boxes).values()).backward()
    assert all(bool(m.grad.abs().sum() > 0) for m in student.values())
    assert all(bool(p.grad.abs().sum() > 0) for p in module.parameters())


def test_a_batch_without_boxes_still_gives_every_adapter_a_gradient():
    module = MethodDistillation(dict.fromkeys(STRIDES, 3), CHANNELS, gamma=1, delta=1)
    none = [np.zeros((0, 4), np.float32)]
    sum(run(module, maps(0, 1, dict.fromkeys(STRIDES, 3)), maps(1, 1), none).values()).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_the_magnitude_of_a_batch_is_the_mean_over_its_images():
    student, teacher, boxes = maps(0, 3), maps(1, 3), boxes_of(5, (4, 0, 2))
    module = MethodDistillation(CHANNELS, CHANNELS)
    whole = run(module, student, teacher, boxes)
    each = [
        run(module, *({s: m[i : i + 1] for s, m in side.items()} for side in (student, teacher)), boxes[i : i + 1])
        for i in range(3)
    ]
    for name in ("fg", "bg"):
        assert torch.isclose(whole[name], torch.stack([e[name] for e in each]).mean(), rtol=1e-5)
    summed = run(MethodDistillation(CHANNELS, CHANNELS, normalise="sum"), student, teacher, boxes)
    assert torch.isclose(summed["fg"], 3 * whole["fg"], rtol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_mirrored_images_give_equal_losses(axis):
    student, teacher, boxes = maps(0, 2), maps(1, 2), boxes_of(7, (4, 6))
    module = MethodDistillation(CHANNELS, CHANNELS, gamma=1, delta=1, level_offset=1)
    low, high = (0, 2) if axis == 3 else (1, 3)
    mirrored = [b.copy() for b in boxes]
    for old, new in zip(boxes, mirrored, strict=True):
        new[:, low], new[:, high] = SIZE - old[:, high], SIZE - old[:, low]
    flipped = ({s: m.flip(axis) for s, m in side.items()} for side in (student, teacher))
    before, after = run(module, student, teacher, boxes), run(module, *flipped, mirrored)
    for name, value in before.items():
        assert torch.isclose(value, after[name], rtol=1e-5), name


def as_lists(side):
    return [[image.double().numpy() for image in side[s]] for s in STRIDES]


def reference_magnitude(student, teacher, boxes, alpha=1.0, beta=1.0, **switches):
    fg, bg = reference.magnitude(as_lists(student), as_lists(teacher), boxes, STRIDES, alpha, beta, **switches)
    return fg / len(boxes), bg / len(boxes)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("attention", "size_aware", "offset", "eps"),
    [("teacher", True, 0.0, 0.0), ("own", True, 1.5, 0.01), ("none", False, 2.0, 0.0)],
)
def test_agrees_with_the_literal_reference(seed, attention, size_aware, offset, eps):
    student, teacher, boxes = maps(seed, 3), maps(seed + 100, 3), boxes_of(seed, (5, 0, 3))
    module = MethodDistillation(
        CHANNELS, CHANNELS, alpha=0.7, beta=0.4, gamma=1.3, delta=0.9, attention=attention, size_aware=size_aware,
        level_offset=offset, eps=eps,
    )  # fmt: skip
    found = run(module, student, teacher, boxes)
    fg, bg = reference_magnitude(
        student, teacher, boxes, 0.7, 0.4, choice=attention, size_aware=size_aware, offset=offset, eps=eps
    )
    pairs, around = reference.relation(as_lists(student), as_lists(teacher), boxes, STRIDES, 1.3, 0.9, offset=offset)
    expected = {"fg": fg, "bg": bg, "relation_object": pairs, "relation_context": around}
    for name, value in expected.items():
        assert abs(float(found[name]) - value) <= 1e-5 * max(1.0, abs(value)), name


def test_every_level_at_once_agrees_with_the_reference():
    student, teacher, boxes = maps(0, 2), maps(1, 2), boxes_of(4, (4, 3))
    found = run(MethodDistillation(CHANNELS, CHANNELS, gamma=1, delta=1, levels="all"), student, teacher, boxes)
    sides = as_lists(student), as_lists(teacher)
    with pytest.MonkeyPatch.context() as patch:
        totals = np.zeros(4)
        for number, stride in enumerate(STRIDES, 1):
            patch.setattr(reference, "level", lambda *args, **kwargs: 1)  # every box on the one level that is given
            one = [[side[number - 1]] for side in sides]
            totals[:2] += reference.magnitude(*one, boxes, (stride,), 1.0, 1.0)
            totals[2:] += reference.relation(*one, boxes, (stride,), 1.0, 1.0)
    expected = {"fg": totals[0] / 2, "bg": totals[1] / 2, "relation_object": totals[2], "relation_context": totals[3]}
    for name, value in expected.items():
        assert abs(float(found[name]) - value) <= 1e-5 * max(1.0, value), name


def test_standardised_gaps_are_those_of_features_in_standard_deviations():
    student, teacher, boxes = maps(0, 2), maps(1, 2), boxes_of(3, (4, 2))
    deviations = {s: m.std((0, 2, 3), keepdim=True) for s, m in teacher.items()}
    scaled = [{s: m / deviations[s] for s, m in side.items()} for side in (student, teacher)]
    plain = run(MethodDistillation(CHANNELS, CHANNELS, attention="none"), *scaled, boxes)
    found = run(MethodDistillation(CHANNELS, CHANNELS, attention="none", standardise=True), student, teacher, boxes)
    for name, value in plain.items():
        assert torch.isclose(value, found[name], rtol=1e-5)


def test_every_object_on_every_level():
    targets = targets_of([np.array([[0, 0, 8, 8], [0, 0, 64, 64]], np.float32)])
    for level, stride in enumerate(STRIDES, 1):
        assert bool(regions_of(targets, stride, (SIZE // stride,) * 2, level, levels="all").member.all())


def test_gains_of_zero_leave_their_losses_out():
    found = run(MethodDistillation(CHANNELS, CHANNELS, beta=0.0, gamma=2.0), maps(0, 1), maps(1, 1), boxes_of(1, (3,)))
    assert found.keys() == {"fg", "relation_object"}
