"""Metrics as their definitions read: loops over thresholds, pictures and regions. They share nothing with zsad.metrics."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import log
from typing import Any

import numpy as np

Map = np.ndarray[Any, Any]


def auroc_by_pairs(scores: Iterable[float], labels: Iterable[int]) -> float:
    """Every pair counted; ties half."""
    both = list(zip(scores, labels, strict=True))
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, x in both if x for b, y in both if not y]
    return sum(won) / len(won)


def confusions(scores: Map, labels: Map) -> list[tuple[float, int, int, int]]:
    """(threshold, tp, fp, fn) for every distinct score, highest first."""
    found = []
    for cut in sorted(set(scores.ravel().tolist()), reverse=True):
        called, bad = scores >= cut, labels != 0
        found.append((cut, int((called & bad).sum()), int((called & ~bad).sum()), int((~called & bad).sum())))
    return found


def average_precision(scores: Map, labels: Map) -> float:
    area = recall = 0.0
    for _, tp, fp, fn in confusions(scores, labels):
        area += (tp / (tp + fn) - recall) * tp / (tp + fp)
        recall = tp / (tp + fn)
    return area


def f1_max(scores: Map, labels: Map) -> tuple[float, float]:
    """The first (highest) threshold that nothing beats."""
    best = (-1.0, 0.0)
    for cut, tp, fp, fn in confusions(scores, labels):
        f1 = 2 * tp / (2 * tp + fp + fn)
        best = (f1, cut) if f1 > best[0] else best
    return best


def regions_of(mask: Map) -> list[list[tuple[int, int]]]:
    """8-connected components, by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


def overlap_curve(maps: list[Map], masks: list[Map], cuts: Iterable[float], strictly: bool) -> list[tuple[float, float]]:
    """(FPR, mean overlap of the regions) at each threshold."""
    parts = [(number, region) for number, mask in enumerate(masks) for region in regions_of(mask)]
    normals, points = sum(int((mask == 0).sum()) for mask in masks), []
    for cut in cuts:
        called = [one > cut if strictly else one >= cut for one in maps]
        false = sum(int((one & (mask == 0)).sum()) for one, mask in zip(called, masks, strict=True))
        shares = [sum(bool(called[number][place]) for place in region) / len(region) for number, region in parts]
        points.append((false / normals, sum(shares) / len(shares)))
    return points


def trapezoids(points: list[tuple[float, float]]) -> float:
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def aupro(maps: list[Map], masks: list[Map], limit: float) -> float:
    """Every distinct score is a threshold; a line that crosses the limit is cut there."""
    cuts = sorted({float(score) for one in maps for score in one.ravel()}, reverse=True)
    points, kept = [(0.0, 0.0), *overlap_curve(maps, masks, cuts, strictly=False)], []
    for a, b in zip(points, [*points[1:], points[-1]], strict=True):
        kept.append(a)
        if b[0] > limit:
            kept.append((limit, a[1] + (b[1] - a[1]) * (limit - a[0]) / (b[0] - a[0])))
            break
    return trapezoids(kept) / limit


def aupro_legacy(maps: list[Map], masks: list[Map], limit: float, thresholds: int) -> float:
    """Equal steps upwards from the lowest score; the FPR below the limit is stretched to [0, 1]."""
    low, high = min(one.min() for one in maps), max(one.max() for one in maps)
    points = overlap_curve(maps, masks, np.arange(low, high, (high - low) / thresholds), strictly=True)
    kept = [point for point in points if point[0] < limit]
    least, most = min(kept)[0], max(kept)[0]
    return trapezoids([((fpr - least) / (most - least), overlap) for fpr, overlap in reversed(kept)])


def aupimo(maps: list[Map], masks: list[Map], bounds: tuple[float, float], cuts: Iterable[float] | None = None) -> list[float]:
    """One value per picture, NaN for normal ones; every distinct score of any picture is a threshold unless ``cuts`` are."""
    every = sorted({float(score) for one in maps for score in one.ravel()} if cuts is None else cuts)  # ascending
    clean = [one for one, mask in zip(maps, masks, strict=True) if not mask.any()]
    fpr = [sum((one >= cut).mean() for one in clean) / len(clean) for cut in every]
    ends = [min(range(len(every)), key=lambda i: abs(fpr[i] - bound)) for bound in bounds]  # the lowest of equal ones
    found = []
    for one, mask in zip(maps, masks, strict=True):
        if not mask.any():
            found.append(float("nan"))
            continue
        points = [(log(fpr[i]), float((one[mask != 0] >= every[i]).mean())) for i in range(ends[0], ends[1] - 1, -1)]
        found.append(min(max(trapezoids(points) / log(bounds[1] / bounds[0]), 0.0), 1.0))
    return found
