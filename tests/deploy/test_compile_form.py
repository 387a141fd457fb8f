"""The compiler's form of a file with learnt integers: roundings wherever it wants one, and no value changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.convert.quantised_onnx import DQ, Q, compile_form
from deploy.convert.rknn_build import build_rknn
from tests.deploy.small_detector import IMAGES, pixels_of, run


def reaching_only_sizes(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that are worked out from shapes: where a split cuts."""
    sizes: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Shape" or any(name in sizes for name in node.input if node.op_type != "Slice"):
            sizes |= set(node.output)
    return sizes


def test_every_tensor_but_the_gate_of_silu_is_quantised_for_the_compiler(learnt_path):
    before = onnx.load(str(learnt_path))
    size = before.ByteSize()
    full = compile_form(before)
    assert before.ByteSize() == size, "a copy is completed"
    made = {name: node for node in full.graph.node for name in node.output}
    kinds = {node.op_type for node in full.graph.node}
    assert kinds >= {"Conv", "Slice", "Concat", "MaxPool", "Resize", "Add", "Sigmoid"}
    sizes = reaching_only_sizes(full)
    for node in full.graph.node:
        if node.op_type in (Q, DQ, "Constant") or node.output[0] in sizes:
            continue
        for place, name in enumerate(node.input):
            source = made.get(name)
            if source is None or source.op_type == "Constant" or name in sizes:
                continue  # bias
            gate = node.op_type == "Mul" and source.op_type == "Sigmoid"
            assert gate or source.op_type == DQ, f"{node.name} input {place} comes from {source.op_type}"
    assert all(made[value.name].op_type == DQ for value in full.graph.output)
    assert sum(n.op_type == Q for n in full.graph.node) > sum(n.op_type == Q for n in before.graph.node)


def test_what_keeps_its_values_keeps_its_grid(learnt_path):
    full = compile_form(onnx.load(str(learnt_path)))
    made = {name: node for node in full.graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in full.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = 0
    for node in full.graph.node:
        if node.op_type not in ("Split", "Slice", "Concat", "MaxPool", "Resize"):
            continue
        sources = [made[name] for name in node.input if name in made and made[name].op_type == DQ]
        grids = {tuple(source.input[1:]) for source in sources}
        values = {grid_of(full, grid) for grid in grids}
        for output in node.output:
            (behind,) = users[output]
            assert behind.op_type == Q
            values.add(grid_of(full, behind.input[1:]))
            found += 1
        assert len(values) == 1, f"{node.name} joins the grids {values}"
    assert found >= 8


def grid_of(model: onnx.ModelProto, names: Sequence[str]) -> tuple[float, ...]:
    """Return the values of constants of the graph."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    found |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    return tuple(numpy_helper.to_array(found[name]).item() for name in names)


def without_rounding_before_activations(full: onnx.ModelProto) -> onnx.ModelProto:
    """Take the added pairs behind convolutions out again, as the compiler's fusion does."""
    made = {name: node for node in full.graph.node for name in node.output}
    renamed, drop = {}, set()
    for node in full.graph.node:
        if node.op_type == Q and node.name.endswith("_added_quantise") and made[node.input[0]].op_type == "Conv":
            after = next(n for n in full.graph.node if n.op_type == DQ and n.input[0] == node.output[0])
            renamed[after.output[0]] = node.input[0]
            drop |= {node.name, after.name}
    assert renamed
    kept = [n for n in full.graph.node if n.name not in drop or not n.name]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    kept_nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del full.graph.node[:]
    full.graph.node.extend(kept_nodes)
    onnx.checker.check_model(full, full_check=True)
    return full


def test_the_compilers_form_computes_the_same_but_before_activations(learnt_path):
    shipped = onnx.load(str(learnt_path))
    pixels = pixels_of(IMAGES[:2])
    full = compile_form(shipped)
    want, rough = run(shipped, pixels), run(full, pixels)
    for a, b in zip(want, run(without_rounding_before_activations(full), pixels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(want, rough, strict=True)), "the extra rounding is there"


def test_completing_twice_adds_nothing(learnt_path):
    once = compile_form(onnx.load(str(learnt_path)))
    assert len(compile_form(once).graph.node) == len(once.graph.node)


def test_a_learnt_model_has_one_precision(learnt_path, tmp_path):
    with pytest.raises(ValueError, match="learnt integers compiles to int8, precision is 'fp16'"):
        build_rknn(learnt_path, tmp_path, precision="fp16")
