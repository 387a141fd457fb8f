"""Tune the teacher through the student: does what it teaches help a low-precision student on images it has not seen?

The two levels, with a training batch x and a query batch q (a held-out slice of the training split, never val):

    inner:  theta_S' = theta_S - lr_in clip(grad_{theta_S} L_kd(theta_S, theta_T; x))
    outer:  theta_T <- theta_T - lr_T grad_{theta_T} ( L_det(theta_S'(theta_T); q) + w L_det(theta_T; x) )

theta_S' is a pseudo student: one step ahead, and thrown away. The first term is second order. `exact` differentiates
through the step; `finite_difference` replaces the mixed second derivative by the difference of two first ones, as
DARTS (Liu et al., arXiv:1806.09055, eq. 8) and meta pseudo labels (Pham et al., arXiv:2003.10580) do.

clip shortens a gradient to a norm, as the training's own steps do; its share is taken for a constant. Without it the
step at lr_in = 0.001 left a YOLOv8n at 8 bits with 20 % *more* query loss, and fed that back.

Both works move the student's weights by a small step either way. A quantised student cannot be moved so: the step is
far smaller than the grid, so that a few weights fall onto their next integer and all others do not move at all; at 4
bits the difference was noise (cosine with the exact gradient 0.01). Here the *outputs* are moved, by the derivative
along the step (one pass in forward mode, straight through the rounding), and the two distillation losses are compared
there. It is the same second derivative, because the teacher meets the student only in its outputs; nothing of the
network is subtracted, so that the pass may run in half precision.

The teacher sees the same x on both sides of the difference, and its gradient is linear in the loss: one teacher pass
serves the inner step, both sides and the anchor, and one backward pass through the teacher returns everything. The
ordinary step that follows has the same student on the same x as the inner step: its forward pass serves both. The
backward passes are not shared: the inner step is taught by the teacher before its update, the ordinary one by the
teacher after it.

The networks and losses are callables, so nothing here knows what a detector is; with fake-quantisers in the student the
derivatives are those of `rounding`, which exist twice.

Several processes that each see a share of x and q tune one teacher: `Problem.average` makes the inner step, v and the
outer gradient those of the whole batches.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from .fake_quant import FakeQuantizer

Parameters = dict[str, Tensor]
Order = Literal["second", "first"]


@dataclass(frozen=True)
class Problem:
    """What the tuning knows of networks and losses.

    student, teacher: (parameters, batch) -> outputs: tensors, or tuples, lists, dicts or dataclasses of them; the
    teacher's in float32 even where it ran `roughly`: gradients by them are added there, those of the two sides with
    opposite signs. task: (outputs, batch) -> scalar, for either network. compare: (student's outputs, teacher's
    outputs, batch) -> scalar, what the teacher teaches; L_kd is `task` of the student plus it. roughly: a context for
    the passes of the networks in the first-order form, such as bfloat16. average: gradients of this process's share ->
    those of all processes, where there are several whose losses add up to a mean.
    """

    student: Callable[[Parameters, Any], Any]
    teacher: Callable[[Parameters, Any], Any]
    task: Callable[[Any, Any], Tensor]
    compare: Callable[[Any, Any, Any], Tensor]
    roughly: Callable[[], AbstractContextManager[Any]] = nullcontext
    average: Callable[[Parameters], Parameters] = lambda gradients: gradients

    def inner(self, mine: Any, taught: Any, batch: Any) -> Tensor:
        """Return L_kd of the student, scalar; mine, taught: its and the teacher's outputs on the batch."""
        return self.task(mine, batch) + self.compare(mine, taught, batch)


# How far the finite difference moves the student's outputs, as a share of their norm: no farther than float32 needs, so
# that few values cross the corner of a loss with a ReLU in it (MGD: cosine with the exact gradient 0.998 at 0.01).
STEP = 0.001
# Torch has one level of forward derivatives for all threads together.
_ONE_AT_A_TIME = threading.Lock()


def call(module: nn.Module, parameters: Parameters, *args: Any, **kwargs: Any) -> Any:
    """Run a module with other parameters; its buffers (BatchNorm statistics) stay as they are.

    Its own parameters, where `parameters` lacks them, are constants: nobody asks for their gradients.
    """
    kept = {
        f"{prefix}.{name}" if prefix else name: buffer.clone()
        for prefix, part in module.named_modules()
        if part.training and not (isinstance(part, FakeQuantizer) and (part.learnt or part.frozen))
        for name, buffer in part.named_buffers(recurse=False)
    }
    own = {name: p.detach() for name, p in module.named_parameters()}
    return functional_call(module, {**own, **parameters, **kept}, args, kwargs)


