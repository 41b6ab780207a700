"""MuSc's maths against slow loops, and its laws; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.backbones.dinov2_weights import build_dinov2
from zsad.errors import NeedsSet, UsageError
from zsad.metrics import image_auroc
from zsad.references import mutual_scoring, repeated
from zsad.synthetic.shapes import smooth_noise
from zsad.types import ImageFeatures, Prediction, Tap

SCORES = 2e-5  # of scores and maps in float32
TAPS, RADII = (6, 12, 18, 24), (1, 3, 5)
STORED_LNAMD = [(3, 6), (3, 12), (3, 18), (1, 24), (3, 24), (5, 24)]


def close(found: torch.Tensor, stored: Any, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(stored), rtol=0, atol=tolerance)


def one_by_one(features: ImageFeatures) -> list[ImageFeatures]:
    return [features[i : i + 1] for i in range(len(features))]


def run(detector: Any, features: Sequence[ImageFeatures]) -> Prediction:
    with torch.inference_mode():
        found = list(detector.score_set(features, detector.prepare()))
    return Prediction(torch.cat([one.pred_score for one in found]), torch.cat([one.anomaly_map for one in found]))


# ------------------------------------------------------------------ the maths, against slow loops
def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(seeded(*shape), dim=-1)


@pytest.mark.parametrize(("grid", "radii"), [((4, 6), (1, 3, 5)), ((3, 3), (5, 1)), ((1, 7), (3,)), ((2, 2), (7, 3))])
def test_neighbourhoods_are_those_of_unfold(grid: tuple[int, int], radii: tuple[int, ...]) -> None:
    """Neighbourhoods wider than the grid too."""
    patches = 3 + seeded(2, grid[0] * grid[1], 8)
    block = patches.double().transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
    block = torch.stack([(one - one.mean()) / (one.var(correction=0) + 1e-5).sqrt() for one in block])
    for found, side in zip(mutual_scoring.lnamd(patches, grid, radii), radii, strict=True):
        windows = F.unfold(block, side, padding=side // 2).unflatten(1, (8, -1)).mean(2)  # (B, C, L)
        close(found.double(), F.normalize(windows.transpose(1, 2), dim=-1), 1e-6)


@pytest.mark.parametrize(("n", "length", "other", "tile"), [(1, 5, 5, 10**6), (4, 6, 9, 10**6), (5, 7, 3, 50), (3, 1, 1, 1)])
def test_one_product_serves_both_ways(n: int, length: int, other: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual_scoring, "TILE", tile)
    one, others = unit(2, length, 4), unit(2, n, other, 4)
    there, back = mutual_scoring.nearest_cosines(one, others.transpose(2, 3).contiguous())
    assert (there.shape, back.shape) == ((n, 2, length), (n, 2, other))
    for r in range(2):
        for number in range(n):
            distance = torch.cdist(one[r].double(), others[r, number].double())
            close(there[number, r].double(), 1 - distance.amin(1).square() / 2, 1e-6)
            close(back[number, r].double(), 1 - distance.amin(0).square() / 2, 1e-6)


def circle(count: int, reach: int) -> dict[int, list[int]]:
    return {i: [j for j in range(count) if j != i and min(abs(i - j), count - abs(i - j)) <= reach] for i in range(count)}


@pytest.mark.parametrize("block", [1, 3, 32])
@pytest.mark.parametrize(("count", "reach"), [(5, None), (6, None), (9, 2), (10, 4), (10, 5), (12, 1), (7, 50)])
def test_every_pair_once(count: int, reach: int | None, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs, or those of the circle, equal the slow loop, and each is multiplied once."""
    rows, products, plain = unit(count, 2, 4, 3), 0, mutual_scoring.nearest_cosines

    def counting(one: torch.Tensor, others: torch.Tensor) -> Any:
        nonlocal products
        products += others.shape[1]
        return plain(one, others)

    monkeypatch.setattr(mutual_scoring, "nearest_cosines", counting)
    found = dict(mutual_scoring.mutual_cosines(rows.__getitem__, count, reach, block))
    wanted = circle(count, count if reach is None else reach)
    assert sorted(found) == list(range(count))
    for i, others in wanted.items():
        slow = torch.stack([(rows[i] @ rows[j].transpose(1, 2)).amax(2) for j in others])
        close(found[i].sort(0).values, slow.sort(0).values, 1e-6)
    assert products == sum(map(len, wanted.values())) // 2


