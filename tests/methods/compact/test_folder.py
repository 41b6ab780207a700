"""A folder's pictures against each other: the maps against slow loops, and their laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import UsageError
from zsad.methods.compact import folder
from zsad.methods.compact.folder import BLOCKS, LAST, PAIRS, departures, unit_blocks
from zsad.methods.compact.pool import LOWEST
from zsad.methods.compact.scoring import joined
from zsad.methods.compact.second import BANK
from zsad.types import Bank, Context, ImageFeatures, References, Tap

GRID = (4, 5)
CHANNELS = 8


def pictures(count: int, seed: int = 0) -> list[dict[int, Tap]]:
    """Patches that spread over a few directions, as those of one product do."""
    random = torch.Generator().manual_seed(seed)
    found = []
    basis = {block: torch.randn(3, CHANNELS, generator=random) for block in BLOCKS}
    for _ in range(count):
        taps = {}
        for block in BLOCKS:
            own = torch.randn(1, GRID[0] * GRID[1], 3, generator=random) @ basis[block]
            taps[block] = Tap(own + 0.05 * torch.randn(own.shape, generator=random), GRID)
        found.append(unit_blocks(taps))
    return found


def slow(given: Sequence[Mapping[int, Tap]]) -> np.ndarray[Any, Any]:
    """The maps of a folder of ``SMALL`` pictures or more, all pairs, by scikit-learn and loops."""
    from sklearn.decomposition import PCA

    rows = {block: np.stack([one[block].patches[0].double().numpy() for one in given]) for block in BLOCKS}
    parts = []
    for pair in PAIRS:
        x = np.concatenate([rows[block] for block in pair], 2)
        fitted = PCA(folder.VARIANCE, svd_solver="full").fit(x.reshape(-1, x.shape[2]))
        back = fitted.inverse_transform(fitted.transform(x.reshape(-1, x.shape[2]))).reshape(x.shape)
        parts.append(((x - back) ** 2).sum(2))
    nearest = np.zeros(parts[0].shape)
    for n, own in enumerate(rows[LAST]):
        for place, patch in enumerate(own):
            far = sorted(1 - max(other @ patch) for m, other in enumerate(rows[LAST]) if m != n)
            nearest[n, place] = np.mean(far[: int(LOWEST * (len(given) - 1))])
    parts.append(nearest)
    found = 0.0
    for part, weight in zip(parts, (1, 1, folder.WEIGHT), strict=True):
        ordered = np.sort(part.ravel())
        low, middle, high = (ordered[round(share * ordered.size) - 1] for share in (0.25, 0.5, 0.75))
        found = found + weight * (part - middle) / (high - low)
    return np.asarray(found / folder.SCALE).reshape(len(given), *GRID)


def test_maps_equal_slow_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SMALL", 10)
    given = pictures(12)
    found = torch.cat(list(departures(given, 11, 0)))
    np.testing.assert_allclose(found.numpy(), slow(given), rtol=0, atol=2e-3)


def test_what_only_one_picture_has_stands_out() -> None:
    given = pictures(20)
    odd = given[7][LAST].patches.clone()
    odd[0, 13] = F.normalize(torch.tensor([1.0, -1.0] * (CHANNELS // 2)), dim=0)
    given[7] = given[7] | {LAST: Tap(odd, GRID)}
    found = torch.stack(list(departures(given, None, 0))).flatten(1)
    assert found.argmax() == 7 * found.shape[1] + 13


def test_the_median_patch_is_nought_and_the_order_does_not_matter() -> None:
    given = pictures(50)
    found = torch.cat(list(departures(given, 49, 0)))
    assert abs(float(found.median())) < 0.02
    turned = torch.cat(list(departures(given[::-1], 49, 0))).flip(0)
    torch.testing.assert_close(found, turned, rtol=0, atol=1e-4)


def test_in_a_small_folder_no_picture_bends_the_components_towards_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pictures(8)
    odd = torch.randn(1, GRID[0] * GRID[1], CHANNELS, generator=torch.Generator().manual_seed(9))
    given[3] = unit_blocks({block: Tap(odd, GRID) for block in BLOCKS})
    by_others = torch.cat(list(departures(given, None, 0)))[3].mean()
    monkeypatch.setattr(folder, "SMALL", 2)
    assert by_others > 1.3 * torch.cat(list(departures(given, None, 0)))[3].mean()


def test_a_pool_is_a_seeded_choice() -> None:
    given = pictures(15)
    first, again, other = (torch.cat(list(departures(given, 5, seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ------------------------------------------------------------------ the method
@pytest.fixture(scope="module")
def detector() -> Any:
    return zsad.create("compact")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Nine pictures of stripes; the last has a blot."""
    random = torch.Generator().manual_seed(0)
    stripes = torch.sin(torch.arange(256) / 6.0)[None, None, :].expand(3, 256, 256)
    found = torch.stack([stripes + 0.1 * torch.randn(3, 256, 256, generator=random) for _ in range(9)])
    found[8, :, 100:140, 60:100] = 2.0
    return found