def trainable(module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> Parameters:
    """Return the parameters that may move, by name: floating point, and under one of the prefixes.

    Raises ValueError where a prefix fits nothing.
    """
    named = dict(module.named_parameters())
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in named):
            raise ValueError(f"no parameter begins with {prefix!r}; the network has {', '.join(list(named)[:3])}, ...")
    return {n: p for n, p in named.items() if p.is_floating_point() and n.startswith(prefixes)}


def weights_of(student: nn.Module) -> Parameters:
    """Return what the pseudo student's step moves: trainable parameters without those of fake-quantisers.

    A scale is thousands of times smaller than a weight: a plain step or a finite difference could leave it negative.
    """
    ranges = {id(p) for m in student.modules() if isinstance(m, FakeQuantizer) for p in m.parameters(recurse=False)}
    return {n: p for n, p in student.named_parameters() if p.requires_grad and id(p) not in ranges}


def exact(
    problem: Problem,
    student: Parameters,
    teacher: Parameters,
    batch: Any,
    query: Any,
    *,
    inner_rate: float,
    anchor: float,
    clip: float = math.inf,
    mine: Any = None,
) -> tuple[Parameters, dict[str, float]]:
    """Return the outer gradient by the teacher's parameters, and the losses seen ("query", "teacher_task").

    student, teacher: parameters by name; those of the teacher that shall move must require gradients. anchor: weight w
    of the teacher's own task loss. clip: norm to which the gradient of the inner step is shortened. mine: see
    `finite_difference`; not used, a pass that will be differentiated twice is float32.
    """
    student = {n: p.detach().requires_grad_() for n, p in student.items()}
    taught = problem.teacher(teacher, batch)
    inner = problem.inner(problem.student(student, batch), taught, batch)
    found = torch.autograd.grad(inner, list(student.values()), create_graph=True, allow_unused=True)
    steps = {n: g for n, g in zip(student, found, strict=True) if g is not None}
    step = problem.average({n: g.detach() for n, g in steps.items()})
    inner_rate = _shortened(inner_rate, step, clip)
    ahead = {n: (p - inner_rate * step[n] if n in step else p).detach().requires_grad_() for n, p in student.items()}
    loss = problem.task(problem.student(ahead, query), query)
    direction = problem.average(_gradients(loss, ahead))
    own = problem.task(taught, batch)
    # The chain rule by hand, so that v may come from several processes: d theta_S' / d theta_T = -lr_in d step.
    through = torch.stack([(g * direction[n]).sum() for n, g in steps.items()]).sum()
    gradients = problem.average(_gradients(anchor * own - inner_rate * through, teacher))
    return gradients, {"query": float(loss.detach()), "teacher_task": float(own.detach())}


def finite_difference(
    problem: Problem,
    student: Parameters,
    teacher: Parameters,
    batch: Any,
    query: Any,
    *,
    inner_rate: float,
    anchor: float,
    clip: float = math.inf,
    mine: Any = None,
) -> tuple[Parameters, dict[str, float]]:
    """Return what `exact` does, to first order: -lr_in (g(o + e u) - g(o - e u)) / 2e, and the anchor.

    g: gradient of the distillation loss by the teacher. o: the student's outputs on the batch; u: their derivative
    along v, the gradient of the query loss at the pseudo student. e: `STEP` of the norm of o over that of u. mine: the
    student's outputs on the batch where they are known, with their graph back to the very tensors in `student`; the
    graph is left whole.
    """
    with problem.roughly():
        taught = problem.teacher(teacher, batch)
        if mine is None:
            student = {n: p.detach().requires_grad_() for n, p in student.items()}
            inner = problem.inner(problem.student(student, batch), taught, batch)
            steps = _gradients(inner, student)
        else:
            steps = _gradients(problem.inner(mine, taught, batch), student, keep=True)
        steps = problem.average(steps)
        inner_rate = _shortened(inner_rate, steps, clip)
        ahead = {n: (p - inner_rate * steps[n]).detach().requires_grad_() for n, p in student.items()}
        loss = problem.task(problem.student(ahead, query), query)
        direction = problem.average(_gradients(loss, ahead))
        outputs, moved = along(problem.student, student, direction, batch)
    own = problem.task(taught, batch)
    seen = {"query": float(loss.detach()), "teacher_task": float(own.detach())}
    outer = anchor * own
    size, length = _norm(outputs), _norm(moved)
    if bool(size > 0) and bool(length > 0):
        step = STEP * size / length
        ahead_of, behind = (_shifted(outputs, moved, sign * step) for sign in (1.0, -1.0))
        sides = problem.compare(ahead_of, taught, batch) - problem.compare(behind, taught, batch)
        outer = outer - inner_rate / (2 * step) * sides
    return problem.average(_gradients(outer, teacher)), seen


