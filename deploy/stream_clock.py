"""Stream clock: timestamps of a live stream that ascend across reconnections."""

from __future__ import annotations

# A stream's clock that leaves the machine's by more than this is wrong (a jump, a made-up frame rate). Opening a stream
# may buffer up to five seconds of it, which then come at once.
CLOCK_SLACK_S = 6.0
_TICK_S = 1e-3


class StreamClock:
    """Turn positions in a stream into seconds since the first frame of all, ascending, across reconnections.

    Within a connection the stream's own clock counts, and its first frame stands for the moment of its arrival. That
    comes late by what opening buffers, each time much alike, so it cancels; what differs (tenths of a second, against a
    server that had to start first) shifts all of a connection. A clock that leaves the machine's is not believed until
    the next connection: the moment of arrival counts then. believed: False never believes it.
    """

    def __init__(self, believed: bool = True) -> None:
        self._believable = self._believed = believed
        self._start_s: float | None = None
        self._offset_s: float | None = None
        self._last_s = -_TICK_S

    def connected(self) -> None:
        """Say that what comes now is of a new connection."""
        self._offset_s, self._believed = None, self._believable

    def stamp(self, arrival_s: float, position_s: float) -> float:
        """Return a frame's timestamp. arrival_s: on the machine's clock; position_s: what the stream says."""
        if self._start_s is None:
            self._start_s = arrival_s
        arrived = arrival_s - self._start_s
        if self._offset_s is None:
            self._offset_s = arrived - position_s
        stamp = position_s + self._offset_s
        if not self._believed or abs(stamp - arrived) > CLOCK_SLACK_S:
            self._believed, stamp = False, arrived
        self._last_s = max(stamp, self._last_s + _TICK_S)
        return self._last_s
