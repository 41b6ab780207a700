"""Streamed pixel metrics: exact ones equal those of whole arrays, binned ones lie within the error that they state."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_metrics
from light_import import LIGHT
from metric_cases import SEEDS, case

from zsad.errors import UsageError
from zsad.metrics import PixelFigures, PixelMetrics, aupimo, aupro, auroc, average_precision, f1_max, merging, spool

SMALL = pytest.mark.filterwarnings("ignore:AUPIMO")
BOUNDS = (0.3, 1.0)


def streamed(maps: Any, masks: Any, **settings: Any) -> PixelFigures:
    metrics = PixelMetrics(**settings)
    for one, mask in zip(maps, masks, strict=True):
        metrics.update(one, mask)
    return metrics.result()


def whole(maps: Any, masks: Any, bounds: tuple[float, float]) -> dict[str, float]:
    """The same figures of ravelled arrays."""
    scores, labels = (np.concatenate([one.ravel() for one in part]) for part in (maps, masks))
    return {
        "auroc": auroc(scores, labels),
        "average_precision": average_precision(scores, labels),
        "f1_max": f1_max(scores, labels)[0],
        "aupro": aupro(maps, masks),
        "aupimo": float(np.nanmean(aupimo(maps, masks, bounds, None))),
    }


@pytest.mark.slow
@SMALL
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("chunk", [7, 1 << 22])
def test_exact_equals_whole_arrays(monkeypatch: pytest.MonkeyPatch, seed: int, chunk: int) -> None:
    """Also where the merge takes many pieces, and where single bins hold more than a piece may."""
    monkeypatch.setattr(merging, "CHUNK", chunk)
    maps, masks = case(seed)
    found = streamed(maps, masks, exact=True, bounds=BOUNDS, bits=10 + seed % 7)
    for name, value in whole(maps, masks, BOUNDS).items():
        assert getattr(found, name) == (pytest.approx(value, abs=1e-12), 0), name
    scores, labels = (np.concatenate([one.ravel() for one in part]) for part in (maps, masks))
    assert found.f1_threshold == f1_max(scores, labels)[1]
    np.testing.assert_allclose(found.aupimo_per_picture, aupimo(maps, masks, BOUNDS, None), rtol=0, atol=1e-12)
    assert (found.pictures, found.regions) == (5, sum(len(slow_metrics.regions_of(mask)) for mask in masks))


@SMALL
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bits", [8, 11, 16])
def test_binned_lies_within_its_bounds(seed: int, bits: int) -> None:
    maps, masks = case(seed, pictures=7)
    try:
        exact = whole(maps, masks, BOUNDS)
    except UsageError:
        pytest.skip("too few levels")
    found = streamed(maps, masks, bits=bits, bounds=BOUNDS)
    for name, value in exact.items():
        figure = getattr(found, name)
        if math.isnan(figure.value):
            assert name == "aupimo"  # the bins are too coarse to resolve the bounds, and a warning said so
            continue
        assert abs(figure.value - value) <= figure.error + 1e-12, name
    scores, labels = (np.concatenate([one.ravel() for one in part]) for part in (maps, masks))
    called = scores >= found.f1_threshold
    tp = (called & (labels != 0)).sum()
    assert found.f1_max.value == pytest.approx(2 * tp / (called.sum() + (labels != 0).sum()), abs=1e-12)


@SMALL
@pytest.mark.parametrize("order", ["anomalous first", "normal first", "shuffled", "tied"])
def test_bounds_hold_whatever_the_order_inside_one_bin(order: str) -> None:
    """All scores in one bin of 8 bits: the worst and the best that can be are stated, and reached or nearly so."""
    mask, rng = np.zeros((2, 16, 16), int), np.random.default_rng(3)
    mask[1, :5, :7] = 1
    base = rng.permutation(512).reshape(2, 16, 16) / 2**14
    maps = {
        "anomalous first": base + mask / 16,
        "normal first": base - mask / 16,
        "shuffled": base,
        "tied": base * 0,
    }[order].astype(np.float32) + np.float32(1.25)
    found, exact = streamed(maps, mask, bits=8), whole(maps, mask, (0.3, 1.0)) if order != "tied" else {}
    assert found.auroc == (0.5, 0.5)
    for name in ("auroc", "average_precision", "f1_max", "aupro"):
        figure, value = getattr(found, name), exact.get(name, getattr(found, name).value)
        assert abs(figure.value - value) <= figure.error + 1e-12
        if order == "anomalous first":
            assert figure.value + figure.error == pytest.approx(value, abs=1e-6), name  # a perfect model may be in the bin
    if order == "normal first":
        assert exact["auroc"] == 0
        assert found.average_precision.value - exact["average_precision"] > 0.02


@SMALL
def test_finer_bins_state_smaller_errors() -> None:
    rng, mask = np.random.default_rng(0), np.zeros((6, 64, 64), int)
    mask[1::2, 5:20, 30:50] = 1
    maps = 1 / (1 + np.exp(-rng.normal(size=mask.shape) - 2 * mask))
    found = [streamed(maps, mask, bits=bits, bounds=(1e-3, 1e-1)) for bits in (14, 18, 22)]
    for name, most in (("auroc", 1e-4), ("average_precision", 1e-3), ("f1_max", 1e-3), ("aupro", 1e-4), ("aupimo", 0.03)):
        errors = [getattr(one, name).error for one in found]
        assert errors[0] > errors[1] > errors[2], name
        assert 0 < errors[2] < most, name


@SMALL
def test_the_order_of_pictures_does_not_count_and_more_can_follow() -> None:
    maps, masks = case(0, pictures=8)
    metrics = PixelMetrics(exact=True, bounds=BOUNDS)
    for one, mask in zip(maps[:4], masks[:4], strict=True):
        metrics.update(one, mask)
    half = metrics.result()
    for one, mask in zip(maps[4:], masks[4:], strict=True):
        metrics.update(one, mask)
    found, back = metrics.result(), streamed(maps[::-1], masks[::-1], exact=True, bounds=BOUNDS)
    for name in ("auroc", "average_precision", "f1_max", "aupro", "aupimo"):
        assert getattr(found, name) == pytest.approx(getattr(back, name), abs=1e-12)
    assert found.auroc != half.auroc
    np.testing.assert_allclose(found.aupimo_per_picture, back.aupimo_per_picture[::-1], atol=1e-12)


def test_what_is_missing_is_nan_with_a_warning() -> None:
    blank, one = np.zeros((4, 4)), np.arange(16.0).reshape(4, 4)
    for exact in (False, True):
        kinds = "AUPIMO needs both kinds of pictures; got 1 normal and 0 anomalous"
        with (
            pytest.warns(UserWarning, match="16 normal and 0 anomalous pixels"),
            pytest.warns(UserWarning, match=kinds),
        ):
            found = streamed([one], [blank], exact=exact)
        assert math.isnan(found.aupro.value)
        assert math.isnan(found.f1_threshold)
        with pytest.warns(UserWarning, match="got 0 normal and 0 anomalous pixels"), pytest.warns(UserWarning, match="AUPIMO"):
            assert math.isnan(PixelMetrics(exact=exact).result().auroc.value)
        with pytest.warns(UserWarning, match="AUPIMO is NaN. The normal pictures cannot resolve an FPR between 1e-05"):
            found = streamed([one, one], [blank, one > 12], exact=exact)
        assert math.isnan(found.aupimo.value)
        assert found.aupro.value > 0.5


def test_refuses_what_does_not_fit_and_takes_nothing_then() -> None:
    metrics = PixelMetrics()
    metrics.update(np.ones((2, 3)), np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"picture 1 have shapes \(2, 3\) and \(3, 2\)"):
        metrics.update(np.ones((2, 3)), np.zeros((3, 2)))
    with pytest.raises(UsageError, match="map of picture 1 holds 6 values that are NaN or infinite"):
        metrics.update(np.full((2, 3), np.nan), np.zeros((2, 3)))
    with pytest.raises(UsageError, match="map of picture 1 holds 1 value"):
        metrics.update(np.array([[1e39]]), np.ones((1, 1)))  # infinite as float32
    with pytest.warns(UserWarning, match="got 6 normal and 0"), pytest.warns(UserWarning, match="AUPIMO"):
        assert metrics.result().pictures == 1
    for settings, message in (
        ({"bits": 30}, "bits=30 is out of range; give 8"),
        ({"limit": 0}, "limit=0 is no false positive rate"),
        ({"bounds": (1, 0)}, "are no FPR range"),
    ):
        with pytest.raises(UsageError, match=message):
            PixelMetrics(**settings)


def test_keys_keep_the_order() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2**32, 10_000, dtype=np.uint32).view(np.float32)
    scores = np.sort(np.r_[scores[np.isfinite(scores)], np.float32([0, 1e-45, -1e-45, 3e38])])
    keys = spool.keys_of(scores)
    assert (np.diff(keys.astype(np.int64)) >= 0).all()
    assert np.array_equal(spool.scores_of(keys), scores)
    assert spool.keys_of(np.float32([-0.0]))[0] == spool.keys_of(np.float32([0.0]))[0]


@pytest.mark.slow
def test_temporary_files_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 8)
    rows = spool.Spool(tmp_path)
    for length in (3, 0, 5):
        rows.append(np.arange(length, dtype=np.uint32))
    assert [rows.read(row).tolist() for row in range(len(rows))] == [[0, 1, 2], [], [0, 1, 2, 3, 4]]
    assert rows.read(2, 1, 3).tolist() == [1, 2]
    del rows
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_memory_does_not_grow_with_the_number_of_pictures(exact: bool, root: Path, tmp_path: Path) -> None:
    """Peak memory of a fresh process after 60 and then after 180 pictures: 120 more add far less than their 31 MB."""
    code = f"""{LIGHT}
import numpy as np
sys.path.append({str(root / "benchmarks")!r})
from memory import peak_mb
from zsad.metrics import PixelMetrics, merging, spool
spool.IN_MEMORY = merging.CHUNK = 1 << 20
mask = np.zeros((256, 256))
mask[:40, :40] = 1

def measure(pictures):
    rng = np.random.default_rng(0)
    metrics = PixelMetrics(exact={exact}, bounds=(1e-3, 1e-2), folder={str(tmp_path)!r})
    for number in range(pictures):
        metrics.update(rng.random((256, 256), np.float32), mask * (number % 2))
    assert 0.4 < metrics.result().auroc.value < 0.6

for pictures in (60, 180):
    measure(pictures)
    print(peak_mb())
"""
    run = [sys.executable, "-W", "ignore", "-c", code]
    peaks = [float(line) for line in subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()]
    assert peaks[1] - peaks[0] < 20, peaks
