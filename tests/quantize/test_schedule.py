"""Ladders of bit widths: shares of whole epochs, steps at the right time, the learning rate in each rung."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.schedule import Rung, Walk, ladder


def test_the_default_ladder_by_hand():
    rungs = ladder([16, 12, 10, 8], [16, 12, 10, 8], 20, [1, 1, 1, 2])
    assert rungs == [Rung(16, 16, 0, 4), Rung(12, 12, 4, 8), Rung(10, 10, 8, 12), Rung(8, 8, 12, 20)]
    assert ladder([8], [16, 8], 4) == [Rung(8, 16, 0, 2), Rung(8, 8, 2, 4)]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_every_epoch_belongs_to_one_rung_and_every_rung_has_one(shares, extra):
    epochs = len(shares) + extra
    rungs = ladder([16] * len(shares), [8], epochs, shares)
    assert rungs[0].first == 0
    assert rungs[-1].end == epochs
    assert all(a.end == b.first for a, b in itertools.pairwise(rungs))
    assert all(r.epochs >= 1 for r in rungs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([8, 10], [8], 9), "ladder of weights must go down, got 8 -> 10"),
        (([8], [8, 16], 9), "ladder of activations must go down"),
        (([], [8], 9), "at least one rung"),
        (([17], [8], 9), "within 2 to 16 bits, got 17"),
        (([16, 8], [16, 12, 8], 9), "same number of rungs"),
        (([16, 8], [8], 1), "needs at least 2 epochs, got 1"),
        (([16, 8], [8], 9, [1]), "shares must be 2 numbers"),
        (([16, 8], [8], 9, [1, 0]), "shares must be 2 numbers"),
    ],
)
def test_ladders_that_are_none(arguments, said):
    with pytest.raises(ValueError, match=said):
        ladder(*arguments)


def walked(walk, epochs, loss):
    steps = []
    for epoch in range(epochs):
        if walk.next_epoch(epoch, loss(epoch) if epoch else None):
            steps.append((epoch, walk.rung.weights))
    return steps


def test_steps_at_the_planned_epochs():
    assert walked(Walk(ladder([16, 12, 8], [8], 9)), 9, lambda e: 1 / e) == [(3, 12), (6, 8)]


def test_a_converged_rung_ends_early_and_the_last_one_gets_its_epochs():
    walk = Walk(ladder([16, 8], [8], 40), early=True)
    assert walked(walk, 40, lambda e: 1.0) == [(4, 8)]
    assert walk.end() == 40
    falling = Walk(ladder([16, 8], [8], 40), early=True)
    assert walked(falling, 40, lambda e: 0.9**e) == [(20, 8)]


def test_the_learning_rate_restarts_with_each_rung():
    walk = Walk(ladder([16, 8], [8], 8))
    options = {"per_epoch": 10, "peak": 1.0, "low": 0.01, "warmup_epochs": 1}
    assert walk.rate(0, **options) == pytest.approx(1 / 11)
    assert walk.rate(10, **options) == pytest.approx(1.0)
    assert walk.rate(39, **options) < 0.02
    walk.next_epoch(4)
    assert walk.rate(40, **options) == pytest.approx(1 / 11)
    assert walk.rate(50, **options) == pytest.approx(1.0)


def test_a_checkpoint_brings_it_back():
    walk = Walk(ladder([16, 12, 8], [8], 9), early=True)
    for epoch in range(5):
        walk.next_epoch(epoch, 1.0 / (epoch + 1))
    again = Walk(walk.rungs, early=True)
    again.restore(walk.state())
    assert again.state() == walk.state()
    assert again.rung == walk.rung