def test_lowest_distances_by_hand() -> None:
    distances = torch.tensor([1.2, 0.2, 0.8, 0.4, 1.0, 0.6, 0.1, 1.4, 0.3])
    near, far = mutual_scoring.near_and_far((1 - distances.square() / 2)[:, None, None], 0.3)
    assert near.shape == far.shape == (1, 1)
    assert near.item() == pytest.approx((0.1 + 0.2) / 2, abs=1e-6)  # int(0.3 * 9) = 2
    assert far.item() == pytest.approx(0.6, abs=1e-6)
    assert mutual_scoring.near_and_far((1 - distances.square() / 2)[:3, None], 0.3)[0].item() == pytest.approx(0.2, abs=1e-6)
    assert mutual_scoring.near_and_far(torch.full((4, 1), 1.0000001), 0.5)[0].item() == 0


def test_rerank_is_the_masked_matrix() -> None:
    scores, image = torch.rand(9, generator=torch.Generator().manual_seed(3)), seeded(9, 6).abs()
    unit_rows = F.normalize(image, dim=-1)
    scaled, total = (scores - scores.min()) / (scores.max() - scores.min()), torch.zeros(9)
    for k in (1, 4, 9):
        window = unit_rows @ unit_rows.T
        window[window < window.sort(1, descending=True).values[:, k - 1 : k]] = 0
        total += (window / window.sum(1, keepdim=True)) @ scaled / 3
    close(mutual_scoring.rerank(scores, image, (1, 4, 9)), total, 1e-6)
    close(mutual_scoring.rerank(scores, image, (1,)), scaled, 1e-6)
    close(mutual_scoring.rerank(scores, image, (9,)), mutual_scoring.rerank(scores, image, (100,)), 0)
    assert mutual_scoring.rerank(torch.ones(5), image[:5], (1, 2)).tolist() == [0] * 5


# ------------------------------------------------------------------ laws of the method
@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.create("musc", backbone=zsad.load_backbone("tiny"))


def encoded(detector: Any, count: int = 12) -> list[ImageFeatures]:
    size = detector.backbone.image_size
    images = F.interpolate(seeded(count, 3, 10, 10), size=size, mode="bilinear") + 0.2 * seeded(count, 3, size, size)
    with torch.inference_mode():
        return one_by_one(detector.encode(images))


@pytest.mark.parametrize("pool", [None, 4])
def test_the_order_of_the_set_does_not_matter(tiny: Any, pool: int | None) -> None:
    detector = zsad.create("musc", backbone=tiny.backbone, pool=pool)
    features, order = encoded(detector), [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4]
    plain, turned = run(detector, features), run(detector, [features[i] for i in order])
    close(turned.pred_score, plain.pred_score[order], SCORES)
    close(turned.anomaly_map, plain.anomaly_map[order], SCORES)


def test_a_pool_of_all_others_is_the_whole_set(tiny: Any) -> None:
    features = encoded(tiny)
    plain = run(tiny, features)
    for pool in (11, 12, 500):
        found = run(zsad.create("musc", backbone=tiny.backbone, pool=pool), features)
        close(found.anomaly_map, plain.anomaly_map, 0)
    part = run(zsad.create("musc", backbone=tiny.backbone, pool=10), features)
    assert (part.anomaly_map - plain.anomaly_map).abs().max() > 1e-3


def test_the_pool_is_drawn_by_seed(tiny: Any) -> None:
    features = encoded(tiny)
    maps = [
        run(zsad.create("musc", backbone=tiny.backbone, pool=pool, seed=seed), features).anomaly_map
        for pool, seed in [(4, 0), (4, 0), (3, 0), (4, 1)]
    ]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])  # an odd pool is raised by one
    assert (maps[0] - maps[3]).abs().max() > 1e-3


class Spilled(Sequence[ImageFeatures]):
    """Features that are made when asked for, as from a disk; ``most`` is how many were alive at once."""

    def __init__(self, count: int) -> None:
        self.count, self.most, self.read = count, 0, 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        tap = Tap(seeded(1, 16, 8 + index)[..., :8].contiguous(), (4, 4))
        self.alive.add(tap.patches)
        self.read += 1
        self.most = max(self.most, len(self.alive))
        return ImageFeatures(seeded(1, 5 + index)[:, :5], dict.fromkeys((3, 6, 9, 12), tap))


