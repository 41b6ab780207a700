"""AUROC against pairs counted one by one, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from zsad.errors import UsageError
from zsad.metrics import image_auroc


def test_counts_pairs_and_ties_half() -> None:
    scores, labels = [0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]
    # pairs (bad, normal): .4 > .1, .4 = .4, .8 > .1, .8 > .4
    assert image_auroc(scores, labels) == 3.5 / 4


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, 200)]
    scores = rng.integers(0, 12, 202) + labels
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_laws() -> None:
    rng = np.random.default_rng(7)
    labels, scores = np.r_[0, 1, rng.integers(0, 2, 50)], rng.normal(size=52)
    assert image_auroc(-scores, labels) == pytest.approx(1 - image_auroc(scores, labels))
    assert image_auroc(np.exp(scores), labels) == image_auroc(scores, labels)
    assert image_auroc(np.zeros(52), labels) == 0.5
    assert image_auroc(scores, labels * 7) == image_auroc(scores, labels.astype(bool))


def test_a_missing_class_is_said() -> None:
    with pytest.warns(UserWarning, match="both classes; got 2 normal and 0 anomalous"):
        assert math.isnan(image_auroc([1.0, 2.0], [0, 0]))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="3 scores and 2 labels"):
        image_auroc([1, 2, 3], [0, 1])
    with pytest.raises(UsageError, match="1 of 2 scores are NaN"):
        image_auroc([1, float("nan")], [0, 1])
