"""Scene parts: what the finished tiles of a scene found, before all of them are done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .detections import Detections
from .frames import Record
from .tiling import Tile, merge

if TYPE_CHECKING:
    from .georeference import Georeference


@dataclass(frozen=True, eq=False)
class SceneBegun:
    """A scene whose tiles come now. size_hw: in pixels.

    plan: how it is cut and its values become colours; tiles of another plan cannot be merged with these.
    """

    name: str
    size_hw: tuple[int, int]
    plan: str
    georeference: Georeference | None = None


@dataclass(frozen=True, eq=False)
class TileFound:
    """What one tile of a scene gave: boxes in the tile's own pixels, unmerged, so that merging later is exact.

    number: the tile's place in the scene's plan. empty: numbers of tiles passed over since the last one that came, as
    they show nothing.
    """

    name: str
    number: int
    tile: Tile
    detections: Detections
    empty: tuple[int, ...] = ()


@dataclass(eq=False)
class ScenePart:
    """A scene that is done in part. tiles: by number. empty: numbers of those that show nothing."""

    begun: SceneBegun
    tiles: dict[int, TileFound] = field(default_factory=dict)
    empty: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.tiles) + len(self.empty)

    def __contains__(self, number: object) -> bool:
        return number in self.tiles or number in self.empty

    def note(self, found: TileFound) -> None:
        """Take one more tile."""
        self.tiles[found.number] = found
        self.empty.update(found.empty)

    def copy(self) -> ScenePart:
        """Return the same tiles as another object."""
        return ScenePart(self.begun, dict(self.tiles), set(self.empty))

    def record(self) -> Record:
        """Return what the tiles found together, merged, as a record that is not complete."""
        found = merged(self.tiles.values(), self.begun.size_hw)
        return Record(self.begun.name, self.begun.size_hw, found, self.begun.georeference, complete=False)


def merged(tiles: Iterable[TileFound], size_hw: tuple[int, int]) -> Detections:
    """Merge what tiles found, in the order of their numbers: ties then fall as if they had come so."""
    ordered = sorted(tiles, key=lambda found: found.number)
    return merge([found.detections for found in ordered], [found.tile for found in ordered], size_hw)