@pytest.mark.slow
@pytest.mark.parametrize("pool", [None, 6])
def test_features_on_disk_are_not_held(tiny: Any, pool: int | None) -> None:
    """Of raw features a few are alive at once; each is read a few times only, not once per pair."""
    detector, spilled = zsad.create("musc", backbone=tiny.backbone, taps=(3, 6), pool=pool), Spilled(70)
    gc.collect()
    found = run(detector, spilled)
    assert found.pred_score.shape == (70,)
    assert spilled.most <= 3
    passes = len(detector.layers) * (1 + mutual_scoring.reach(70, detector.pool) / mutual_scoring.BLOCK) + 2
    assert spilled.read <= 1.3 * passes * 70
    held = run(detector, [spilled[i] for i in range(70)])
    close(found.anomaly_map, held.anomaly_map, 0)


def test_what_waits_is_a_quarter_and_is_said(tiny: Any) -> None:
    """Numbers that wait for later pictures: at most reach^2 per place, which is what the estimate counts."""
    rows, most = unit(40, 1, 3, 2), 0
    kept: weakref.WeakSet[Any] = weakref.WeakSet()
    plain = mutual_scoring.nearest_cosines

    def tracking(one: torch.Tensor, others: torch.Tensor) -> Any:
        nonlocal most
        there, back = plain(one, others)
        kept.add(there)
        most = max(most, sum(len(t) for t in kept))
        return there, back

    for reach, bound in ((20, 400), (4, 16)):
        most = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mutual_scoring, "nearest_cosines", tracking)
            for _ in mutual_scoring.mutual_cosines(rows.__getitem__, 40, reach, 4):
                pass
        assert most <= bound + 4 * 2 * reach
    places = 25 * len(RADII)
    _, whole = tiny.estimate(400, encoded(tiny, 1)[0])
    assert whole == 4 * (32 * places * 64 + (200**2 + 32 * 400) * places)
    _, part = zsad.create("musc", backbone=tiny.backbone, pool=64).estimate(400, encoded(tiny, 1)[0])
    assert part < whole / 4


