"""Gaussians of normal patches: against scikit-learn, the false-alarm rate that a calibration promises, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

import zsad
from zsad.decision.calibration import Calibration
from zsad.errors import UsageError
from zsad.references import gaussian, mutual_scoring
from zsad.references.descriptors import patch_descriptors
from zsad.references.sum_banks import SUMS, joined, unpacked
from zsad.types import Bank, Prediction, References

SIDE = 64  # pixels; 8 x 8 patches on the finest grid of the embedded tower
CLOSE = 1e-3  # of distances over the root of the channels, in float32 against float64


@pytest.fixture(scope="module")
def tower() -> Any:
    return zsad.load_backbone("compact", image_size=SIDE)


def method(tower: Any, **arguments: Any) -> Any:
    return zsad.create("mvg", backbone=tower, **{"width": 12, "sigma": 1.0} | arguments)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Preprocessed pictures (B, 3, SIDE, SIDE): one pattern, each with its own shades and noise."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(7))
    coarse = pattern + 0.3 * torch.rand(count, 3, 9, 9, generator=generator)
    return F.interpolate(coarse, size=SIDE, mode="bilinear") + 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)


def photos(count: int) -> list[np.ndarray[Any, Any]]:
    return [(one.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy() for one in pictures(count, seed=3)]


def slow_prediction(detector: Any, images: torch.Tensor, references: torch.Tensor) -> Prediction:
    """By scikit-learn, position by position, in float64; the map through scipy."""
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    asked, kept = (patch_descriptors(detector.encode(some).taps, 3, detector.width) for some in (images, references))
    oracle = LedoitWolf if detector.shrinkage == "ledoit_wolf" else EmpiricalCovariance
    rows, bank = asked.patches.double().numpy(), kept.patches.double().numpy()
    if detector.pooled:
        squares = oracle().fit(bank.reshape(-1, bank.shape[2])).mahalanobis(rows.reshape(-1, rows.shape[2]))
    else:
        places = range(rows.shape[1])
        squares = np.stack([oracle().fit(bank[:, place]).mahalanobis(rows[:, place]) for place in places], 1)
    distance = torch.from_numpy(np.sqrt(squares / rows.shape[2])).view(len(images), 1, *asked.grid)
    resized = F.interpolate(distance, size=images.shape[2:], mode="bilinear")[:, 0]
    smoothed = torch.from_numpy(np.stack([gaussian_filter(one, detector.sigma) for one in resized.numpy()]))
    return Prediction(smoothed.flatten(1).amax(1), smoothed)


def difference(detector: Any, few: int = 5) -> float:
    """The largest difference of scores and maps from the slow way."""
    images, references = pictures(2), pictures(few, seed=1)
    with torch.inference_mode():
        expected = slow_prediction(detector, images, references)
        found = detector(images, detector.prepare(references=References(references)))
    scores = (found.pred_score - expected.pred_score).abs().max()
    return max(scores, (found.anomaly_map - expected.anomaly_map).abs().max()).item()


@pytest.mark.parametrize("arguments", [{}, {"shrinkage": 0.0}, {"pooled": False, "least": 0.0}])
def test_equals_scikit_learn(tower: Any, arguments: dict[str, Any]) -> None:
    assert difference(method(tower, **arguments)) < CLOSE


def test_equals_scikit_learn_with_one_reference(tower: Any) -> None:
    assert difference(method(tower), few=1) < CLOSE


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fourth moments of rows that are not centred": lambda patch: patch.setattr(
        "zsad.references.gaussian.moments",
        lambda total, products, count, real=gaussian.moments: (
            *real(total, products, count)[:2],
            products[..., -1, -1] / count,
        ),
    ),
    "the divisor of an unbiased covariance": lambda patch: patch.setattr(
        "zsad.references.gaussian.moments",
        lambda total, products, count, real=gaussian.moments: tuple(
            one * factor for one, factor in zip(real(total, products, count), (1, 1.05, 1), strict=True)
        ),
    ),
    "smoothed before it is resized": lambda patch: patch.setattr("zsad.methods.mvg.smooth", lambda maps, sigma: maps),
    "a wider neighbourhood": lambda patch: patch.setattr(
        "zsad.references.descriptors.neighbourhood_means", lambda x, radii: mutual_scoring.neighbourhood_means(x, (5,))
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_plausible_mistakes_are_seen(tower: Any, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = method(tower)
    images, references = pictures(2), pictures(1, seed=1)
    with torch.inference_mode():
        expected = slow_prediction(detector, images, references)
        MISTAKES[mistake](monkeypatch)
        found = detector(images, detector.prepare(references=References(references)))
    assert (found.anomaly_map - expected.anomaly_map).abs().max() > 5 * CLOSE


# ------------------------------------------------------------------ references
@pytest.mark.parametrize("pooled", [True, False])
def test_added_and_removed_is_a_fresh_start(tower: Any, pooled: bool) -> None:
    """Pooled: the sums of those that are there, to the bit; per position: their patches."""
    shots, draw, detector = photos(7), np.random.default_rng(1), method(tower, pooled=pooled)
    grown, there = zsad.Inspector(detector, references=shots[:3], batch_size=1), {0, 1, 2}
    names = dict(enumerate(grown.references.names))
    for _ in range(12):
        number = int(draw.integers(7))
        if number in there and len(there) > 2:
            grown.remove_references(names.pop(number))
            there.remove(number)
        elif number not in there:
            [names[number]] = grown.add_references([shots[number]])
            there.add(number)
    fresh = zsad.Inspector(detector, references=[shots[number] for number in sorted(there)], batch_size=1)
    assert grown.context.banks.keys() == fresh.context.banks.keys()
    assert all(torch.equal(bank.rows, fresh.context.banks[key].rows) for key, bank in grown.context.banks.items())
    [one], [other] = (list(inspector([shots[0]])) for inspector in (grown, fresh))
    assert one.pred_score == other.pred_score


def test_pooled_references_take_the_memory_of_one(tower: Any) -> None:
    detector = method(tower)
    with torch.inference_mode():
        banks = detector.banks(References(pictures(4)))
    each = banks[SUMS].rows.split(len(banks[SUMS].rows) // 4)
    assert unpacked(joined(SUMS, each)).count == 4 * 8 * 8
    assert joined(SUMS, each).shape == each[0].shape


@pytest.mark.slow
def test_false_alarms_keep_to_the_rate_of_a_calibration(tower: Any) -> None:
    """Twenty splits of normal pictures into references, calibration and test, against the beta-binomial distribution."""
    from scipy.stats import betabinom

    rate, count, tested, splits, few = 0.1, 39, 40, 20, 6
    detector, draw, alarms = method(tower), np.random.default_rng(0), []
    with torch.inference_mode():
        features = detector.encode(pictures(few + count + tested, seed=11))
        rows = detector.reference_rows(features)[SUMS]
        for _ in range(splits):
            order = draw.permutation(len(features))
            whole = joined(SUMS, rows[order[:few]])
            bank = Bank(whole, torch.zeros(len(whole), dtype=torch.int64))
            found = detector.score(features, detector.prepare(references=References(banks={SUMS: bank})))
            scores, peaks = found.pred_score.double().numpy(), found.anomaly_map.flatten(1).amax(1).double().numpy()
            kept, asked = order[few : few + count], order[few + count :]
            levels = Calibration.from_scores(scores[kept], peaks[kept]).thresholds(max_false_alarms=rate)
            alarms.append(sum(levels.label(score) == "anomalous" for score in scores[asked].tolist()))
    k = round(rate * (count + 1))
    theory = betabinom(tested, k, count + 1 - k)
    assert max(alarms) <= theory.ppf(1 - 1e-3 / splits)
    assert abs(np.mean(alarms) - theory.mean()) < 3 * theory.std() / splits**0.5


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"side": 2}, "give an odd side, a width of at least 1 channel or None, a sigma of 0 or more"),
        ({"width": 0}, "give an odd side"),
        ({"sigma": -1.0}, "give an odd side"),
        ({"shrinkage": 1.5}, "give 'ledoit_wolf' or a weight from 0 to 1, and a least variance of 0 or more"),
        ({"least": -0.1}, "and a least variance of 0 or more"),
    ],
)
def test_wrong_arguments(tower: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        method(tower, **wrong).prepare()


def test_refusals(tower: Any) -> None:
    detector, apart, images = method(tower), method(tower, pooled=False), pictures(2)
    with torch.inference_mode():
        with pytest.raises(UsageError, match="needs 1 or more; got 0"):
            detector(images, detector.prepare())
        with pytest.raises(UsageError, match="needs 2 or more; got 1"):
            apart(images, apart.prepare(references=References(images[:1])))
        with pytest.raises(UsageError, match="references that are all the same have no covariance"):
            apart(images, apart.prepare(references=References(images[:1].expand(3, -1, -1, -1))))
        with pytest.raises(UsageError, match=r"the shape \(12,\) and the pictures' patches \(9,\)"):
            method(tower, width=9)(images, detector.prepare(references=References(images)))
        with pytest.raises(UsageError, match="This context has no Gaussian of patches"):
            apart(images, detector.prepare(references=References(images)))
        cut = Bank(torch.ones(100, 12), torch.arange(100) // 50)
        with pytest.raises(UsageError, match="Leave coreset out"):
            apart(images, apart.prepare(references=References(banks={"patches": cut})))
        with pytest.raises(UsageError, match="normal references only"):
            detector.prepare(references=References(anomalous=images))
    with pytest.raises(UsageError, match="shrinkage of mvg takes .* such as 'ledoit_wolf'; got 'none'"):
        method(tower, shrinkage="none")
