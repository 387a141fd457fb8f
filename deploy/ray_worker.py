"""What runs on the machines of a Ray cluster: one detector each, which takes one unit of work after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from .finished import Finished
from .sources import ReadError, SourceEvent
from .work import Made, Settings, Unit, Watch, pieces_of
from .worker_process import portable

# Records that travel together, and how long one waits for company.
CHUNK, CHUNK_S = 32, 0.5


class RayWorker:
    """One detector in one place of the cluster. bundle, backend, options: as of `open_detector`."""

    def __init__(self, bundle: str, backend: str, options: Mapping[str, Any]) -> None:
        self._bundle, self._backend, self._options = Path(bundle), backend, dict(options)
        self._detector: Any = None

    def open(self) -> str:
        """Open the detector with its contexts, which all units use, and return its backend's name. Raises as that."""
        from .detector import open_detector

        self._detector = open_detector(self._bundle, self._backend, **self._options)
        self._detector.prepare()
        return str(self._detector.backend.name)

    def run(
        self, unit: Unit, names: Mapping[str, str], settings: Settings, done: Finished
    ) -> Iterator[list[Made | SourceEvent]]:
        """Yield what `pieces_of` yields, a few at a time, under the names that the caller knows; events among them."""
        events: deque[SourceEvent] = deque()
        chunk: list[Made | SourceEvent] = []
        begun = time.monotonic()
        with closing(pieces_of(self._detector, unit, settings, done, Watch(event=events.append))) as records:
            for found in records:
                while events:
                    chunk.append(events.popleft())
                name = names.get(found.name, found.name)
                if isinstance(found, ReadError):
                    chunk.append(ReadError(found.number, name, portable(found.error)))
                else:
                    chunk.append(replace(found, name=name))
                if len(chunk) >= CHUNK or time.monotonic() - begun > CHUNK_S:
                    yield chunk
                    chunk, begun = [], time.monotonic()
        if chunk or events:
            yield [*chunk, *events]
