"""The guaranteed false-alarm rate against counts by hand and simulation; calibration files against hostile content."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsad.decision.calibration import Calibration, resolve_thresholds
from zsad.decision.conformal import check_size, false_alarm_spread, fewest, lowest_rate, p_values, threshold
from zsad.decision.thresholds import fixed
from zsad.errors import UsageError

ALPHAS = (0.01, 0.05, 0.1, 0.2, 0.29, 1 / 3, 0.5, 0.95)


# ------------------------------------------------------------------ statistics
def test_p_values_by_hand() -> None:
    normal = [3, 1, 2, 2]
    assert p_values([0, 1, 2, 2.5, 3, 9], normal).tolist() == [1, 1, 0.8, 0.4, 0.4, 0.2]


@pytest.mark.parametrize("seed", range(4))
def test_p_values_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal, scores = rng.integers(0, 9, 37) / 4, rng.integers(-1, 11, 50) / 4  # many ties
    counted = [(1 + sum(one >= score for one in normal)) / 38 for score in scores]
    assert p_values(scores, normal).tolist() == counted


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [1, 2, 9, 19, 20, 99, 100])
def test_threshold_and_p_value_agree(alpha: float, count: int) -> None:
    rng = np.random.default_rng(count)
    for normal in (rng.normal(size=count), rng.integers(0, 4, count) / 8):
        around = np.concatenate([normal, np.nextafter(normal, np.inf), np.nextafter(normal, -np.inf), [-9, 9]])
        called = p_values(around, normal) <= alpha
        if not called.any():  # not even the highest score: no such level
            with pytest.raises(UsageError, match="cannot guarantee"):
                threshold(normal, alpha)
            continue
        assert (called == (around >= threshold(normal, alpha))).all()


def test_rank_by_hand() -> None:
    """Of 1..19, 5 % is one rank of 20: above the highest. Of 1..39 two of 40: above 38. 0.29 * 100 is 28.999999999999996."""
    assert threshold(range(1, 20), 0.05) == math.nextafter(19, math.inf)
    assert threshold(range(1, 40), 0.05) == math.nextafter(38, math.inf)
    assert threshold(range(1, 100), 0.29) == math.nextafter(71, math.inf)


def test_the_rate_is_exact_for_every_order() -> None:
    """Of all ways to call one of n + 1 equally likely numbers the new one, a share of floor(alpha (n + 1)) is anomalous."""
    numbers = np.random.default_rng(0).normal(size=20)
    for alpha in (0.05, 0.1, 0.3, 0.37):
        alarms = sum(one >= threshold(np.delete(numbers, i), alpha) for i, one in enumerate(numbers))
        assert alarms == math.floor(Fraction(str(alpha)) * 20)


@pytest.mark.parametrize(("count", "alpha"), [(60, 0.05), (60, 0.1), (200, 0.05)])
def test_rate_and_spread_are_the_beta_binomials(count: int, alpha: float) -> None:
    """Mean and deviation over splits, of skewed scores; the reference draws them from a Beta and a binomial."""
    runs, tested, rng = 3000, 150, np.random.default_rng(5)
    scores = rng.gumbel(size=(runs, count + tested))
    rates = np.array([np.mean(row[count:] >= threshold(row[:count], alpha)) for row in scores])
    k = math.floor(Fraction(str(alpha)) * (count + 1))
    drawn = rng.binomial(tested, rng.beta(k, count + 1 - k, 200_000)) / tested
    error = drawn.std() / runs**0.5
    assert abs(rates.mean() - k / (count + 1)) < 4 * error
    assert rates.mean() < alpha + 3 * error
    assert rates.std() == pytest.approx(drawn.std(), rel=0.06)
    mean, low, high = false_alarm_spread(count, alpha)
    share = rng.beta(k, count + 1 - k, 200_000)
    assert mean == k / (count + 1)
    assert np.mean(share < low) == pytest.approx(0.05, abs=0.003)
    assert np.mean(share > high) == pytest.approx(0.05, abs=0.003)


def test_one_rank_less_would_raise_the_rate() -> None:
    """The simulation sees an error of one rank: a level at the order statistic itself, where ties are, is too low."""
    rng, alpha = np.random.default_rng(6), 0.1
    scores = rng.integers(0, 6, (2000, 139)) / 5  # five of six values are shared by many
    strict = [np.mean(row[39:] >= threshold(row[:39], alpha)) for row in scores]
    loose = [np.mean(row[39:] >= np.sort(row[:39])[-4]) for row in scores]
    assert np.mean(strict) <= alpha < np.mean(loose)


def test_disjoint_splits_of_one_pool_keep_the_rate() -> None:
    """What the benchmark does with solar cells: 200 splits of a fixed pool, references and calibration and test apart."""
    rng = np.random.default_rng(7)
    pool = np.round(rng.gamma(2, 1, 1500), 3)
    for alpha in (0.05, 0.1):
        rates = []
        for _ in range(200):
            drawn = rng.permutation(pool)[10:270]  # the first ten would be references
            rates.append(np.mean(drawn[60:] >= threshold(drawn[:60], alpha)))
        assert np.mean(rates) < alpha + 3 * 0.037 / 200**0.5


def test_too_few_pictures_name_the_lowest_rate() -> None:
    with pytest.raises(UsageError) as caught:
        check_size(20, 0.03)
    assert str(caught.value) == (
        "20 normal pictures cannot guarantee less than 4.8 % false alarms, and 3 % was asked for. Give at least 33 normal "
        "pictures, or a higher rate."
    )
    with pytest.raises(UsageError, match="^1 normal picture cannot guarantee less than 50 % false alarms, and 5 % was"):
        check_size(1, 0.05)
    with pytest.raises(UsageError, match="^0 normal pictures cannot guarantee less than 100 %"):
        threshold([], 0.05)
    assert false_alarm_spread(20, 0.03) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 6, 19, 20, 21, 98, 99, 100, 101, 1000, 12345])
def test_the_lowest_rate_can_be_asked_for(count: int) -> None:
    lowest = float(lowest_rate(count).removesuffix(" %")) / 100
    assert 1 / (count + 1) <= lowest + 1e-12 < 1.1 / (count + 1)


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.003, 0.07, 1 / 7, 1 / 49, 1e-8])
def test_fewest(alpha: float) -> None:
    count = fewest(alpha)
    check_size(count, alpha)
    if count > 1:
        with pytest.raises(UsageError):
            check_size(count - 1, alpha)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, float("nan"), float("inf"), 1e-300])
def test_a_rate_that_is_none(alpha: float) -> None:
    with pytest.raises(UsageError, match="give a number between 0 and 1, such as 0.05"):
        threshold([1.0, 2.0], alpha)


# ------------------------------------------------------------------ calibration
def hundred(**others: Any) -> Calibration:
    return Calibration.from_scores(range(1, 100), range(101, 200), {"method": "m", "target": "lamp"}, **others)


def test_levels_of_a_calibration() -> None:
    levels = hundred().thresholds()
    assert (levels.anomalous, levels.review) == (math.nextafter(95, math.inf), math.nextafter(90, math.inf))
    assert levels.pixel == np.nextafter(np.float32(195), np.float32(np.inf))
    assert [levels.label(score) for score in (90, 90.5, 95, 95.5)] == ["normal", "review", "review", "anomalous"]
    assert levels.false_alarm_rate == (
        "on average at most 5 % of normal pictures are called anomalous (split-conformal, 99 normal pictures)"
    )
    assert levels.source == (
        f"{levels.false_alarm_rate}, at most 10 % anomalous or review, and at most 5 % have a region; assumes that the "
        "pictures are taken like those of the calibration"
    )


def test_a_map_at_the_highest_normal_peak_is_no_region() -> None:
    """Maps are compared in float32: the level has to lie above the peak there too."""
    peaks = [np.float32(0.1) * np.float32(i) for i in range(1, 20)]
    level = Calibration.from_scores(range(19), peaks).thresholds().pixel
    assert level is not None
    assert not (np.array(peaks, np.float32) >= level).any()
    assert np.nextafter(peaks[-1], np.float32(9)) >= np.float32(level)


def test_shares() -> None:
    kept = hundred(max_false_alarms=0.02, review_false_alarms=0.3)
    assert kept.shares() == (0.02, 0.3)
    assert kept.shares(0.1) == (0.1, 0.2)  # a new first share does not keep a review share made for another
    assert kept.shares(None, 0.05) == (0.02, 0.05)
    assert kept.shares(0.1, 0.1) == (0.1, 0.1)
    assert hundred().shares(0.7) == (0.7, 0.85)
    assert hundred().thresholds(0.1, 0.1).label(89.5) == "normal"
    with pytest.raises(UsageError, match=r"The false-alarm rate for review, 5 %, lies below that for anomalous, 10 %\."):
        kept.thresholds(0.1, 0.05)
    with pytest.raises(UsageError, match="99 normal pictures cannot guarantee less than 1 % false alarms, and 0.5 % was"):
        kept.thresholds(0.005)


def test_leave_one_out_is_called_approximate() -> None:
    levels = hundred(exact=False).thresholds()
    assert levels.anomalous == hundred().thresholds().anomalous
    assert levels.false_alarm_rate == (
        "about 5 % of normal pictures are called anomalous (approximate: leave-one-out over 99 references)"
    )
    assert "at most" not in levels.source


def test_another_detector_is_refused() -> None:
    hundred().check({"method": "m", "target": "lamp"})
    Calibration.from_scores([1], [1]).check({"method": "any"})
    with pytest.raises(UsageError) as caught:
        hundred().check({"method": "m", "target": "bulb", "image_size": 8})
    assert str(caught.value) == (
        'The calibration was made with other settings: image_size was null and is 8; target was "lamp" and is "bulb". Give the '
        "same settings, or calibrate again."
    )


def test_resolve_thresholds() -> None:
    own = hundred().thresholds(0.1)
    assert resolve_thresholds(fixed(None), hundred(), 0.1) == own
    assert resolve_thresholds(fixed(2.0), None) == fixed(2.0)
    mixed = resolve_thresholds(fixed(None, None, 7.0), hundred(), 0.1)
    assert (mixed.anomalous, mixed.pixel, mixed.false_alarm_rate) == (own.anomalous, 7.0, own.false_alarm_rate)
    assert mixed.source.endswith("; pixel threshold given by the user")
    with pytest.raises(UsageError, match="A threshold and a calibration were both given"):
        resolve_thresholds(fixed(2.0), hundred())
    for shares in ((0.1, None), (None, 0.1)):
        with pytest.raises(UsageError, match="without a calibration. Make one with zsad calibrate"):
            resolve_thresholds(fixed(None), None, *shares)


@pytest.mark.parametrize(
    ("scores", "peaks", "message"),
    [
        ([], [], "No score of a normal picture was given"),
        ([1, 2], [1], "2 scores and 1 peaks were given"),
        ([1, float("nan")], [1, 2], "is no finite number"),
        ([1, 2], [1, float("inf")], "is no finite number"),
    ],
)
def test_bad_scores(scores: list[float], peaks: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration.from_scores(scores, peaks)


# ------------------------------------------------------------------ on disk
def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    made = Calibration.from_scores(
        rng.normal(size=50), rng.normal(size=50), {"target": "Mutter ä", "words": []}, exact=False, review_false_alarms=0.2
    )
    made.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def row(**others: Any) -> dict[str, Any]:
    base = {"format": "zsad calibration 1", "scores": [1.0, 2], "peaks": [1.0, 2.0], "detector": {}, "kind": "split"}
    return base | {"max_false_alarms": 0.4, "review_false_alarms": None} | others


def test_the_row_below_is_good(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(row()))
    assert Calibration.load(tmp_path / "c.json").scores == (1, 2)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its key for the detector was "judge"."""
    old = row(detector={"method": "m"})
    old["judge"] = old.pop("detector")
    (tmp_path / "old.json").write_text(json.dumps(old))
    made = Calibration.load(tmp_path / "old.json")
    assert made.detector == {"method": "m"}
    made.save(tmp_path / "new.json")
    assert "judge" not in json.loads((tmp_path / "new.json").read_text())
    assert Calibration.load(tmp_path / "new.json") == made


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        "text",
        None,
        row(format="zsad calibration 2"),
        row(format=["zsad calibration 1"]),
        row(scores="12"),
        row(scores={"a": 1, "b": 2}),
        row(scores=["1", "2"]),
        row(scores=[True, False]),
        row(scores=[[1], [2]]),
        row(scores=[1, None]),
        row(scores=[1.0]),
        row(scores=[], peaks=[]),
        row(scores=[1.0, float("nan")]),
        row(scores=[1.0, float("inf")]),
        row(scores=[1.0, 10**400]),
        row(scores=1.0),
        row(detector=[]),
        row(detector=None),
        row(judge={}),  # beside detector
        row(kind="exact"),
        row(kind=["split"]),
        row(max_false_alarms=None),
        row(max_false_alarms=0),
        row(max_false_alarms=False),
        row(max_false_alarms="0.4"),
        row(max_false_alarms=float("nan")),
        row(review_false_alarms=0.1),
        row(review_false_alarms=False),
        row(extra=1),
        {key: value for key, value in row().items() if key != "detector"},
    ],
)
def test_hostile_content_is_a_sentence(tmp_path: Path, content: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"c\.json' is no calibration that zsad wrote \(.*Make one with zsad calibrate\.$"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"1" * 5000, b"\x80\x04K\x01."])
def test_what_is_no_json_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"The calibration '.*c\.json' cannot be read: "):
        Calibration.load(tmp_path / "c.json")


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", "a\0b"):
        with pytest.raises(UsageError, match="cannot be read: "):
            Calibration.load(path)


def test_a_foreign_detector_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(row(detector={"target": "a\x1b[2J\x9b1m", "evil\x1b[2J": 1})))
    with pytest.raises(UsageError) as caught:
        Calibration.load(tmp_path / "c.json").check({"target": "lamp"})
    assert str(caught.value).isprintable()
