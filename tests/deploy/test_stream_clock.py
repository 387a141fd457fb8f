"""Stream clock: exact within a connection, going on over a cut, ascending whatever comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.stream_clock import CLOCK_SLACK_S, StreamClock


def test_the_clock_goes_on_over_a_reconnection():
    clock = StreamClock()
    # Opening takes 1 s and buffers 0.8 s, each time; then every frame comes as it is drawn. Capture period 0.1 s.
    drawn, stamps = [], []
    for begin in (100.0, 107.0):
        clock.connected()
        for i in range(40):
            captured = begin + 0.2 + i * 0.1
            drawn.append(captured)
            stamps.append(clock.stamp(max(captured, begin + 1.0), i * 0.1 + 0.5))
    np.testing.assert_allclose(stamps, np.array(drawn) - drawn[0], atol=1e-6)


def test_a_clock_that_runs_away_is_not_believed():
    clock = StreamClock()
    clock.connected()
    stamps = np.array([clock.stamp(i * 0.1, i * 0.04) for i in range(1000)])  # it says 25 frames/s, 10 come
    assert (np.diff(stamps) > 0).all()
    assert np.abs(stamps - np.arange(1000) * 0.1).max() <= CLOCK_SLACK_S
    assert stamps[-1] == pytest.approx(99.9)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=50))
def test_timestamps_ascend_whatever_the_stream_says(steps):
    clock, arrival, stamps = StreamClock(), 1000.0, []
    for pause, position, fresh in steps:
        arrival += pause
        if fresh:
            clock.connected()
        stamps.append(clock.stamp(arrival, position))
    assert stamps[0] == 0
    assert (np.diff(stamps) > 0).all()
