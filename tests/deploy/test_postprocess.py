"""Post-processing against a float64 torch oracle that decodes every cell, and against itself one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import postprocess
from deploy.detections import Detections
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.manifest import Head, Manifest, ModelFile, TensorScale
from deploy.postprocess import PostProcessor

BOX_SCALES = ((0.09, -20), (0.11, 3), (0.07, -64))
CLASS_SCALES = ((0.1, 40), (0.08, 60), (0.13, 12))


def layout_of(**changes) -> HeadLayout:
    settings_ = {"input_hw": (96, 64), "class_count": 4, "box_scales": BOX_SCALES, "class_scales": CLASS_SCALES}
    return HeadLayout(**{**settings_, **changes})


def draw_heads(layout, batch, seed, mean=-3.0, quantised=False):
    rng = np.random.default_rng(seed)
    heads = []
    for level, (h, w) in enumerate(layout.grids_hw):
        box = rng.normal(0, 2, (batch, 4 * layout.reg_max, h, w))
        # A peak per side, a few cells away, so that neighbours overlap as they do in life.
        bins = np.arange(layout.reg_max)[None, None, :, None, None]
        peak = rng.uniform(1, 4, (batch, 4, 1, h, w))
        box += (6 - 3 * np.abs(bins - peak)).clip(-6).reshape(box.shape)
        cls = rng.normal(mean, 2, (batch, layout.class_count, h, w))
        for values, scales in ((box, layout.box_scales), (cls, layout.class_scales)):
            if quantised:
                scale, zero = scales[level]
                heads.append(np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8))
            else:
                heads.append(values.astype(np.float32))
    return heads


def real(heads, layout):
    """Return the heads' values as float64, dequantised where they are int8."""
    out = []
    for i, head in enumerate(heads):
        if head.dtype == np.int8:
            scale, zero = (layout.class_scales if i % 2 else layout.box_scales)[i // 2]
            out.append((torch.from_numpy(head).double() - zero) * scale)
        else:
            out.append(torch.from_numpy(head).double())
    return out


def oracle(heads, layout, letterboxes, score_threshold, iou_threshold, multi_label, max_detections=300):
    """Decode all cells with torch in float64, then threshold, then suppress with plain loops."""
    values = real(heads, layout)
    results = []
    for image in range(len(heads[0])):
        boxes, scores = [], []
        for level, stride in enumerate(layout.strides):
            box, cls = values[2 * level][image], values[2 * level + 1][image]
            _, h, w = cls.shape
            weights = box.reshape(4, layout.reg_max, h * w).softmax(1)
            left, top, right, bottom = (weights * torch.arange(layout.reg_max).double()[None, :, None]).sum(1)
            y, x = torch.meshgrid(torch.arange(h).double() + 0.5, torch.arange(w).double() + 0.5, indexing="ij")
            x, y = x.reshape(-1), y.reshape(-1)
            boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], 1) * stride)
            flat = cls.reshape(layout.class_count, h * w).T
            scores.append(flat if layout.activation_applied else flat.sigmoid())
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        if multi_label:
            found = [(float(all_scores[a, c]), a, c) for a, c in (all_scores >= score_threshold).nonzero().tolist()]
        else:
            best, which = all_scores.max(1)
            found = [(float(best[a]), a, int(which[a])) for a in (best >= score_threshold).nonzero()[:, 0].tolist()]
        # Scores of the two sides differ in float32's last bits; equal ones must stay equal for the order of ties.
        found.sort(key=lambda item: -np.float32(item[0]))
        kept = []
        for score, anchor, class_id in found:
            if all(class_id != k[2] or iou(all_boxes[anchor], all_boxes[k[1]]) <= iou_threshold for k in kept):
                kept.append((score, anchor, class_id))
        kept = kept[:max_detections]
        xyxy = np.array([all_boxes[a].numpy() for _, a, _ in kept]).reshape(-1, 4)
        if letterboxes is not None:
            xyxy = letterboxes[image].to_image(xyxy)
            on_image = [i for i, (x1, y1, x2, y2) in enumerate(xyxy) if x2 > x1 and y2 > y1]
            xyxy, kept = xyxy[on_image], [kept[i] for i in on_image]
        results.append(Detections(xyxy, np.array([k[0] for k in kept]), np.array([k[2] for k in kept])))
    return results


