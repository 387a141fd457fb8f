"""Tiles against a literal cover of the scene; merging against a loop over all pairs, and on objects of known truth."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

import deploy.tiling
from deploy.backends.emulated_npu import EmulatedNpu
from deploy.detections import Detections
from deploy.detector import Detector
from deploy.manifest import Head, Manifest, ModelFile
from deploy.scenes import open_scene
from deploy.sources import ReadError
from deploy.tiling import Tile, TileSource, merge, plan_tiles

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
# The plan of most merging tests: tiles of 100 with 40 shared, so that four of them share a square.
SCENE_HW = (280, 280)
PLAN = plan_tiles(SCENE_HW, (100, 100), 40)


def seen_by(tiles, objects, scores=None):
    """What a perfect detector finds: the part of each object in each tile; scores[tile][object], default 0.5."""
    found = []
    for i, tile in enumerate(tiles):
        rows = []
        for j, (x1, y1, x2, y2, class_id) in enumerate(objects):
            a, b = max(x1 - tile.x, 0), max(y1 - tile.y, 0)
            c, d = min(x2 - tile.x, tile.w), min(y2 - tile.y, tile.h)
            if c > a and d > b:
                rows.append((a, b, c, d, 0.5 if scores is None else scores[i][j], class_id))
        rows = np.array(rows, np.float64).reshape(-1, 6)
        found.append(Detections(rows[:, :4], rows[:, 4], rows[:, 5]))
    return found


def literal_merge(found, tiles, size_hw, threshold, border):
    """The rules of `merge` word by word, one pair after the other. Returns sorted rows (box, score, class)."""

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    def common(a, b):
        return [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]

    def shared(a, b):
        box = common(a, b)
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    boxes = []
    for number, (part, tile) in enumerate(zip(found, tiles, strict=True)):
        edge = [tile.x, tile.y, tile.x + tile.w, tile.y + tile.h]
        inner = [edge[0] > 0, edge[1] > 0, edge[2] < size_hw[1], edge[3] < size_hw[0]]
        for row, score, class_id in zip(part.xyxy.tolist(), part.score.tolist(), part.class_id.tolist(), strict=True):
            box = [row[0] + tile.x, row[1] + tile.y, row[2] + tile.x, row[3] + tile.y]
            box = [min(max(side, edge[i % 2]), edge[2 + i % 2]) for i, side in enumerate(box)]
            near = [box[0] <= edge[0] + border, box[1] <= edge[1] + border]
            near += [box[2] >= edge[2] - border, box[3] >= edge[3] - border]
            cut = [a and b for a, b in zip(inner, near, strict=True)]
            wide = [edge[0] - border, edge[1] - border, edge[2] + border, edge[3] + border]
            reach = [over if is_cut else side for over, is_cut, side in zip(wide, cut, box, strict=True)]
            boxes.append((box, score, class_id, number, any(cut), reach, wide))
    boxes.sort(key=lambda entry: -entry[1])  # stable
    survivors, voters = [], []

    def alike(a, b):
        both = shared(a[0], b[0])
        return a[2] == b[2] and a[3] != b[3] and both > threshold * (area(a[0]) + area(b[0]) - both)

    for box in (entry for entry in boxes if not entry[4]):
        (voters if any(alike(s, box) for s in survivors) else survivors).append(box)
    pieces = [
        box
        for box in boxes
        if box[4]
        and not any(
            s[2] == box[2] and s[3] != box[3] and shared(s[0], box[0]) > threshold * area(box[0]) for s in survivors
        )
    ]

    def agree(a, b):
        if a[2] != b[2] or a[3] == b[3]:
            return False
        both = shared(a[5], b[5])
        return both > threshold * (shared(a[5], b[6]) + shared(b[5], a[6]) - both)

    sets, rest = [], pieces
    while rest:  # flood: what agrees with a member of the set joins it
        group, rest = [rest[0]], rest[1:]
        for member in group:
            group += [piece for piece in rest if agree(member, piece)]
            rest = [piece for piece in rest if not agree(member, piece)]
        sets.append(group)
    rows = []
    for box in survivors:
        behind = boxes[next(rank for rank, entry in enumerate(boxes) if entry is box) :]
        votes = [box, *(voter for voter in behind if any(voter is v for v in voters) and alike(box, voter))]
        total = sum(vote[1] for vote in votes)
        place = [sum(vote[1] * vote[0][i] for vote in votes) / total for i in range(4)] if total > 0 else box[0]
        rows.append((*(place if len(votes) > 1 else box[0]), box[1], box[2]))
    for group in sets:
        sides = list(zip(*[piece[0] for piece in group], strict=True))
        score = max(piece[1] for piece in group)
        rows.append((min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3]), score, group[0][2]))
    return sorted((*np.float32(row[:4]).tolist(), *row[4:]) for row in rows)


def rows_of(found):
    return sorted(
        (*box, score, class_id)
        for box, score, class_id in zip(found.xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True)
    )


def same_rows(got, want):
    """The same boxes, to the last bit of float32: votes are summed up in another order."""
    assert len(got) == len(want)
    assert np.allclose(np.array(got, np.float64).reshape(-1, 6), np.array(want).reshape(-1, 6), rtol=1e-6, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    size_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    tile_hw=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    overlap=st.one_of(st.integers(0, 119), st.floats(0, 0.95)),
)
def test_tiles_cover_every_pixel_and_share_enough(size_hw, tile_hw, overlap):
    shared = [round(overlap * side) if isinstance(overlap, float) else overlap for side in tile_hw]
    if any(s >= side for s, side in zip(shared, tile_hw, strict=True)):
        with pytest.raises(ValueError, match="overlap must be smaller than the tile"):
            plan_tiles(size_hw, tile_hw, overlap)
        return
    tiles = plan_tiles(size_hw, tile_hw, overlap)
    covered = np.zeros(size_hw, bool)
    for tile in tiles:
        assert (tile.h, tile.w) == (min(tile_hw[0], size_hw[0]), min(tile_hw[1], size_hw[1]))
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.x + tile.w <= size_hw[1]
        assert tile.y + tile.h <= size_hw[0]
        covered[tile.y : tile.y + tile.h, tile.x : tile.x + tile.w] = True
    assert covered.all()
    assert [(t.y, t.x) for t in tiles] == sorted({(t.y, t.x) for t in tiles})  # row by row, none twice
    for axis, starts in enumerate((sorted({t.y for t in tiles}), sorted({t.x for t in tiles}))):
        steps = np.diff(starts)
        assert (tile_hw[axis] - steps >= shared[axis]).all()
        assert (tile_hw[axis] - steps[:-1] == shared[axis]).all()  # only the last one is shifted back
        assert len(starts) == 1 or len(starts) == 1 + -(
            -(size_hw[axis] - tile_hw[axis]) // (tile_hw[axis] - shared[axis])
        )


def test_a_small_scene_is_one_tile_of_its_size():
    assert plan_tiles((60, 90), (512, 512), 0.2) == [Tile(0, 0, 90, 60)]
    assert plan_tiles((512, 512), (512, 512), 64) == [Tile(0, 0, 512, 512)]
    assert plan_tiles((60, 600), (512, 512), 64) == [Tile(0, 0, 512, 60), Tile(88, 0, 512, 60)]


@pytest.mark.parametrize(
    ("size_hw", "tile_hw", "overlap", "message"),
    [
        ((0, 5), (8, 8), 0, r"size_hw must be \(height, width\)"),
        ((5, 5), (8, 0), 0, r"tile_hw must be \(height, width\)"),
        ((5, 5), (8, 8), 1.0, "share from 0 to below 1"),
        ((5, 5), (8, 8), -0.1, "share from 0 to below 1"),
        ((5, 5), (8, 8), float("nan"), "share from 0 to below 1"),
        ((50, 50), (8, 8), -1, "smaller than the tile"),
        ((50, 50), (8, 8), 8, "smaller than the tile"),
    ],
)
def test_bad_plans_are_told(size_hw, tile_hw, overlap, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(size_hw, tile_hw, overlap)


boxes_in_tile = st.tuples(*[st.integers(0, 100)] * 4, st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 1))


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(st.lists(boxes_in_tile, max_size=4), min_size=9, max_size=9),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),
    border=st.sampled_from([0.0, 2.0, 7.5]),
    overlap=st.sampled_from([0, 15, 40]),
)
def test_any_boxes_match_the_literal_loop(data, threshold, border, overlap):
    tiles = plan_tiles((300 - 2 * overlap, 300 - 2 * overlap), (100, 100), overlap)
    found = []
    for rows in data:
        rows = np.array(rows, np.float64).reshape(-1, 6)
        corners = np.concatenate([np.minimum(rows[:, :2], rows[:, 2:4]), np.maximum(rows[:, :2], rows[:, 2:4])], axis=1)
        found.append(Detections(corners, rows[:, 4], rows[:, 5]))
    size_hw = (300 - 2 * overlap, 300 - 2 * overlap)
    merged = merge(found, tiles, size_hw, overlap_threshold=threshold, border_px=border)
    same_rows(rows_of(merged), literal_merge(found, tiles, size_hw, threshold, border))
    assert (np.diff(merged.score) <= 0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0.0, 1.0, 6.0]), count=st.integers(1, 40))
def test_scenes_of_objects_match_the_literal_loop(seed, noise, count):
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(4), np.log(200), (count, 2)))
    corner = rng.uniform(0, np.maximum(280 - size, 1))
    objects = np.concatenate([corner, corner + size, rng.integers(0, 3, (count, 1))], axis=1)
    found = []
    for part in seen_by(PLAN, objects):
        moved = part.xyxy + rng.normal(0, noise, part.xyxy.shape)
        moved = np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1)
        found.append(Detections(moved, rng.uniform(0.2, 1, len(part)), part.class_id))
    same_rows(rows_of(merge(found, PLAN, SCENE_HW)), literal_merge(found, PLAN, SCENE_HW, 0.5, 2.0))


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, 30),
    pairs=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60),
)
def test_pieces_are_united_over_any_chain(n, pairs):
    pairs = [(a % n, b % n) for a, b in pairs]
    want = list(range(n))
    for _ in range(n):
        for a, b in pairs:
            want[a] = want[b] = min(want[a], want[b])
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    assert deploy.tiling._leaders(n, first, second).tolist() == want


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 240, (80, 2))
    objects = np.concatenate([corner, corner + rng.uniform(5, 60, (80, 2)), rng.integers(0, 2, (80, 1))], axis=1)
    found = seen_by(PLAN, objects, rng.uniform(0.1, 1, (len(PLAN), 80)))
    whole = rows_of(merge(found, PLAN, SCENE_HW))
    monkeypatch.setattr(deploy.tiling, "_CHUNK", 7)
    assert rows_of(merge(found, PLAN, SCENE_HW)) == whole


@settings(max_examples=200, deadline=None)
@given(
    x=st.integers(0, 250),
    y=st.integers(0, 250),
    w=st.integers(8, 30),
    h=st.integers(8, 30),
    scores=st.lists(st.floats(0.1, 1), min_size=16, max_size=16),
)
def test_an_object_below_the_overlap_gives_its_own_box_once(x, y, w, h, scores):
    """Whatever the scores: a piece of 0.99 yields to the whole box of 0.1."""
    found = seen_by(PLAN, [(x, y, x + w, y + h, 3)], [[score] for score in scores])
    merged = merge(found, PLAN, SCENE_HW)
    assert merged.xyxy.tolist() == [[x, y, x + w, y + h]]
    assert merged.class_id.tolist() == [3]


def test_whole_boxes_of_one_object_vote_on_its_place():
    """Tiles 0 and 1 share columns 60 to 100; both see the object whole, one of them a little to the right."""
    first, second = Detections([[70, 20, 90, 40]], [0.6], [1]), Detections([[13, 20, 33, 41]], [0.3], [1])
    found = [first, second, *[Detections.empty()] * (len(PLAN) - 2)]
    merged = merge(found, PLAN, SCENE_HW)
    assert merged.xyxy[0].tolist() == pytest.approx([71, 20, 91, 40 + 1 / 3])
    assert merged.score.tolist() == pytest.approx([0.6])
    nothing = [Detections(part.xyxy, part.score * 0, part.class_id) for part in found]
    assert merge(nothing, PLAN, SCENE_HW).xyxy[0].tolist() == [70, 20, 90, 40], "votes without weight move nothing"


def test_an_object_in_four_tiles_is_reported_once_and_others_stay():
    inside = [(64, 64, 96, 92, 0), (70, 66, 90, 90, 1)]  # in the square that tiles 0, 1, 4 and 5 share; two classes
    near = [(128, 20, 150, 30, 0), (128, 31, 150, 41, 0)]  # two that touch each other and a border
    found = seen_by(PLAN, inside + near)
    assert sum(len(part) for part in found) > 8
    assert rows_of(merge(found, PLAN, SCENE_HW)) == sorted((*map(float, box[:4]), 0.5, box[4]) for box in inside + near)


@pytest.mark.parametrize("overlap", [0, 10, 40])
@pytest.mark.parametrize(
    "box", [(10, 20, 275, 60), (30, 15, 70, 270), (20, 20, 260, 250), (95, 95, 215, 200), (1, 1, 279, 279)]
)
def test_an_object_larger_than_a_tile_is_put_together(box, overlap):
    tiles = plan_tiles(SCENE_HW, (100, 100), overlap)
    scores = np.linspace(0.3, 0.9, len(tiles))[:, None]
    found = seen_by(tiles, [(*box, 2)], scores)
    merged = merge(found, tiles, SCENE_HW)
    assert merged.xyxy.tolist() == [list(map(float, box))]
    assert merged.score[0] == max(part.score[0] for part in found if len(part))


def test_neighbours_that_borders_cut_stay_apart():
    """Long ships side by side, each in three tiles."""
    ships = [(20, 20 + 14 * i, 270, 30 + 14 * i, 0) for i in range(8)]
    merged = merge(seen_by(PLAN, ships), PLAN, SCENE_HW)
    assert rows_of(merged) == sorted((*map(float, ship[:4]), 0.5, 0) for ship in ships)


def test_boxes_of_one_tile_are_left_alone():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 80, (40, 2))
    part = Detections(np.concatenate([corner, corner + 20], axis=1), rng.uniform(0, 1, 40), np.zeros(40))
    assert rows_of(merge([part], [Tile(0, 0, 100, 100)], (100, 100))) == rows_of(part)
    alone = [part if i == 5 else Detections.empty() for i in range(len(PLAN))]
    assert rows_of(merge(alone, PLAN, SCENE_HW)) == rows_of(part.shift(PLAN[5].x, PLAN[5].y))


def test_nothing_found_gives_nothing():
    assert len(merge([], [], (10, 10))) == 0
    assert len(merge([Detections.empty()] * len(PLAN), PLAN, SCENE_HW)) == 0


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        ([], {}, "found must hold the detections of each tile, got 0 for 1 tiles"),
        ([Detections.empty()], {"overlap_threshold": 1.1}, "overlap_threshold"),
        ([Detections.empty()], {"border_px": -1}, "border_px"),
        ([Detections(np.full((1, 4), np.nan), np.ones(1), np.zeros(1))], {}, "finite"),
        ([Detections(np.ones((1, 4)), np.full(1, np.inf), np.zeros(1))], {}, "finite"),
    ],
)
def test_bad_merges_are_told(found, options, message):
    with pytest.raises(ValueError, match=message):
        merge(found, [Tile(0, 0, 10, 10)], (10, 10), **options)


def drawn_scene(path, size_hw=(300, 420), empty=True):
    rng = np.random.default_rng(7)
    image = rng.integers(20, 255, (3, *size_hw), dtype=np.uint8)
    if empty:
        image[:, :128, :256] = 0
    profile = {"driver": "GTiff", "height": size_hw[0], "width": size_hw[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=64, blockysize=64, compress="deflate") as file:
        file.write(image)
    return image.transpose(1, 2, 0)


def test_frames_are_the_tiles_that_show_something(tmp_path):
    image = drawn_scene(tmp_path / "scene.tif")
    tiles = plan_tiles(image.shape[:2], (128, 128), 0)
    with open_scene(tmp_path / "scene.tif") as scene, TileSource(scene, tiles) as source:
        assert (source.kind, source.live, source.count, source.size_hw) == ("scene", False, len(tiles), (300, 420))
        frames = list(source)
        assert [frame.number for frame in frames] == [i for i in range(len(tiles)) if i not in (0, 1)]
        assert source.empty == 2
        for frame in frames:
            tile = tiles[frame.number]
            assert frame.corner_xy == (tile.x, tile.y)
            assert frame.name == scene.name
            np.testing.assert_array_equal(frame.image, image[tile.y : tile.y + tile.h, tile.x : tile.x + tile.w])
        assert list(source) == []


def test_a_source_reads_on_demand_goes_on_and_passes_over_what_is_done(tmp_path, monkeypatch):
    image = drawn_scene(tmp_path / "scene.tif", empty=False)
    tiles = plan_tiles(image.shape[:2], (128, 128), 0.25)  # five in a row
    with open_scene(tmp_path / "scene.tif") as scene:
        read, original = [], scene.read_valid
        monkeypatch.setattr(scene, "read_valid", lambda *window: read.append(window) or original(*window))
        source = TileSource(scene, tiles)
        source.skip(numbers={2, 4, 6}, names={scene.name})
        first = iter(source)
        assert next(first).number == 0
        assert read == [(0, 0, 96 + 128, 128)]  # tiles 0 and 1; what is done is not read
        rest = iter(source)
        assert [next(rest).number, next(rest).number, next(rest).number] == [1, 3, 5]
        assert read[2:] == [(288, 0, 128, 128), (0, 96, 128, 128)]
        np.testing.assert_array_equal(next(rest).image, image[96:224, 192:320])  # 7, after 6 that is done
        source.close()
        assert list(rest) == []
        assert list(source) == []


def test_tiles_chosen_by_hand_are_read_too(tmp_path):
    image = drawn_scene(tmp_path / "scene.tif", empty=False)
    tiles = [Tile(0, 0, 30, 30), Tile(40, 10, 30, 30), Tile(60, 10, 30, 50), Tile(80, 10, 9, 50), Tile(20, 10, 9, 50)]
    with open_scene(tmp_path / "scene.tif") as scene:
        for frame, tile in zip(TileSource(scene, tiles), tiles, strict=True):
            np.testing.assert_array_equal(frame.image, image[tile.y : tile.y + tile.h, tile.x : tile.x + tile.w])


@settings(max_examples=25, deadline=None)
@given(
    tile=st.tuples(st.integers(20, 330), st.integers(20, 450)),
    share=st.floats(0, 0.8),
    done=st.sets(st.integers(0, 30)),
)
def test_neighbours_read_together_are_the_tiles_read_alone(tmp_path_factory, tile, share, done):
    path = tmp_path_factory.getbasetemp() / "scene.tif"
    if not path.exists():
        drawn_scene(path)
    with open_scene(path) as scene:
        tiles = plan_tiles(scene.size_hw, tile, share)
        source = TileSource(scene, tiles)
        source.skip(numbers=done)
        got = {frame.number: frame.image for frame in source}
        alone = {i: scene.read(t.x, t.y, t.w, t.h) for i, t in enumerate(tiles) if i not in done}
    shown = {i: image for i, image in alone.items() if image.max() > 4}
    assert list(got) == list(shown)
    assert source.empty == len(alone) - len(shown)
    for number, image in shown.items():
        np.testing.assert_array_equal(got[number], image)
        assert got[number].flags.c_contiguous


def test_a_damaged_tile_takes_its_place_and_the_others_follow(tmp_path):
    path = tmp_path / "scene.tif"
    image = drawn_scene(path, (128, 256), empty=False)
    with rasterio.open(path) as file:
        where = int(file.get_tag_item("BLOCK_OFFSET_2_0", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[where + 2 : where + 600] = b"\xff" * 598
    path.write_bytes(data)
    tiles = plan_tiles((128, 256), (64, 64), 0)
    with open_scene(path) as scene:
        frames = list(TileSource(scene, tiles))
    assert [frame.number for frame in frames] == list(range(8))
    assert [type(frame) is ReadError for frame in frames] == [i == 2 for i in range(8)]
    assert "x=128, y=0, w=64, h=64" in str(frames[2].error)
    np.testing.assert_array_equal(frames[3].image, image[:64, 192:256])


def find_white_cells(batch):
    """Answer with a box of 16 x 16 pixels around every white cell of stride 8."""
    heads = []
    for stride in (8, 16, 32):
        h, w = 64 // stride, 96 // stride
        box = np.zeros((len(batch), 4, 16, h, w), np.float32)
        box[:, :, 1] = 40
        cls = np.full((len(batch), 1, h, w), -9, np.float32)
        if stride == 8:
            cls[:, 0] = np.where(batch.reshape(-1, h, 8, w, 8, 3).mean(axis=(2, 4, 5)) > 250, 3, -9)
        heads += [box.reshape(-1, 64, h, w), cls]
    return heads


def test_a_streamed_scene_finds_each_object_once_and_holds_few_tiles(tmp_path):
    """From file to merged boxes: three cores, tiles in flight bounded, one box for each white square of the scene."""
    rng = np.random.default_rng(3)
    image = rng.integers(10, 200, (3, 512, 640), dtype=np.uint8)
    spots = [(int(x), int(y)) for x in range(1, 79) for y in range(1, 63) if x % 4 == 1 and y % 4 == 1]
    for x, y in spots:
        image[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 255
    path = tmp_path / "scene.tif"
    with rasterio.open(path, "w", driver="GTiff", height=512, width=640, count=3, dtype="uint8", tiled=True) as file:
        file.write(image)
    manifest = Manifest(
        name="fake",
        class_names=["white"],
        input_hw=(64, 96),
        heads=[Head(stride=s, box_output=f"b{s}", class_output=f"c{s}") for s in (8, 16, 32)],
        precision="fp32",
        files={"onnx": ModelFile(name="model.onnx", sha256="0" * 64)},
    )
    npu = EmulatedNpu((64, 96), find_white_cells, latency_ms=0.2, jitter=2.0)
    tiles = plan_tiles((512, 640), (64, 96), 32)
    held, most, lock = set(), [0], threading.Lock()
    found = [Detections.empty()] * len(tiles)

    class Watched(TileSource):
        def __iter__(self):
            for frame in super().__iter__():
                with lock:
                    held.add(frame.number)
                    most[0] = max(most[0], len(held))
                yield frame

    with (
        open_scene(path) as scene,
        Detector(npu.open(0), manifest, open_backend=npu.open, cores=(0, 1, 2, 0, 1, 2)) as detector,
    ):
        for result in detector.stream(Watched(scene, tiles)):
            assert result.error is None
            found[result.frame.number] = result.detections
            with lock:
                held.discard(result.frame.number)
    assert sum(len(part) for part in found) > 2 * len(spots)
    merged = merge(found, tiles, (512, 640))
    want = sorted([8 * x - 4, 8 * y - 4, 8 * x + 12, 8 * y + 12] for x, y in spots)
    np.testing.assert_allclose(sorted(merged.xyxy.tolist()), want, atol=0.01)
    assert most[0] < 60 < len(tiles)  # the scheduler's window, not the scene, says how many
