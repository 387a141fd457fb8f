"""Open loop against queueing theory on the emulated NPU, saturation against the bound, knees, rates out of reach."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.course import Course
from benchmarks.statistics_of_time import spread_of
from benchmarks.subject import ANY_CORE, CORES_0_1, CORES_0_1_2, told_cores
from benchmarks.throughput import Offered, Pace, due_times, knee_of, offer, rate_of, saturate, sweep, timed_from_due
from tests.benchmarks.emulated import emulated_subject


def crommelin(load: float, servers: int) -> float:
    """Return the mean wait of an M/D/c queue in service times, from its states' probabilities.

    Crommelin (1932): whoever is served now is gone a service time later, so the state then is what waited beyond the
    servers, and the arrivals of one service time: p_j = sum over k of p_k * Poisson(j - max(k - c, 0)). Solved by
    iteration; Little's law turns the mean queue into a wait.
    """
    rate = load * servers
    size = 400
    arrivals = np.exp([-rate + k * math.log(rate) - math.lgamma(k + 1) for k in range(size)])
    state = np.zeros(size)
    state[0] = 1
    for _ in range(20000):
        left = np.concatenate([[state[: servers + 1].sum()], state[servers + 1 :], np.zeros(servers)])
        following = np.convolve(left, arrivals)[:size]
        following /= following.sum()
        if np.abs(following - state).max() < 1e-13:
            break
        state = following
    queue = (np.maximum(np.arange(size) - servers, 0) * state).sum()
    return float(queue / rate)


def simulated_waits(due: np.ndarray, service: np.ndarray | float, servers: int) -> np.ndarray:
    """Return each arrival's wait in a queue with one line, first come first served, event by event."""
    free = [0.0] * servers
    waits = []
    for at, own in zip(due, np.broadcast_to(service, len(due)), strict=True):
        start = max(at, heapq.heappop(free))
        heapq.heappush(free, start + own)
        waits.append(start - at)
    return np.array(waits)


def test_the_reference_knows_the_formula_for_one_server():
    """Pollaczek and Khinchine: W = load / (2 (1 - load)) service times."""
    for load in (0.3, 0.7, 0.9):
        assert crommelin(load, 1) == pytest.approx(load / (2 * (1 - load)), rel=1e-4)


def test_arrivals_make_the_waits_of_theory():
    """A long run of our arrivals through an event-by-event queue waits as Crommelin says: they are Poisson."""
    for load, servers in ((0.7, 3), (0.85, 2)):
        due = due_times(load * servers, 300_000, "poisson", seed=4)
        wait = simulated_waits(due, 1.0, servers).mean()
        assert wait == pytest.approx(crommelin(load, servers), rel=0.04)


def test_open_loop_on_the_emulated_npu_is_an_mdc_queue(tmp_path):
    """Deterministic service on three cores, Poisson arrivals: the runner measures the waits that the queue has.

    The queue is simulated event by event with the very arrivals, and with what each frame's service came to (a busy
    machine oversleeps); what is under test is that waiting counts from the due moment, to its full length.
    """
    servers, service_ms, load, count = 3, 40.0, 0.7, 220
    per_s = load * servers / service_ms * 1e3
    tries = []
    # A machine that is busy with other work may spoil a try: frames wait for a processor too. A fault spoils all.
    for seed in (11, 12, 13):
        subject = emulated_subject(tmp_path, latency_ms=service_ms, cores=servers)
        due, cores, services = due_times(per_s, count, "poisson", seed), subject.placed(servers), []
        with Course() as course, subject.streaming(cores) as detector:
            detector.prepare()
            pace = Pace(subject.pictures.images, due, course)
            stream = noting_services(detector.stream(pace, policy="block"), services)
            found = timed_from_due(stream, pace, per_s, "poisson", cores, course, limit_s=60)
        waits = simulated_waits(due, np.array(services), servers)[servers:] * 1e3
        assert found.latency.count == count - servers
        assert waits.mean() > 4
        # And near theory itself, as near as so few arrivals let it be.
        theory = crommelin(per_s * np.mean(services) / servers, servers) * np.mean(services) * 1e3
        assert 0.3 * theory < found.waiting_mean < 3 * theory
        tries.append((found.waiting_mean, float(waits.mean())))
        if found.waiting_mean == pytest.approx(waits.mean(), rel=0.2, abs=3):
            return
    pytest.fail(f"(measured, simulated) mean waits in ms: {tries}")


def noting_services(stream, services):
    """Yield the results of a stream, and note the seconds that each spent in its own stages."""
    for result in stream:
        services.append((result.preprocess_ms + result.infer_ms + result.postprocess_ms) / 1e3)
        yield result


def test_a_rate_out_of_reach_is_seen(tmp_path):
    """At twice what one core can do, each second of offers adds half a second of waiting."""
    subject = emulated_subject(tmp_path, latency_ms=10.0, cores=1)
    with Course() as course:
        found = offer(subject, (0,), course, per_s=200, seconds=0.7)
    assert not found.kept_up
    assert found.growth_ms_per_s > 400
    assert found.achieved_per_s < 101
    assert found.latency.worst > 300


