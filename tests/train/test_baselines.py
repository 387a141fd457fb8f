"""Every published distillation loss against a slow loop of its formula, and what all of them must keep."""

import numpy as np
import pytest
import torch

from tests.train.baselines_reference import LITERAL
from train.baselines import BASELINES, object_weights
from train.baselines_heads import distance_iou, per_mass
from train.dataset import pad_targets
from train.distill import covered_spans
from train.teacher_student import Outputs

SIZE, CLASSES = 64, 3
STUDENT, TEACHER = {8: 4, 16: 6, 32: 5}, {8: 6, 16: 6, 32: 8}  # the middle level needs no adapter
PARTS = {
    "logit": {"logit_cls", "logit_box"},
    "fitnets": {"fitnets"},
    "cwd": {"cwd"},
    "mgd": {"mgd"},
    "fgd": {"fgd_foreground", "fgd_background", "fgd_attention", "fgd_global"},
    "ld": {"ld_main", "ld_vlr"},
}
OBJECTS = {"fgd_foreground", "ld_main", "ld_vlr"}


def outputs(channels, seed, batch=3, grad=False):
    g = torch.Generator().manual_seed(seed)
    maps = {s: torch.randn(batch, c, SIZE // s, SIZE // s, generator=g) for s, c in channels.items()}
    heads = []
    for s in channels:
        heads.append(2 * torch.randn(batch, 64, SIZE // s, SIZE // s, generator=g))
        heads[-1].view(batch, 4, 16, -1)[:, :, 4:] -= 2.0  # boxes of a few cells
        heads.append(torch.randn(batch, CLASSES, SIZE // s, SIZE // s, generator=g) - 1)
    if grad:
        for t in (*maps.values(), *heads):
            t.requires_grad_()
    return Outputs(maps, heads)


def some_targets(counts=(4, 0, 2), seed=0):
    rng = np.random.default_rng(seed)
    boxes = []
    for n in counts:
        xy = rng.uniform(0, SIZE * 0.6, (n, 2))
        boxes.append(np.concatenate((xy, xy + rng.uniform(3, SIZE * 0.4, (n, 2))), 1).astype(np.float32))
    return pad_targets(boxes, [rng.integers(0, CLASSES, n).astype(np.int32) for n in counts])


def aimed(o, targets):
    """Let cells in and beside an object say its sides, as a trained network does, so that both regions of ld exist."""
    for b, valid in enumerate(targets.valid):
        for box in targets.xyxy[b][valid].tolist():
            for s, head in zip(STUDENT, o.heads[::2], strict=True):
                for y, x in np.ndindex(*head.shape[2:]):
                    sides = (x + 0.5 - box[0] / s, y + 0.5 - box[1] / s, box[2] / s - x - 0.5, box[3] / s - y - 0.5)
                    if min(sides) > -1:
                        for k, distance in enumerate(sides):
                            head[b, 16 * k + max(0, round(distance)), y, x] += 6
    return o


def build(name, student=STUDENT, teacher=TEACHER, seed=1, gain=1.5, **options):
    torch.manual_seed(seed)
    loss = BASELINES[name](student, teacher, gain=gain, **options)
    if name == "fgd":  # its blocks start at zero: wake them up, or half of the formula is not tested
        for block in (*loss.context_student.values(), *loss.context_teacher.values()):
            torch.nn.init.normal_(block.transform[-1].weight, std=0.2)
            torch.nn.init.normal_(block.transform[-1].bias, std=0.2)
    return loss


def compare(got, want, gain=1.5):
    assert set(got) == set(want)
    for name, value in want.items():
        assert got[name].shape == ()
        assert got[name].item() == pytest.approx(gain * value, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_literal_loop_of_the_formula(name, seed):
    loss, targets = build(name), some_targets(seed=seed)
    student, teacher = outputs(STUDENT, 10 + seed), aimed(outputs(TEACHER, 20 + seed), targets)
    torch.manual_seed(5)
    compare(loss(student, teacher, targets), LITERAL[name](loss, student, teacher, targets))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("cwd", "temperature", 4.0), ("logit", "temperature", 3.0), ("mgd", "mask_ratio", 0.2)],
)
def test_own_hyperparameters_follow_the_formula(name, option, value):
    loss, targets = build(name, **{option: value}), some_targets()
    student, teacher = outputs(STUDENT, 3), outputs(TEACHER, 4)
    torch.manual_seed(5)
    compare(loss(student, teacher, targets), LITERAL[name](loss, student, teacher, targets, **{option: value}))


def test_localisation_with_the_assignment_of_the_student():
    loss, targets = build("ld", assigned_by="student"), some_targets()
    student, teacher = aimed(outputs(STUDENT, 3), targets), outputs(TEACHER, 4)
    compare(loss(student, teacher, targets), LITERAL["ld"](loss, student, teacher, targets, judge=student))


def test_an_object_that_lost_all_its_cells_has_no_region_around():
    # Both boxes hold the centres of the same four cells of stride 8, and all of these predict exactly the first box.
    boxes = np.array([[8, 24, 24, 40], [8.5, 24.5, 23.5, 39.5]], np.float32)
    targets = pad_targets([boxes], [np.zeros(2, np.int32)])
    loss, student, teacher = build("ld"), outputs(STUDENT, 3, batch=1), outputs(TEACHER, 4, batch=1)
    for y, x in ((3, 1), (3, 2), (4, 1), (4, 2)):
        sides = (x - 1, y - 3, 2 - x, 4 - y)  # half a cell more than this: two bins share the mass
        cell = teacher.heads[0][0, :, y, x]
        cell.fill_(-30)
        for k, bin_ in enumerate(sides):
            cell[16 * k + bin_ : 16 * k + bin_ + 2] = 0
    main, around = loss.regions(student, teacher, targets)
    alone = loss.regions(student, teacher, pad_targets([boxes[:1]], [np.zeros(1, np.int32)]))
    assert main.nonzero()[:, 1].tolist() == [25, 26, 33, 34]
    assert torch.equal(main, alone[0])
    assert torch.equal(around, alone[1])


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "mgd"])  # mgd generates anew: never 0
def test_equal_teacher_and_student_give_exactly_zero(name):
    torch.manual_seed(0)
    loss = BASELINES[name](TEACHER, TEACHER, gain=1.0)
    same = outputs(TEACHER, 7)
    got = loss(same, Outputs({s: m.clone() for s, m in same.maps.items()}, list(same.heads)), some_targets())
    assert {n: v.item() for n, v in got.items()} == dict.fromkeys(PARTS[name], 0.0)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("counts", [(4, 0, 2), (0, 0, 0)])
def test_gradients_reach_the_student_and_every_parameter(name, counts):
    loss = build(name)
    student, teacher = outputs(STUDENT, 3, grad=True), outputs(TEACHER, 4)
    got = loss(student, teacher, some_targets(counts))
    assert set(got) == PARTS[name]
    assert all(v.requires_grad and bool(torch.isfinite(v)) and v.item() >= 0 for v in got.values())
    if not sum(counts):
        assert all(got[part].item() == 0 for part in OBJECTS & set(got))
    sum(got.values()).backward()
    heads = name in ("logit", "ld")
    touched = (
        [h for i, h in enumerate(student.heads) if name == "logit" or i % 2 == 0] if heads else student.maps.values()
    )
    for t in (*touched, *loss.parameters()):
        assert t.grad is not None
        assert bool(torch.isfinite(t.grad).all())
    if sum(counts) or name != "ld":
        assert sum(float(t.grad.abs().sum()) for t in touched) > 0


@pytest.mark.parametrize("name", BASELINES)
def test_every_parameter_receives_a_gradient_in_the_first_step(name):
    torch.manual_seed(0)
    loss = BASELINES[name](STUDENT, TEACHER, gain=1.0)  # as built: the blocks of fgd still at zero
    sum(loss(outputs(STUDENT, 3, grad=True), outputs(TEACHER, 4), some_targets((0, 0, 0))).values()).backward()
    assert [n for n, p in loss.named_parameters() if p.grad is None] == []
    has_own = {"fitnets", "cwd", "mgd", "fgd"}
    assert (name in has_own) == bool(list(loss.parameters()))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_mirrored_inputs_give_equal_losses(name, axis):
    # A mask and 3x3 kernels have sides: without the mask and with symmetric kernels mgd has none.
    loss = build(name, **({"mask_ratio": 0.0} if name == "mgd" else {}))
    dim, sides = (3, [2, 1, 0, 3]) if axis == "x" else (2, [0, 3, 2, 1])
    if name == "mgd":
        for layer in [m for m in loss.generators.modules() if isinstance(m, torch.nn.Conv2d)]:
            layer.weight.data += layer.weight.data.flip(dim)

    def mirror(o):
        heads = [h.flip(dim) for h in o.heads]
        heads[::2] = [h.unflatten(1, (4, 16))[:, sides].flatten(1, 2) for h in heads[::2]]
        return Outputs({s: m.flip(dim) for s, m in o.maps.items()}, heads)

    targets = some_targets()
    low, high = (0, 2) if axis == "x" else (1, 3)
    xyxy = targets.xyxy.clone()
    xyxy[..., low], xyxy[..., high] = SIZE - targets.xyxy[..., high], SIZE - targets.xyxy[..., low]
    student, teacher = outputs(STUDENT, 3), outputs(TEACHER, 4)
    plain = loss(student, teacher, targets)
    turned = loss(mirror(student), mirror(teacher), type(targets)(xyxy, targets.class_id, targets.valid))
    for part in PARTS[name]:
        assert turned[part].item() == pytest.approx(plain[part].item(), rel=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_twice_as_large_has_the_same_loss(name):
    loss, targets = build(name, **({"mask_ratio": 0.0} if name == "mgd" else {})), some_targets()
    student, teacher = outputs(STUDENT, 3), aimed(outputs(TEACHER, 4), targets)

    def twice(o):
        return Outputs({s: m.repeat(2, 1, 1, 1) for s, m in o.maps.items()}, [h.repeat(2, 1, 1, 1) for h in o.heads])

    doubled = type(targets)(targets.xyxy.repeat(2, 1, 1), targets.class_id.repeat(2, 1), targets.valid.repeat(2, 1))
    plain, large = loss(student, teacher, targets), loss(twice(student), twice(teacher), doubled)
    for part in PARTS[name]:
        assert large[part].item() == pytest.approx(plain[part].item(), rel=1e-5)


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "ld"])
def test_a_scene_of_four_equal_tiles_has_the_same_loss(name):
    # Resolution: four copies side by side have four times the cells. Without boxes, which would be four times as many.
    loss = build(name, **({"mask_ratio": 0.0} if name == "mgd" else {}))
    if name == "mgd":  # a 3x3 window sees the neighbour tile: let it look at its centre only
        for layer in [m for m in loss.generators.modules() if isinstance(m, torch.nn.Conv2d)]:
            centre = layer.weight.data[:, :, 1:2, 1:2].clone()
            layer.weight.data.zero_()[:, :, 1:2, 1:2] = centre

    def tiled(o):
        return Outputs({s: m.repeat(1, 1, 2, 2) for s, m in o.maps.items()}, [h.repeat(1, 1, 2, 2) for h in o.heads])

    student, teacher, targets = outputs(STUDENT, 3), outputs(TEACHER, 4), some_targets((0, 0, 0))
    plain, large = loss(student, teacher, targets), loss(tiled(student), tiled(teacher), targets)
    for part in PARTS[name]:
        assert large[part].item() == pytest.approx(plain[part].item(), rel=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_losses_are_float32_under_autocast(name):
    torch.manual_seed(0)
    loss = BASELINES[name](TEACHER, TEACHER, gain=1.0)  # equal channels: no convolution but those of mgd
    student, teacher, targets = outputs(TEACHER, 3), outputs(TEACHER, 4), some_targets()
    torch.manual_seed(5)
    plain = loss(student, teacher, targets)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(student, teacher, targets)
    for part in PARTS[name]:
        assert under[part].dtype == torch.float32
        assert under[part].item() == pytest.approx(plain[part].item(), rel=1e-2 if name == "mgd" else 1e-6)


def test_the_mask_of_mgd_follows_the_seed_and_strikes_its_share():
    loss = build("mgd")
    student, teacher, targets = outputs(STUDENT, 3), outputs(TEACHER, 4), some_targets()
    values = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        values.append(loss(student, teacher, targets)["mgd"].item())
    assert values[0] == values[1] != values[2]


def test_covered_cells_by_hand():
    # Stride 8, 4 x 4 cells: a box over parts of cells, one on cell borders, one inside a cell, one on the far border.
    boxes = np.array([[7, 9, 17, 15], [8, 8, 24, 16], [17, 2, 18, 3], [32, 32, 32, 32]], np.float32)
    targets = pad_targets([boxes, np.zeros((0, 4), np.float32)], [np.zeros(4, np.int32), np.zeros(0, np.int32)])
    rows, columns = covered_spans(targets.xyxy, 8, (4, 4))
    assert [r.nonzero().flatten().tolist() for r in rows[0]] == [[1], [1], [0], [3]]
    assert [c.nonzero().flatten().tolist() for c in columns[0]] == [[0, 1, 2], [1, 2], [2], [3]]
    weights = object_weights(targets, 8, 4, 4)
    want = [[0, 0, 1, 0], [1 / 3, 1 / 2, 1 / 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]]  # the smaller box wins
    np.testing.assert_allclose(weights[0].numpy(), want, rtol=1e-6)
    assert not weights[1].any()


def test_sums_are_divided_by_the_mass_of_all_processes(monkeypatch):
    assert per_mass(torch.tensor(6.0), torch.tensor(3.0)).item() == 2
    assert per_mass(torch.tensor(6.0), torch.tensor(0.1)).item() == 6  # at least 1
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: t.add_(9.0))
    mass = torch.tensor(3.0)
    # This process holds 6 of 3, the other one 6 of 9: the average of both results is 12 / 12.
    assert per_mass(torch.tensor(6.0), mass).item() == 1
    assert mass.item() == 3


def test_distance_iou_by_hand():
    # Overlap 50 of union 150; centres 5 apart; hull 15 x 10, diagonal squared 325.
    got = distance_iou(torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10]))
    assert float(got) == pytest.approx(1 / 3 - 25 / 325, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("cwd", {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ("mgd", {"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1"),
        ("ld", {"vlr_ratio": 2.0}, "vlr_ratio must be from 0 to 1"),
        ("ld", {"assigned_by": "both"}, "assigned_by must be teacher or student, got 'both'"),
    ],
)
def test_impossible_hyperparameters_are_refused(name, options, what):
    with pytest.raises(ValueError, match=what):
        build(name, **options)
