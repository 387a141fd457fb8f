"""The roofline against its published points, a fit of known constants, and leave-one-out done by hand."""

import json
import math

import pytest

from deploy.convert.layer_costs import LayerCost, closed_form
from deploy.convert.network_shapes import yolov8
from deploy.convert.roofline import (
    PUBLISHED,
    Point,
    constants_path,
    estimate_ms,
    fit,
    load_constants,
    published,
    roofline_ms,
    save_constants,
    work_of,
)


@pytest.fixture(autouse=True)
def _no_board_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def points():
    return [
        Point.of(size, ms, closed_form(yolov8(size, (side, side), classes), "int8"))
        for size, side, classes, ms, _ in PUBLISHED
    ]


def geometric_mean_bandwidth(given):
    """The bandwidth at which the product of estimate / measurement is 1, by walking ever finer steps."""

    def product(bandwidth):
        return math.prod(1e3 * sum(max(c / 1e9, b / bandwidth) for c, b in p.work) / p.measured_ms for p in given)

    bandwidth, step = 1e9, 1e9
    for _ in range(9):
        while product(bandwidth + step) > 1:
            bandwidth += step
        step /= 10
    return bandwidth


def test_the_four_published_figures():
    constants = published()
    assert [round(1000 / p.measured_ms, 1) for p in constants.points[:3]] == [74.0, 35.2, 16.2]
    assert constants.points[3].measured_ms == 7.91
    assert all(abs(p.estimated_ms / p.measured_ms - 1) < 0.05 for p in constants.points)
    assert constants.bytes_per_s == pytest.approx(3.0e9, rel=0.05)


def test_leave_one_out_by_hand():
    given, constants = points(), published()
    errors = []
    for left in range(4):
        others = given[:left] + given[left + 1 :]
        bandwidth = geometric_mean_bandwidth(others)
        assert constants.others_bytes_per_s[left] == pytest.approx(bandwidth, rel=1e-6)
        told = 1e3 * sum(max(c / 1e9, b / bandwidth) for c, b in given[left].work)
        assert constants.points[left].left_out_ms == pytest.approx(told)
        errors.append(abs(told / given[left].measured_ms - 1))
    assert constants.leave_one_out_error == pytest.approx(max(errors))
    assert constants.bytes_per_s == pytest.approx(geometric_mean_bandwidth(given), rel=1e-6)
    assert constants.worst_error < constants.leave_one_out_error


def test_the_interval_holds_every_point_and_is_built_as_told():
    constants = published()
    for point, fitted in zip(points(), constants.points, strict=True):
        work = point.work
        costs = [LayerCost("", "", cycles, 0, size, 0) for cycles, size in work]
        found = estimate_ms(costs, constants)
        around = [roofline_ms(work, b) for b in constants.others_bytes_per_s]
        assert found.low_ms == pytest.approx(min(around) * (1 - constants.leave_one_out_error))
        assert found.high_ms == pytest.approx(max(around) * (1 + constants.leave_one_out_error))
        assert found.low_ms <= fitted.measured_ms <= found.high_ms


def test_a_layer_takes_the_longer_of_both():
    costs = [LayerCost("a", "Conv", 2_000_000, 5, 1000, 0), LayerCost("b", "Concat", 0, 0, 6_000_000, 0)]
    assert work_of(costs) == ((2_000_000, 1000), (0, 6_000_000))
    assert roofline_ms(work_of(costs), 3e9) == pytest.approx(2.0 + 2.0)
    assert roofline_ms(work_of(costs), 6e9) == pytest.approx(2.0 + 1.0)


@pytest.mark.parametrize("bandwidth", [8e8, 3e9, 2.2e10])
def test_a_fit_finds_the_bandwidth_that_made_the_times(bandwidth):
    made = [Point(p.name, roofline_ms(p.work, bandwidth), p.work) for p in points()]
    constants = fit(made, "made up")
    assert constants.bytes_per_s == pytest.approx(bandwidth, rel=1e-6)
    assert constants.leave_one_out_error < 1e-6


def test_what_cannot_be_fitted():
    given = points()
    with pytest.raises(ValueError, match=r"at least 2 measured networks.*got 1"):
        fit(given[:1], "x")
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="n: measured_ms must be a positive number"):
            fit([Point("n", wrong, given[0].work), *given], "x")
    with pytest.raises(ValueError, match="has no layers"):
        fit([Point("n", 3.0, ()), *given], "x")
    with pytest.raises(ValueError, match=r"no bandwidth explains these times on one core: n 0\.1 ms"):
        fit([Point("n", 0.1, given[0].work)] * 2, "x")


def test_a_calibrated_board_is_kept_and_taken(tmp_path):
    assert load_constants() is published()
    board = fit([Point(p.name, 1.1 * p.measured_ms, p.work, "bench") for p in points()], "this board")
    path = save_constants(board)
    assert path == constants_path() == tmp_path / "config" / "rsedge" / "npu_constants.json"
    assert load_constants() == board
    assert load_constants(path) == board
    assert not list(path.parent.glob("*.part"))
    assert board.bytes_per_s < published().bytes_per_s


def test_a_relative_config_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "somewhere")
    assert constants_path().parts[-3:] == (".config", "rsedge", "npu_constants.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 9}, "schema_version must be 1, got 9"),
        ({"bytes_per_s": -3.0}, "positive number"),
        ({"bytes_per_s": "fast"}, "could not convert"),
        ({"others_bytes_per_s": [1.0]}, "at least 2 points"),
        ({"points": []}, "at least 2 points"),
        ({"points": [{"name": "x"}]}, "lacks 'measured_ms'"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, change, told):
    path = save_constants(published())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=told) as error:
        load_constants()
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not the constants of a calibrated board"):
        load_constants()
    with pytest.raises(FileNotFoundError):
        load_constants(tmp_path / "none.json")