def iou(a, b) -> float:
    size = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    shared = float(size.prod())
    return shared / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared)


def assert_same(found, expected, atol=2e-3):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.score, b.score, atol=1e-6)
        np.testing.assert_array_equal(a.class_id, b.class_id)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=atol)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_matches_the_torch_oracle(quantised, multi_label, batch):
    layout = layout_of()
    heads = draw_heads(layout, batch, 10 * batch + multi_label, quantised=quantised)
    boxes = [Letterbox.fit((50 + 90 * i, 200), layout.input_hw) for i in range(batch)]
    found = PostProcessor(layout, score_threshold=0.3, iou_threshold=0.5, multi_label=multi_label)(heads, boxes)
    expected = oracle(heads, layout, boxes, 0.3, 0.5, multi_label)
    assert sum(map(len, expected)) > 20
    assert_same(found, expected)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    classes=st.integers(1, 5),
    reg_max=st.sampled_from([4, 16]),
    threshold=st.sampled_from([0.05, 0.25, 0.6]),
    quantised=st.booleans(),
)
def test_any_layout_matches_the_torch_oracle(seed, classes, reg_max, threshold, quantised):
    layout = HeadLayout((8, 16), reg_max, (32, 48), classes, False, BOX_SCALES[:2], CLASS_SCALES[:2])
    heads = draw_heads(layout, 2, seed, quantised=quantised)
    found = PostProcessor(layout, score_threshold=threshold, iou_threshold=1.0)(heads)
    assert_same(found, oracle(heads, layout, None, threshold, 1.0, False))


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_batch_equals_singles(quantised, multi_label):
    layout = layout_of()
    heads = draw_heads(layout, 5, 3, quantised=quantised)
    for head in heads[1::2]:
        head[2] = -128 if quantised else -50  # one image without any object
    boxes = [Letterbox.fit((64 + i, 333), layout.input_hw) for i in range(5)]
    process = PostProcessor(layout, score_threshold=0.2, multi_label=multi_label, max_detections=30)
    singles = [process([head[i : i + 1] for head in heads], boxes[i : i + 1])[0] for i in range(5)]
    assert_same(process(heads, boxes), singles, atol=1e-4)
    assert len(singles[2]) == 0
    assert max(map(len, process(heads))) == 30  # the limit was at work, before boxes in the padding are left out


def test_a_crowded_batch_equals_singles_and_the_oracle():
    layout = layout_of()
    heads = draw_heads(layout, 5, 11, mean=-1.0)
    process = PostProcessor(layout, score_threshold=0.001, multi_label=True, max_detections=40)
    assert sum(head[:, :].size for head in heads[1::2]) > 2 * postprocess._JOINT_LIMIT  # suppressed image by image
    found = process(heads)
    assert_same(found, [process([head[i : i + 1] for head in heads])[0] for i in range(5)], atol=1e-4)
    assert_same(found, oracle(heads, layout, None, 0.001, 0.7, True, max_detections=40))


