"""The published distillation losses written out as slow loops in float64, from the formulas of the papers."""

import math

import numpy as np
import torch

from train.boxes import anchor_points, decode_distribution
from train.loss import assign


def array(t):
    return t.detach().double().numpy()


def adapted(loss, student):
    """Apply the adapters cell by cell in float64."""
    out = {}
    for s, m in student.maps.items():
        layer, m = loss.adapters.levels[str(s)], array(m)
        if isinstance(layer, torch.nn.Identity):
            out[s] = m
            continue
        weight, bias = array(layer.weight)[:, :, 0, 0], array(layer.bias)
        out[s] = np.zeros((m.shape[0], len(bias), *m.shape[2:]))
        for b, y, x in np.ndindex(m.shape[0], *m.shape[2:]):
            out[s][b, :, y, x] = weight @ m[b, :, y, x] + bias
    return out


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def flat(heads):
    """List per image the (64,) box and (classes,) class logits of every cell: levels, rows, columns."""
    images = []
    for b in range(heads[0].shape[0]):
        cells = []
        for box, cls in zip(heads[::2], heads[1::2], strict=True):
            for y, x in np.ndindex(*box.shape[2:]):
                cells.append((array(box)[b, :, y, x], array(cls)[b, :, y, x]))
        images.append(cells)
    return images


def literal_box_divergence(t, s, temperature):
    total = 0.0
    for side in range(4):
        p, q = (softmax(v[side * 16 : side * 16 + 16] / temperature) for v in (t, s))
        total += sum(p[k] * math.log(p[k] / q[k]) for k in range(16))
    return temperature**2 * total / 4


def literal_logit(loss, student, teacher, targets, temperature=2.0):
    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    cls = box = mass = 0.0
    for cells_s, cells_t in zip(flat(student.heads), flat(teacher.heads), strict=True):
        for (box_s, class_s), (box_t, class_t) in zip(cells_s, cells_t, strict=True):
            best = max(sigmoid(z) for z in class_t)
            for zs, zt in zip(class_s, class_t, strict=True):
                p, q = sigmoid(zt / temperature), sigmoid(zs / temperature)
                cls += temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
            box += best * literal_box_divergence(box_t, box_s, temperature)
            mass += best
    return {"logit_cls": cls / max(mass, 1), "logit_box": box / max(mass, 1)}


def literal_fitnets(loss, student, teacher, targets):
    return {"fitnets": sum(np.mean((array(teacher.maps[s]) - m) ** 2) for s, m in adapted(loss, student).items())}


def literal_cwd(loss, student, teacher, targets, temperature=1.0):
    total = 0.0
    for s, m in adapted(loss, student).items():
        t = array(teacher.maps[s])
        for b, c in np.ndindex(*t.shape[:2]):
            p, q = softmax(t[b, c].ravel() / temperature), softmax(m[b, c].ravel() / temperature)
            total += temperature**2 / t.shape[1] / t.shape[0] * sum(p * np.log(p / q))
    return {"cwd": total}