def test_the_cost_is_said_before_it_starts(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    features = encoded(tiny, 6)
    (short, _), (long, _) = tiny.estimate(100, features[0]), tiny.estimate(2000, features[0])
    assert 0 < 20 * short < long
    with caplog.at_level(logging.INFO, "zsad"):
        run(tiny, features)
    assert "musc compares 6 pictures: about" in caplog.text


def test_copies_of_one_picture_are_normal(tiny: Any) -> None:
    """Nothing is far from anything; 4e-4 is float32's rounding under the root."""
    found = run(tiny, encoded(tiny, 1) * 6)
    assert found.anomaly_map.max() < 2e-3
    assert torch.isfinite(found.pred_score).all()


# ------------------------------------------------------------------ other backbones
def test_layers_follow_the_backbone(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    assert zsad.create("musc", backbone=tiny.backbone, taps=[2, 5]).layers == (2, 5)
    small = zsad.create("musc", backbone="compact")  # keeps its own size and activation
    assert (small.layers, small.backbone.image_size, small.backbone.activation) == ((3, 4, 5), 256, "relu6")

    class Eyes(torch.nn.Module):
        name, image_size = "eyes", 80
        encode_image = preprocess = None

    with pytest.raises(UsageError, match=r"does not know how deep 'eyes' is. Say which layers to compare: taps="):
        _ = zsad.create("musc", backbone=Eyes()).layers
    assert zsad.create("musc", backbone=Eyes(), taps=(1,)).layers == (1,)


@pytest.mark.slow
def test_dinov2() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    backbone = build_dinov2("hf:seeded", transformers.Dinov2Model(config).state_dict(), heads=2, image_size=56).eval()
    detector = zsad.create("musc", backbone=backbone)
    assert detector.layers == (1, 2, 3, 4)
    found = run(detector, encoded(detector, 6))
    assert found.anomaly_map.shape == (6, 56, 56)
    assert found.pred_score.std() > 0


# ------------------------------------------------------------------ pictures, on the embedded default's tower
@pytest.fixture(scope="module")
def compact() -> Any:
    return zsad.create("musc", backbone="compact", rscin_k=())


def weave(count: int, defective: int, seed: int = 0) -> tuple[list[Any], list[int]]:
    """Damask, the first ``defective`` with the same mosaic of 36 pixels at a random place; uint8 (256, 256, 3)."""
    rng, found = np.random.default_rng(seed), []
    mosaic = rng.integers(0, 255, (6, 6, 3)).repeat(6, 0).repeat(6, 1)
    y, x = np.mgrid[:256, :256].astype(np.float32)
    for number in range(count):
        field = np.sin(x * rng.uniform(0.2, 0.25)) * np.sin(y * rng.uniform(0.2, 0.25)) + 0.4 * np.sin((x + y) * 0.7)
        field = field + 0.3 * smooth_noise(rng, (256, 256), 60, 2)
        rgb = np.clip(rng.uniform(110, 140, 3) * (1 + 0.18 * field[..., None]), 0, 255).astype(np.uint8)
        row, column = rng.integers(10, 200, 2)
        if number < defective:
            rgb[row : row + 36, column : column + 36] = mosaic
        found.append(rgb)
    return found, [int(number < defective) for number in range(count)]


def looked_at(detector: Any, pictures: list[Any]) -> list[ImageFeatures]:
    with torch.inference_mode():
        return [detector.encode(detector.backbone.preprocess(rgb)[None]) for rgb in pictures]


@pytest.fixture(scope="module")
def damask(compact: Any) -> list[ImageFeatures]:
    """Of thirty pictures without a mosaic; those with one differ by it alone."""
    return looked_at(compact, weave(30, 0)[0])


@pytest.mark.slow
def test_rare_defects_are_found_and_nothing_is_said(
    compact: Any, damask: list[ImageFeatures], caplog: pytest.LogCaptureFixture
) -> None:
    pictures, labels = weave(2, 2)
    found = run(compact, looked_at(compact, pictures) + damask[2:20])
    assert image_auroc(found.pred_score.tolist(), labels + [0] * 18) == 1
    run(compact, damask[:20])
    assert "share what the others lack" not in caplog.text


@pytest.mark.slow
def test_the_same_defect_on_a_third_is_said(
    compact: Any, damask: list[ImageFeatures], caplog: pytest.LogCaptureFixture
) -> None:
    run(compact, looked_at(compact, weave(6, 6)[0]) + damask[6:20])
    assert "Pictures [0, 1, 2, 3, 4, 5] (counted from 0) of 20 share what the others lack" in caplog.text
    assert "a defect that recurs, or a second kind of part" in caplog.text


def test_recurring_by_hand() -> None:
    """Far from most and near to few, on two places of three pictures or more."""
    near, far = 0.3 + 0.01 * unit(10, 50), 0.4 + 0.01 * unit(10, 50)
    assert not repeated.recurring(near, far).any()
    far[:3, :2] = 0.8
    near[:3, :2] = 0.25
    assert repeated.recurring(near, far).tolist() == [True] * 3 + [False] * 7
    near[2, 1] = 0.8  # far from all: a defect of its own, which scores high anyway
    assert not repeated.recurring(near, far).any()


# ------------------------------------------------------------------ what is refused
def test_refusals(tiny: Any) -> None:
    features, context = encoded(tiny, 4), tiny.prepare("nut")
    with pytest.raises(UsageError, match="needs at least 5; got 4"):
        next(tiny.score_set(features, context))
    with pytest.raises(NeedsSet, match=r"Give the whole set to score_set\(\)"):
        tiny.score(features[0], context)


def test_few_pictures_beside_references_are_not_ranked_among_themselves(tiny: Any) -> None:
    """A single one would score 0, whatever it shows."""
    size = tiny.backbone.image_size
    context = tiny.prepare("nut", zsad.References(torch.rand(5, 3, size, size)))
    with pytest.raises(UsageError, match=r"at least 5 of them beside the references; got 1. Add more, or leave RsCIN out"):
        next(tiny.score_set(encoded(tiny, 1), context))
    plain = zsad.create("musc", backbone=tiny.backbone, rscin_k=())
    assert float(next(plain.score_set(encoded(plain, 1), context)).pred_score) > 0.01


def test_references_judge_and_are_not_judged(tiny: Any) -> None:
    """Pictures with two references equal the same pictures in a set of all of them; RsCIN left out, which is of the set."""
    plain = zsad.create("musc", backbone=tiny.backbone, rscin_k=())
    size = tiny.backbone.image_size
    images = torch.randn(7, 3, size, size, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        features = [plain.encode(images[i : i + 1]) for i in range(7)]
        together = list(plain.score_set(features, plain.prepare()))[:5]
        judged = list(plain.score_set(features[:5], plain.prepare("nut", zsad.References(images[5:]))))
    assert len(judged) == 5
    for one, other in zip(judged, together, strict=True):
        torch.testing.assert_close(one.anomaly_map, other.anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"radii": ()}, {"radii": (2,)}, {"topmin": 0.0}, {"topmin": 1.5}, {"rscin_k": (0,)}, {"pool": 1}, {"pool": 0}]
)
def test_wrong_arguments(tiny: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give odd radii, topmin in"):
        zsad.create("musc", backbone=tiny.backbone, **wrong).prepare()


# ------------------------------------------------------------------ what the repository holds itself


# ------------------------------------------------------------------ repeated defects
def repeats(count: int, defective: int) -> tuple[list[Any], list[int]]:
    """Damask, the first ``defective`` with the same mosaic of 48 pixels at the same place."""
    found, _ = weave(count, 0)
    mosaic = np.random.default_rng(7).integers(0, 255, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
    for rgb in found[:defective]:
        rgb[96:144, 112:160] = mosaic
    return found, [int(number < defective) for number in range(count)]


@pytest.mark.slow
def test_what_a_third_of_the_pictures_share_is_found(compact: Any, damask: list[ImageFeatures]) -> None:
    pictures, labels = repeats(30, 10)
    seen = looked_at(compact, pictures[:10]) + damask[10:]
    aware = zsad.create("musc", backbone=compact.backbone, rscin_k=(), repeated=True)
    plain, found = run(compact, seen), run(aware, seen)
    assert image_auroc(plain.pred_score.tolist(), labels) < 0.7
    assert image_auroc(found.pred_score.tolist(), labels) > 0.97
    torch.testing.assert_close(found.anomaly_map[10:], plain.anomaly_map[10:], rtol=0, atol=0)
    assert (found.anomaly_map >= plain.anomaly_map - 1e-6).all()


@pytest.mark.slow
def test_without_repeats_nothing_changes(compact: Any, damask: list[ImageFeatures]) -> None:
    aware = zsad.create("musc", backbone=compact.backbone, rscin_k=(), repeated=True)
    for defective in (0, 1):
        seen = looked_at(compact, repeats(1, 1)[0][:defective]) + damask[defective:20]
        plain, found = run(compact, seen), run(aware, seen)
        torch.testing.assert_close(found.anomaly_map, plain.anomaly_map, rtol=0, atol=0.01)
        torch.testing.assert_close(found.pred_score, plain.pred_score, rtol=0, atol=0.01)


@pytest.mark.parametrize("pool", [None, 4])
def test_partners_are_those_of_the_results(pool: int | None) -> None:
    """Each row of a picture's cosines is with the picture that ``others`` names."""
    pictures = [F.normalize(seeded(2, 5, 8) + seeded(2, 5, 8).roll(number + 1, 2), dim=-1) for number in range(7)]
    pictures += [F.normalize(one.flip(1), dim=-1) for one in pictures[:2]]
    others: dict[int, list[int]] = {}
    reach = None if pool is None else pool // 2
    for index, cosines in mutual_scoring.mutual_cosines(lambda at: pictures[at], 9, reach, block=4, others=others):
        assert len(others[index]) == len(cosines)
        for other, row in zip(others[index], cosines, strict=True):
            close(row, (pictures[index] @ pictures[other].mT).amax(2), 1e-6)


def test_communities_by_hand() -> None:
    """A clique of four and a pair: the clique alone is a finding, whatever the weights' noise; a chain is none."""
    others = {one: [other for other in range(8) if other != one] for one in range(8)}
    clique = {one: [9 + one if other < 4 else 0 for other in others[one]] for one in range(4)}
    pair = {4: [20 if other == 5 else 0 for other in others[4]]}
    assert repeated.communities(clique | pair, others) == [{0, 1, 2, 3}]
    chain = {one: [20 if other == one + 1 else 0 for other in others[one]] for one in range(7)}
    assert not repeated.communities(chain, others)
    assert not repeated.communities({}, others)
