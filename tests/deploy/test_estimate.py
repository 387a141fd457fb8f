"""The estimate against the compiler's own tables of YOLOv8 n, s and m, by hand, and from every source."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from deploy.convert.cycles import (
    Convolution,
    arithmetic_cycles,
    memory_cycles,
    read_bytes,
    total_cycles,
    weight_bytes,
    written_bytes,
)
from deploy.convert.estimate import estimate, estimate_json
from deploy.convert.estimate_command import LAYERS_NAME, print_estimate, show
from deploy.convert.layer_costs import closed_form, from_table, total_of
from deploy.convert.layer_table import LayerTable
from deploy.convert.network_shapes import Network, yolov8
from deploy.convert.onnx_export import export_onnx
from deploy.convert.roofline import published
from deploy.convert.widths import widths
from train.checkpoint import save_checkpoint
from train.estimate_command import run, subject_of
from train.model import SCALES, Yolov8

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "deploy" / "zoo"
TABLES = json.loads((Path(__file__).parent / "cycle_tables.json").read_text())
FAMILY = [table for table in TABLES["networks"] if table["network"] != "odd"]
ONE_OFF = ("yolov8m", 512, "int8")
LEARNT = next(table for table in FAMILY if table["ranges"] == "learnt")


@pytest.fixture(autouse=True)
def _no_board_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def shape(row) -> Convolution:
    _, cin, cout, k, size, out, groups, biased, sums, leaves, *_ = row
    return Convolution(
        cin, cout, (k, k), (size, size), (out, out), groups, biased=bool(biased), sums=bool(sums), leaves=bool(leaves)
    )


def rows_of(table):
    return [(name, TABLES["shapes"][number]) for name, number in table["convolutions"]]


def named(table) -> Network:
    return yolov8(table["network"][-1], (table["input"],) * 2, table["classes"])


@pytest.mark.parametrize(
    "table", FAMILY, ids=lambda t: "-".join(str(t[k]) for k in ("network", "input", "precision", "ranges"))
)
def test_every_convolution_of_the_family(table):
    precision = table["precision"]
    wrong, off = [], []
    for name, row in rows_of(table):
        conv, (memory, arithmetic, read_kb) = shape(row), row[-3:]
        if (arithmetic_cycles(conv, precision), read_bytes(conv, precision) // 1024) != (arithmetic, read_kb):
            wrong.append((name, row))
        if memory_cycles(conv, precision) != memory:
            off.append((name, memory_cycles(conv, precision) - memory))
    assert wrong == []
    # Of all 529 shapes one: the stem of m at 512 in INT8, where a fraction of a byte decides.
    assert [cycles for _, cycles in off] == ([1] if (table["network"], table["input"], precision) == ONE_OFF else [])
    assert len(table["convolutions"]) >= 63
    assert sum(total_cycles(shape(row), precision) for _, row in rows_of(table)) == table["cycles"]


def test_the_tables_cover_what_was_promised():
    kinds = {(t["network"], t["input"], t["precision"]) for t in FAMILY}
    assert kinds == {(f"yolov8{s}", size, p) for s in "nsm" for size in (512, 640) for p in ("int8", "fp16")}


def test_odd_widths_and_depthwise():
    odd = [(t, name, row) for t in TABLES["networks"] if t["network"] == "odd" for name, row in rows_of(t)]
    assert len(odd) == 22
    for table, name, row in odd:
        assert arithmetic_cycles(shape(row), table["precision"]) == row[-2], name
        # Ten filters are stored with more padding than any rule here says.
        assert memory_cycles(shape(row), table["precision"]) == pytest.approx(row[-3], rel=0.007), name


@pytest.mark.parametrize(
    "table", FAMILY, ids=lambda t: "-".join(str(t[k]) for k in ("network", "input", "precision", "ranges"))
)
def test_networks_by_name(table):
    """By name the layers are the table's; where the compiler cut a convolution into parts, the total still agrees."""
    network, precision = named(table), table["precision"]
    costs = closed_form(network, precision)
    assert total_of(costs) == pytest.approx(table["cycles"], rel=0.008)
    traffic = sum(cost.read_bytes // 1024 for cost in costs)
    assert traffic == pytest.approx(table["traffic_kb"], rel=0.02 if precision == "int8" else 0.21)
    own = {layer.name: layer.conv for layer in network.convolutions}
    told = {name: shape(row) for name, row in rows_of(table)}
    both = {name for name in own if name in told and told[name].biased and not told[name].sums}
    # Large float16 networks are cut up most; a traced network's table only numbers its layers.
    assert len(both) >= 0.45 * len(own) or table["ranges"] == "learnt"
    assert {name: own[name] for name in both} == {name: told[name] for name in both}


def test_learnt_ranges_leave_nothing_to_guess():
    costs = closed_form(named(LEARNT), "int8")
    assert (total_of(costs), len(costs) + 1) == (LEARNT["cycles"], LEARNT["layers"])  # the table lists the input too
    assert sum(cost.read_bytes // 1024 for cost in costs) == LEARNT["traffic_kb"]
    own = Counter(layer.conv for layer in named(LEARNT).convolutions)
    assert own == Counter(shape(row) for _, row in rows_of(LEARNT))


def test_a_layer_by_hand():
    """3 x 3, 64 to 128 channels, 64 x 64 to 32 x 32, INT8."""
    conv = Convolution(64, 128, (3, 3), (64, 64), (32, 32))
    # 1024 cells, 9 taps, 2 groups in, 4 groups out.
    assert arithmetic_cycles(conv, "int8") == 1024 * 9 * 2 * 4 == 73728
    assert conv.multiply_adds == 1024 * 9 * 64 * 128
    assert weight_bytes(conv, "int8") == 9 * 64 * 128 + 8 * 128
    assert read_bytes(conv, "int8") == 64 * 64 * 64 + 9 * 64 * 128 + 8 * 128
    assert written_bytes(conv, "int8") == 32 * 32 * 128
    assert memory_cycles(conv, "int8") == 19784  # the row of the shipped table
    assert written_bytes(replace(conv, out_channels=80, leaves=True), "int8") == 32 * 32 * 96
    assert written_bytes(replace(conv, out_channels=80), "int8") == 32 * 32 * 80
    assert read_bytes(replace(conv, sums=True), "fp16") == 2 * (64 * 64 * 64 + 9 * 64 * 128 + 2 * 128 + 32 * 32 * 128)


@pytest.mark.parametrize("size", list(SCALES))
def test_the_named_network_is_the_one_that_is_trained(size):
    import torch

    with torch.device("meta"):
        model = Yolov8(size, 7)
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    network = yolov8(size, (64, 64), 7)
    assert {layer.name: layer.conv.weights for layer in network.convolutions} == {
        name: m.weight.numel() for name, m in convolutions.items()
    }
    assert [layer.name for layer in network.layers if layer.kind == "Output"] == [
        "box_8",
        "class_8",
        "box_16",
        "class_16",
        "box_32",
        "class_32",
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A YOLOv8n for three classes at 96 pixels: its checkpoint and its ONNX file."""
    folder = tmp_path_factory.mktemp("small")
    model = Yolov8("n", 3).eval()
    save_checkpoint(
        folder / "a.pt", {"model": model.state_dict(), "size": "n", "class_names": ["a", "b", "c"], "image_size": 96}
    )
    export_onnx(model, folder / "a.onnx", (96, 96))
    export_onnx(model, folder / "half.onnx", (96, 96), half_weights=True)
    return folder


def test_name_checkpoint_and_onnx_agree(small):
    by_name = subject_of("yolov8n", 96, 3).network
    for file in ("a.pt", "a.onnx", "half.onnx"):
        found = subject_of(str(small / file)).network
        assert (found.input_hw, found.class_count) == ((96, 96), 3)
        assert {x.name: x.conv for x in found.convolutions} == {x.name: x.conv for x in by_name.convolutions}
        for precision in ("int8", "fp16"):
            ours = [replace(c, name="") for c in closed_form(by_name, precision)]
            theirs = [replace(c, name="") for c in closed_form(found, precision)]
            assert Counter(ours) == Counter(theirs)
            assert [w.wider.cycles for w in widths(found, precision) if w.wider] == [
                w.wider.cycles for w in widths(by_name, precision) if w.wider
            ]


def test_a_bundle_takes_the_compilers_table(tmp_path):
    document = run(str(ZOO / "vhr10"), json_file=tmp_path / "new" / "estimate.json")
    raw = json.loads((ZOO / "vhr10" / LAYERS_NAME).read_text())
    assert document["tier"] == "compiler's table"
    assert document["npu_cycles_by_tier"] == {"closed_form": raw["cycles_total"], "table": raw["cycles_total"]}
    assert document["memory"]["table_internal_kb"] == raw["internal_memory_kb"]
    assert document["memory"]["read_bytes"] == 1024 * raw["traffic_kb"]
    assert document["layers"][1]["name"] == "model.0.conv"  # the table itself only numbers it
    assert json.loads((tmp_path / "new" / "estimate.json").read_text()) == document
    other = run(str(ZOO / "vhr10"), precision="fp16")
    assert other["tier"] == "closed form"
    assert any("compiled to int8" in note for note in other["notes"])


def test_a_bundle_without_onnx_file_or_table(tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(ZOO / "vhr10", bundle, ignore=shutil.ignore_patterns("*.onnx", "*.rknn", "*.safetensors"))
    document = run(str(bundle))
    assert document["npu_cycles_by_tier"]["closed_form"] == document["npu_cycles_by_tier"]["table"] == 3541245
    assert document["waste"]["widths"] == []
    (bundle / LAYERS_NAME).write_text('{"layers": [{"index": 0}]}')
    with pytest.raises(ValueError, match=r"layers.json: not a layer table .*; export the bundle again"):
        run(str(bundle))
    (bundle / LAYERS_NAME).unlink()
    with pytest.raises(ValueError, match=r"holds neither an ONNX file nor layers.json"):
        run(str(bundle))


def test_json_says_what_it_is(tmp_path):
    document = run("yolov8n", 640, 80, json_file=tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == document
    assert document["schema_version"] == 1
    assert document["npu_cycles"] == 6179117
    assert document["npu_cycles_by_tier"]["table"] is None
    assert document["estimated_ms_low"] < document["estimated_ms"] < document["estimated_ms_high"]
    assert document["leave_one_out_error"] == published().leave_one_out_error
    assert document["npu_cycles"] == sum(layer["cycles"] for layer in document["layers"])
    assert document["estimated_ms"] == pytest.approx(sum(layer["estimated_ms"] for layer in document["layers"]))
    assert document["energy"]["low_mj"] < document["energy"]["estimated_mj"] < document["energy"]["high_mj"]
    assert "not a measurement" in document["energy"]["label"]
    text = json.dumps(document)
    assert not [path for path in (str(tmp_path), f"{Path.home()}/", str(ROOT)) if path in text]


def test_energy_by_hand():
    network = yolov8("n", (512, 512), 10)
    costs = closed_form(network, "int8")
    energy = estimate(network, "int8").energy
    macs = sum(layer.conv.multiply_adds for layer in network.convolutions)
    moved = sum(cost.read_bytes + cost.written_bytes for cost in costs)
    assert energy.high_mj == pytest.approx((macs * 0.3 + moved * 1300 / 8) * 1e-9)
    assert energy.low_mj == pytest.approx((macs * 0.03 + moved * 32) * 1e-9)
    assert energy.estimated_mj == pytest.approx(math.sqrt(energy.low_mj * energy.high_mj))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("yolov8q",), "did you mean yolov8"),
        (("yolv8m",), "did you mean yolov8m"),
        (("vhr10_yolo8n",), "did you mean vhr10_yolov8n"),
        (("nothing_like_it",), "no such network, recipe or file"),
        ((str(ZOO / "vhr10" / "card.md"),), "card.md: no file that tells a network; give a recipe"),
        ((str(ZOO / "vhr10" / "model.rknn"),), "a .rknn is closed, its bundle's folder tells its layers"),
        (("yolov8n", 500), "--size must be a multiple of 32, got 500; the nearest is 512"),
        (("yolov8n", 0), "got 0; the nearest is 32"),
        (("yolov8n", 512, 0), "--classes must be at least 1, got 0"),
        (("vhr10_yolov8n", None, 3), "names 10; leave it out"),
        ((str(ZOO / "vhr10"), 640), "made for 512 x 512"),
        ((str(ZOO / "vhr10"), None, 11), "has 10; leave it out"),
        ((str(ZOO / "procedural" / "weights.safetensors"), None, 10), "has 5; leave it out"),
    ],
)
def test_wrong_requests_are_one_line(asked, told):
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        subject_of(*asked)
    assert "\n" not in str(error.value)


def test_other_subjects(tmp_path):
    assert subject_of("vhr10_yolov8n").network == subject_of("YOLOv8n", 512, 10).network
    assert subject_of("vhr10_yolov8n", 640).network.input_hw == (640, 640)
    weights = subject_of(str(ZOO / "procedural" / "weights.safetensors"))
    assert (weights.network.class_count, weights.network.input_hw) == (5, (512, 512))
    for missing in ("no.onnx", "no.pt"):
        with pytest.raises(FileNotFoundError, match=f"{missing}: no such"):
            subject_of(str(tmp_path / missing))
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        subject_of(str(tmp_path))


@pytest.mark.parametrize("subject", ["yolov8n", "yolov8m", str(ZOO / "vhr10")])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_page_is_short(subject, precision, monkeypatch):
    found = subject_of(subject)
    console = Console(width=100, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_estimate(estimate(found.network, precision), console)
    lines = console.export_text().splitlines()
    assert len(lines) <= 40
    assert max(len(line.rstrip()) for line in lines if not line.startswith("note:")) <= 100
    assert sum("not a measurement" in line for line in lines) == 1
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


def test_a_name_needs_neither_torch_nor_onnx_nor_numpy():
    code = (
        "import sys; from train.estimate_command import run; run('yolov8n');"
        "print('LOADED', [m for m in ('torch', 'onnx', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_a_table_of_another_precision_is_refused():
    table = LayerTable.from_json(json.loads((ZOO / "vhr10" / LAYERS_NAME).read_text()))
    with pytest.raises(ValueError, match="table is of int8, asked for fp16"):
        estimate(yolov8("n", (512, 512), 10), "fp16", table=table)
    assert total_of(from_table(table, "int8")) == table.cycles


def test_show_returns_what_it_wrote(tmp_path):
    found = subject_of("yolov8s", 64, 2)
    assert show(found, json_file=tmp_path / "e.json") == json.loads((tmp_path / "e.json").read_text())
    assert estimate_json(estimate(found.network, "int8"), {})["provenance"] == {}
