"""Gathering: hands units of work out to the actors of a Ray cluster and gives what they find, in the units' order.

Actors work on units ahead of the one whose turn it is, and what they find is held here, so that a long scene does not
keep others waiting; once so many megabytes are held, they wait for their turn. An actor yields its records as it goes
and stops when too many of them were not fetched. So neither side ever holds more than a bounded number, however long
a video is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from .finished import Finished
from .frames import Record
from .scene_parts import SceneBegun, ScenePart, TileFound
from .sources import ReadError, SourceEvent
from .work import Made, Settings, Unit

Item = Made | SourceEvent
# Records of later units that are held for their turn.
HELD_BYTES = 64 << 20
# Chunks that an actor makes ahead of being fetched.
CHUNKS_AHEAD = 2
# Machines over which a unit may be lost, and how often the actor of one place is started again.
TRIES = LIVES = 3


@dataclass(eq=False)
class Job:
    """A unit on its way. number: in the order of the units. where: the same with paths for all machines; names: from
    those paths to the caller's.

    done: what is finished of it, which grows as records come. told: numbers of a scene's tiles that failed. held: what
    came before its turn. failed: machines that were lost over it.
    """

    number: int
    unit: Unit
    where: Unit
    names: dict[str, str]
    done: Finished
    told: set[int] = field(default_factory=set)
    held: deque[list[Item]] = field(default_factory=deque)
    ended: bool = False
    failed: int = 0


@dataclass(eq=False)
class Place:
    """An actor. opening: what its `open` will return, None once it did. running: jobs with their streams, in turn."""

    actor: Any
    opening: Any
    running: deque[tuple[Job, Any]] = field(default_factory=deque)
    lives: int = LIVES


class Gathering:
    """Run jobs on actors; see the module's text.

    ray: the module. start: starts one more `RayWorker`. count: of actors. settings: go to each. held_bytes: bound on
    what is held ahead of its turn, but for while a lost actor is replaced. Raises what an actor's `open` raised, and
    ValueError where machines were lost for good; a unit whose machine is lost goes on with another one, from the record
    after the last that came.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[], Any],
        count: int,
        jobs: Sequence[Job],
        settings: Settings,
        *,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._ray, self._start, self._settings, self._limit = ray, start, settings, held_bytes
        self._waiting = deque(job for job in jobs if not job.ended)
        self._turn: Job | None = None
        self._held = self.held_records = 0
        self._places: list[Place] = []
        for _ in range(count):
            actor = start()
            self._places.append(Place(actor, actor.open.remote()))

    def of(self, job: Job) -> Generator[Item, None, None]:
        """Yield what is found in one unit; call it for each, in their order."""
        self._turn = job
        while True:
            self._advance(wait=not job.held and not job.ended)
            if job.held:
                chunk = job.held.popleft()
                self._held -= _size(chunk)
                self.held_records -= len(chunk)
                yield from chunk
            elif job.ended:
                return

    def close(self) -> None:
        """End all actors, in the middle of their work too."""
        for place in self._places:
            with suppress(Exception):  # it may be lost, or the cluster gone
                self._ray.kill(place.actor)
        self._places.clear()

    def _advance(self, *, wait: bool) -> None:
        """Hand out and fetch what can be at the moment; wait: until something came."""
        self._hand_out()
        opening = {place.opening: place for place in self._places if place.opening is not None}
        streams = {
            stream: (place, job) for place in self._places for job, stream in place.running if self._may_fetch(place)
        }
        awaited = [*opening, *streams]
        if not awaited:
            assert not wait, "a unit is handed out, ended, or its machines are lost"
            return
        if wait:
            self._ray.wait(awaited, num_returns=1, timeout=None)
        ready, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
        for one in ready:
            if one in opening:
                self._opened(opening[one])
            elif streams[one] in ((place, job) for place in self._places for job, _ in place.running):
                self._fetch(*streams[one], one)

    def _may_fetch(self, place: Place) -> bool:
        """Tell whether records of an actor are wanted now: there is room, or the unit whose turn it is needs it."""
        if self._held < self._limit:
            return True
        if self._turn is None or self._turn.held or self._turn.ended:
            return False
        at_work = [job for other in self._places for job, _ in other.running]
        return self._turn not in at_work or any(job is self._turn for job, _ in place.running)

    def _hand_out(self) -> None:
        """Give units to actors. One runs; of images another one waits, so that none idles between two short ones."""
        while self._waiting:
            job = self._waiting[0]
            if job is not self._turn and self._held >= self._limit:
                return
            free = [place for place in self._places if place.opening is None and _takes(place, job)]
            if not free:
                return
            self._waiting.popleft()
            place = min(free, key=lambda place: len(place.running))
            run = place.actor.run.options(num_returns="streaming", _generator_backpressure_num_objects=CHUNKS_AHEAD)
            done = part_of(job.done, {name: path for path, name in job.names.items()})
            place.running.append((job, run.remote(job.where, job.names, self._settings, done)))

    def _opened(self, place: Place) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(place.opening)
            place.opening = None
        except errors.RayTaskError as error:
            raise _told(error) from error
        except errors.RayError as error:
            self._lost(place, error)

    def _fetch(self, place: Place, job: Job, stream: Any) -> None:
        errors = self._ray.exceptions
        try:
            chunk = self._ray.get(next(stream))
        except StopIteration:
            job.ended = True
            place.running.remove((job, stream))
        except errors.RayTaskError as error:  # its runtime failed: what cannot be read is among the records
            self._lost(place, error)
        except errors.RayError as error:
            self._lost(place, error)
        else:
            chunk = [item for item in chunk if _is_new(job, item)]
            job.held.append(chunk)
            self._held += _size(chunk)
            self.held_records += len(chunk)

    def _lost(self, place: Place, error: Exception) -> None:
        """Give what an actor had to others, and start another one in its place."""
        lost = [job for job, _ in place.running]
        place.running.clear()
        with suppress(Exception):
            self._ray.kill(place.actor)
        for job in lost[:1]:
            job.failed += 1
            if job.failed >= TRIES:
                raise _told(error, f"{job.unit.name}: was lost with {TRIES} machines of the Ray cluster") from error
        self._waiting = deque(sorted((*lost, *self._waiting), key=lambda job: job.number))
        place.lives -= 1
        if place.lives:
            place.actor = self._start()
            place.opening = place.actor.open.remote()
            return
        self._places.remove(place)
        if not self._places:
            raise _told(error, "the machines of the Ray cluster were lost for good") from error


