"""Teacher tuning on a problem small enough to check: both forms agree, and what is taught gets better."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from quantize.bilevel import Problem, TeacherTuner, along, call, exact, finite_difference, trainable, weights_of
from quantize.fake_quant import FakeQuantizer


class Small(nn.Module):
    """Two layers with BatchNorm, optionally rounding its hidden values to a few bits."""

    def __init__(self, hidden, bits=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 3)
        self.quantiser = FakeQuantizer(bits) if bits else nn.Identity()

    def forward(self, x):
        return self.last(self.quantiser(torch.tanh(self.norm(self.first(x)))))


def asked_of(student, teacher):
    def compare(mine, taught, batch):
        return functional.cross_entropy(mine, functional.softmax(taught, -1))

    return Problem(
        student=lambda p, batch: call(student, p, batch[0]),
        teacher=lambda p, batch: call(teacher, p, batch[0]),
        task=lambda outputs, batch: functional.cross_entropy(outputs, batch[1]),
        compare=compare,
    )


@pytest.fixture
def problem():
    torch.manual_seed(0)
    truth = nn.Linear(6, 3)
    student, teacher = Small(4, bits=4), Small(12)
    data = []
    for _ in range(2):
        x = torch.randn(64, 6)
        data.append((x, truth(x).argmax(1)))
    with torch.no_grad():
        student(data[0][0])  # the observer sees a range
    student.quantiser.learn()
    teacher.requires_grad_(False).eval()
    student.train()
    return student, teacher, asked_of(student, teacher), data


def pieces(problem):
    student, teacher, *_ = problem
    moving = {n: p.detach().clone().requires_grad_() for n, p in trainable(teacher).items()}
    return weights_of(student), moving


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("bits", [12, 4, 2])
@pytest.mark.parametrize("anchor", [0.0, 0.1])
def test_both_forms_agree_in_direction_and_size(problem, anchor, rate, bits):
    """On a grid of any width: it is the outputs that are moved, not the weights across the grid's steps."""
    problem[0].quantiser.set_bits(bits)
    student, moving = pieces(problem)
    _, _, asked, (batch, query) = problem
    one, seen_one = exact(asked, student, moving, batch, query, inner_rate=rate, anchor=anchor)
    two, seen_two = finite_difference(asked, student, moving, batch, query, inner_rate=rate, anchor=anchor)
    assert seen_one == pytest.approx(seen_two)
    assert float(torch.cosine_similarity(flat(one), flat(two), dim=0)) > 0.9999
    assert float(flat(two).norm() / flat(one).norm()) == pytest.approx(1, abs=0.001)


def test_a_pass_of_the_student_that_is_there_already_serves_and_stays_whole(problem):
    module, _, asked, (batch, query) = problem
    student, moving = pieces(problem)
    given = {"inner_rate": 0.5, "anchor": 0.1}
    wanted, seen = finite_difference(asked, student, moving, batch, query, **given)
    passes = []
    counted = replace(asked, student=lambda p, b: (passes.append(1), asked.student(p, b))[1])
    mine = functional_call(module, {n: b.clone() for n, b in module.named_buffers()}, (batch[0],))
    found, seen_too = finite_difference(counted, student, moving, batch, query, **given, mine=mine)
    assert len(passes) == 2, "the query and the derivative along v"
    assert seen == pytest.approx(seen_too)
    assert torch.allclose(flat(found), flat(wanted), rtol=1e-4, atol=1e-6)
    asked.task(mine, batch).backward()
    assert float(module.first.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in moving.values())


def test_the_exact_form_is_the_derivative(problem):
    """Against differences of the query loss itself, along random directions of the teacher, without rounding."""
    student_module, _, asked, (batch, query) = problem
    student_module.quantiser.enabled = False  # a rounded student is a staircase, differences mean nothing there
    student, moving = pieces(problem)
    rate = 0.5

    def after(teacher):
        own = {n: p.detach().requires_grad_() for n, p in student.items()}
        steps = torch.autograd.grad(
            asked.inner(asked.student(own, batch), asked.teacher(teacher, batch), batch),
            list(own.values()),
            allow_unused=True,
        )
        ahead = {n: p if g is None else p - rate * g for (n, p), g in zip(own.items(), steps, strict=True)}
        return float(asked.task(asked.student(ahead, query), query).detach())

    gradients, _ = exact(asked, student, moving, batch, query, inner_rate=rate, anchor=0.0)
    torch.manual_seed(1)
    for _ in range(3):
        direction = {n: torch.randn_like(p) for n, p in moving.items()}
        ahead, behind = (after({n: (p + s * direction[n]).detach() for n, p in moving.items()}) for s in (0.03, -0.03))
        predicted = sum(float((gradients[n] * direction[n]).sum()) for n in moving)
        assert (ahead - behind) / 0.06 == pytest.approx(predicted, rel=0.1, abs=1e-4)