def test_a_rate_within_reach_is_kept_up_with(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=5.0)
    with Course() as course:
        found = offer(subject, subject.placed(3), course, per_s=60, seconds=0.7)
    assert found.kept_up
    assert found.achieved_per_s == pytest.approx(60, rel=0.1)
    assert found.latency.p50.value >= 5.0


def test_saturation_stays_below_the_bound_and_uses_every_core(tmp_path):
    """Sleeping can only take longer than asked, so the bound holds on any machine."""
    subject = emulated_subject(tmp_path, latency_ms=10.0)
    with Course() as course:
        one = saturate(subject, (0,), course, seconds=0.3)
        three = saturate(subject, subject.placed(3), course, seconds=0.3, postprocess_batch=4)
    assert one.images_per_s.value <= 100.5
    assert 100.5 < three.images_per_s.value <= 301.5
    assert subject.npu.load.overlaps == 0
    assert all(subject.npu.load.calls)
    assert one.window.images == one.images


def test_a_sweep_ascends_and_is_refined_beside_its_knee(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=2.0)
    with Course() as course:
        points = sweep(subject, (0, 1, 2), course, capacity_per_s=400, shares=(0.2, 0.5), seconds=0.05, refine=1)
    rates = [point.offered_per_s for point in points]
    assert len(rates) == 3
    assert rates == sorted(set(rates))


def point(per_s, mean_ms, kept_up=True):
    spread = replace(spread_of([1.0]), mean=mean_ms)
    return Offered(per_s, "poisson", (0,), per_s, spread, spread, 0.0, 0.0, kept_up, 0.0)


def test_the_knee_is_where_throughput_over_latency_is_largest():
    points = [point(10, 8), point(50, 9), point(90, 14), point(100, 40), point(110, 10, kept_up=False)]
    assert knee_of(points) is points[2]
    assert knee_of([point(10, 8, kept_up=False)]) is None
    assert knee_of([]) is None


def test_rates_of_even_and_uneven_events():
    even = rate_of(np.arange(101) / 50)
    assert even.value == pytest.approx(50)
    assert even.low == pytest.approx(50)
    stalled = np.concatenate([np.arange(60) / 100, 3 + np.arange(60) / 100])
    found = rate_of(stalled)
    assert found.low <= found.value <= found.high
    assert found.high > 90 > found.value
    assert rate_of(np.arange(5.0)).low is None
    # Four contexts that finish together: every fourth result has the moment of the three before.
    bursts = np.repeat(np.arange(40) / 10, 4) + np.tile(np.arange(4) * 1e-6, 40)
    found = rate_of(bursts, 12)
    assert 30 < found.low <= found.value <= found.high < 50
    assert rate_of(bursts[:24], 12).high is None


def test_due_times():
    assert due_times(20, 5, "regular").tolist() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    drawn = due_times(20, 1000, "poisson", seed=1)
    assert (np.diff(drawn) >= 0).all()
    assert drawn[-1] <= 50
    with pytest.raises(ValueError, match="--rate must be above 0"):
        due_times(0, 5, "regular")


def test_a_stop_in_the_sweep_keeps_its_points(tmp_path):
    """Ctrl-C while the third rate has not answered once: the two before it are reported."""
    subject = emulated_subject(tmp_path, latency_ms=2.0)
    with Course() as course:
        steps = []

        def step(told, limit_s=0.0):
            steps.append(told)
            course.stopped = len(steps) == 3

        course.step = step
        points = sweep(subject, (0, 1, 2), course, capacity_per_s=400, shares=(0.2, 0.4, 0.6, 0.8), seconds=0.05)
    assert len(steps) == 3
    assert [round(point.offered_per_s) for point in points] == [80, 160]


def test_any_core_is_the_least_busy_one(tmp_path):
    """One context that the driver places keeps to one core, six of them keep all three busy."""
    subject = emulated_subject(tmp_path, latency_ms=10.0)
    with Course() as course:
        alone = saturate(subject, (ANY_CORE,), course, seconds=0.2)
        assert sorted(call > 0 for call in subject.npu.load.calls) == [False, False, True]
        before = list(subject.npu.load.calls)
        together = saturate(subject, (ANY_CORE,) * 6, course, seconds=0.3)
    assert alone.images_per_s.value <= 100.5
    assert 100.5 < together.images_per_s.value <= 301.5
    calls = np.subtract(subject.npu.load.calls, before)
    assert calls.min() > 0
    with pytest.raises(ValueError, match="does not know what splitting an image brings"):
        subject.open(CORES_0_1)


def test_places_in_words():
    assert told_cores((0, 1, 2, 0, 1, 2)) == "0 (2), 1 (2), 2 (2)"
    assert told_cores((ANY_CORE,) * 6) == "any (6)"
    assert told_cores((CORES_0_1_2,) * 2) == "0, 1 and 2 together (2)"
