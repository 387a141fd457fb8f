"""Finished: what is done already, of images, scenes and their tiles, videos and streams."""

from __future__ import annotations

from dataclasses import dataclass, field

from .frames import Record
from .scene_parts import SceneBegun, ScenePart, TileFound


@dataclass
class Finished:
    """What is done already.

    names: images and scenes, and videos seen to their end. last_frame: of each video or stream. parts: of scenes that
    are not finished, by name.
    """

    names: set[str] = field(default_factory=set)
    last_frame: dict[str, int] = field(default_factory=dict)
    parts: dict[str, ScenePart] = field(default_factory=dict)

    def has(self, name: str, frame_number: int | None = None) -> bool:
        """Tell whether an image or scene, or a frame of a video, is finished. Frames before a finished one are."""
        return name in self.names or (frame_number is not None and frame_number <= self.last_frame.get(name, -1))

    def note(self, record: Record) -> None:
        """Count a record as finished, unless parts of it failed."""
        if not record.complete:
            return
        if record.frame_number is None:
            self.names.add(record.name)
            self.parts.pop(record.name, None)
        else:
            self.last_frame[record.name] = record.frame_number

    def begin_scene(self, begun: SceneBegun) -> None:
        """Take note of a scene whose tiles come now; tiles of another plan count no more."""
        self.parts[begun.name] = ScenePart(begun)

    def note_tile(self, found: TileFound) -> None:
        """Count a tile of a scene as finished. Raises KeyError for a scene that was not begun."""
        self.parts[found.name].note(found)
