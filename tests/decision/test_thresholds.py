"""The batch rule against numbers worked by hand and against populations whose share of defects is known."""

from __future__ import annotations

import numpy as np
import pytest

from zsad.decision.thresholds import APART, Thresholds, batch_rule, decide, doubt, fixed, pixel_level
from zsad.errors import UsageError


def test_by_hand() -> None:
    """1..9: the shortest interval that holds five is 4 long, the first is 1..5: median 3, sigma = 1.4826 * 2 * 11 / 9."""
    rule = batch_rule(range(1, 10))
    sigma = 1.4826 * 2 * (1 + 2 / 9)
    assert rule.anomalous == pytest.approx(3 + 3 * sigma)
    assert rule.review == pytest.approx(3 + 2.25 * sigma)
    assert rule.pixel is None


def test_outliers_are_set_aside_by_hand() -> None:
    """1..9 and 100: six lie within 5, sigma flags 100; the rest are 1..9, and their levels stand."""
    assert batch_rule([*range(1, 10), 100]).anomalous == pytest.approx(batch_rule(range(1, 10)).anomalous)


def test_what_lies_above_the_densest_half_does_not_widen_the_spread() -> None:
    low = [1.0, 2, 3, 4, 5]
    assert batch_rule([*low, 30, 40, 50, 60]).anomalous == batch_rule([*low, 90, 91, 99, 99.5]).anomalous


def test_a_dozen_with_a_third_defective() -> None:
    rng = np.random.default_rng(0)
    found = missed = false = 0
    for _ in range(200):
        scores = np.concatenate([rng.normal(0, 1, 8), rng.normal(9, 1, 4)])
        flagged = scores >= (batch_rule(scores).anomalous or np.inf)
        found, missed = found + flagged[8:].sum(), missed + (~flagged[8:]).sum()
        false += flagged[:8].sum()
    assert found / (found + missed) > 0.85
    assert false / 1600 < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("count", "share"), [(12, 0.04), (40, 0.012), (500, 0.004)])
def test_false_alarms_on_normal_folders(count: int, share: float) -> None:
    rng = np.random.default_rng(1)
    flagged = [np.mean(scores >= batch_rule(scores).anomalous) for scores in rng.normal(0, 1, (300, count))]
    assert np.mean(flagged) < share


def test_a_third_of_a_hundred_needs_the_second_look() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(100):
        scores = np.concatenate([rng.normal(0, 1, 67), rng.normal(7, 1, 33)])
        found.append(np.mean(scores[67:] >= batch_rule(scores).anomalous))
    assert np.mean(found) > 0.9


def test_scale_and_shift_change_nothing() -> None:
    scores = np.random.default_rng(3).gamma(2, 1, 50)
    rule, moved = batch_rule(scores), batch_rule(3 + 10 * scores)
    assert moved.anomalous == pytest.approx(3 + 10 * (rule.anomalous or 0))


@pytest.mark.parametrize("scores", [[0.5] * 20, [0.5] * 15 + [9.0] * 5, [0.0] * 9])
def test_no_spread_gives_no_rule(scores: list[float]) -> None:
    rule = batch_rule(scores)
    assert (rule.anomalous, rule.review, rule.label(9.0)) == (None, None, None)
    assert "all the same" in rule.source


def test_fewer_than_eight_gives_no_rule() -> None:
    rule = batch_rule([1, 2, 3, 4, 5, 6, 7])
    assert rule.label(7) is None
    assert (
        rule.source
        == "no rule: 7 scored pictures, and the batch rule needs at least 8; give --threshold or --calibration to get verdicts"
    )
    assert "1 scored picture," in batch_rule([1.0]).source
    assert batch_rule([]).anomalous is None


def test_source_states_the_assumption() -> None:
    assert "assumes that more than half of the pictures are normal" in batch_rule(range(9)).source


def test_labels_at_the_levels() -> None:
    levels = Thresholds(anomalous=2.0, review=1.0)
    assert [levels.label(score) for score in (0.9, 1.0, 1.9, 2.0, None)] == ["normal", "review", "review", "anomalous", None]
    assert Thresholds(anomalous=2.0).label(1.9) == "normal"
    assert Thresholds().label(5.0) is None


def test_pixel_level_by_hand() -> None:
    """Nine pictures, 8.5 and 9 anomalous: the other seven's highest peak is 70, and nothing at 70 is a region yet."""
    scores, peaks = [1, 2, 3, 4, 5, 6, 7, 8.5, 9], [10, 20, 30, 40, 50, 60, 70, 85, 90]
    level = pixel_level(scores, peaks, 8)
    assert level is not None
    assert 70 < level < 70.001
    hundred = pixel_level(range(100), range(100), 1000)
    assert hundred is not None
    assert 95 < hundred < 95.001
    assert pixel_level([5.0], [1.0], 2) is None


def test_one_in_twenty_normal_pictures_has_a_region() -> None:
    rng = np.random.default_rng(4)
    peaks = rng.gumbel(size=(200, 60))
    shares = [np.mean(row[30:] >= (pixel_level(np.zeros(30), row[:30], 1) or 0)) for row in peaks]  # on the other thirty
    assert 0.02 < np.mean(shares) < 0.06


def test_decide_keeps_what_was_given() -> None:
    scores = list(range(1, 10))
    assert decide(scores, scores, fixed(2.0, 1.0, 3.0)) == fixed(2.0, 1.0, 3.0)
    mixed = decide(scores, scores, fixed(4.0))
    assert (mixed.anomalous, mixed.pixel) == (4.0, pixel_level(scores, scores, 4.0))
    assert mixed.source == "threshold given by the user; regions lie above the maps of all pictures classified as normal"
    pixel = decide(scores, scores, fixed(None, None, 0.7))
    assert (pixel.anomalous, pixel.pixel) == (batch_rule(scores).anomalous, 0.7)
    assert decide([3.0], [1.0], fixed(2.0)).pixel is None
    assert decide(scores, scores) == batch_rule(scores, scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"),), "The threshold is nan; give a finite number."),
        ((None, 1.0), "A review level was given without a threshold"),
        ((1.0, 2.0), "The review level 2 lies above the threshold 1. Swap them."),
        ((1.0, None, float("inf")), "The pixel threshold is inf"),
    ],
)
def test_bad_levels(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        fixed(*arguments)


def test_two_groups_are_found_among_a_million_scores_and_as_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    assert batch_rule(rng.normal(size=10**6)).anomalous == pytest.approx(3, abs=0.03)
    for shift in np.linspace(0, 14, 30):
        values = np.sort(np.concatenate([rng.normal(size=40), shift + rng.normal(size=30)]))
        splits = range(21, 50)
        within = [(values[:k].var() * k + values[k:].var() * (70 - k)) / 70 for k in splits]
        place = splits[int(np.argmin(within))]
        apart = (values[place:].mean() - values[:place].mean()) / np.sqrt(min(within))
        assert (f"two groups of {place} and {70 - place}" in doubt(values)) == (apart > APART)
