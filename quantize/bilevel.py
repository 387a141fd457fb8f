"""Tune the teacher through the student: does what it teaches help a low-precision student on images it has not seen?

The two levels, with a training batch x and a query batch q (a held-out slice of the training split, never val):

    inner:  theta_S' = theta_S - lr_in grad_{theta_S} L_kd(theta_S, theta_T; x)
    outer:  theta_T <- theta_T - lr_T grad_{theta_T} ( L_det(theta_S'(theta_T); q) + w L_det(theta_T; x) )

theta_S' is a pseudo student: one step ahead, and thrown away. The first term is second order. `exact` differentiates
through the step; `finite_difference` replaces the mixed second derivative by the difference of two first ones, as
DARTS (Liu et al., arXiv:1806.09055, eq. 8) and meta pseudo labels (Pham et al., arXiv:2003.10580) do. The teacher sees
the same x on both sides of that difference, and its gradient is linear in the loss: so one teacher pass serves the
inner step, both sides and the anchor, the two moved students run without a graph, and one backward pass through the
teacher returns everything. The ordinary step that follows has the same student on the same x as the inner step: its
forward pass serves both. Both savings are exact. The backward passes are not shared: the inner step is taught by the
teacher before its update, the ordinary one by the teacher after it.

What may be rough and what not: the difference of the two moved students is a ten-thousandth of what they say, their
passes are float32. All that merely is multiplied with it, v and the teacher's own passes, only has to be right by
itself, and runs in the precision of the training.

The networks and losses are callables, so nothing here knows what a detector is; with fake-quantisers in the student the
derivatives are those of `rounding`, which exist twice.

Several processes that each see a share of x and q tune one teacher: `Problem.average` makes the inner step, v and the
outer gradient those of the whole batches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .fake_quant import FakeQuantizer

Parameters = dict[str, Tensor]
Order = Literal["second", "first"]


@dataclass(frozen=True)
class Problem:
    """What the tuning knows of networks and losses. A network's outputs may be anything; the losses take them.

    student, teacher: (parameters, batch) -> outputs, the teacher's in float32 even where it ran `roughly`: gradients by
    them are added there, those of the two sides with opposite signs. task: (outputs, batch) -> scalar, for either
    network. compare: (student's outputs, teacher's outputs, batch) -> scalar, what the teacher teaches; L_kd is `task`
    of the student plus it. roughly: a context for the passes whose own rounding does not matter (the teacher's, the
    inner step and the direction), such as bfloat16; the two sides of a difference never run in it, they would drown.
    average: gradients of this
    process's share -> those of all processes, where there are several whose losses add up to a mean.
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


# The step of the finite difference along v, over the norm of v (DARTS, section 3.2).
STEP = 0.01


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
    mine: Any = None,
) -> tuple[Parameters, dict[str, float]]:
    """Return the outer gradient by the teacher's parameters, and the losses seen ("query", "teacher_task").

    student, teacher: parameters by name; those of the teacher that shall move must require gradients. anchor: weight w
    of the teacher's own task loss. mine: see `finite_difference`; not used, a pass that will be differentiated twice
    is float32.
    """
    student = {n: p.detach().requires_grad_() for n, p in student.items()}
    taught = problem.teacher(teacher, batch)
    inner = problem.inner(problem.student(student, batch), taught, batch)
    found = torch.autograd.grad(inner, list(student.values()), create_graph=True, allow_unused=True)
    steps = {n: g for n, g in zip(student, found, strict=True) if g is not None}
    step = problem.average({n: g.detach() for n, g in steps.items()})
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
    mine: Any = None,
) -> tuple[Parameters, dict[str, float]]:
    """Return what `exact` does, to first order: -lr_in (g(theta_S + e v) - g(theta_S - e v)) / 2e, and the anchor.

    g: gradient of the distillation loss by the teacher. v: gradient of the query loss at the pseudo student. e: `STEP`
    over the norm of v. mine: the student's outputs on the batch where they are known, with their graph back to the very
    tensors in `student`; the graph is left whole.
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
        ahead = {n: (p - inner_rate * steps[n]).detach().requires_grad_() for n, p in student.items()}
        loss = problem.task(problem.student(ahead, query), query)
        direction = problem.average(_gradients(loss, ahead))
    own = problem.task(taught, batch)
    seen = {"query": float(loss.detach()), "teacher_task": float(own.detach())}
    norm = torch.sqrt(sum((v.square().sum() for v in direction.values()), torch.zeros((), device=loss.device)))
    outer = anchor * own
    if bool(norm > 0):
        step = STEP / norm
        with torch.no_grad():
            ahead, behind = (
                problem.student({n: p + direction[n] * (sign * step) for n, p in student.items()}, batch)
                for sign in (1.0, -1.0)
            )
        sides = problem.compare(ahead, taught, batch) - problem.compare(behind, taught, batch)
        outer = outer - inner_rate / (2 * step) * sides
    return problem.average(_gradients(outer, teacher)), seen


def _gradients(loss: Tensor, parameters: Parameters, *, keep: bool = False) -> Parameters:
    """Return the gradient by each parameter, zeros where the loss does not depend on it; keep: the graph, too."""
    if not loss.requires_grad:
        return {n: torch.zeros_like(p) for n, p in parameters.items()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=keep)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


class TeacherTuner:
    """Moves a teacher's parameters, every `every` steps, so that what it teaches helps.

    prefixes: which parameters of the teacher move. anchor: weight of the teacher's own task loss on the training batch,
    so that it does not drift away from the task. order: "second" (exact) or "first" (finite difference).
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
        every: int = 4,
        order: Order = "first",
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.student, self.teacher, self.problem = student, teacher, problem
        self.moving = trainable(teacher, prefixes)
        self.inner_rate, self.anchor, self.every, self.order = inner_rate, anchor, every, order
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
