"""Units handed out to a played cluster: what they give comes in order, once, bounded, whatever machine is lost."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.detections import Detections
from deploy.finished import Finished
from deploy.frames import Record
from deploy.ray_gathering import CHUNKS_AHEAD, TRIES, Gathering, Job, part_of
from deploy.sources import ReadError
from deploy.work import Settings, Unit


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Stream:
    """What a call of an actor's `run` returns: chunks that the actor makes while at most so many wait."""

    def __init__(self, actor, chunks):
        self.actor, self.chunks, self.made, self.over = actor, chunks, deque(), False

    def make(self):
        if len(self.made) < CHUNKS_AHEAD and not self.over:
            self.actor.ray.fail_at_random(self.actor)
            chunk = next(self.chunks, None)
            self.over = chunk is None
            if chunk is not None:
                self.made.append(chunk)

    @property
    def ready(self):
        return bool(self.made) or self.over or self.actor.dead is not None

    def __next__(self):
        if self.made:
            return self.made.popleft()
        if self.actor.dead is not None:
            return self.actor.dead
        self.actor.queue.remove(self)
        raise StopIteration


class Opening:
    """What a call of an actor's `open` returns."""


class Actor:
    def __init__(self, ray):
        self.ray, self.queue, self.dead = ray, deque(), None
        self.open = SimpleNamespace(remote=Opening)
        self.run = SimpleNamespace(options=self._options)

    def _options(self, *, num_returns, _generator_backpressure_num_objects):
        assert (num_returns, _generator_backpressure_num_objects) == ("streaming", CHUNKS_AHEAD)
        return SimpleNamespace(remote=self._run)

    def _run(self, unit, names, settings, done):
        assert set(names) == set(unit.what)
        assert {*done.names, *done.last_frame} <= set(unit.what), "nothing of other units travels"
        stream = Stream(self, self.ray.find(unit, names, done))
        self.queue.append(stream)
        return stream


