"""The method's formulas, word by word, in plain Python loops and float64: slow, and not taken from the code."""

from __future__ import annotations

import math

import numpy as np


def level(box, width, height, levels=3, offset=0.0):
    """l_i = clamp(floor(L + log2(sqrt(w h / (W H)))), 1, L)."""
    w, h = box[2] - box[0], box[3] - box[1]
    if w * h <= 0:
        return 1
    return min(max(math.floor(levels + offset + math.log2(math.sqrt(w * h / (width * height)))), 1), levels)


def cells(box, stride, rows, columns):
    """Return the set of (row, column) that the box covers, at least one."""
    found = set()
    for r in range(rows):
        for c in range(columns):
            if c * stride < box[2] and (c + 1) * stride > box[0] and r * stride < box[3] and (r + 1) * stride > box[1]:
                found.add((r, c))
    if not found:
        r = min(max(math.floor(box[1] / stride), 0), rows - 1)
        c = min(max(math.floor(box[0] / stride), 0), columns - 1)
        found.add((r, c))
    return found


def attention(features):
    """A = sigmoid(mean over channels + max over channels) of (c, h, w)."""
    channels, rows, columns = features.shape
    out = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            values = [features[k, r, c] for k in range(channels)]
            out[r, c] = 1 / (1 + math.exp(-(sum(values) / channels + max(values))))
    return out


def magnitude(student, teacher, boxes, strides, alpha, beta, *, choice="teacher", eps=0.0, size_aware=True, offset=0.0):
    """Return (sum of alpha L_fg, sum of beta L_bg) over images and levels. Maps: [level][image] (c, h, w)."""
    total_fg = total_bg = 0.0
    for number, stride in enumerate(strides, 1):
        for b, own in enumerate(boxes):
            fs, ft = student[number - 1][b], teacher[number - 1][b]
            channels, rows, columns = fs.shape
            a_t, a_s = attention(ft), attention(fs)
            areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in own]
            weight = np.zeros((rows, columns))
            everywhere = set()
            for box, area in zip(own, areas, strict=True):
                inside = cells(box, stride, rows, columns)
                everywhere |= inside
                if level(box, columns * stride, rows * stride, offset=offset) != number:
                    continue
                value = sum(areas) / len(areas) / area if size_aware else 1.0
                for r, c in inside:
                    weight[r, c] = max(weight[r, c], value)
            fg = bg = 0.0
            covered = free = 0
            for r in range(rows):
                for c in range(columns):
                    square = 0.0
                    for k in range(channels):
                        t, s = ft[k, r, c], fs[k, r, c]
                        if choice == "teacher":
                            t, s = a_t[r, c] * t, a_t[r, c] * s
                        elif choice == "own":
                            t, s = a_t[r, c] * t, a_s[r, c] * s
                        square += (t - s) ** 2
                    if weight[r, c] > 0:
                        covered += 1
                    fg += (weight[r, c] if weight[r, c] > 0 else eps) * square
                    if (r, c) not in everywhere:
                        free += 1
                        bg += square
            total_fg += alpha * fg / (covered * channels) if covered else 0.0
            total_bg += beta * bg / (free * channels) if free else 0.0
    return total_fg, total_bg


def cosine(a, b):
    """Return the cosine of two vectors."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def mean_over(features, where):
    """Return the mean vector of (c, h, w) over a set of (row, column)."""
    return [sum(features[k, r, c] for r, c in where) / len(where) for k in range(features.shape[0])]


def relation(student, teacher, boxes, strides, gamma, delta, *, offset=0.0):
    """Return (gamma * object term, delta * context term), summed over levels."""
    total_obj = total_ctx = 0.0
    for number, stride in enumerate(strides, 1):
        vectors = {"t": [], "s": []}
        contexts = {"t": [], "s": []}
        for b, own in enumerate(boxes):
            _, rows, columns = student[number - 1][b].shape
            grid = {(r, c) for r in range(rows) for c in range(columns)}
            free = grid - set().union(*[cells(box, stride, rows, columns) for box in own])
            for box in own:
                if level(box, columns * stride, rows * stride, offset=offset) != number:
                    continue
                for key, maps in (("t", teacher), ("s", student)):
                    v = mean_over(maps[number - 1][b], cells(box, stride, rows, columns))
                    vectors[key].append(v)
                    if free:
                        contexts[key].append(cosine(v, mean_over(maps[number - 1][b], free)))
        n = len(vectors["t"])
        if n >= 2:
            gap = 0.0
            for j in range(n):
                for k in range(n):
                    r_t = cosine(vectors["t"][j], vectors["t"][k])
                    r_s = cosine(vectors["s"][j], vectors["s"][k])
                    gap += (r_t - r_s) ** 2
            total_obj += gamma * gap / n**2
        if contexts["t"]:
            pairs = zip(contexts["t"], contexts["s"], strict=True)
            total_ctx += delta * sum((t - s) ** 2 for t, s in pairs) / len(contexts["t"])
    return total_obj, total_ctx