def part_of(done: Finished, names: Mapping[str, str]) -> Finished:
    """Return what is finished of some sources, and nothing of others: it travels. names: from here to elsewhere."""
    parts: dict[str, Any] = {}
    for part in fields(done):
        held = getattr(done, part.name)
        if isinstance(held, Mapping):
            # Copies: what comes ahead of its turn is not done for whoever writes it.
            parts[part.name] = {there: _own(held[here]) for here, there in names.items() if here in held}
        else:
            parts[part.name] = {there for here, there in names.items() if here in held}
    return Finished(**parts)


def _own(value: int | ScenePart) -> int | ScenePart:
    return value.copy() if isinstance(value, ScenePart) else value


def _takes(place: Place, job: Job) -> bool:
    return not place.running or (
        len(place.running) == 1 and {job.unit.kind, place.running[0][0].unit.kind} == {"images"}
    )


def _is_new(job: Job, item: Item) -> bool:
    """Count what came as finished, failures too: another machine that goes on does not tell them again.

    False for a tile that failed before: it is tried again there.
    """
    if isinstance(item, Record):
        job.done.note(item)
    elif isinstance(item, SceneBegun):
        job.done.begin_scene(item)
    elif isinstance(item, TileFound):
        job.done.note_tile(item)
    elif isinstance(item, ReadError) and job.unit.kind == "images":
        job.done.names.add(item.name)
    elif isinstance(item, ReadError) and job.unit.kind == "video":
        job.done.last_frame[item.name] = item.number
    elif isinstance(item, ReadError):
        new = item.number not in job.told
        job.told.add(item.number)
        return new
    return True


def _size(chunk: Sequence[Item]) -> int:
    """Return about how many bytes a chunk takes in memory."""
    found = (item.detections for item in chunk if isinstance(item, Record | TileFound))
    arrays = ((one.xyxy, one.score, one.class_id) for one in found)
    return 1000 * len(chunk) + sum(array.nbytes for three in arrays for array in three)


def _told(error: Exception, lost: str = "") -> Exception:
    """Return an error in one line: what the detector raised, or that machines were lost."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ValueError | OSError):
        return cause
    line = next(iter(str(cause or error).strip().splitlines()), type(error).__name__)
    return ValueError(f"{lost}; --resume goes on where it stopped ({line})" if lost else line)