def test_probabilities_are_taken_as_they_are():
    layout = layout_of(activation_applied=True)
    heads = draw_heads(layout, 1, 5)
    for i in (1, 3, 5):
        heads[i] = 1 / (1 + np.exp(-heads[i]))
    found = PostProcessor(layout, score_threshold=0.3, multi_label=True)(heads)
    assert_same(found, oracle(heads, layout, None, 0.3, 0.7, True))
    logits = PostProcessor(layout_of(), score_threshold=0.3, multi_label=True)(draw_heads(layout, 1, 5))
    assert_same(found, logits)


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.25, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("activation_applied", [False, True])
def test_every_integer_is_compared_exactly(threshold, activation_applied):
    scales = ((1 / 255, -128),) if activation_applied else ((0.11, 17),)
    layout = HeadLayout((8,), 16, (128, 128), 1, activation_applied, ((0.1, 0),), scales)
    cls = np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 16, 16)
    heads = [np.zeros((1, 64, 16, 16), np.int8), cls]
    found = PostProcessor(layout, score_threshold=threshold, iou_threshold=1.0)(heads)[0]
    value = (np.arange(-128, 128) - scales[0][1]) * scales[0][0]
    score = value if activation_applied else 1 / (1 + np.exp(-value))
    np.testing.assert_allclose(found.score, np.sort(score[score >= threshold])[::-1], atol=1e-6)


def test_threshold_out_of_the_integers_reach_finds_nothing():
    layout = layout_of(class_scales=((0.01, 0),) * 3)  # the highest score is sigmoid(1.27) = 0.78
    heads = draw_heads(layout, 2, 1, quantised=True)
    for head in heads[1::2]:
        head[:] = 127
    for multi_label in (False, True):
        assert list(map(len, PostProcessor(layout, score_threshold=0.9, multi_label=multi_label)(heads))) == [0, 0]


def test_nothing_found():
    layout = layout_of()
    for quantised in (False, True):
        heads = draw_heads(layout, 2, 0, mean=-30, quantised=quantised)
        found = PostProcessor(layout)(heads, [Letterbox.fit((10, 10), layout.input_hw)] * 2)
        assert [len(d) for d in found] == [0, 0]


def test_equal_scores_keep_the_order_of_cells():
    layout = layout_of(class_count=2)
    heads = [np.zeros((1, c, h, w), np.float32) for h, w in layout.grids_hw for c in (64, 2)]
    found = PostProcessor(layout, iou_threshold=1.0, max_detections=1000)(heads)[0]
    centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    expected = np.concatenate(
        [[[(x + 0.5) * s, (y + 0.5) * s] for y in range(96 // s) for x in range(64 // s)] for s in (8, 16, 32)]
    )
    np.testing.assert_allclose(centres, expected, atol=1e-3)
    assert (found.class_id == 0).all()  # argmax takes the first


@pytest.mark.parametrize("batch", [1, 2])
def test_max_candidates_are_the_best_of_each_image(batch):
    layout = layout_of()
    heads = draw_heads(layout, batch, 8)
    every = PostProcessor(layout, score_threshold=0.1, iou_threshold=1.0)(heads)
    some = PostProcessor(layout, score_threshold=0.1, iou_threshold=1.0, max_candidates=9)(heads)
    assert_same(some, [d.select(slice(0, 9)) for d in every])


def test_large_int8_scale_does_not_overflow():
    layout = layout_of(box_scales=((5.0, -128),) * 3, class_scales=((10.0, 0),) * 3)
    heads = draw_heads(layout, 1, 2, quantised=True)
    found = PostProcessor(layout, iou_threshold=1.0)(heads)
    assert np.isfinite(found[0].xyxy).all()
    assert_same(found, oracle(heads, layout, None, 0.25, 1.0, False))


@pytest.mark.parametrize("level", range(3))
def test_nan_in_any_class_is_refused(level):
    layout = layout_of()
    heads = draw_heads(layout, 2, 0)
    heads[2 * level + 1][1, 0, 1, 0] = np.nan
    with pytest.raises(ValueError, match="class heads hold NaN"):
        PostProcessor(layout)(heads)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [1, 2])
def test_box_values_that_are_not_finite_are_refused_where_they_are_read(level, value, batch):
    layout = layout_of()
    heads = draw_heads(layout, batch, 0)
    heads[2 * level][-1, 5, 1, 0] = value
    heads[2 * level + 1][-1, :, 1, 0] = 4
    with pytest.raises(ValueError, match="box heads hold NaN or infinity"):
        PostProcessor(layout)(heads)
    # Below the threshold nobody reads the box: the result is that of sound heads.
    heads[2 * level + 1][-1, :, 1, 0] = -4
    found = PostProcessor(layout)(heads)
    heads[2 * level][-1, 5, 1, 0] = 0
    assert_same(found, PostProcessor(layout)(heads), atol=0)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 0.97, 0.999])