def literal_convolution(layer, m):
    weight, bias = array(layer.weight), array(layer.bias)
    padded = np.pad(m, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((m.shape[0], len(bias), *m.shape[2:]))
    for y, x in np.ndindex(*m.shape[2:]):
        out[:, :, y, x] = np.einsum("bikl,oikl->bo", padded[:, :, y : y + 3, x : x + 3], weight) + bias
    return out


def literal_mgd(loss, student, teacher, targets, mask_ratio=0.65):
    torch.manual_seed(5)  # the seed that the test sets before it calls the loss
    total = 0.0
    for s, m in adapted(loss, student).items():
        draw = torch.rand((m.shape[0], 1, *m.shape[2:])).numpy()
        first, _, second = loss.generators[str(s)]
        generated = literal_convolution(
            second, np.maximum(literal_convolution(first, np.where(draw < mask_ratio, 0, m)), 0)
        )
        total += np.mean((array(teacher.maps[s]) - generated) ** 2)
    return {"mgd": total}


def literal_context(block, m):
    """Write the context block out for one map (c, h, w)."""
    _, h, w = m.shape
    key = array(block.key.weight)[0, :, 0, 0]
    share = softmax(np.array([key @ m[:, y, x] for y in range(h) for x in range(w)]))
    context = sum(share[y * w + x] * m[:, y, x] for y in range(h) for x in range(w))
    first, norm, _, last = block.transform
    hidden = array(first.weight) @ context + array(first.bias)
    hidden = (hidden - hidden.mean()) / math.sqrt(hidden.var() + norm.eps) * array(norm.weight) + array(norm.bias)
    return m + (array(last.weight) @ np.maximum(hidden, 0) + array(last.bias))[:, None, None]


def literal_fgd(loss, student, teacher, targets, temperature=0.5):
    total = dict.fromkeys(("foreground", "background", "attention", "global"), 0.0)
    for stride, maps in adapted(loss, student).items():
        batch, c, h, w = maps.shape
        for b in range(batch):
            ours, theirs = maps[b], array(teacher.maps[stride])[b]
            space = [h * w * softmax(np.abs(m).mean(0).ravel() / temperature).reshape(h, w) for m in (ours, theirs)]
            channel = [c * softmax(np.abs(m).mean((1, 2)) / temperature) for m in (ours, theirs)]
            scale = np.zeros((h, w))
            for box in targets.xyxy[b][targets.valid[b]].tolist():
                x1, y1, x2, y2 = (v / stride for v in box)
                xs = range(math.floor(x1), max(math.floor(x1) + 1, math.ceil(x2)))
                ys = range(math.floor(y1), max(math.floor(y1) + 1, math.ceil(y2)))
                for y in ys:
                    for x in xs:
                        scale[y, x] = max(scale[y, x], 1 / (len(xs) * len(ys)))
            empty = int((scale == 0).sum())
            for k, y, x in np.ndindex(c, h, w):
                square = space[1][y, x] * channel[1][k] * (theirs[k, y, x] - ours[k, y, x]) ** 2 / c / batch
                if scale[y, x] > 0:
                    total["foreground"] += scale[y, x] * square
                else:
                    total["background"] += square / empty
            total["attention"] += (np.abs(space[0] - space[1]).mean() + np.abs(channel[0] - channel[1]).mean()) / batch
            related = [
                literal_context(blocks[str(stride)], m)
                for blocks, m in ((loss.context_student, ours), (loss.context_teacher, theirs))
            ]
            total["global"] += np.mean((related[0] - related[1]) ** 2) / batch
    weights = {"foreground": 0.4, "background": 0.2, "attention": 0.5, "global": 2.0}
    return {f"fgd_{name}": value * weights[name] for name, value in total.items()}


def literal_distance_iou(a, b):
    iw = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    ih = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - iw * ih
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    away = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    return iw * ih / union - away / hull


def literal_ld(loss, student, teacher, targets, temperature=10.0, ratio=0.25, judge=None):
    judge = judge or teacher
    points, strides = anchor_points(
        [tuple(m.shape[2:]) for m in teacher.maps.values()], tuple(teacher.maps), torch.device("cpu")
    )

    def join(heads):
        return torch.cat([h.flatten(2) for h in heads], 2).transpose(1, 2)

    boxes = decode_distribution(join(teacher.heads[::2]), points, strides)
    judged = decode_distribution(join(judge.heads[::2]), points, strides)
    assigned = assign(join(judge.heads[1::2]).sigmoid(), judged, points, strides, targets)  # has its own literal test
    sums = {"main": [0.0, 0.0], "vlr": [0.0, 0.0]}
    cells_s, cells_t = flat(student.heads), flat(teacher.heads)
    for b in range(len(cells_s)):
        truths = targets.xyxy[b][targets.valid[b]].tolist()
        overlap = [[max(0.0, literal_distance_iou(t, box)) for box in boxes[b].tolist()] for t in truths]
        level = []
        for j, t in enumerate(truths):
            mine = [
                overlap[j][i]
                for i in range(len(points))
                if assigned.positive[b, i] and t == assigned.xyxy[b, i].tolist()
            ]
            level.append(sum(mine) / len(mine) if mine else math.inf)
        for i in range(len(points)):
            each = literal_box_divergence(cells_t[b][i][0], cells_s[b][i][0], temperature)
            if assigned.positive[b, i]:
                region, weight = "main", float(assigned.scores[b, i].sum())
            else:
                region = "vlr"
                weight = max((o[i] for o, at in zip(overlap, level, strict=True) if o[i] >= ratio * at), default=0.0)
            sums[region][0] += weight * each
            sums[region][1] += weight
    assert all(weight > 1 for _, weight in sums.values())  # both regions are there to be compared
    main, vlr = (total / max(weight, 1) for total, weight in sums.values())
    return {"ld_main": main, "ld_vlr": 0.25 * vlr}


LITERAL = {
    "logit": literal_logit,
    "fitnets": literal_fitnets,
    "cwd": literal_cwd,
    "mgd": literal_mgd,
    "fgd": literal_fgd,
    "ld": literal_ld,
}
