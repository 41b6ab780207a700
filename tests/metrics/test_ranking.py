"""AUROC, AP and F1-max against pairs and thresholds counted one by one, scikit-learn, and the reference outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_metrics
from metric_cases import SEEDS, case, lattice
from reference_sets import REFERENCE_SETS

from zsad.errors import UsageError
from zsad.metrics import aupimo, aupro, aupro_legacy, auroc, average_precision, f1_max, pimo
from zsad.verification.reference import Reference

RANKING: tuple[Callable[..., Any], ...] = (auroc, average_precision, f1_max)


def test_counts_pairs_and_ties_half() -> None:
    scores, labels = [0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]
    # pairs (bad, normal): .4 > .1, .4 = .4, .8 > .1, .8 > .4
    assert auroc(scores, labels) == 3.5 / 4
    # recall 1/2 at precision 1, then 1 at 2/3
    assert average_precision(scores, labels) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert f1_max(scores, labels) == (pytest.approx(2 * 2 / (3 + 2)), 0.4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("grid", [3, 12, 10**9])
def test_equals_scikit_learn_and_the_loops(seed: int, grid: int) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, 60)]
    scores = rng.integers(0, grid, 62) + labels * grid * 0.3
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(slow_metrics.auroc_by_pairs(scores, labels), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(slow_metrics.average_precision(scores, labels), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    value, threshold = f1_max(scores, labels)
    assert value == pytest.approx(np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-300)), abs=1e-12)
    assert (value, threshold) == pytest.approx(slow_metrics.f1_max(scores, labels), abs=1e-12)


def test_laws() -> None:
    rng = np.random.default_rng(7)
    labels, scores = np.r_[0, 1, rng.integers(0, 2, 50)], rng.normal(size=52)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))
    for metric in RANKING:
        assert (
            metric(np.exp(scores), labels)[0:1]
            if metric is f1_max
            else metric(np.exp(scores), labels) == metric(scores, labels)
        )
        assert metric(scores, labels * 255) == metric(scores, labels.astype(bool))
        assert metric(scores.reshape(4, 13), labels.reshape(4, 13)) == metric(scores, labels)
    share = labels.mean()
    assert auroc(np.zeros(52), labels) == 0.5
    assert average_precision(np.zeros(52), labels) == share
    assert f1_max(np.zeros(52), labels) == (pytest.approx(2 * share / (1 + share)), 0)
    assert f1_max(labels * 2.5, labels) == (1, 2.5)


def test_millions_of_ties_and_extreme_scores() -> None:
    scores, labels = np.zeros(3_000_000, np.float32), np.zeros(3_000_000, np.uint8)
    scores[:1000], labels[500:1500] = 1, 1
    # half of the anomalous items win over all normal ones but 500, the other half ties with all but those 500
    normal = 3_000_000 - 1000
    expected = (500 * (normal - 250) + 500 * (normal - 500) / 2) / (1000 * normal)
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert f1_max(scores, labels) == (0.5, 1.0)
    assert auroc([-np.inf, 5, np.inf], [0, 1, 1]) == 1
    assert auroc(np.array([2**53, 2**53 + 1]), [0, 1]) == 1  # integers are not rounded to floats


@pytest.mark.parametrize("metric", RANKING)
def test_a_missing_class_is_a_warning(metric: Callable[..., Any]) -> None:
    for labels, words in ((0, "2 normal and 0 anomalous"), (1, "0 normal and 2 anomalous")):
        with pytest.warns(UserWarning, match=f"both classes; got {words} items: NaN"):
            assert np.isnan(metric([1.0, 2.0], [labels] * 2)).all()
    with pytest.warns(UserWarning, match="got 0 normal and 0 anomalous"):
        assert np.isnan(metric([], [])).all()


@pytest.mark.parametrize("metric", RANKING)
def test_refuses_what_does_not_fit(metric: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="3 scores and 2 labels"):
        metric([1, 2, 3], [0, 1])
    with pytest.raises(UsageError, match="1 of 2 scores are NaN"):
        metric([1, float("nan")], [0, 1])


def test_exact_aupro_lies_half_a_step_below_thresholds_at_normal_pixels() -> None:
    """Crane takes thresholds at normal pixels only and draws straight lines over the rises between them."""
    rng, masks = np.random.default_rng(3), np.zeros((2, 20, 20), np.uint8)
    masks[1, 2:12, 3:8], masks[1, 14:19, 10:20] = 1, 1  # two regions; 700 normal pixels, 210 of them within the limit of 0.3
    maps = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    normal = np.sort(maps[masks == 0])[::-1]
    rises = slow_overlap(maps, masks, normal[:211])  # overlap where k normal pixels lie above the threshold
    straight = float(np.trapezoid(rises, dx=1 / normal.size)) / 0.3
    step = (rises[-1] - rises[0]) / (2 * 0.3 * normal.size)
    assert 0 < step < 1 / (2 * 0.3 * normal.size)
    assert straight - aupro(maps, masks) == pytest.approx(step, abs=1e-9)


def slow_overlap(maps: np.ndarray[Any, Any], masks: np.ndarray[Any, Any], cuts: np.ndarray[Any, Any]) -> list[float]:
    """Mean overlap of the regions strictly above each threshold."""
    points = slow_metrics.overlap_curve(list(maps), list(masks), cuts.tolist(), strictly=True)
    return [overlap for _, overlap in points]


AUPIMO_CASES = [
    (folder, kind, bounds, name, thresholds)
    for folder in REFERENCE_SETS
    for kind, bounds, name, thresholds in (
        ("ties", (1e-4, 1e-2), "1e-4_1e-2", 30_000),
        ("ties", (1e-4, 1e-2), "1e-4_1e-2", 300_000),
        ("exact", (1e-5, 1e-4), "1e-5_1e-4", 300_000),
        ("exact", (1e-4, 1e-2), "1e-4_1e-2", 30_000),
        ("exact", (1e-4, 1e-2), "1e-4_1e-2", 300_000),
    )
    if folder == "full" or kind == "ties"  # the maps without ties do not come with the repository
]


@pytest.mark.filterwarnings("ignore:AUPIMO's bound")
@pytest.mark.parametrize(("folder", "kind", "bounds", "name", "thresholds"), AUPIMO_CASES)
def test_aupimo_takes_as_many_thresholds_as_the_authors(
    folder: str, kind: str, bounds: tuple[float, float], name: str, thresholds: int
) -> None:
    """Repeated levels at either end included, as theirs. That the values are equal is tests/verification's."""
    reference = Reference(REFERENCE_SETS[folder], "metrics")
    maps = reference["maps"] if kind == "exact" else (reference["maps_ties_uint8"] / 64).astype(np.float32)
    levels = pimo._sampled([np.sort(one, axis=None) for one in maps[::2]], thresholds)
    stored = reference.settings["values"][kind][f"aupimo_num_thresholds_in_range/{name}/thresholds_{thresholds}"]
    assert pimo.span(levels, bounds).keys.size == stored


