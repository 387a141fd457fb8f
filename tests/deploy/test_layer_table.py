"""The layer table's parser and gates, on lines captured from a conversion of the tests' own small network."""

from __future__ import annotations

import dataclasses

import pytest

from deploy.convert.layer_table import (
    LayerTable,
    layer_faults,
    log_faults,
    parse_layer_table,
    plain_log,
)

CAPTURED = "\n".join(
    "D RKNN: [14:45:24.836] " + line
    for line in (
        "-" * 100,
        " " * 56 + "Network Layer Information Table" + " " * 54,
        "-" * 100,
        "ID   OpType             DataType Target InputShape                               OutputShape            "
        "Cycles(DDR/NPU/Total)    RW(KB)       FullName        ",
        "-" * 100,
        "0    InputOperator      INT8     CPU    \\                                        (1,3,64,64)            "
        "0/0/0                    0            InputOperator:images",
        "1    ConvExSwish        INT8     NPU    (1,3,64,64),(16,3,3,3),(16)              (1,16,32,32)           "
        "1321/9216/9216           14           Conv:/stem/stem.0/conv/Conv",
        "2    Split              INT8     NPU    (1,32,128,128),(2)                       (1,16,128,128),...     "
        "0/0/0                    512          Split:/model.2/Slice_2sp",
        "3    Conv               INT8     NPU    (1,32,8,8),(64,32,1,1),(64)              (1,64,8,8)             "
        "368/512/512              4            Conv:/box.0/Conv",
        "4    OutputOperator     INT8     CPU    (1,64,8,8)                               \\                      "
        "0/0/0                    4            OutputOperator:box_8",
        "-" * 100,
        "<<<<<<<< end: rknn::RKNNModelRegCmdbuildPass",
        "-" * 40,
        "Total Internal Memory Size: 44KB",
        "Total Weight Memory Size: 45.625KB",
        "-" * 40,
    )
)


def test_reads_rows_cycles_and_memory() -> None:
    table = parse_layer_table("I rknn building ...\n" + CAPTURED + "\nI rknn building done.")
    assert [layer.type for layer in table.layers] == ["InputOperator", "ConvExSwish", "Split", "Conv", "OutputOperator"]
    first = table.layers[1]
    assert (first.dtype, first.target, first.name) == ("INT8", "NPU", "Conv:/stem/stem.0/conv/Conv")
    assert (first.cycles_ddr, first.cycles_npu, first.cycles_total, first.read_write_kb) == (1321, 9216, 9216, 14.0)
    assert first.input_shapes == "(1,3,64,64),(16,3,3,3),(16)"
    assert table.layers[2].output_shapes == "(1,16,128,128),..."
    assert (table.cycles, table.traffic_kb) == (9216 + 512, 534)
    assert (table.internal_memory_kb, table.weight_memory_kb) == (44, 45.625)


def test_last_table_of_a_log_counts() -> None:
    other = CAPTURED.replace("(1,64,8,8) ", "(1,80,8,8) ")
    assert parse_layer_table(other + "\n" + CAPTURED) == parse_layer_table(CAPTURED)


def test_json_round_trip(tmp_path) -> None:
    table = parse_layer_table(CAPTURED)
    assert LayerTable.from_json(table.to_json()) == table
    table.save(tmp_path / "layers.json")
    assert '"cycles_total": 9728' in (tmp_path / "layers.json").read_text()
    with pytest.raises(ValueError, match="not a layer table"):
        LayerTable.from_json({"layers": [{"index": 0}]})


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "layers.json"
    path.write_text("old")

    def half(self, text, **_):
        with open(self, "w") as handle:
            handle.write(text[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        parse_layer_table(CAPTURED).save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["layers.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda log: "I nothing here", "holds no"),
        (lambda log: log.split("Total Internal")[0], "no memory totals"),
        (lambda log: log.replace("2    Split ", "7    Split "), "number its rows from 0"),
        (lambda log: log.replace("368/512/512", "368 cycles"), "cannot be read"),
    ],
)
def test_incomplete_logs_are_refused(damage, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layer_table(damage(CAPTURED))


def test_gate_names_every_layer_that_fell_back() -> None:
    table = parse_layer_table(CAPTURED)
    assert layer_faults(table, "int8") == []
    layers = list(table.layers)
    layers[1] = dataclasses.replace(layers[1], dtype="FLOAT16")
    layers[2] = dataclasses.replace(layers[2], target="CPU")
    broken = dataclasses.replace(table, layers=tuple(layers))
    assert layer_faults(broken, "int8") == [
        "layer 1 Conv:/stem/stem.0/conv/Conv is FLOAT16",
        "layer 2 Split:/model.2/Slice_2sp runs on the CPU",
    ]
    assert layer_faults(broken, "fp16") == ["layer 2 Split:/model.2/Slice_2sp runs on the CPU"]


def test_log_faults_are_found_under_colours_and_noise() -> None:
    log = (
        "I Loading : 100%\n"
        "\x1b[1;33mW\x1b[0m \x1b[1;33mbuild: a warning\x1b[0m\n"
        "\x1b[1;31mE\x1b[0m \x1b[1;31mbuild: The input shape is wrong!\x1b[0m\n"
        "\x1b[1;31mE\x1b[0m \x1b[1;31mrknn-toolkit2 version: 2.5.0\x1b[0m\n"
        "\x1b[1;31mE\x1b[0m \x1b[1;31mbuild: Traceback (most recent call last):\n"
        "D RKNN: [14:45:24.836] No lowering found for: x\n"
        "E RKNN: [14:45:24.836] Unkown op target: 0\n"
    )
    assert log_faults(log) == [
        "build: The input shape is wrong!",
        "No lowering found for: x",
        "Unkown op target: 0",
    ]
    assert log_faults(CAPTURED) == []


def test_plain_log_keeps_the_last_state_of_a_progress_bar() -> None:
    assert plain_log("I Quantizating :   0%|\rI Quantizating : 100%|\nI done \x1b[1;33mW\x1b[0m") == (
        "I Quantizating : 100%|\nI done W"
    )
