"""Post-processing of decoded outputs against the float64 oracle of raw heads, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.head_layout import DecodedLayout, HeadLayout
from deploy.letterbox import Letterbox
from deploy.manifest import DecodedOutput, Head, Manifest, ModelFile
from deploy.postprocess_decoded import DecodedPostProcessor
from tests.deploy.test_postprocess import assert_same, draw_heads, layout_of, oracle, real


def decoded_of(heads, layout, transposed, units, box_format):
    """Return what a model that decodes by itself would give, by the oracle's own arithmetic in float64."""
    columns = []
    for level, stride in enumerate(layout.strides):
        box, cls = real(heads, layout)[2 * level : 2 * level + 2]
        batch, _, h, w = cls.shape
        sides = (box.reshape(batch, 4, layout.reg_max, -1).softmax(2) * torch.arange(layout.reg_max)[:, None]).sum(2)
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centre = torch.stack([x, y]).reshape(2, -1)
        first, last = (centre - sides[:, :2]) * stride, (centre + sides[:, 2:]) * stride
        boxes = [(first + last) / 2, last - first] if box_format == "xywh" else [first, last]
        score = cls if layout.activation_applied else cls.sigmoid()
        columns.append(torch.cat([*boxes, score.reshape(batch, layout.class_count, -1)], 1))
    output = torch.cat(columns, 2)
    if units == "fractions":
        output[:, :4] /= torch.tensor([layout.input_hw[1], layout.input_hw[0]] * 2)[:, None]
    return (output.mT if transposed else output).float().contiguous().numpy()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    classes=st.integers(1, 5),
    batch=st.integers(1, 3),
    transposed=st.booleans(),
    multi_label=st.booleans(),
    logits=st.booleans(),
    units=st.sampled_from(["pixels", "fractions"]),
    box_format=st.sampled_from(["xywh", "xyxy"]),
)
def test_a_decoded_output_gives_what_the_heads_give(
    seed, classes, batch, transposed, multi_label, logits, units, box_format
):
    layout = layout_of(class_count=classes, box_scales=None, class_scales=None)
    heads = draw_heads(layout, batch, seed)
    output = decoded_of(heads, layout, transposed, units, box_format)
    if logits:
        scores = output[..., 4:] if transposed else output[:, 4:]
        scores[:] = np.log(scores.astype(np.float64) / (1 - scores.astype(np.float64)))
    boxes = sum(h * w for h, w in layout.grids_hw)
    decoded = DecodedLayout(boxes, layout.input_hw, classes, transposed, box_format, units, not logits)
    letterboxes = [Letterbox.fit((50 + 90 * i, 200), layout.input_hw) for i in range(batch)]
    options = {"score_threshold": 0.3, "iou_threshold": 0.5, "multi_label": multi_label}
    found = DecodedPostProcessor(decoded, **options)([output], letterboxes)
    assert_same(found, oracle(heads, layout, letterboxes, 0.3, 0.5, multi_label))
    in_model = DecodedPostProcessor(decoded, **options)([output])
    assert_same(in_model, oracle(heads, layout, None, 0.3, 0.5, multi_label))


def test_a_decoded_output_with_nothing_or_with_nan():
    process = DecodedPostProcessor(DecodedLayout(6, (32, 32), 2))
    output = np.zeros((2, 6, 6), np.float32)
    assert [len(d) for d in process([output])] == [0, 0]
    output[1, 2, 3] = np.nan  # below the threshold nobody reads the box
    assert [len(d) for d in process([output])] == [0, 0]
    output[1, 5, 3] = 0.9
    with pytest.raises(ValueError, match="boxes hold NaN"):
        process([output])
    output[0, 4, 0] = np.nan
    with pytest.raises(ValueError, match="class scores hold NaN"):
        process([output])


def test_thresholds_of_a_decoded_output_are_kept_to_the_last_bit():
    scores = np.nextafter(np.float32(0.3), np.float32([0, 0.3, 1]))
    output = np.zeros((1, 5, 3), np.float32)
    output[0, :4], output[0, 4] = np.array([[5, 15, 25], [5, 5, 5], [2, 2, 2], [2, 2, 2]]), scores
    found = DecodedPostProcessor(DecodedLayout(3, (32, 32)), score_threshold=0.3)([output])[0]
    np.testing.assert_array_equal(found.score, scores[:0:-1])
    np.testing.assert_array_equal(found.xyxy, [[24, 4, 26, 6], [14, 4, 16, 6]])
    for threshold, count in ((0.0, 3), (1.0, 0)):
        logits = DecodedLayout(3, (32, 32), activation_applied=False)
        assert len(DecodedPostProcessor(logits, score_threshold=threshold)([output])[0]) == count


def test_bad_decoded_outputs_are_named():
    process = DecodedPostProcessor(DecodedLayout(8, (32, 32), 2))
    good = np.zeros((1, 6, 8), np.float32)
    with pytest.raises(ValueError, match="heads must be one array"):
        process([good, good])
    with pytest.raises(ValueError, match=r"must have shape \(b, 6, 8\), got \(1, 8, 6\)"):
        process([good.transpose(0, 2, 1)])
    with pytest.raises(ValueError, match="one scale, and every score becomes 0"):
        process([good.astype(np.int8)])
    with pytest.raises(ValueError, match="one per image, got 0 for a batch of 1"):
        process([good], [])
    for change, message in (
        ({"boxes": 0}, "boxes must be at least 1"),
        ({"boxes": 1, "class_count": 0}, "class_count must be at least 1"),
        ({"boxes": 1, "box_format": "cxcy"}, "box_format must be xywh or xyxy, got 'cxcy'"),
        ({"boxes": 1, "box_units": "metres"}, "box_units must be pixels or fractions"),
    ):
        with pytest.raises(ValueError, match=message):
            DecodedLayout(**change)


def test_layouts_are_read_from_the_manifest_that_has_them():
    fields = {
        "name": "m",
        "class_names": ["a", "b"],
        "input_hw": (64, 96),
        "precision": "fp32",
        "files": {"onnx": ModelFile(name="model.onnx", sha256="0" * 64)},
    }
    output = DecodedOutput(name="o", boxes=126, transposed=True, box_format="xyxy", box_units="fractions")
    one = Manifest(**fields, decoded=output, activation_applied=True)
    heads = Manifest(**fields, heads=[Head(stride=8, box_output="b", class_output="c")])
    assert DecodedLayout.from_manifest(one) == DecodedLayout(126, (64, 96), 2, True, "xyxy", "fractions", True)
    assert (one.output_names, one.output_shapes) == (["o"], [(1, 126, 6)])
    assert (heads.output_names, heads.output_shapes) == (["b", "c"], [(1, 64, 8, 12), (1, 2, 8, 12)])
    with pytest.raises(ValueError, match="m has no raw heads"):
        HeadLayout.from_manifest(one)
    with pytest.raises(ValueError, match="m has raw heads, not one decoded output"):
        DecodedLayout.from_manifest(heads)
    for change, message in (
        ({}, "one of heads and decoded must describe the outputs, got 0 heads and no decoded output"),
        ({"decoded": output, "heads": heads.heads}, "got 1 heads and a decoded output"),
        ({"decoded": output, "precision": "int8"}, "every score becomes 0"),
        ({"heads": heads.heads, "outputs": ["b", "sum"]}, "'c' is not among them"),
    ):
        with pytest.raises(ValueError, match=message):
            Manifest(**{**fields, **change})
