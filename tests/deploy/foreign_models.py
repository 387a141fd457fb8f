"""Models as others export them: built from known heads, or from a bundle's own model with more operations behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)


class Foreign:
    """A graph with six raw heads `box_8`, `class_8`, ... to which outputs of other layouts are added, then saved.

    outputs: names and shapes of what the file is to give, filled by the methods.
    """

    def __init__(self, input_hw: tuple[int, int], class_count: int, heads: Sequence[np.ndarray] = ()) -> None:
        self.input_hw, self.classes, self.reg_max = input_hw, class_count, 16
        self.strides = STRIDES
        self.nodes: list = []
        self.weights: list = []
        self.outputs: list[tuple[str, tuple[int, ...]]] = []
        self.opset = 13
        if len(heads):
            self._known(heads)

    @classmethod
    def around(cls, path: Path, input_hw: tuple[int, int], class_count: int) -> Foreign:
        """Start from a model file that has the six raw heads."""
        model = onnx.load(str(path))
        foreign = cls(input_hw, class_count)
        foreign.nodes, foreign.weights = list(model.graph.node), list(model.graph.initializer)
        foreign.opset = model.opset_import[0].version
        return foreign

    def _known(self, heads: Sequence[np.ndarray]) -> None:
        """Give these heads, (1, c, h, w) each, whatever the image."""
        self.reg_max = heads[0].shape[1] // 4
        self.strides = tuple(self.input_hw[0] // head.shape[2] for head in heads[::2])
        zero = self.constant("zero", np.float32(0))
        self.node("ReduceMean", ["images"], "mean", keepdims=0)
        self.node("Mul", ["mean", zero], "nothing")
        for i, head in enumerate(heads):
            stored = self.constant(f"stored_{i}", head)
            self.node("Add", [stored, "nothing"], f"{'class' if i % 2 else 'box'}_{self.strides[i // 2]}")

    def constant(self, name: str, value: np.ndarray | np.float32 | np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operation: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def grid(self, stride: int) -> tuple[int, int]:
        return self.input_hw[0] // stride, self.input_hw[1] // stride

    def heads(self, *, sigmoid: bool = False, sums: bool = False) -> Foreign:
        """Add box and class output of each level, with a sigmoid or score sums as the vendor's zoo has them."""
        for stride in self.strides:
            grid, classes = self.grid(stride), f"class_{stride}"
            if sigmoid:
                classes = self.node("Sigmoid", [classes], f"prob_{stride}")
            self.outputs += [(f"box_{stride}", (1, 4 * self.reg_max, *grid)), (classes, (1, self.classes, *grid))]
            if sums:
                axes = self.constant(f"axes_{stride}", np.array([1], np.int64))
                self.node("ReduceSum", [classes, axes], f"wide_{stride}", keepdims=1)
                ends = [self.constant(f"{end}_{stride}", np.float32(i)) for i, end in enumerate(("low", "high"))]
                self.node("Clip", [f"wide_{stride}", *ends], f"sum_{stride}")
                self.outputs.append((f"sum_{stride}", (1, 1, *grid)))
        return self

    def decoded(
        self, *, sigmoid: bool = True, transposed: bool = False, fractions: bool = False, corners: bool = False
    ) -> Foreign:
        """Add one output of boxes and scores: the distributions' expectations, from cell centres, times stride."""
        bins = self.constant("bins", np.arange(self.reg_max, dtype=np.float32).reshape(1, 1, -1, 1))
        axis = self.constant("axis", np.array([2], np.int64))
        both = [self.constant(f"side_{i}", np.array([i], np.int64)) for i in (0, 2, 4, 1)]
        half = self.constant("half", np.float32(0.5))
        boxes, scores, total = [], [], 0
        for stride in self.strides:
            h, w = self.grid(stride)
            total += h * w
            y, x = np.indices((h, w)).reshape(2, -1) + 0.5
            centre = self.constant(f"centre_{stride}", np.stack([x, y])[None].astype(np.float32))
            step = np.float32(stride) * np.ones((1, 4, 1), np.float32)
            if fractions:
                step /= np.array([self.input_hw[1], self.input_hw[0]] * 2, np.float32).reshape(1, 4, 1)
            step = self.constant(f"step_{stride}", step)
            shape = self.constant(f"sides_{stride}", np.array([1, 4, self.reg_max, h * w], np.int64))
            self.node("Reshape", [f"box_{stride}", shape], f"bins_{stride}")
            self.node("Softmax", [f"bins_{stride}"], f"soft_{stride}", axis=2)
            self.node("Mul", [f"soft_{stride}", bins], f"terms_{stride}")
            self.node("ReduceSum", [f"terms_{stride}", axis], f"reach_{stride}", keepdims=0)
            self.node("Slice", [f"reach_{stride}", both[0], both[1], both[3]], f"lt_{stride}")
            self.node("Slice", [f"reach_{stride}", both[1], both[2], both[3]], f"rb_{stride}")
            first = self.node("Sub", [centre, f"lt_{stride}"], f"first_{stride}")
            last = self.node("Add", [centre, f"rb_{stride}"], f"last_{stride}")
            if corners:
                parts = [first, last]
            else:
                self.node("Add", [first, last], f"twice_{stride}")
                self.node("Mul", [f"twice_{stride}", half], f"middle_{stride}")
                self.node("Sub", [last, first], f"size_{stride}")
                parts = [f"middle_{stride}", f"size_{stride}"]
            self.node("Concat", parts, f"cells_{stride}", axis=1)
            boxes.append(self.node("Mul", [f"cells_{stride}", step], f"boxes_{stride}"))
            flat = self.constant(f"flat_{stride}", np.array([1, self.classes, h * w], np.int64))
            scores.append(self.node("Reshape", [f"class_{stride}", flat], f"row_{stride}"))
        self.node("Concat", boxes, "boxes", axis=2)
        self.node("Concat", scores, "logits", axis=2)
        score = self.node("Sigmoid", ["logits"], "scores") if sigmoid else "logits"
        shape = (1, 4 + self.classes, total)
        self.node("Concat", ["boxes", score], "plain" if transposed else "output0", axis=1)
        if transposed:
            self.node("Transpose", ["plain"], "output0", perm=[0, 2, 1])
            shape = (1, shape[2], shape[1])
        self.outputs.append(("output0", shape))
        return self

    def save(
        self,
        path: Path,
        order: Sequence[int] | None = None,
        notes: dict[str, str] | None = None,
        kind: int = TensorProto.FLOAT,
    ) -> Path:
        """Write the file, its outputs in the order given."""
        listed = self.outputs if order is None else [self.outputs[i] for i in order]
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, *self.input_hw))],
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in listed],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        helper.set_model_props(model, notes or {})
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def shaped(
    path: Path,
    outputs: Sequence[tuple],
    inputs: Sequence[tuple] = ((1, 3, 64, 64),),
    kind: int = TensorProto.FLOAT,
    value: np.ndarray | None = None,
) -> Path:
    """Write a model that has these shapes and nothing to say: zeros, or `value` for each output."""
    nodes, weights = [], []
    for i, shape in enumerate(outputs):
        fixed = tuple(side if isinstance(side, int) else 1 for side in shape)
        stored = np.zeros(fixed, np.float32) if value is None else value
        weights.append(numpy_helper.from_array(stored, f"stored_{i}"))
        nodes.append(helper.make_node("Identity", [f"stored_{i}"], [f"out_{i}"]))
    graph = helper.make_graph(
        nodes,
        "shaped",
        [helper.make_tensor_value_info(f"in_{i}", kind, shape) for i, shape in enumerate(inputs)],
        [helper.make_tensor_value_info(f"out_{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(outputs)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
