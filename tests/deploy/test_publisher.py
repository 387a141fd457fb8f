"""The background publisher: soon after news, never without, errors reach the caller, and it ends at once."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from deploy.publisher import Publisher


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_news_is_published_and_nothing_else():
    calls = []
    publisher = Publisher([lambda: calls.append(1)], interval_s=0.01)
    try:
        time.sleep(0.1)
        assert calls == []
        publisher.tell()
        assert wait_for(lambda: calls)
        time.sleep(0.1)
        assert calls == [1]
        publisher.tell()
        assert wait_for(lambda: len(calls) == 2)
    finally:
        publisher.stop()


def test_it_takes_a_small_part_of_the_time():
    calls = []

    def slow():
        calls.append(time.perf_counter())
        time.sleep(0.02)

    publisher = Publisher([slow], interval_s=0.001)
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            publisher.tell()
            time.sleep(0.005)
    finally:
        publisher.stop()
    assert len(calls) >= 2
    assert min(b - a for a, b in pairwise(calls)) > 0.3


def test_an_error_reaches_the_caller_once_and_the_other_jobs_run():
    calls = []

    def fail():
        raise OSError("no room")

    publisher = Publisher([fail, lambda: calls.append(1)], interval_s=0.01)
    try:
        publisher.tell()
        assert wait_for(lambda: calls)
        with pytest.raises(OSError, match="no room"):
            publisher.check()
        publisher.check()
    finally:
        publisher.stop()


def test_stop_does_not_wait_for_the_interval():
    publisher = Publisher([], interval_s=60)
    publisher.tell()
    begin = time.monotonic()
    publisher.stop()
    assert time.monotonic() - begin < 5
    assert not publisher._thread.is_alive()