def test_the_derivative_along_a_direction_goes_into_every_output():
    """Against the difference of two passes in float64; outputs in a nest, one of which does not move."""

    @dataclass(frozen=True)
    class Said:
        maps: dict[int, torch.Tensor]
        heads: list[torch.Tensor]

    def network(p, x):
        hidden = torch.tanh(x @ p["a"])
        return Said({8: hidden}, [hidden @ p["b"], x.sum()])

    torch.manual_seed(0)
    at, v = ({"a": torch.randn(4, 5).double(), "b": torch.randn(5, 2).double()} for _ in range(2))
    x = torch.randn(3, 4).double()
    said, moved = along(network, at, v, x)
    ahead, behind = (network({n: p + s * v[n] for n, p in at.items()}, x) for s in (1e-6, -1e-6))
    assert torch.equal(said.maps[8], network(at, x).maps[8])
    for got, a, b in zip([moved.maps[8], *moved.heads], [ahead.maps[8], *ahead.heads], [behind.maps[8], *behind.heads],
                         strict=True):  # fmt: skip
        assert torch.allclose(got, (a - b) / 2e-6, atol=1e-8)


@pytest.mark.parametrize("form", [exact, finite_difference])
def test_a_long_gradient_is_shortened_and_a_short_one_is_left(problem, form):
    """A step of half the length is one at half the rate, in both places where the rate counts."""
    student, moving = pieces(problem)
    _, _, asked, data = problem
    inner = asked.inner(asked.student(student, data[0]), asked.teacher(moving, data[0]), data[0])
    length = float(torch.stack([g.norm() for g in torch.autograd.grad(inner, list(student.values()))]).norm())
    half, seen_half = form(asked, student, moving, *data, inner_rate=0.25, anchor=0.1)
    cut, seen_cut = form(asked, student, moving, *data, inner_rate=0.5, anchor=0.1, clip=length / 2)
    assert torch.allclose(flat(cut), flat(half), rtol=1e-3, atol=1e-6)
    assert seen_cut == pytest.approx(seen_half)
    whole, _ = form(asked, student, moving, *data, inner_rate=0.25, anchor=0.1, clip=2 * length)
    assert torch.equal(flat(whole), flat(half))


@pytest.mark.parametrize("form", [exact, finite_difference])
def test_shares_of_two_processes_give_the_gradient_of_the_whole(problem, form):
    """Threads in the place of processes; each has networks of its own and half of the training and the query batch."""
    student, teacher, _, data = problem
    student.eval()  # the BatchNorm statistics of half a batch are others
    student.quantiser.set_bits(12)
    given = {"inner_rate": 5.0, "anchor": 0.1}  # a step so long that it matters whose it is
    whole, _ = form(asked_of(student, teacher), *pieces(problem), *data, **given)
    barrier, slots = threading.Barrier(2), {}

    def average_in(rank):
        def average(gradients):
            slots[rank] = gradients
            barrier.wait(30)
            mean = {n: (slots[0][n] + slots[1][n]) / 2 for n in gradients}
            barrier.wait(30)
            return mean

        return average

    def process(rank):
        own = copy.deepcopy(student), copy.deepcopy(teacher)
        shares = [(x[rank::2], y[rank::2]) for x, y in data]
        asked = replace(asked_of(*own), average=average_in(rank))
        return form(asked, *pieces((*own, asked, data)), *shares, **given)[0]

    with ThreadPoolExecutor(2) as pool:
        first, second = (job.result(60) for job in [pool.submit(process, rank) for rank in range(2)])
    alone, _ = form(asked_of(student, teacher), *pieces(problem), *([x[::2], y[::2]] for x, y in data), **given)
    assert torch.equal(flat(first), flat(second))
    assert float((flat(first) - flat(whole)).norm() / flat(whole).norm()) < 1e-3
    assert float((flat(alone) - flat(whole)).norm() / flat(whole).norm()) > 0.2, "half of the data says something else"


@pytest.mark.parametrize("order", ["second", "first"])
def test_a_tuned_teacher_lowers_the_students_query_loss(problem, order):
    student, teacher, asked, (batch, query) = problem
    tuner = TeacherTuner(
        student, teacher, asked, rate=0.02, inner_rate=0.5, anchor=0.0, every=2, order=order
    )  # fmt: skip
    statistics = student.norm.running_mean.clone()
    kept = {n: p.clone() for n, p in student.named_parameters()}
    seen = [tuner.step(batch, lambda: query) for _ in range(60)]
    assert seen[0] == {}, "only every second step"
    losses = [s["query"] for s in seen if s]
    assert losses[-1] < 0.97 * losses[0]
    assert all(torch.equal(kept[n], p) for n, p in student.named_parameters()), "the pseudo student is thrown away"
    assert torch.equal(statistics, student.norm.running_mean)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_only_what_may_move_moves(problem):
    student, teacher, asked, (batch, query) = problem
    before = {n: p.clone() for n, p in teacher.named_parameters()}
    TeacherTuner(student, teacher, asked, prefixes=("last",), rate=0.1, every=1).step(batch, lambda: query)
    moved = {n for n, p in teacher.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {"last.weight", "last.bias"}
    with pytest.raises(ValueError, match="no parameter begins with 'neck'"):
        trainable(teacher, ("neck",))


def test_the_anchor_keeps_the_teacher_at_its_task(problem):
    student, teacher, asked, (batch, query) = problem

    def own():
        return float(asked.task(asked.teacher(dict(teacher.named_parameters()), batch), batch).detach())

    start = own()
    tuner = TeacherTuner(student, teacher, asked, rate=0.01, anchor=1.0, every=1, inner_rate=1e-6)
    for _ in range(20):
        tuner.step(batch, lambda: query)
    assert own() < start