@pytest.mark.filterwarnings("ignore:AUPIMO")
def test_golden(root: Path) -> None:
    """Numbers of scikit-learn and the slow loops, stored: they hold where neither is at hand."""
    stored = json.loads((root / "tests" / "golden" / "metrics.json").read_text())
    maps, masks = lattice()
    f1, threshold = f1_max(maps, masks)
    found = {
        "auroc": auroc(maps, masks),
        "average_precision": average_precision(maps, masks),
        "f1_max": f1,
        "f1_threshold": threshold,
        "aupro": aupro(maps, masks),
        "aupro_legacy": aupro_legacy(maps, masks),
        "aupimo": [None if math.isnan(one) else one for one in aupimo(maps, masks, (5e-3, 1e-1), None)],
    }
    del stored["made_by"]
    assert found == {
        name: [None if one is None else pytest.approx(one, abs=1e-9) for one in value]
        if isinstance(value, list)
        else pytest.approx(value, abs=1e-9)
        for name, value in stored.items()
    }


def test_pixels_are_items_like_any_other() -> None:
    from sklearn.metrics import roc_auc_score

    maps, masks = case(0)
    scores, labels = (np.concatenate([one.ravel() for one in part]) for part in (maps, masks))
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels != 0, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0.5, 1, 0, 1], [0, 1, np.nan, 1], [-1, 1, 1, -1], ["ok", "bad", "ok", "ok"]])
def test_labels_are_0_and_1(labels: object) -> None:
    for metric in (auroc, average_precision, f1_max):
        with pytest.raises(UsageError, match=r"Labels are 0 or False \(normal\) and 1 or True \(anomalous\); these hold"):
            metric([0.1, 0.2, 0.3, 0.4], labels)
