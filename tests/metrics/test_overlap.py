"""AUPRO, its legacy version and AUPIMO against slow loops over thresholds, pictures and regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import slow_metrics
from metric_cases import SEEDS, case

from zsad.errors import UsageError
from zsad.metrics import aupimo, aupro, aupro_legacy

WIDE = (0.02, 0.3)  # bounds that a few hundred pixels can resolve
SMALL = pytest.mark.filterwarnings("ignore:AUPIMO")  # bounds missed by more than 1 %: so few pixels have no nearer level


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_the_loop(seed: int, limit: float) -> None:
    maps, masks = case(seed)
    assert aupro(maps, masks, limit) == pytest.approx(slow_metrics.aupro(maps, masks, limit), abs=1e-12)


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 6 not in (2, 4)])  # there too few steps lie below the limit
@pytest.mark.parametrize("thresholds", [200, 7])
def test_aupro_legacy_equals_the_loop(seed: int, thresholds: int) -> None:
    maps, masks = case(seed)
    limit = 0.3 if thresholds == 200 else 0.9
    expected = slow_metrics.aupro_legacy(maps, masks, limit, thresholds)
    assert aupro_legacy(maps, masks, limit, thresholds) == pytest.approx(expected, abs=1e-12)


@SMALL
@pytest.mark.parametrize("seed", SEEDS)
def test_aupimo_equals_the_loop_over_every_threshold(seed: int) -> None:
    maps, masks = case(seed)
    bounds = (0.3, 1.0) if seed % 6 in (2, 3) else (0.2, 0.9)  # where values are few the lowest level is high
    np.testing.assert_allclose(aupimo(maps, masks, bounds, None), slow_metrics.aupimo(maps, masks, bounds), rtol=0, atol=1e-12)


@SMALL
@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 6 in (0, 4, 5)])
def test_aupimo_equals_the_loop_over_sampled_thresholds(seed: int) -> None:
    maps, masks = case(seed)
    clean = [one for one, mask in zip(maps, masks, strict=True) if not mask.any()]
    low, high = (float(pick([pick(one) for one in clean])) for pick in (np.min, np.max))
    cuts = np.linspace(low, high, 3000, dtype=np.float32).tolist()
    expected = slow_metrics.aupimo(maps, masks, WIDE, cuts)
    np.testing.assert_allclose(aupimo(maps, masks, WIDE, 3000), expected, rtol=0, atol=1e-12)


def test_a_case_worked_by_hand() -> None:
    # one region of two pixels (4, 2), one of one pixel (3); normal pixels 3, 1, 1, 0
    maps, masks = np.array([[[4, 2, 1, 3], [0, 3, 1, -1]]], np.float32), np.array([[[1, 1, 0, 1], [0, 0, 0, 0]]])
    # FPR: at 4: 0, at 3 (tie with a normal pixel): 1/5, at 2: 1/5, at 1: 3/5 ...; overlap 1/4, 3/4, 1
    assert aupro(maps, masks, 1.0) == pytest.approx(1 / 5 * (1 / 4 + 3 / 4) / 2 + 4 / 5)
    assert aupro(maps, masks, 0.1) == pytest.approx((1 / 4 + (1 / 4 + 1 / 4)) / 2)  # cut half way up the tie
    touching = np.eye(3, dtype=int)[None]
    assert aupro(touching * 1.0, touching) == 1
    half = np.array([[[5.0, 0, 0], [0, 5, 0], [0, 0, -1]]])
    # one region, for its pixels touch at corners; as three regions it would be the same, as (2 of 3) differs: 2/3
    assert aupro(half, touching) == pytest.approx(2 / 3)


def test_regions_count_the_same_whatever_their_size() -> None:
    mask = np.zeros((1, 20, 20), int)
    mask[0, :10], mask[0, 15, 15] = 1, 1
    found = mask * 1.0
    found[0, 15, 15] = -1  # the one-pixel region is missed
    assert aupro(found, mask) == pytest.approx(0.5)
    found[0, 15, 15], found[0, :10] = 1, -1  # the large one is
    assert aupro(found, mask) == pytest.approx(0.5)


def test_laws() -> None:
    maps, masks = case(0, pictures=8)
    for metric in (aupro, aupro_legacy):
        assert metric([one * 4 for one in maps], masks) == pytest.approx(metric(maps, masks), abs=1e-12)
        assert metric(maps[::-1], masks[::-1]) == pytest.approx(metric(maps, masks), abs=1e-12)
        assert metric([one[:, ::-1] for one in maps], [one[:, ::-1] for one in masks]) == pytest.approx(metric(maps, masks))
    cubed = [one.astype(np.float64) ** 3 for one in maps]
    assert aupro(cubed, masks) == aupro(maps, masks)  # only the order counts ...
    assert aupro_legacy(cubed, masks) != pytest.approx(aupro_legacy(maps, masks), abs=1e-3)  # ... but not in the legacy one
    assert aupro([mask * 1.0 for mask in masks], masks) == 1
    assert aupro([np.zeros(mask.shape) for mask in masks], masks, 0.3) == pytest.approx(0.15)  # one tie: the diagonal


@SMALL
def test_aupimo_of_a_perfect_a_blind_and_a_random_model() -> None:
    rng, mask = np.random.default_rng(0), np.zeros((40, 64, 64), int)
    mask[20:, 10:30, 10:30] = 1
    maps = rng.uniform(size=mask.shape).astype(np.float32)
    bounds = (1e-3, 1e-2)
    for thresholds in (None, 30_000):
        assert aupimo(maps + mask, mask, bounds, thresholds)[20:].min() > 0.99
        assert (aupimo(maps - mask, mask, bounds, thresholds)[20:] == 0).all()
        random = aupimo(maps, mask, bounds, thresholds)
        assert np.isnan(random[:20]).all()
        assert random[20:].mean() == pytest.approx((1e-2 - 1e-3) / np.log(10), rel=0.2)


@SMALL
def test_aupimo_names_the_bounds_that_normal_pictures_cannot_resolve() -> None:
    maps, masks = case(0)
    with pytest.raises(UsageError, match="cannot resolve an FPR between 1e-05 and 0.0001: the lowest level is 0.00337"):
        aupimo(maps, masks)
    with pytest.raises(UsageError, match="cannot resolve an FPR between 0.3 and 0.301"):
        aupimo(maps, masks, (0.3, 0.301), None)
    with pytest.raises(UsageError, match="thresholds lie between the FPR bounds, more than 30 are needed; raise thresholds"):
        aupimo(maps, masks, (0.05, 0.3), 60)
    nearest = "bound 0.0515 is not exactly achieved: the nearest FPR of normal pictures is 0.05051"  # 15 of 297
    with pytest.warns(UserWarning, match="fewer than 300"), pytest.warns(UserWarning, match=nearest):
        aupimo(maps, masks, (0.0515, 0.3), 400)
    for bounds in ((0, 0.1), (0.2, 0.1), (0.1, 2)):
        with pytest.raises(UsageError, match="are no FPR range; give 0 < lower < upper <= 1"):
            aupimo(maps, masks, bounds)


def test_undefined_is_nan_with_a_warning() -> None:
    maps, blank, full = np.arange(24.0).reshape(2, 3, 4), np.zeros((2, 3, 4)), np.ones((2, 3, 4))
    for metric, name in ((aupro, "AUPRO"), (aupro_legacy, "aupro_legacy")):
        with pytest.warns(UserWarning, match=f"{name} needs regions and normal pixels; got 0 and 24: NaN"):
            assert np.isnan(metric(maps, blank))
        with pytest.warns(UserWarning, match="got 2 and 0: NaN"):
            assert np.isnan(metric(maps, full))
        with pytest.warns(UserWarning, match="got 0 and 0: NaN"):
            assert np.isnan(metric([], []))
    with pytest.warns(UserWarning, match="not constant; every score is 0.0"):
        assert np.isnan(aupro_legacy(blank, maps > 20))
    with pytest.warns(UserWarning, match="two thresholds with different FPR below 0.3"):
        assert np.isnan(aupro_legacy((maps > 10) * 1.0, maps > 20))
    for masks, words in ((blank, "2 normal and 0 anomalous"), (full, "0 normal and 2 anomalous")):
        with pytest.warns(UserWarning, match=f"AUPIMO needs both kinds of pictures; got {words}"):
            assert np.isnan(aupimo(maps, masks)).all()


@pytest.mark.parametrize("metric", [aupro, aupro_legacy, aupimo])
def test_refuses_what_does_not_fit(metric: Callable[..., Any]) -> None:
    maps, masks = np.zeros((3, 4, 5)), np.zeros((3, 4, 5))
    with pytest.raises(UsageError, match="3 maps and 2 masks"):
        metric(maps, masks[:2])
    with pytest.raises(UsageError, match=r"picture 0 have shapes \(4, 5\) and \(5, 4\)"):
        metric(maps, masks.transpose(0, 2, 1))
    with pytest.raises(UsageError, match=r"shapes \(3, 4, 5\) and \(3, 4, 5\)"):
        metric(maps[None], masks[None])
    with pytest.raises(UsageError, match=r"shapes \(0, 5\) and \(0, 5\); they must be the same \(height, width\), neither 0"):
        metric(maps[:, :0], masks[:, :0])
    maps[1, 2, 3], maps[1, 0, 0] = np.nan, -np.inf
    with pytest.raises(UsageError, match="map of picture 1 holds 2 values that are NaN or infinite"):
        metric(maps, masks)


@pytest.mark.parametrize("limit", [0, -1, 1.5, float("nan")])
def test_refuses_a_limit_out_of_range(limit: float) -> None:
    with pytest.raises(UsageError, match="is no false positive rate above 0"):
        aupro(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), limit)


def test_takes_any_kind_of_number_without_copying_float32_up() -> None:
    maps, masks = case(1)
    whole = [np.round(one * 20).astype(np.int16) for one in maps]
    floats = [one.astype(np.float64) for one in whole]
    assert aupro(whole, masks) == aupro(floats, masks) == aupro([one.astype(np.float16) for one in whole], masks)
