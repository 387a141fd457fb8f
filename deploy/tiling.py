"""Tiling: cut a scene into overlapping tiles, and merge what they found into one box for each object.

An object that several tiles see gives a box in each of them, whole or cut by a tile's border. Merging goes by class:

1. Of whole boxes that overlap, the one with the best score stays, as in non-maximum suppression; those that it replaces
   vote on where it lies, weighted by their scores (Gidaris and Komodakis, arXiv:1505.01749, section 4.2): they are
   looks at the same object from other places, and an edge that one of them guessed at its tile's border the others saw.
2. A cut box that lies for the most part in a whole one is a piece of the same object and goes, whatever its score.
3. What is left are pieces of objects that no tile saw whole. Pieces that agree where their tiles overlap are united.

Boxes of one tile are never merged with each other: the detector's own suppression has settled them, and two ships side
by side must not become one because a third tile saw both.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .detections import Detections
from .frames import Frame
from .nms import _settle as settle
from .nms import _windows as windows_of
from .scenes import Scene, looks_empty

if TYPE_CHECKING:
    from .sources import Kind, ReadError

# A box is cut where it ends so close to an inner border of its tile, as a share of the tile's shorter side: 8 pixels of
# 512. Detectors end the box of a cut object a little before the border.
_BORDER_SHARE = 1 / 64
# Neighbours in a row that are read in one go: fewer calls for the same blocks, and work for GDAL's several threads.
_TOGETHER = 4
# Pairs that are compared at a time.
_CHUNK = 1 << 19


@dataclass(frozen=True)
class Tile:
    """A part of a scene: its top left pixel and its size, in pixels of the scene."""

    x: int
    y: int
    w: int
    h: int


def plan_tiles(size_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: int | float = 0.2) -> list[Tile]:
    """Cover a scene with tiles, row by row from the top left.

    size_hw, tile_hw: (height, width) in pixels. overlap: what neighbours share, a whole number of pixels or a share (a
    float below 1) of the tile's side. Objects a little smaller than that are seen whole by at least one tile. The last
    tile of a row or column is shifted back, not shrunk, so that it shares more. Where a side of the scene is shorter
    than the tile's, its tiles are as short.

    Raises ValueError for sizes below 1, and an overlap that is negative or not smaller than the tile.
    """
    for name, sides in (("size_hw", size_hw), ("tile_hw", tile_hw)):
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"{name} must be (height, width), each at least 1 pixel, got {tuple(sides)}")
    if isinstance(overlap, float) and not 0 <= overlap < 1:
        raise ValueError(f"overlap must be pixels (a whole number) or a share from 0 to below 1, got {overlap}")
    columns: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []
    for length, tile, spans in zip(size_hw, tile_hw, (rows, columns), strict=True):
        shared = round(overlap * tile) if isinstance(overlap, float) else overlap
        if not 0 <= shared < tile:
            raise ValueError(
                f"overlap must be smaller than the tile, got {shared} of {tile} pixels; take a smaller one"
            )
        last = max(0, length - tile)
        spans += [(start, min(tile, length)) for start in (*range(0, last, tile - shared), last)]
    return [Tile(x, y, w, h) for y, h in rows for x, w in columns]


class TileSource:
    """Give the tiles of a scene that show something as frames, one after the other; a `Source` for `Detector.stream`.

    A frame's number is its tile's place in `tiles`, its `corner_xy` the tile's corner. Empty tiles (`looks_empty`) are
    passed over, their numbers are in `empties`. A tile that cannot be read becomes a ReadError in its place, and the
    next one follows. Tiles are read when they are asked for, four neighbours at a time, so that no more than these are
    in memory beside what the caller holds. A frame's read_ms is its share of that.
    """

    kind: Kind = "scene"
    live = False
    fps: float | None = None
    dropped = skipped = reconnects = 0

    def __init__(self, scene: Scene, tiles: Sequence[Tile]) -> None:
        self.scene, self.tiles = scene, tuple(tiles)
        self.name, self.decoder = scene.name, f"software: GDAL's {scene.driver}"
        self.count: int | None = len(self.tiles)
        self.size_hw: tuple[int, int] | None = scene.size_hw
        self.empties: list[int] = []
        self._done: Container[int] = ()
        self._next = 0
        self._closed = False

    @property
    def empty(self) -> int:
        """How many tiles were passed over because they show nothing."""
        return len(self.empties)

    def skip(self, *, names: Container[str] = (), numbers: Container[int] = ()) -> None:
        """Pass over the tiles in `numbers`; `names` is not looked at, all tiles have the scene's."""
        self._done = numbers

    def __iter__(self) -> Iterator[Frame | ReadError]:
        while not self._closed and (numbers := self._next_together()):
            for number, read in zip(numbers, self._read(numbers), strict=True):
                if self._closed:
                    return
                self._next = number + 1
                if read is None:
                    self.empties.append(number)
                else:
                    yield read

    def _next_together(self) -> list[int]:
        """Return the next tile that is wanted, and those behind it in its row."""
        wanted = (i for i in range(self._next, len(self.tiles)) if i not in self._done)
        numbers = list(islice(wanted, 1))
        for number in range(numbers[0] + 1, min(numbers[0] + _TOGETHER, len(self.tiles))) if numbers else ():
            before, tile = self.tiles[number - 1], self.tiles[number]
            if number in self._done or (tile.y, tile.h) != (before.y, before.h) or not before.x < tile.x:
                break
            numbers.append(number)
        return numbers

    def _read(self, numbers: Sequence[int]) -> list[Frame | ReadError | None]:
        """Read neighbours in one go, None for what is empty; one by one where that meets an error."""
        from .sources import ReadError

        begin = time.perf_counter()
        tiles = [self.tiles[number] for number in numbers]
        left, right = tiles[0].x, max(tile.x + tile.w for tile in tiles)
        try:
            strip, strip_valid = self.scene.read_valid(left, tiles[0].y, right - left, tiles[0].h)
        except (ValueError, OSError) as error:
            if len(numbers) == 1:
                return [ReadError(numbers[0], self.name, error)]
            return [read for number in numbers for read in self._read([number])]
        parts: list[np.ndarray | None] = []
        for tile in tiles:
            columns = slice(tile.x - left, tile.x - left + tile.w)
            valid = None if strip_valid is None else strip_valid[:, columns]
            empty = looks_empty(strip[:, columns], valid)
            parts.append(None if empty else np.ascontiguousarray(strip[:, columns]))
        read_ms = (time.perf_counter() - begin) * 1e3 / len(numbers)
        return [
            None if part is None else Frame(number, self.name, part, read_ms, corner_xy=(tile.x, tile.y))
            for number, tile, part in zip(numbers, tiles, parts, strict=True)
        ]

    def close(self) -> None:
        """End the iteration; the scene stays open, it belongs to who opened it."""
        self._closed = True

    def __enter__(self) -> TileSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def merge(
    found: Sequence[Detections],
    tiles: Sequence[Tile],
    size_hw: tuple[int, int],
    *,
    overlap_threshold: float = 0.5,
    border_px: float | None = None,
) -> Detections:
    """Join the detections of a scene's tiles so that each object has one box; see the module's text.

    found: what each of `tiles` found, in the tile's own pixels; what sticks out of the tile is cut off. size_hw: of the
    scene, whose edges cut nothing.
    overlap_threshold: 0 to 1; boxes belong together above it: intersection over union of two whole boxes, over the cut
    box's area of a whole and a cut one, and over the union of what lies in both tiles of two cut ones. border_px: how
    close to an inner border a box counts as cut; None: 1/64 of the tiles' shorter side, at least 2.

    For the comparison of two cut boxes, each reaches over the border that cuts it by `border_px`, and so do the tiles:
    pieces meet even where tiles do not overlap. A whole box keeps the best score; united pieces get theirs.
    Returns boxes in pixels of the scene, best score first. Raises ValueError where the lists differ in length, and for
    boxes or scores that are not finite.
    """
    if len(found) != len(tiles):
        raise ValueError(f"found must hold the detections of each tile, got {len(found)} for {len(tiles)} tiles")
    if not 0 <= overlap_threshold <= 1:
        raise ValueError(f"overlap_threshold must be between 0 and 1, got {overlap_threshold}")
    if border_px is not None and not 0 <= border_px < np.inf:
        raise ValueError(f"border_px must be 0 pixels or more, got {border_px}")
    joined = Detections.concat(found)
    if not len(joined):
        return joined
    if not (np.isfinite(joined.xyxy).all() and np.isfinite(joined.score).all()):
        raise ValueError("merge needs finite boxes and scores, got NaN or infinity; look at the model's outputs")
    plan = np.array([(tile.x, tile.y, tile.x + tile.w, tile.y + tile.h) for tile in tiles], np.float64)
    if border_px is None:
        border_px = max(2.0, float((plan[:, 2:] - plan[:, :2]).min()) * _BORDER_SHARE)
    owner = np.repeat(np.arange(len(tiles)), [len(part.score) for part in found])
    # Best score first: from here on a row's number is its rank among equals.
    order = np.argsort(-joined.score, kind="stable")
    owner, class_id, score = owner[order], joined.class_id[order], joined.score[order]
    # float64, so that overlaps of float32 boxes are decided as an exact calculation would; (4, n).
    corners = plan.T.take(owner, axis=1)
    boxes = joined.xyxy.T.astype(np.float64).take(order, axis=1) + corners[[0, 1, 0, 1]]
    boxes = np.clip(boxes, corners[[0, 1, 0, 1]], corners[[2, 3, 2, 3]])
    cut, reach = _reach(boxes, corners, size_hw, border_px)
    is_cut = np.asarray(cut.any(axis=0))
    first, second = _near_pairs(reach, class_id, owner)
    first_cut, second_cut = is_cut[first], is_cut[second]

    both = ~(first_cut | second_cut)
    better, worse = first[both], second[both]
    shared, area = _shared(boxes, better, worse), _area(boxes)
    same = shared > overlap_threshold * (area[better] + area[worse] - shared)
    # Cut boxes take no part in this; those that are suppressed are gone.
    better, worse = better[same], worse[same]
    alive = settle(len(boxes[0]), better, worse)
    replaced = alive[better] & ~alive[worse]
    voted = _voted(boxes, score, better[replaced], worse[replaced])

    mixed = first_cut != second_cut
    whole = np.where(first_cut, second, first)[mixed]
    piece = np.where(first_cut, first, second)[mixed]
    inside = alive[whole] & (_shared(boxes, whole, piece) > overlap_threshold * area[piece])
    alive[piece[inside]] = False

    both = first_cut & second_cut & alive[first] & alive[second]
    first, second = first[both], second[both]
    shared = _shared(reach, first, second)
    wide = corners + np.array([-border_px, -border_px, border_px, border_px])[:, None]
    total = _shared_with(reach, first, wide, second) + _shared_with(reach, second, wide, first) - shared
    same = shared > overlap_threshold * total
    leader = _leaders(len(alive), first[same], second[same])
    boxes = voted
    # The best of each set of pieces stands for all of them.
    for side, widen in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        widen.at(boxes[side], leader, boxes[side].copy())
    kept = alive & (leader == np.arange(len(alive)))
    return Detections(boxes.T[kept], score[kept], class_id[kept])