@torch.no_grad()
def along(
    network: Callable[[Parameters, Any], Any], parameters: Parameters, direction: Parameters, batch: Any
) -> tuple[Any, Any]:
    """Return the network's outputs and their derivative as all parameters move along a direction, without a graph.

    Forward-mode differentiation: one pass at three times the cost of its convolutions, whatever the number of outputs.
    """
    with _ONE_AT_A_TIME, forward_ad.dual_level():
        moving = {n: forward_ad.make_dual(p.detach(), direction[n].to(p.dtype)) for n, p in parameters.items()}
        outputs = network(moving, batch)
        return _each(lambda o: forward_ad.unpack_dual(o).primal, outputs), _each(_tangent, outputs)


def _tangent(output: Tensor) -> Tensor:
    found = forward_ad.unpack_dual(output).tangent
    return torch.zeros_like(output) if found is None else found


def _each(change: Callable[..., Tensor], outputs: Any, *others: Any) -> Any:
    """Return the same nest of tuples, lists, dicts and dataclasses with every tensor changed."""
    if isinstance(outputs, Tensor):
        return change(outputs, *others)
    if isinstance(outputs, dict):
        return {key: _each(change, part, *(o[key] for o in others)) for key, part in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(_each(change, *parts) for parts in zip(outputs, *others, strict=True))
    names = [field.name for field in fields(outputs)]
    return replace(outputs, **{n: _each(change, *(getattr(o, n) for o in (outputs, *others))) for n in names})


def _shifted(outputs: Any, moved: Any, step: Tensor) -> Any:
    """Return the outputs a step along their derivative, in float32: half precision would swallow it."""
    return _each(lambda o, u: o.float() + step * u.float(), outputs, moved)


def _shortened(rate: float, steps: Parameters, clip: float) -> float:
    """Return the rate at which a step along these gradients is no longer than `rate` times `clip`."""
    return rate if math.isinf(clip) else rate * min(1.0, clip / max(float(_norm(steps)), 1e-12))


def _norm(outputs: Any) -> Tensor:
    squares: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        squares.append(tensor.float().square().sum())
        return tensor

    _each(add, outputs)
    return torch.sqrt(torch.stack(squares).sum())


def _gradients(loss: Tensor, parameters: Parameters, *, keep: bool = False) -> Parameters:
    """Return the gradient by each parameter, zeros where the loss does not depend on it; keep: the graph, too."""
    if not loss.requires_grad:
        return {n: torch.zeros_like(p) for n, p in parameters.items()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=keep)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


class TeacherTuner:
    """Moves a teacher's parameters, every `every` steps, so that what it teaches helps.

    prefixes: which parameters of the teacher move. anchor: weight of the teacher's own task loss on the training batch,
    so that it does not drift away from the task. clip: longest gradient of the pseudo student's step. order: "second"
    (exact) or "first" (finite difference).
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        problem: Problem,
        *,
        prefixes: tuple[str, ...] = ("",),
        rate: float = 1e-4,
        inner_rate: float = 1e-3,
        anchor: float = 0.1,
        clip: float = math.inf,
        every: int = 4,
        order: Order = "first",
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.student, self.teacher, self.problem = student, teacher, problem
        self.moving = trainable(teacher, prefixes)
        self.inner_rate, self.anchor, self.clip, self.every, self.order = inner_rate, anchor, clip, every, order
        self.optimiser = torch.optim.AdamW(list(self.moving.values()), lr=rate, weight_decay=0.0)
        self.steps = 0
        self.seen: dict[str, float] = {}

    def step(self, batch: Any, query: Callable[[], Any], mine: Any = None) -> dict[str, float]:
        """Count a training step; on every `every`-th tune the teacher.

        query: returns the next query batch; called only where it is needed. mine: the student's outputs on the batch,
        with their graph, where they are known. Returns the losses that the last tuning saw, nothing before the first
        one.
        """
        self.steps += 1
        if self.steps % self.every:
            return self.seen
        for p in self.moving.values():
            p.requires_grad_(True)
        try:
            form = exact if self.order == "second" else finite_difference
            gradients, self.seen = form(
                self.problem,
                weights_of(self.student),
                self.moving,
                batch,
                query(),
                inner_rate=self.inner_rate,
                anchor=self.anchor,
                clip=self.clip,
                mine=mine,
            )
            for name, p in self.moving.items():
                p.grad = gradients[name]
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        finally:
            for p in self.moving.values():
                p.requires_grad_(False)
        return self.seen

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the tuned parameters, the optimiser, and the count of steps."""
        moved = {n: p.detach().clone() for n, p in self.moving.items()}
        return {"steps": self.steps, "seen": self.seen, "teacher": moved, "optimiser": self.optimiser.state_dict()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.steps, self.seen = state["steps"], state["seen"]
        for name, value in state["teacher"].items():
            self.moving[name].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
