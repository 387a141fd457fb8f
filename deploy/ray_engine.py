"""Many scenes on many machines: a Ray cluster runs detectors, this process writes what they find, in order.

Each actor holds one detector, whose contexts stay open, and takes one unit of work after the other: some images, a
scene, a video. Only boxes travel; pictures to draw on are read once more here, one at a time. The bundle and the
sources have to lie at the same path on all machines (a shared folder). A board that offers its NPU as a Ray resource,
`ray start --resources='{"NPU": 1}'`, gets one actor; in a cluster without that resource each actor takes a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .finished import Finished
from .frames import Record
from .manifest import load_manifest
from .pictures import Pictures
from .ray_gathering import Gathering, Job, part_of
from .ray_worker import RayWorker
from .sources import OnEvent, SourceEvent, shown
from .work import Made, Settings, Unit

RESOURCE = "NPU"

# (unit, the last of what came of it, None for nothing)
Ended = Callable[[Unit, Made | None], None]


def records_by_ray(
    bundle: Path,
    units: Sequence[Unit],
    settings: Settings,
    done: Finished,
    *,
    backend: str = "auto",
    options: Mapping[str, Any],
    address: str | None = None,
    begun: Callable[[Unit], None] = lambda unit: None,
    ended: Ended = lambda unit, last: None,
    event: OnEvent | None = None,
) -> Generator[Made, None, None]:
    """Yield the records of all units, in their order, as `deploy.work.pieces_of` gives them on one machine.

    address: of the cluster; None takes RAY_ADDRESS, else starts one on this machine. begun, ended: called before the
    first and after the last record of each unit. event: gets what its source told. A unit whose machine is lost goes on
    with another one. Raises ValueError where no cluster can be reached, it has neither NPU nor CPU or its machines are
    lost, and what a detector raised.
    """
    import ray

    jobs = [_job(number, unit, done) for number, unit in enumerate(units)]
    with _connected(ray, address):
        count, wanted = _places(ray)
        actor = ray.remote(max_restarts=0, **wanted)(RayWorker)
        what = (str(bundle.resolve()), backend, dict(options) | ({} if RESOURCE in str(wanted) else {"cpus": 1}))
        busy = sum(not job.ended for job in jobs)
        gathering = Gathering(
            ray, lambda: actor.remote(*what), min(count, busy), jobs, replace(settings, pictures=False)
        )
        pictures = Pictures(load_manifest(bundle), settings) if settings.pictures else None
        try:
            for job in jobs:
                yield from _records(gathering, job, pictures, begun, ended, event)
        finally:
            gathering.close()
            if pictures is not None:
                pictures.close()


def _records(
    gathering: Gathering,
    job: Job,
    pictures: Pictures | None,
    begun: Callable[[Unit], None],
    ended: Ended,
    event: OnEvent | None,
) -> Generator[Made, None, None]:
    """Yield the records of one unit, with pictures where they are wanted."""
    begun(job.unit)
    last: Made | None = None
    with closing(gathering.of(job)) as items:
        for item in items:
            if isinstance(item, SourceEvent):
                if event is not None:
                    event(item)
                continue
            last = item
            yield pictures.of(job.unit, item) if pictures is not None and isinstance(item, Record) else item
    if job.where.what:  # else it was finished before
        ended(job.unit, last)


def _job(number: int, unit: Unit, done: Finished) -> Job:
    """Return what is left to do of a unit. Paths become those that mean the same on every machine; addresses stay."""
    left = unit.what if unit.kind == "video" else tuple(what for what in unit.what if not done.has(what))
    if unit.kind == "video" and done.has(unit.name):
        left = ()
    where = tuple(what if "://" in what else str(Path(what).resolve()) for what in left)
    names = {shown(path): shown(what) for path, what in zip(where, left, strict=True)}
    return Job(
        number,
        unit,
        Unit(unit.kind, where),
        names,
        part_of(done, {name: name for name in names.values()}),
        ended=not left,
    )


def _places(ray: Any) -> tuple[int, dict[str, Any]]:
    """Return how many actors the cluster has room for, and what each takes. Raises ValueError."""
    resources = ray.cluster_resources()
    if npus := int(resources.get(RESOURCE, 0)):
        return npus, {"resources": {RESOURCE: 1}, "num_cpus": 0}
    if cpus := int(resources.get("CPU", 0)):
        return cpus, {"num_cpus": 1}
    raise ValueError(f"the Ray cluster offers neither {RESOURCE} nor CPU; join a machine with `ray start`")


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Be connected to a cluster meanwhile; a connection that is there is used and left. Raises ValueError."""
    if ray.is_initialized():
        yield
        return
    # What Ray tells of itself (tokens, ports, lost workers) is no user's matter; what fails comes as an exception.
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.ERROR)
    talk: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(
        talk, "_worker_logs_enabled"
    ):  # it prints what the cluster reports to standard output; no option ends it
        talk._worker_logs_enabled = False
    try:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f"no Ray cluster answers ({line}); start one with `ray start --head`") from error
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        log.setLevel(level)
        if hasattr(talk, "_worker_logs_enabled"):
            talk._worker_logs_enabled = True