def _reach(
    boxes: np.ndarray, corners: np.ndarray, size_hw: tuple[int, int], border_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which sides of boxes (4, n) an inner border of their tiles (4, n) cuts, and the boxes reaching over it."""
    height, width = size_hw
    inner = np.concatenate([corners[:2] > 0, corners[2:] < np.array([[width], [height]])])
    cut = inner & np.concatenate([boxes[:2] <= corners[:2] + border_px, boxes[2:] >= corners[2:] - border_px])
    over = np.concatenate([corners[:2] - border_px, corners[2:] + border_px])
    return cut, np.where(cut, over, boxes)


def _near_pairs(boxes: np.ndarray, class_id: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (first, second), first < second, of overlapping boxes (4, n) of one class and different tiles.

    Boxes are sorted into bands of rows about twice as high as a box, each into all bands that it touches, and swept by
    their left edges within class and band. A pair that meets in several bands counts in the uppermost.
    """
    top, bottom = boxes[1], boxes[3]
    band_px = max(1e-6, 2 * float(np.maximum(bottom - top, 0).mean()))
    upper = ((top - top.min()) // band_px).astype(np.int64)
    lower = np.maximum(upper, ((bottom - top.min()) // band_px).astype(np.int64))
    times = lower - upper + 1
    row = np.arange(len(top)).repeat(times)
    band = np.arange(len(row)) - (times.cumsum() - times - upper).repeat(times)
    kind = (class_id - class_id.min()).astype(np.int64)
    by_left, counts, _ = windows_of(boxes.take(row, axis=1), kind[row] * (int(lower.max()) + 1) + band)
    ends = counts.cumsum()
    found: list[tuple[np.ndarray, np.ndarray]] = []
    begin = 0
    while begin < len(counts):
        before = int(ends[begin] - counts[begin])
        end = max(begin + 1, int(ends.searchsorted(before + _CHUNK, side="right")))
        some = counts[begin:end]
        left = np.arange(begin, end).repeat(some)
        right = np.arange(int(some.sum())) + (np.arange(begin + 1, end + 1) - some.cumsum() + some).repeat(some)
        at, partner = by_left[left], by_left[right]
        a, b = row[at], row[partner]
        keep = (owner[a] != owner[b]) & (band[at] == np.maximum(upper[a], upper[b]))
        a, b = a[keep], b[keep]
        meet = np.minimum(bottom[a], bottom[b]) > np.maximum(top[a], top[b])
        a, b = a[meet], b[meet]
        found.append((np.minimum(a, b), np.maximum(a, b)))
        begin = end
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[2] - boxes[0]) * (boxes[3] - boxes[1]))


def _shared(boxes: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the area that boxes (4, n) share, pair by pair."""
    return _shared_with(boxes, first, boxes, second)


def _shared_with(boxes: np.ndarray, first: np.ndarray, others: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the area that `boxes[:, first]` and `others[:, second]` share, pair by pair."""
    a, b = boxes.take(first, axis=1), others.take(second, axis=1)
    size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    return np.asarray(size[0] * size[1])


def _voted(boxes: np.ndarray, score: np.ndarray, kept: np.ndarray, replaced: np.ndarray) -> np.ndarray:
    """Return boxes (4, n) where each kept one lies at the mean of itself and those that it replaces, by their scores.

    kept, replaced: pairs. A box whose votes have no weight stays.
    """
    weight, n = score.astype(np.float64), len(score)
    votes = weight[replaced]
    total = weight + np.bincount(kept, votes, n)
    moved = np.bincount(kept, minlength=n).astype(bool) & (total > 0)
    found = boxes.copy()
    for side, place in zip(found, boxes, strict=True):
        drawn = weight * place + np.bincount(kept, votes * place[replaced], n)
        side[moved] = drawn[moved] / total[moved]
    return found


def _leaders(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the smallest number of each set that the pairs connect, for each of n members.

    Each round hooks leaders to smaller ones. Members never change trees by themselves: one that did would take the
    connection of its old tree along. A pair whose hook lost against another's is seen again in the next round.
    """
    leader = np.arange(n)
    while len(first):
        one, other = leader[first], leader[second]
        apart = one != other
        first, second = first[apart], second[apart]
        np.minimum.at(leader, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while (leader != leader[leader]).any():
            leader = leader[leader]
    return leader
