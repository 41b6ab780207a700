"""Time and memory of the metrics beside scikit-learn and beside a plain loop over thresholds, as markdown tables.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --pictures 50 --large 500 --json

Speed: one set in memory, the loop on a copy with 1024 levels (all its thresholds are tried) and on the scores as they are
(so many thresholds that only some are timed; the rest is reckoned from them, and the table says so). Memory: a large set
streamed through ``PixelMetrics``, each run in a fresh process; scikit-learn on a tenth of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy
import sklearn
from memory import peak_mb
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

import zsad
from zsad import metrics

SIZE, LEVELS, LIMIT, TIMED = 256, 1024, 0.3, 20
Array = np.ndarray[Any, Any]


def pictures(count: int) -> Iterator[tuple[Array, Array]]:
    """Smooth noise and, in every other picture, two brighter blobs: float32 scores in (0, 1), masks of 7 %."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:SIZE, :SIZE]
    for number in range(count):
        one, mask = gaussian_filter(rng.standard_normal((SIZE, SIZE), np.float32), 2) * 7, np.zeros((SIZE, SIZE), bool)
        for _ in range(2 * (number % 2)):
            cy, cx, r = rng.integers((20, 20, 8), (SIZE - 20, SIZE - 20, 38)).tolist()
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < r * r
        yield (1 / (1 + np.exp(-one - 1.5 * mask))).astype(np.float32), mask


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def loop(maps: Array, masks: Array, cuts: Array) -> list[tuple[float, float]]:
    """(FPR, mean overlap) at each threshold, highest first, until the limit is passed: AUPRO as its definition reads."""
    found = zip(maps, (label(mask, np.ones((3, 3))) for mask in masks), strict=True)
    regions = [(one, labels == k) for one, (labels, count) in found for k in range(1, count + 1)]
    normals, points = int((~masks).sum()), [(0.0, 0.0)]
    for cut in cuts:
        fpr = int(((maps >= cut) & ~masks).sum()) / normals
        points.append((fpr, float(np.mean([(one[region] >= cut).mean() for one, region in regions]))))
        if fpr > LIMIT:
            break
    return points


def area(points: list[tuple[float, float]]) -> float:
    """Straight lines, cut at the limit."""
    fpr, overlap = np.array(points).T
    end = np.interp(LIMIT, fpr, overlap)
    kept = fpr < LIMIT
    fpr, overlap = np.append(fpr[kept], LIMIT), np.append(overlap[kept], end)
    return float((np.diff(fpr) * (overlap[1:] + overlap[:-1]) / 2).sum() / LIMIT)


