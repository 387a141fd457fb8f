"""Stepped bit widths: a ladder of rungs, each with its share of the training, walked down and never up.

A jump from float to the target's few bits throws the network far from where it was trained; a ladder such as 16 -> 12
-> 10 -> 8 moves it a little at a time. On stepping down the represented ranges stay, the learning rate warms up again
and falls along half a cosine, and observers look anew. The ladder is data: the recipe's lists of bits and shares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numerics import BITS

# A rung has converged when its loss fell by less than this share over `PATIENCE` epochs.
TOLERANCE = 0.002
PATIENCE = 3


@dataclass(frozen=True)
class Rung:
    """One stretch of training. first, end: epochs from and up to, not including. Bits of weights and activations."""

    weights: int
    activations: int
    first: int
    end: int

    @property
    def epochs(self) -> int:
        """How many epochs the rung has."""
        return self.end - self.first


def ladder(
    weights: Sequence[int], activations: Sequence[int], epochs: int, shares: Sequence[float] | None = None
) -> list[Rung]:
    """Return the rungs of a training of `epochs` epochs.

    weights, activations: bits, from first to last; a single width holds for all rungs of the other. shares: of the
    epochs, by rung, default equal; every rung has at least one epoch. Raises ValueError for a ladder that goes up, for
    widths outside 2 to 16, and where lengths do not fit.
    """
    for name, bits in (("weights", weights), ("activations", activations)):
        if not bits:
            raise ValueError(f"the ladder of {name} must have at least one rung, it is empty")
        for width in bits:
            if width not in BITS:
                raise ValueError(
                    f"the ladder of {name} must stay within {BITS.start} to {BITS.stop - 1} bits, got {width}"
                )
        if any(after > before for before, after in itertools.pairwise(bits)):
            raise ValueError(f"the ladder of {name} must go down, got {' -> '.join(map(str, bits))}; sort it")
    count = max(len(weights), len(activations))
    if {len(weights), len(activations)} - {1, count}:
        raise ValueError(
            "the ladders of weights and activations must have the same number of rungs, or one a single width; "
            f"got {len(weights)} and {len(activations)}"
        )
    shares = [1.0] * count if shares is None else shares
    if len(shares) != count or any(share <= 0 for share in shares):
        raise ValueError(f"shares must be {count} numbers above 0, one for each rung, got {list(shares)}")
    if epochs < count:
        raise ValueError(f"a ladder of {count} rungs needs at least {count} epochs, got {epochs}; train longer")
    ends = _ends(shares, epochs)
    wide, fine = (list(bits) * count if len(bits) == 1 else list(bits) for bits in (weights, activations))
    return [Rung(w, a, first, end) for w, a, first, end in zip(wide, fine, [0, *ends], ends, strict=False)]


def _ends(shares: Sequence[float], epochs: int) -> list[int]:
    """Share out whole epochs, at least one to each, in proportion as far as that allows."""
    total, done = sum(shares), 0.0
    ends: list[int] = []
    for number, share in enumerate(shares, 1):
        done += share
        least = (ends[-1] if ends else 0) + 1
        most = epochs - (len(shares) - number)
        ends.append(min(max(round(epochs * done / total), least), most))
    return ends


class Walk:
    """Where a training stands on its ladder.

    early: step down before a rung's epochs are over where its loss has converged; the epochs saved go to the last rung.
    """

    def __init__(self, rungs: Sequence[Rung], *, early: bool = False) -> None:
        self.rungs, self.early = list(rungs), early
        self.number, self.started = 0, 0
        self._losses: list[float] = []

    @property
    def rung(self) -> Rung:
        """The rung that is trained now."""
        return self.rungs[self.number]

    @property
    def last(self) -> bool:
        """Whether this is the rung that is deployed."""
        return self.number == len(self.rungs) - 1

    def end(self) -> int:
        """Return the epoch before which the present rung ends, counting what earlier rungs saved."""
        if self.last:
            return self.rungs[-1].end
        return self.started + self.rung.epochs

    def next_epoch(self, epoch: int, loss: float | None = None) -> bool:
        """Tell that `epoch` begins, after one with this mean loss; returns whether the rung changes with it."""
        if loss is not None:
            self._losses.append(loss)
        if self.last or not (epoch >= self.end() or (self.early and self._converged())):
            return False
        self.number, self.started, self._losses = self.number + 1, epoch, []
        return True

    def _converged(self) -> bool:
        if len(self._losses) <= PATIENCE:
            return False
        before, now = self._losses[-1 - PATIENCE], self._losses[-1]
        return before - now < TOLERANCE * abs(before)

    def rate(self, step: int, per_epoch: int, *, peak: float, low: float, warmup_epochs: float) -> float:
        """Return the learning rate of a step: in each rung a linear warm-up, then half a cosine down to peak * low."""
        first, total = self.started * per_epoch, (self.end() - self.started) * per_epoch
        inside, warm = step - first, min(warmup_epochs * per_epoch, total / 2)
        if inside < warm:
            return peak * (inside + 1) / (warm + 1)
        done = min(1.0, (inside - warm) / max(1.0, total - warm))
        return peak * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"number": self.number, "started": self.started, "losses": list(self._losses)}

    def restore(self, state: dict[str, object]) -> None:
        """Take up what `state` gave."""
        self.number, self.started = int(state["number"]), int(state["started"])  # type: ignore[call-overload]
        self._losses = [float(v) for v in state["losses"]]  # type: ignore[attr-defined]
