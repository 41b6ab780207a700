"""PatchCore against a slow search in float64, its coreset against a greedy loop, and its laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

import zsad
from zsad.alignment import maps
from zsad.errors import UsageError
from zsad.images.reading import list_images
from zsad.inference import reference_rows
from zsad.references import coreset as selection
from zsad.references import mutual_scoring
from zsad.references.descriptors import mid_layers
from zsad.references.memory_bank import faiss_index, nearest_in_index
from zsad.types import Bank, Prediction, References, Tap

EXACT = 1e-6  # of distances in float32 against float64


@pytest.fixture(scope="module")
def compact() -> Any:
    """On the embedded tower: two grids, 40 and 112 channels."""
    return zsad.create("patchcore", backbone=zsad.load_backbone("compact", image_size=128))


def pictures(count: int, side: int = 128, seed: int = 0) -> torch.Tensor:
    """Preprocessed pictures (B, 3, side, side), smooth and noisy."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    return F.interpolate(coarse, size=side, mode="bilinear") + 0.1 * torch.randn(count, 3, side, side, generator=generator)


def slow_rows(taps: dict[int, Tap], side: int, width: int | None) -> torch.Tensor:
    """(B, L, C) descriptors in float64, by windows that are cut out."""
    finest, parts = max((tap.grid for tap in taps.values()), key=lambda grid: grid[0] * grid[1]), []
    for layer in sorted(taps):
        tap = taps[layer]
        block = tap.patches.double().transpose(1, 2).unflatten(2, tap.grid)
        windows = F.unfold(block, side, padding=side // 2).unflatten(1, (block.shape[1], -1)).mean(2)  # (B, C, L)
        normed = (windows / windows.norm(dim=1, keepdim=True)).unflatten(2, tap.grid)
        parts.append(F.interpolate(normed, size=finest, mode="bilinear").flatten(2).transpose(1, 2))
    rows = torch.cat(parts, 2)
    return rows if width is None or rows.shape[2] <= width else F.adaptive_avg_pool1d(rows, width)


def slow_prediction(detector: Any, images: torch.Tensor, references: torch.Tensor) -> Prediction:
    """Every patch beside every reference patch, in float64; the map through scipy."""
    asked, kept = (detector.encode(some).taps for some in (images, references))
    rows, bank = (slow_rows(taps, detector.side, detector.width) for taps in (asked, kept))
    bank = bank.flatten(0, 1)
    cosines = (rows / rows.norm(dim=2, keepdim=True)) @ (bank / bank.norm(dim=1, keepdim=True)).T
    distance, grid = 1 - cosines.amax(2), max(tap.grid for tap in asked.values())
    resized = F.interpolate(distance.unflatten(1, grid)[:, None], size=images.shape[2:], mode="bilinear")[:, 0]
    smoothed = np.stack([gaussian_filter(one, detector.sigma) for one in resized.numpy()])
    return Prediction(distance.amax(1), torch.from_numpy(smoothed))


def difference(detector: Any) -> float:
    """The largest difference of scores and maps from the slow search."""
    images, references = pictures(2), pictures(3, seed=1)
    with torch.inference_mode():
        expected = slow_prediction(detector, images, references)
        found = detector(images, detector.prepare(references=References(references)))
    scores = (found.pred_score - expected.pred_score).abs().max()
    return max(scores, (found.anomaly_map - expected.anomaly_map).abs().max()).item()


@pytest.mark.parametrize("arguments", [{}, {"width": 100}, {"side": 5, "width": None, "sigma": 0}, {"taps": (4,), "side": 1}])
def test_equals_an_exact_search(compact: Any, arguments: dict[str, Any]) -> None:
    assert difference(zsad.create("patchcore", backbone=compact.backbone, **arguments)) < EXACT


def test_equals_an_exact_search_on_a_transformer() -> None:
    detector = zsad.create("patchcore", backbone=zsad.load_backbone("tiny", image_size=128))
    assert detector.layers == (6, 9)
    assert difference(detector) < EXACT


def test_faiss_finds_the_same(compact: Any) -> None:
    pytest.importorskip("faiss", reason="the extra 'faiss' is not installed")
    with torch.inference_mode():
        features, context = compact.encode(pictures(2)), compact.prepare(references=References(pictures(3, seed=1)))
        index = faiss_index(context.banks["patches"])
        nearest = 1 - nearest_in_index(compact.reference_rows(features)["patches"], index)
    torch.testing.assert_close(compact.score(features, context).pred_score, nearest.amax(1), rtol=0, atol=EXACT)


def corners(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda grid, size, **more: real(grid, size, align_corners=True)


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "corners": lambda patch: patch.setattr("zsad.methods.patchcore.upsample", corners(maps.upsample)),
    "smoothed twice": lambda patch: patch.setattr(
        "zsad.methods.patchcore.smooth", lambda found, sigma: maps.smooth(maps.smooth(found, sigma), sigma)
    ),
    "a wider neighbourhood": lambda patch: patch.setattr(
        "zsad.references.descriptors.neighbourhood_means", lambda x, radii: mutual_scoring.neighbourhood_means(x, (5,))
    ),
    "the mean in place of the nearest": lambda patch: patch.setattr(
        "zsad.methods.patchcore.nearest_cosine",
        lambda rows, bank: (F.normalize(rows, dim=-1) @ F.normalize(bank.rows, dim=-1).T).topk(3).values.mean(-1),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_plausible_mistakes_are_seen(compact: Any, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[mistake](monkeypatch)
    assert difference(compact) > 100 * EXACT


# ------------------------------------------------------------------ the coreset
def test_the_coreset_is_the_greedy_loop() -> None:
    """2,000 points, 200 chosen: always the one that is farthest from those chosen, distances in float64."""
    points = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
    found = selection.coreset(points, 0.1, seed=3).tolist()
    unit = F.normalize(points.double(), dim=1)
    chosen, nearest = found[:1], (unit - unit[found[0]]).norm(dim=1)
    for _ in range(199):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (unit - unit[chosen[-1]]).norm(dim=1))
    assert found == chosen


def folder_of(path: Path, count: int) -> list[Any]:
    """Pictures as files, listed."""
    from PIL import Image

    path.mkdir()
    for index, tensor in enumerate(pictures(count, 64, seed=9)):
        rgb = (tensor.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(rgb).save(path / f"{index:02d}.png")
    return list(list_images(path))


@pytest.mark.slow
def test_added_and_removed_is_a_fresh_start(compact: Any, tmp_path: Path) -> None:
    """Thirty random steps; after each fifth the banks are those of an inspector that was given the rest."""
    refs = folder_of(tmp_path / "good", 12)
    grown = zsad.Inspector(compact, references=[one.path for one in refs[:4]], coreset=0.3)
    there, draw = {0, 1, 2, 3}, np.random.default_rng(0)
    for step in range(30):  # of them every fifth is compared
        number = int(draw.integers(12))
        if number in there and len(there) > 1:
            grown.remove_references(refs[number].name)
            there.remove(number)
        else:
            grown.add_references([refs[number].path])
            there.add(number)
        if step % 5 == 4:
            fresh = zsad.Inspector(compact, references=[refs[number].path for number in sorted(there)], coreset=0.3)
            one, other = (inspector.context.banks["patches"] for inspector in (grown, fresh))
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.source, other.source)


@pytest.mark.slow
def test_few_references_are_in_memory_at_once(compact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of the selection holds more rows than a block's, and the bank alone grows."""
    seen: list[int] = []
    real = selection.coreset

    def counting(rows: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(len(rows))
        return real(rows, *more)

    monkeypatch.setattr(selection, "coreset", counting)
    folder_of(tmp_path / "good", 12)
    found = zsad.Inspector(compact, references=tmp_path / "good", coreset=0.1).context.banks["patches"]
    assert seen == [reference_rows.BLOCK * 256] * 3  # a grid of 16 x 16
    assert len(found.rows) == 3 * round(0.1 * reference_rows.BLOCK * 256)


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    "wrong", [{"side": 2}, {"side": 0}, {"width": 0}, {"sigma": -1.0}], ids=lambda one: ", ".join(map(str, one))
)
def test_wrong_arguments(compact: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give an odd side, a width of at least 1 channel or None, a sigma of 0 or more"):
        zsad.create("patchcore", backbone=compact.backbone, **wrong).prepare()


def test_refusals(compact: Any) -> None:
    with torch.inference_mode():
        with pytest.raises(UsageError, match="needs 1 or more; got 0"):
            compact(pictures(1), compact.prepare())
        other = Bank(torch.ones(5, 3), torch.zeros(5, dtype=torch.int64))
        with pytest.raises(UsageError, match="A bank of 5 rows of 3 channels cannot be compared"):
            compact(pictures(1), compact.prepare(references=References(banks={"patches": other})))
    tiny = zsad.load_backbone("tiny", image_size=64)
    with pytest.raises(UsageError, match=r"taps=\(12, 25\) of patchcore must lie in 1..12"):
        zsad.create("patchcore", backbone=tiny, taps=(25, 12)).encode(pictures(1, 64))
    with pytest.raises(UsageError, match="normal references only"):
        compact.prepare(references=References(anomalous=pictures(1)))


def test_an_inspector_says_that_references_are_missing(compact: Any) -> None:
    inspector = zsad.Inspector(compact)
    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UsageError, match="Give some: references="):
        list(inspector([picture]))
    rng = np.random.default_rng(0)
    normal = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    inspector.add_references([normal])
    [found] = inspector([normal])
    assert found.pred_score == pytest.approx(0, abs=EXACT)


def test_a_tower_without_depth_is_asked_about() -> None:
    with pytest.raises(UsageError, match="patchcore does not know how deep the backbone is"):
        mid_layers("patchcore", object(), None)
    assert mid_layers("patchcore", object(), (7, 3)) == (3, 7)
