"""The rule that reads levels off references, and what the batch rule says of batches that it does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from zsad.decision.reference_rule import FEWEST, reference_rule
from zsad.decision.thresholds import MANY, Thresholds, batch_rule, decide, doubt

RNG = np.random.default_rng(0)


def test_levels_are_robust_deviations() -> None:
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = reference_rule(scores, [0.5, 0.9, 0.7, 0.6, 0.8])
    assert found.review == pytest.approx(3 + 1.75 * 2 / 1.349)
    assert found.anomalous == pytest.approx(3 + 2.5 * 2 / 1.349)
    assert found.pixel > 0.9
    assert found.label(3.1) == "normal"
    assert "approximate, from the 5 references" in found.source


def test_the_odd_one_among_the_references_moves_the_levels_little() -> None:
    scores = RNG.normal(0, 1, 16)
    plain, with_odd = (reference_rule(list(one), list(one)).anomalous for one in (scores, [*scores[:-1], 40.0]))
    assert abs(plain - with_odd) < 1.5


def test_false_alarms_of_gaussian_scores() -> None:
    """About one in twenty normal pictures is called review or anomalous with 16 references, and one in eight with 4."""
    for count, most in ((4, 0.2), (16, 0.1)):
        alarms = []
        for _ in range(2000):
            level = reference_rule(list(RNG.normal(size=count)), [0.0] * count).review
            alarms.append(float(np.mean(RNG.normal(size=50) >= level)))
        assert 0.02 < np.mean(alarms) < most


def test_too_few_references_give_no_level() -> None:
    found = reference_rule([0.1] * (FEWEST - 1), [0.1] * (FEWEST - 1))
    assert found.anomalous is None
    assert "needs at least 4" in found.source


def test_copies_of_one_reference_have_a_level_above_themselves() -> None:
    found = reference_rule([0.3] * 6, [0.4] * 6)
    assert found.label(0.3) == "normal"
    assert found.anomalous > found.review > 0.3


# ------------------------------------------------------------------ what the batch rule says of itself
def test_two_groups_are_named() -> None:
    halves = [*RNG.normal(0, 1, 30), *RNG.normal(8, 1, 25)]
    assert doubt(halves) == "the scores fall into two groups of 30 and 25, and either may be the normal one"
    assert "Caution: the scores fall into two groups of 30 and 25" in batch_rule(halves, halves).source


def test_what_may_well_be_mostly_normal_is_not_doubted() -> None:
    doubted = []
    for _ in range(200):
        doubted += [bool(doubt(RNG.normal(size=40))), bool(doubt(RNG.gumbel(size=40)))]
        doubted.append(bool(doubt([*RNG.normal(size=40), *RNG.normal(8, 1, 5)])))
    assert np.mean(doubted) < 0.01
    assert doubt([0.0] * 30 + [1.0]) == "" == doubt(RNG.normal(size=MANY - 1))


def test_scores_that_are_spread_evenly_have_no_dense_half() -> None:
    assert doubt(np.linspace(0, 1, 100)) == "the scores have no dense half that could be the normal pictures"


def test_a_score_beyond_the_models_scale_is_for_review_at_least() -> None:
    scores = [*RNG.normal(3, 0.5, 30)]  # as of a batch of which most is anomalous
    plain, bounded = decide(scores, scores), decide(scores, scores, far=1.5)
    assert plain.review > 3
    assert (bounded.review, bounded.anomalous) == (1.5, plain.anomalous)
    assert "1.5 is beyond normal pictures of any batch" in bounded.source
    assert decide(scores, scores, Thresholds(5.0, 4.0, 4.5), far=1.5).review == 4.0, "a given level stays"
    low = [*RNG.normal(0, 0.1, 30)]
    assert decide(low, low, far=1.5) == decide(low, low)