def test_no_float_score_is_below_the_threshold(threshold, multi_label):
    layout = HeadLayout((8,), 16, (128, 128), 2)
    edge = np.float32(np.log(threshold / (1 - threshold)))
    logits = (edge.view(np.int32) + np.arange(-128, 128, dtype=np.int32)).view(np.float32)  # neighbours of the edge
    logits[logits != logits] = 0  # at the edge 0 half of the bit patterns are NaN
    heads = [np.zeros((1, 64, 16, 16), np.float32), np.full((1, 2, 16, 16), -50, np.float32)]
    heads[1][0, 1] = logits.reshape(16, 16)
    settings_ = {"score_threshold": threshold, "multi_label": multi_label, "iou_threshold": 1.0}
    found = PostProcessor(layout, **settings_)(heads)[0]
    assert found.score.dtype == np.float32
    assert (found.score >= np.float32(threshold)).all()
    exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert len(found) == np.count_nonzero(exact >= threshold)
    assert 0 < len(found) <= 256


def test_bad_heads_are_named():
    layout = layout_of()
    heads = draw_heads(layout, 1, 0)
    process = PostProcessor(layout)
    with pytest.raises(ValueError, match="must be 6 arrays"):
        process(heads[:4])
    with pytest.raises(ValueError, match=r"heads\[2\] \(box, stride 16\) must have shape \(1, 64, 6, 4\)"):
        process([*heads[:2], heads[0], *heads[3:]])
    with pytest.raises(ValueError, match="share one dtype"):
        process([*heads[:5], heads[5].astype(np.int8)])
    with pytest.raises(ValueError, match="float32 or int8, got float64"):
        process([head.astype(np.float64) for head in heads])
    with pytest.raises(ValueError, match="letterboxes must be one per image"):
        process(heads, [])
    with pytest.raises(ValueError, match="need a scale and zero point"):
        PostProcessor(layout_of(box_scales=None))([head.astype(np.int8) for head in heads])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_threshold": 1.1}, "score_threshold"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_candidates": 0}, "max_candidates"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PostProcessor(layout_of(), **changes)


def test_bad_layouts_are_named():
    with pytest.raises(ValueError, match="multiple of every stride"):
        layout_of(input_hw=(100, 64))
    with pytest.raises(ValueError, match="class_count"):
        layout_of(class_count=0)
    with pytest.raises(ValueError, match="class_scales must hold one"):
        layout_of(class_scales=((0.1, 0),))


def test_layout_from_manifest():
    def head(stride, scaled):
        scales = {
            "box_scale": TensorScale(scale=0.1, zero_point=-3),
            "class_scale": TensorScale(scale=0.2, zero_point=4),
        }
        return Head(stride=stride, box_output=f"b{stride}", class_output=f"c{stride}", **(scales if scaled else {}))

    for scaled in (True, False):
        manifest = Manifest(
            name="m",
            class_names=["a", "b"],
            input_hw=(64, 96),
            heads=[head(s, scaled) for s in (8, 16)],
            precision="int8" if scaled else "fp16",
            files={"onnx": ModelFile(name="model.onnx", sha256="0" * 64)},
        )
        layout = HeadLayout.from_manifest(manifest)
        assert (layout.strides, layout.reg_max, layout.input_hw, layout.class_count) == ((8, 16), 16, (64, 96), 2)
        assert layout.box_scales == (((0.1, -3),) * 2 if scaled else None)
        assert layout.class_scales == (((0.2, 4),) * 2 if scaled else None)