def sklearn_f1(labels: Array, scores: Array) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def speed(count: int) -> list[dict[str, Any]]:
    """One row per metric: seconds here, seconds of the other, the difference of the values."""
    maps, masks = (np.stack(part) for part in zip(*pictures(count), strict=True))
    scores, labels, rows = maps.ravel(), masks.ravel(), []

    def row(name: str, other: str, own: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        (seconds, value), (slow, expected) = timed(own), timed(theirs)
        rows.append({"metric": name, "beside": other, "seconds": seconds, "other": slow, "difference": abs(value - expected)})

    row("AUROC", "scikit-learn", lambda: metrics.auroc(scores, labels), lambda: roc_auc_score(labels, scores))
    row(
        "AP", "scikit-learn", lambda: metrics.average_precision(scores, labels), lambda: average_precision_score(labels, scores)
    )
    row("F1-max", "scikit-learn", lambda: metrics.f1_max(scores, labels)[0], lambda: sklearn_f1(labels, scores))
    coarse = np.floor(maps * LEVELS) / np.float32(LEVELS)
    cuts = np.unique(coarse)[::-1]
    name = f"loop over the {cuts.size} levels of a copy, to the limit, measured in full"
    row("AUPRO", name, lambda: metrics.aupro(coarse, masks, LIMIT), lambda: area(loop(coarse, masks, cuts)))
    rows.append(reckoned(maps, masks))
    seconds, _ = timed(lambda: metrics.aupro_legacy(maps, masks, LIMIT))
    rows.append({"metric": "aupro_legacy", "beside": "", "seconds": seconds, "other": None, "difference": None})
    seconds, _ = timed(lambda: metrics.aupimo(maps, masks))
    rows.append({"metric": "AUPIMO, 300,000 thresholds", "beside": "", "seconds": seconds, "other": None, "difference": None})
    return rows


def reckoned(maps: Array, masks: Array) -> dict[str, Any]:
    """AUPRO of the scores as they are; the loop's time from evenly spaced thresholds out of those that it would need."""
    seconds, _ = timed(lambda: metrics.aupro(maps, masks, LIMIT))
    floor = np.quantile(maps[~masks], 1 - LIMIT)
    cuts = np.unique(maps[maps >= floor])[::-1]
    some = cuts[:: max(1, cuts.size // TIMED)][:TIMED]
    slow, _ = timed(lambda: loop(maps, masks, some))
    beside = f"loop over {cuts.size:,} thresholds to the limit, RECKONED from {some.size} of them"
    return {"metric": "AUPRO", "beside": beside, "seconds": seconds, "other": slow * cuts.size / some.size, "difference": None}


def large(kind: str, count: int) -> dict[str, Any]:
    """One run of all pixel metrics in this process: seconds without those for making the maps, and the peak of memory."""
    used, started = 0.0, time.perf_counter()
    if kind == "scikit-learn":
        maps, masks = (np.stack(part).ravel() for part in zip(*pictures(count), strict=True))
        used, _ = timed(lambda: (roc_auc_score(masks, maps), average_precision_score(masks, maps), sklearn_f1(masks, maps)))
        figures = "AUROC, AP, F1-max"
    else:
        with tempfile.TemporaryDirectory() as folder:
            streamed = metrics.PixelMetrics(exact=kind == "exact", folder=folder)
            for one, mask in pictures(count):
                used += timed(lambda one=one, mask=mask: streamed.update(one, mask))[0]  # type: ignore[misc]
            seconds, found = timed(streamed.result)
            used += seconds
        parts = {name: getattr(found, name) for name in ("auroc", "average_precision", "f1_max", "aupro", "aupimo")}
        figures = ", ".join(f"{name} {value:.6f} +- {error:.1g}" for name, (value, error) in parts.items())
    whole = time.perf_counter() - started
    return {"kind": kind, "pictures": count, "seconds": used, "with_making": whole, "peak_mb": peak_mb(), "figures": figures}


def fresh(kind: str, count: int) -> dict[str, Any]:
    """``large`` in a process of its own."""
    words = [sys.executable, __file__, "--only", kind, "--large", str(count)]
    found: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return found


def show(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"| {found['pictures']} maps of {SIZE}x{SIZE} | seconds | beside | its seconds | ratio | difference |",
        "|" + "---|" * 6,
    ]
    for row in found["speed"]:
        other = f"{row['other']:,.2f} | {row['other'] / row['seconds']:,.1f}" if row["other"] else "|"
        gap = "" if row["difference"] is None else f"{row['difference']:.1g}"
        lines.append(f"| {row['metric']} | {row['seconds']:.2f} | {row['beside']} | {other} | {gap} |")
    lines += [
        "",
        f"| pixel metrics, maps of {SIZE}x{SIZE} | maps | seconds | peak MB, interpreter included | figures |",
        "|" + "---|" * 5,
    ]
    for row in found["memory"]:
        line = f"| {row['kind']} | {row['pictures']} | {row['seconds']:.0f} | {row['peak_mb']:.0f} | {row['figures']} |"
        lines.append(line)
    return "\n".join([*lines, "", found["machine"]])


def main() -> None:
    """Prints the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="of the set in memory")
    parser.add_argument("--large", type=int, default=5000, help="of the streamed set")
    parser.add_argument("--only", choices=("binned", "exact", "scikit-learn"), help="one memory run, as JSON")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(large(given.only, given.large)))
        return
    versions = f"zsad {zsad.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}"
    machine = platform.processor() or platform.machine()
    found = {
        "pictures": given.pictures,
        "memory": [fresh("binned", given.large), fresh("exact", given.large), fresh("scikit-learn", given.large // 10)],
        "speed": speed(given.pictures),
        "machine": f"{machine}, {os.cpu_count()} cores, {platform.system()}, {versions}, Python {platform.python_version()}",
    }
    print(json.dumps(found, indent=1) if given.json else show(found))


if __name__ == "__main__":
    main()
