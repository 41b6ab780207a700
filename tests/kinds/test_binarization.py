"""Main element binarization's laws; that it equals its authors' program is tests/verification's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_sets import COMMITTED
from scipy import ndimage

from zsad.errors import UsageError
from zsad.kinds import binarization, crops
from zsad.kinds.binarization import Range, binarize, range_of, stable_threshold
from zsad.kinds.crops import cut, merged_boxes, region_boxes, to_size
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import anomalyncd
from zsad.verification.reference import Reference


def blobs(*places: tuple[int, int, int]) -> Any:
    one = np.zeros((60, 80), dtype=np.uint8)
    for y, x, value in places:
        one[y : y + 12, x : x + 12] = value
    return one


def test_blobs_are_counted() -> None:
    maps = [blobs((5, 5, 250), (30, 50, 240)), blobs((20, 20, 200)), blobs((0, 0, 40))]
    limits = range_of(maps)
    assert limits == Range(40, 250)
    found = [binarize(one, limits) for one in maps]
    assert [one.number for one in found] == [2, 1, 0]
    assert [int(ndimage.label(one.mask)[1]) for one in found] == [2, 1, 0]
    assert found[2].threshold == 255  # the picture with the smallest maximum is clean


def test_a_run_of_equal_counts_decides() -> None:
    assert stable_threshold([0, 1, 1, 2, 2, 2, 2, 2, 1], Range(0, 255), 4, 4) == (255 - 7 * 4, 2)
    assert stable_threshold([1, 1, 1], Range(0, 255), 4, 4) == (255, 0)
    with pytest.raises(UsageError, match="no anomaly map"):
        range_of([])


def test_crops_lie_around_the_regions() -> None:
    mask = blobs((5, 5, 1), (40, 60, 1)).astype(bool)
    boxes = region_boxes(mask)
    assert len(boxes) == 2
    for x0, y0, x1, y1 in boxes:
        assert x1 - x0 == y1 - y0
        assert mask[int(y0) : int(y1), int(x0) : int(x1)].any()
    assert merged_boxes(boxes, mask.shape) == boxes  # they are far apart
    assert region_boxes(np.zeros((6, 9), dtype=bool)) == [(0.0, 0.0, 9.0, 6.0)]


def test_parts_beyond_the_picture_are_black() -> None:
    picture = np.full((10, 10, 3), 200, dtype=np.uint8)
    found = cut(picture, (-3.0, 0.0, 7.0, 10.0))
    assert found.shape == (10, 10, 3)
    assert not found[:, :3].any()
    assert (found[:, 3:] == 200).all()


def test_nearest_size() -> None:
    np.testing.assert_array_equal(to_size(np.arange(4).reshape(2, 2), (4, 2)), [[0, 1], [0, 1], [2, 3], [2, 3]])


# ------------------------------------------------------------------ mistakes are seen
def _five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarization, "ERODED", np.ones((5, 5), dtype=bool))


def _four_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarization, "EIGHT", ndimage.generate_binary_structure(2, 1))


def _own_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomalyncd, "range_of", lambda maps: Range(0, max(int(one.max()) for one in maps)))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [_five, _four_connected, _own_range])
def test_wrong_binarizations_are_seen(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    check = Comparisons(Reference(COMMITTED, "anomalyncd"))
    anomalyncd._binarization(check)
    assert "mebin/main/default/masks_packed" in {one.output for one in check.made if not one.passed}


def test_wrong_crops_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "MARGIN", 1.0)
    check = Comparisons(Reference(COMMITTED, "anomalyncd"))
    anomalyncd._crops(check)
    assert "crop/one_large/boxes_before_merge" in {one.output for one in check.made if not one.passed}
