"""The embedded default against other pictures of the product: references and batch."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zsad
from zsad.errors import NeedsSet, UsageError
from zsad.methods.compact import memory as compact_memory
from zsad.methods.compact.head import SIDES
from zsad.methods.compact.memory import ONE, USUAL, WEIGHT, ZERO, departure, memory_rows, nearest_in, nearest_in_batch
from zsad.metrics import image_auroc
from zsad.synthetic.defects import make_defect
from zsad.synthetic.shapes import smooth_noise
from zsad.types import Context, ImageFeatures, References, Tap

ZERO_SHOT = [0.13480, 0.15528, 0.12556]
DISTINCT = ("crack", "hole", "broken", "contamination", "stain", "missing")


def piece(product: int, rng: np.random.Generator) -> Any:
    """One piece of a product (grooves with a stamp; herringbone; weave), uint8: where it lies, light and noise vary."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    x, y = x + rng.uniform(-8, 8), y + rng.uniform(-8, 8)
    if product == 0:
        field = np.sin(y * 0.35) + 2.5 * ((np.abs(x - 170) < 22) & (np.abs(y - 90) < 14))
    elif product == 1:
        field = np.sin((y + np.abs(x % 40 - 20)) * 0.6)
    else:
        field = np.sin(x * 0.22) * np.sin(y * 0.25) + 0.4 * np.sin((x + y) * 0.7)
    field = field + 0.4 * smooth_noise(rng, (256, 256), 12, 2)
    tone = np.array(((150, 140, 120), (120, 120, 120), (100, 130, 150)), np.float32)[product]
    return np.clip(tone * (1 + 0.2 * field[..., None]) + rng.normal(0, 3, (256, 256, 1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector() -> Any:
    return zsad.create("compact", tower="small")


def stacked(detector: Any, pictures: Sequence[Any]) -> Tensor:
    return torch.stack([detector.backbone.preprocess(rgb) for rgb in pictures])


@pytest.fixture(scope="module")
def products(detector: Any) -> list[tuple[Tensor, ImageFeatures, list[int]]]:
    """Per product: four references, and the features of 8 normal and 6 defective pieces with their labels."""
    found = []
    for product in range(3):
        rng = np.random.default_rng((21, product))
        references = [piece(product, rng) for _ in range(4)]
        normal = [piece(product, rng) for _ in range(8)]
        bad = [make_defect(piece(product, rng), rng, kind)[0] for kind in DISTINCT]
        with torch.inference_mode():
            features = detector.encode(stacked(detector, normal + bad))
        found.append((stacked(detector, references), features, [0] * len(normal) + [1] * len(bad)))
    return found


def one_by_one(features: ImageFeatures) -> list[ImageFeatures]:
    return [features[row : row + 1] for row in range(len(features))]


def together(detector: Any, **arguments: Any) -> Any:
    return zsad.create("compact", tower="small", backbone=detector.backbone, batch=True, **arguments)


def scores_of_set(detector: Any, features: Sequence[ImageFeatures]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([one.pred_score for one in detector.score_set(features, detector.prepare())])


@torch.inference_mode()
def prepared(detector: Any, images: Tensor) -> Context:
    return detector.prepare("object", References(images))


# ------------------------------------------------------------------ parts
def test_departure_by_hand() -> None:
    grid, weights = torch.full((1, 2, 2), 0.5), torch.tensor([0.1, 0.2, 0.3, 0.4])
    taps = {stage: Tap(torch.zeros(1, 4, 3), (2, 2)) for stage in SIDES}
    usual = {stage: (torch.full((1, 4), USUAL[stage][0]), torch.zeros(1, 4)) for stage in SIDES}
    torch.testing.assert_close(departure(grid, usual, taps, weights), torch.full((1, 2, 2), (0.5 - ZERO) / (ONE - ZERO)))
    far = usual | {4: (torch.full((1, 4), sum(USUAL[4])), torch.full((1, 4), 2.0))}  # one deviation away, novel itself
    expected = (0.5 + WEIGHT / 4 - 0.2 * 2.0 - ZERO) / (ONE - ZERO)
    torch.testing.assert_close(departure(grid, far, taps, weights), torch.full((1, 2, 2), expected))


# ------------------------------------------------------------------ references
@pytest.mark.slow
def test_a_reference_is_no_distance_from_itself(detector: Any, products: Any) -> None:
    images, others, _ = products[0]
    context = prepared(detector, images)
    with torch.inference_mode():
        own, new = (nearest_in(features.taps, context.banks) for features in (detector.encode(images), others))
        score = detector(images, context).pred_score
        assert score.max() < detector.score(others, context).pred_score[:8].min(), "a picture that is known is the most usual"
    for stage in SIDES:
        assert own[stage][0].abs().max() < 1e-5
        assert new[stage][0].mean() > 0.005


@pytest.mark.slow
def test_more_references_never_raise_the_distance(detector: Any, products: Any) -> None:
    images, features, _ = products[1]
    with torch.inference_mode():
        near = [nearest_in(features.taps, prepared(detector, images[:count]).banks) for count in (1, 2, 4)]
    for stage in SIDES:
        for fewer, more in itertools.pairwise(near):
            assert (more[stage][0] <= fewer[stage][0] + 1e-6).all()
            assert (more[stage][0] < fewer[stage][0] - 1e-4).any()


@pytest.mark.slow
def test_the_order_of_references_does_not_matter(detector: Any, products: Any) -> None:
    images, features, _ = products[2]
    with torch.inference_mode():
        first, second = (detector.score(features, prepared(detector, x)) for x in (images, images.flip(0)))
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=1e-4)
    torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_pictures_do_not_see_each_other(detector: Any, products: Any) -> None:
    images, features, _ = products[0]
    context = prepared(detector, images)
    with torch.inference_mode():
        whole = detector.score(features, context)
        alone = detector.score(features[3:4], context)
    torch.testing.assert_close(whole.anomaly_map[3:4], alone.anomaly_map, rtol=0, atol=1e-5)


def test_without_references_nothing_changed(detector: Any) -> None:
    """The three scores were written down without references, with the head that ships."""
    images = torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        score = detector(images, detector.prepare()).pred_score
    torch.testing.assert_close(score, torch.tensor(ZERO_SHOT), rtol=0, atol=1e-4)
    assert detector.prepare().banks == {}


@pytest.mark.slow
def test_a_saved_context_gives_the_same_scores(detector: Any, products: Any, tmp_path: Any) -> None:
    images, features, _ = products[0]
    context = prepared(detector, images)
    context.save(tmp_path / "context.safetensors")
    with torch.inference_mode():
        first, second = (detector.score(features, c) for c in (context, Context.load(tmp_path / "context.safetensors")))
    torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=0)


@pytest.mark.slow
def test_banks_know_their_pictures(detector: Any, products: Any) -> None:
    banks = prepared(detector, products[0][0]).banks
    assert set(banks) == {f"{name}{stage}" for stage in SIDES for name in ("", "novelty.")}
    for stage, side in SIDES.items():
        rows, novelty = banks[str(stage)], banks[f"novelty.{stage}"]
        assert rows.source.tolist() == novelty.source.tolist() == np.repeat(range(4), side**2).tolist()
        torch.testing.assert_close(rows.rows.norm(dim=-1), torch.ones(4 * side**2))
        assert novelty.rows.shape == (4 * side**2, 1)


def test_references_of_an_odd_size() -> None:
    small = zsad.create("compact", tower="small", backbone=zsad.load_backbone("compact", image_size=200))
    images = torch.randn(2, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = small(images, small.prepare("object", References(images[:1])))
    assert found.anomaly_map.shape == (2, 200, 200)
    assert torch.isfinite(found.anomaly_map).all()


@pytest.mark.slow
def test_references_and_batch_find_more_than_zero_shot(detector: Any, products: Any) -> None:
    auroc: dict[str, list[float]] = {"zero-shot": [], "one": [], "four": [], "batch": []}
    for images, features, labels in products:
        with torch.inference_mode():
            auroc["zero-shot"].append(image_auroc(detector.score(features, detector.prepare()).pred_score, labels))
            for name, count in (("one", 1), ("four", 4)):
                score = detector.score(features, prepared(detector, images[:count])).pred_score
                auroc[name].append(image_auroc(score, labels))
        auroc["batch"].append(image_auroc(scores_of_set(together(detector), one_by_one(features)), labels))
    mean = {name: float(np.mean(values)) for name, values in auroc.items()}
    assert mean["one"] >= mean["zero-shot"], mean
    assert mean["four"] > mean["zero-shot"] + 0.05, mean
    assert mean["batch"] > mean["zero-shot"], mean


@pytest.mark.slow
def test_maps_against_references_keep_the_scale(detector: Any, products: Any) -> None:
    for images, features, labels in products:
        with torch.inference_mode():
            maps = detector.score(features, prepared(detector, images)).anomaly_map
        good = maps[torch.tensor(labels) == 0]
        assert -0.5 < good.median() < 0.25  # pieces that hardly differ are more usual than usual
        assert (good > 1).float().mean() < 0.01
        assert maps[torch.tensor(labels) == 1].amax((1, 2)).median() > 0.4


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (References(torch.zeros(0, 3, 256, 256)), "References without a picture were given"),
        (
            References(torch.zeros(1, 3, 256, 256), torch.zeros(2, 3, 256, 256)),
            "normal references only; leave the",
        ),
    ],
)
def test_refuses_references(detector: Any, references: References, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        detector.prepare("nut", references)


# ------------------------------------------------------------------ batch
def naive(features: ImageFeatures, rows: dict[str, Tensor], stage: int, picture: int) -> tuple[Tensor, Tensor]:
    """Distance and novelty of one picture's patches, by the sorted distances to all others; two of seven count."""
    pairs = []
    for other in range(len(features)):
        if other != picture:
            apart = 1 - rows[str(stage)][picture] @ rows[str(stage)][other].T  # (L, L)
            novelty = rows[f"novelty.{stage}"][other, :, 0]
            pairs.append((apart.min(1).values, novelty[apart.argmin(1)]))
    distance, novelty = (torch.stack(x) for x in zip(*pairs, strict=True))  # (N - 1, L)
    order = distance.argsort(0)[:2]
    return distance.gather(0, order).mean(0), novelty.gather(0, order).mean(0)


@pytest.mark.slow
def test_batch_equals_a_slow_loop(detector: Any, products: Any) -> None:
    features = products[0][1][:8]
    with torch.inference_mode():
        rows = memory_rows(features.taps, detector.head.compare(features.taps).novel)
        compared = list(nearest_in_batch(one_by_one(features), detector.reference_rows, None, 0))
    for picture, (_, near) in enumerate(compared):
        for stage in SIDES:
            for found, expected in zip(near[stage], naive(features, rows, stage, picture), strict=True):
                off = (found[0] - expected).abs() > 1e-4  # of two patches that are equally near, either may be the nearest
                assert off.float().mean() < 0.01


@pytest.mark.slow
def test_the_order_of_a_batch_does_not_matter(detector: Any, products: Any) -> None:
    features = one_by_one(products[1][1][:9])
    first, turned = (scores_of_set(together(detector), x) for x in (features, features[::-1]))
    torch.testing.assert_close(first, turned.flip(0), rtol=0, atol=1e-4)


class Lazy(Sequence[ImageFeatures]):
    """Loads when asked, counts how often, and how many are alive at once."""

    def __init__(self, features: ImageFeatures) -> None:
        self.features, self.asked, self.alive, self.most = features, [0] * len(features), 0, 0

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Any) -> Any:
        one = self.features[index : index + 1]
        self.asked[index] += 1
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(one, self._gone)
        return one

    def _gone(self) -> None:
        self.alive -= 1


@pytest.mark.slow
def test_a_set_is_loaded_block_by_block(detector: Any, products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    features = products[2][1][:8]
    whole = scores_of_set(together(detector), one_by_one(features))
    monkeypatch.setattr(compact_memory, "TOGETHER", 3)
    lazy = Lazy(features)
    torch.testing.assert_close(scores_of_set(together(detector), lazy), whole, rtol=0, atol=1e-4)
    assert lazy.asked == [1 + 3] * 8, "once to be scored, and once per block to compare with"
    assert lazy.most <= 3 + 2 + 3, "a block, the other picture at hand, and what the caller still holds"


@pytest.mark.slow
def test_a_pool_is_a_seeded_choice_of_others(detector: Any, products: Any) -> None:
    features = products[0][1][:12]
    lazy = Lazy(features)
    first = scores_of_set(together(detector, pool=5), lazy)
    assert sorted(lazy.asked) == [1] * 6 + [2] * 6, "five others and one more, so that no picture is compared with itself"
    torch.testing.assert_close(first, scores_of_set(together(detector, pool=5), lazy), rtol=0, atol=0)
    assert (first - scores_of_set(together(detector, pool=5, seed=1), lazy)).abs().max() > 1e-3
    everyone = scores_of_set(together(detector), lazy)
    torch.testing.assert_close(scores_of_set(together(detector, pool=11), lazy), everyone, rtol=0, atol=0)
    with torch.inference_mode():
        for _, near in nearest_in_batch(lazy, detector.reference_rows, 5, 0):
            assert near[4][0].mean() > 0.005, "a picture was compared with itself"


@pytest.mark.slow
def test_batch_says_what_it_needs(detector: Any, products: Any) -> None:
    features = one_by_one(products[0][1])
    batch = together(detector)
    assert batch.needs_set(batch.prepare())
    assert not detector.needs_set(detector.prepare())
    with pytest.raises(UsageError, match="needs 5 or more; got 4. Add pictures"):
        batch.score_set(features[:4], batch.prepare())
    with pytest.raises(UsageError, match="pool is how many others a picture is compared with, 4 or more; got 3"):
        together(detector, pool=3).score_set(features, batch.prepare())
    with pytest.raises(NeedsSet, match="Call score_set, or leave batch out"):
        batch.score(features[0], batch.prepare())
    with pytest.raises(UsageError, match="got both. Leave one out"):
        batch.prepare("nut", References(torch.zeros(1, 3, 256, 256)))


@pytest.mark.slow
def test_a_set_without_batch_mode_is_scored_one_by_one(detector: Any, products: Any) -> None:
    features = products[0][1][:2]
    with torch.inference_mode():
        expected = detector.score(features, detector.prepare()).pred_score
    torch.testing.assert_close(scores_of_set(detector, one_by_one(features)), expected, rtol=0, atol=1e-5)