class PlayedRay:
    """Enough of Ray: actors that work while somebody waits, and die with the probability `loss`."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, sizes, chunk, loss=0.0, seed=0):
        self.sizes, self.chunk, self.loss, self.draw = sizes, chunk, loss, random.Random(seed)
        self.actors, self.losses = [], 10**9

    def start(self):
        self.actors.append(Actor(self))
        return self.actors[-1]

    def fail_at_random(self, actor):
        if self.losses and self.draw.random() < self.loss:
            self.losses -= 1
            actor.dead = RayError("the node was shut down\nand more lines")

    def find(self, unit, names, done):
        """Yield the chunks of a unit: unit u has sizes[u] records, each known by its number in the first box."""
        number = int(unit.what[0].split("-")[1])
        if unit.kind == "images":
            found = [record(names[w], int(w.split("-")[2])) for w in unit.what if w not in done.names]
        elif unit.kind == "video":
            (path,) = unit.what
            begin = done.last_frame.get(path, -1) + 1
            found = [record(names[path], n, n) for n in range(begin, self.sizes[number])]
        else:
            (path,) = unit.what
            found = [ReadError(0, names[path], ValueError("tile")), record(names[path], 0)]
            found = [] if done.has(path) else found
        for i in range(0, len(found), self.chunk):
            yield found[i : i + self.chunk]

    def wait(self, awaited, *, num_returns, timeout):
        for _ in range(3):
            for actor in self.actors:
                if actor.queue and actor.dead is None and self.draw.random() < 0.7:
                    actor.queue[0].make()
        ready = [one for one in awaited if isinstance(one, Opening) or one.ready]
        tries = 0
        while timeout is None and not ready:
            tries += 1
            assert tries < 100, "nothing will ever come: a deadlock"
            for actor in self.actors:
                if actor.queue and actor.dead is None:
                    actor.queue[0].make()
            ready = [one for one in awaited if isinstance(one, Opening) or one.ready]
        return ready[:num_returns], []

    def get(self, what):
        if isinstance(what, Exception):
            raise what
        return "onnx" if isinstance(what, Opening) else what

    def kill(self, actor):
        actor.dead = actor.dead or RayError("killed")
        actor.queue.clear()


def record(name, tag, frame_number=None):
    found = Detections(np.full((1, 4), tag, np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
    return Record(name, (9, 9), found, frame_number=frame_number)


def jobs_of(kinds, sizes):
    jobs = []
    for number, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        what = tuple(f"/abs-{number}-{i}" for i in range(size)) if kind == "images" else (f"/abs-{number}",)
        names = {path: path.replace("/abs", "given") for path in what}
        unit = Unit(kind, tuple(names.values()))
        jobs.append(Job(number, unit, Unit(kind, what), names, Finished(), ended=not what))
    return jobs


def shown(item):
    if isinstance(item, ReadError):
        return (item.name, "failed")
    return (item.name, int(item.detections.xyxy[0, 0]))


def expected_of(kinds, sizes):
    for number, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        if kind == "images":
            yield from ((f"given-{number}-{i}", i) for i in range(size))
        elif kind == "video":
            yield from ((f"given-{number}", i) for i in range(size))
        else:
            yield (f"given-{number}", "failed")
            yield (f"given-{number}", 0)


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(st.tuples(st.sampled_from(["images", "video", "scene"]), st.integers(1, 40)), max_size=9),
    count=st.integers(1, 4),
    chunk=st.integers(1, 8),
    held=st.sampled_from([0, 3000, 20_000, 1 << 30]),
    loss=st.sampled_from([0.0, 0.0, 0.05]),
    seed=st.integers(0, 1000),
)
def test_each_record_comes_once_and_in_order_from_any_cluster(units, count, chunk, held, loss, seed):
    kinds, sizes = [kind for kind, _ in units], [size for _, size in units]
    ray = PlayedRay(sizes, chunk, loss, seed)
    ray.losses = TRIES - 1  # more could be lost over one unit, or end one place's lives
    jobs = jobs_of(kinds, sizes)
    gathering = Gathering(ray, ray.start, count, jobs, Settings(), held_bytes=held)
    found, most = [], 0
    for job in jobs:
        for item in gathering.of(job):
            found.append(shown(item))
            most = max(most, gathering.held_records)
    gathering.close()
    assert found == list(expected_of(kinds, sizes))
    # What was fetched just before the bound was reached, from each actor at most. While one is started again, and the
    # unit whose turn it is waits for it, the others go on.
    assert loss or most <= held / 1000 + count * chunk + chunk
    assert all(actor.dead is not None for actor in ray.actors)


def test_one_long_unit_does_not_keep_the_other_actors_waiting():
    """While the first unit, a long video, is written, the second actor does all the others."""
    kinds, sizes = ["video", *["scene"] * 12], [400, *[1] * 12]
    ray = PlayedRay(sizes, 4)
    jobs = jobs_of(kinds, sizes)
    gathering = Gathering(ray, ray.start, 2, jobs, Settings())
    for number, _ in enumerate(gathering.of(jobs[0])):
        if number == 300:
            assert all(job.ended for job in jobs[1:])
    assert [shown(item) for job in jobs[1:] for item in gathering.of(job)] == list(expected_of(kinds, sizes))[400:]


def test_several_long_videos_stay_bounded_while_the_first_is_written():
    kinds, sizes = ["video"] * 4, [3000] * 4
    ray = PlayedRay(sizes, 8)
    jobs = jobs_of(kinds, sizes)
    gathering = Gathering(ray, ray.start, 4, jobs, Settings(), held_bytes=50_000)
    most = 0
    for job in jobs:
        for _ in gathering.of(job):
            most = max(most, gathering.held_records)
            waiting = sum(len(chunk) for actor in ray.actors for stream in actor.queue for chunk in stream.made)
            assert waiting <= 4 * CHUNKS_AHEAD * 8
    assert most <= 50 + 4 * 8 + 8


def test_a_unit_that_three_machines_are_lost_over_ends_the_run():
    ray = PlayedRay([5], 1, loss=1.0)
    jobs = jobs_of(["video"], [5])
    gathering = Gathering(ray, ray.start, 2, jobs, Settings())
    with pytest.raises(
        ValueError, match=r"given-0: was lost with 3 machines .*--resume goes on .* \(the node was shut"
    ):
        list(gathering.of(jobs[0]))


def test_what_a_detector_raises_is_told_as_it_is():
    class Failing(PlayedRay):
        def get(self, what):
            if isinstance(what, Opening):
                raise RayTaskError(FileNotFoundError("bundle: no such bundle"))
            return super().get(what)

    ray = Failing([5], 1)
    jobs = jobs_of(["video"], [5])
    with pytest.raises(FileNotFoundError, match="bundle: no such bundle"):
        list(Gathering(ray, ray.start, 2, jobs, Settings()).of(jobs[0]))


def test_only_what_belongs_to_a_unit_travels():
    done = Finished({f"image {i}" for i in range(10_000)}, {f"video {i}": i for i in range(1000)})
    part = part_of(done, {"image 7": "/abs/7", "video 9": "/abs/9", "new": "/abs/new"})
    assert (part.names, part.last_frame) == ({"/abs/7"}, {"/abs/9": 9})