def one_by_one(features: ImageFeatures) -> list[ImageFeatures]:
    return [features[place : place + 1] for place in range(len(features))]


@pytest.mark.slow
@torch.inference_mode()
def test_batch_mode_finds_the_odd_picture_with_one_tower_alone(detector: Any, images: torch.Tensor) -> None:
    context = detector.prepare()
    batch = detector.as_batch(context).for_context(context)
    assert batch.needs_set(context)
    assert not detector.needs_set(context)
    features = batch.encode(images)
    assert features.taps == {}
    alone = list(batch.score_set(one_by_one(features), context))
    scores = torch.cat([one.pred_score for one in alone])
    assert scores.argmax() == 8
    assert scores[8] > 3 * scores[:8].max()
    assert alone[8].anomaly_map.shape == (1, 256, 256)
    row, column = divmod(int(alone[8].anomaly_map.argmax()), 256)
    assert 90 < row < 150
    assert 50 < column < 110
    seen = detector.for_context(context).encode(images)
    assert seen.taps
    both = list(batch.score_set(one_by_one(seen), context))  # features of both towers do as well
    torch.testing.assert_close(torch.cat([one.pred_score for one in both]), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("count", "words", "folder"), [(0, None, 1), (0, ("crack",), 0.5), (3, None, 0.75), (4, None, 0.5)])
def test_the_folder_counts_for_more_beside_few_references(count: int, words: Any, folder: float) -> None:
    parts, banks = SimpleNamespace(words=words), {BANK: Bank(torch.zeros(2 * count, 1), torch.arange(count).repeat(2))}
    found = joined(parts, torch.ones(1, 2, 2), torch.zeros(1, 4, 4), Context(banks=banks if count else {}))
    assert found.unique().tolist() == [folder]


@pytest.mark.slow
@torch.inference_mode()
def test_references_join_the_folder(detector: Any, images: torch.Tensor) -> None:
    context = detector.prepare("stripes", References(images[3:5]))
    batch = detector.as_batch(context)
    features = batch.encode(images[3:])
    assert features.taps.keys() == {2, 3, 4, 5, 6}
    found = list(batch.score_set(one_by_one(features), context))
    plain = detector.prepare("stripes")
    folder_alone = list(detector.as_batch(plain).score_set(one_by_one(features), plain))
    by_references = detector.score(features, context)
    size = (32, 32)
    mean = (
        0.75 * F.interpolate(torch.cat([one.anomaly_map for one in folder_alone])[:, None], size, mode="bilinear")[:, 0]
        + 0.25 * F.interpolate(by_references.anomaly_map[:, None], size, mode="bilinear")[:, 0]
    )
    maps = F.interpolate(torch.cat([one.anomaly_map for one in found])[:, None], size, mode="bilinear")[:, 0]
    assert float((maps - mean).abs().mean()) < 0.05 * float(maps.abs().mean())
    assert found[0].word_maps is not None


@torch.inference_mode()
def test_too_few_pictures_and_a_small_pool_are_refused(detector: Any, images: torch.Tensor) -> None:
    context = detector.prepare()
    batch = detector.as_batch(context).for_context(context)
    features = one_by_one(batch.encode(images[:4]))
    with pytest.raises(UsageError, match="needs 5 or more; got 4"):
        batch.score_set(features, context)
    batch.pool = 3
    with pytest.raises(UsageError, match="4 or more; got 3"):
        batch.score_set(features * 2, context)


def test_the_small_tower_is_all_of_the_earlier_version() -> None:
    small = zsad.create("compact", tower="small")
    assert small.frozen_encoders().keys() == {"backbone"}
    with torch.inference_mode():
        assert small.encode(torch.zeros(1, 3, 256, 256)).streams == {}
    with pytest.raises(UsageError, match="tower of compact is 'both' or 'small'; got 'large'"):
        zsad.create("compact", tower="large")
