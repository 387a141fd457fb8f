"""Many scenes on many machines: a Ray cluster runs detectors, this process writes what they find, in order.

Each actor holds one detector and takes one unit of work after the other: some images, a scene, a video. The bundle and
the sources have to lie at the same path on all machines (a shared folder). A board that offers its NPU as a Ray
resource, `ray start --resources='{"NPU": 1}'`, gets one actor; in a cluster without that resource each actor takes a
CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .frames import Record
from .journal import Finished
from .sources import ReadError
from .work import Settings, Unit

RESOURCE = "NPU"
# Units on their way per actor: one runs, one waits.
AHEAD = 2


def records_by_ray(
    bundle: Path,
    units: Sequence[Unit],
    settings: Settings,
    done: Finished,
    *,
    backend: str = "auto",
    options: Mapping[str, Any],
    address: str | None = None,
) -> Iterator[Record | ReadError]:
    """Yield the records of all units, in their order, as `deploy.work.records_of` gives them on one machine.

    address: of the cluster; None takes RAY_ADDRESS, else starts one on this machine. A unit whose machine is lost is
    run again on another. Raises ValueError where no cluster can be reached or it has neither NPU nor CPU, and what a
    detector raised.
    """
    import ray

    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f"no Ray cluster answers ({line}); start one with `ray start --head`") from error
    try:
        resources = ray.cluster_resources()
        places = int(resources.get(RESOURCE, 0)) or int(resources.get("CPU", 0))
        if not places:
            raise ValueError(f"the Ray cluster offers neither {RESOURCE} nor CPU; join a machine with `ray start`")
        wanted = {"resources": {RESOURCE: 1}, "num_cpus": 0} if resources.get(RESOURCE) else {"num_cpus": 1}
        actor = ray.remote(max_restarts=3, max_task_retries=3, **wanted)(_Worker)
        workers = [
            actor.remote(str(bundle.resolve()), backend, dict(options)) for _ in range(min(places, max(1, len(units))))
        ]
        yield from _in_order(ray, workers, [_absolute(unit) for unit in units], units, settings, done)
    finally:
        if mine:
            ray.shutdown()


def _in_order(
    ray: Any, workers: Sequence[Any], where: Sequence[Unit], units: Sequence[Unit], settings: Settings, done: Finished
) -> Iterator[Record | ReadError]:
    """Hand units out, to the worker with the least to do, and yield their records in the order of the units."""
    pending: deque[tuple[Any, int]] = deque()
    load = [0] * len(workers)
    following = 0
    while pending or following < len(units):
        while following < len(units) and min(load) < AHEAD and len(pending) < AHEAD * len(workers):
            place = load.index(min(load))
            names = dict(zip(where[following].what, units[following].what, strict=True))
            pending.append((workers[place].run.remote(where[following], names, settings, done), place))
            load[place] += 1
            following += 1
        reference, place = pending.popleft()
        try:
            found = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, ValueError | OSError) else ValueError(str(cause)) from error
        except ray.exceptions.RayActorError as error:
            raise ValueError(f"a machine of the Ray cluster was lost for good; --resume goes on ({error})") from error
        load[place] -= 1
        yield from found


def _absolute(unit: Unit) -> Unit:
    """Return the unit with paths that mean the same on every machine; addresses stay."""
    return Unit(unit.kind, tuple(w if "://" in w else str(Path(w).resolve()) for w in unit.what))


class _Worker:
    """One detector in one place of the cluster."""

    def __init__(self, bundle: str, backend: str, options: dict[str, Any]) -> None:
        from .detector import open_detector

        self._detector = open_detector(Path(bundle), backend, **options)

    def run(self, unit: Unit, names: Mapping[str, str], settings: Settings, done: Finished) -> list[Record | ReadError]:
        """Return the records of one unit, under the names that the caller knows."""
        from dataclasses import replace

        from .work import records_of

        finished = {path for path, name in names.items() if name in done.names}
        last = {path: done.last_frame[name] for path, name in names.items() if name in done.last_frame}
        records = records_of(self._detector, unit, settings, Finished(finished, last))
        return [replace(record, name=names.get(record.name, record.name)) for record in records]
