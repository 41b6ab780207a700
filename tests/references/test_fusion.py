"""References for methods without a few-shot form of their own: the rule by hand, and its laws in AnomalyCLIP and AdaCLIP."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zsad
from zsad.alignment.maps import upsample
from zsad.references.fusion import fuse_with_references, nearest_normal
from zsad.types import Bank, Context, Prediction, Tap

METHODS = {"anomalyclip": "local", "adaclip": "patches"}  # the stream whose patches are compared


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank(kept: Tensor) -> Bank:
    return Bank(kept, torch.zeros(len(kept), dtype=torch.int64))


@pytest.fixture
def taps() -> dict[int, Tap]:
    return {layer: Tap(rows(2, 6, 8, seed=layer), (2, 3)) for layer in (3, 5)}


@pytest.fixture
def banks() -> dict[str, Bank]:
    return {str(layer): bank(rows(7, 8, seed=10 + layer)) for layer in (3, 5)}


# ------------------------------------------------------------------ the rule
def test_nearest_normal_by_hand(taps: dict[int, Tap], banks: dict[str, Bank]) -> None:
    found = nearest_normal(taps, banks)
    assert found.shape == (2, 2, 3)
    for index in range(2):
        for place in range(6):
            halves = []
            for layer, tap in taps.items():
                cosines = F.cosine_similarity(banks[str(layer)].rows, tap.patches[index, place], dim=1)
                halves.append((1 - cosines.max().item()) / 2)
            assert found[index, place // 3, place % 3].item() == pytest.approx(sum(halves) / 2, abs=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_fusion_by_hand(taps: dict[int, Tap], banks: dict[str, Bank], align_corners: bool) -> None:
    text = Prediction(torch.tensor([0.2, 0.9]), rows(2, 8, 12, seed=7).sigmoid(), rows(2, 3, 2, 3, seed=8))
    found, nearest = fuse_with_references(text, taps, banks, align_corners=align_corners), nearest_normal(taps, banks)
    resized = upsample(nearest, (8, 12), align_corners=align_corners)
    torch.testing.assert_close(found.anomaly_map, 0.5 * text.anomaly_map + 0.5 * resized)
    torch.testing.assert_close(found.pred_score, 0.5 * text.pred_score + 0.5 * nearest.flatten(1).max(dim=1).values)
    assert found.word_maps is text.word_maps


def test_without_references_nothing_changes(taps: dict[int, Tap]) -> None:
    text = Prediction(torch.tensor([0.2, 0.9]), torch.rand(2, 8, 12))
    assert fuse_with_references(text, taps, {}) is text


def test_distances_lie_between_0_and_1(taps: dict[int, Tap]) -> None:
    same = {str(layer): bank(tap.patches.flatten(0, 1)) for layer, tap in taps.items()}
    opposite = {3: Tap(torch.ones(1, 6, 8), (2, 3))}
    assert 0 <= nearest_normal(taps, same).min() <= nearest_normal(taps, same).max() < 1e-6
    torch.testing.assert_close(nearest_normal(opposite, {"3": bank(-torch.ones(2, 8))}), torch.ones(1, 2, 3))


# ------------------------------------------------------------------ in the methods
@cache
def built(name: str) -> tuple[Any, Context]:
    torch.manual_seed(0)
    recipe = zsad.registry.method_class(name).recipe
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding}
    detector = zsad.create(name, backbone=zsad.load_backbone("tiny", image_size=112, **options))
    with torch.no_grad():
        return detector, detector.prepare("nut")


def pictures(count: int, seed: int = 2) -> Tensor:
    return rows(count, 3, 112, 112, seed=seed)


@pytest.mark.parametrize("name", METHODS)
def test_methods_fuse_what_they_score(name: str) -> None:
    """The prediction with references is the rule applied to the one without, on the method's own patches."""
    detector, plain = built(name)
    with torch.no_grad():
        context = detector.prepare("nut", zsad.References(pictures(2, seed=9)))
        features = detector.encode(pictures(3))
        text, found = detector.score(features, plain), detector.score(features, context)
        nearest = nearest_normal(features.streams[METHODS[name]], context.banks)
    assert not plain.banks
    assert sorted(context.banks) == sorted(str(layer) for layer in features.streams[METHODS[name]])
    assert {int(kept.source.max()) for kept in context.banks.values()} == {1}
    resized = upsample(nearest, (112, 112), align_corners=name == "adaclip")
    torch.testing.assert_close(found.anomaly_map, (text.anomaly_map + resized) / 2)
    torch.testing.assert_close(found.pred_score, (text.pred_score + nearest.amax(dim=(1, 2))) / 2)


@pytest.mark.parametrize("name", METHODS)
def test_a_reference_is_at_zero_distance_of_itself(name: str) -> None:
    """So its score is half of the text's; more references never raise a distance, and their order does not matter."""
    detector, plain = built(name)
    images = pictures(3)
    with torch.no_grad():
        features = detector.encode(images)
        few, more, turned = (
            replace(plain, banks=detector.banks(zsad.References(chosen))) for chosen in (images[:1], images, images.flip(0))
        )
        halves = detector.score(features, plain).pred_score / 2
        found = detector.score(features, more).pred_score
        stream = features.streams[METHODS[name]]
        first, second, third = (nearest_normal(stream, context.banks) for context in (few, more, turned))
    assert second.max() < 1e-5
    torch.testing.assert_close(found, halves, rtol=0, atol=1e-5)
    assert first[1:].min() > 1e-4
    assert (second <= first + 1e-6).all()
    torch.testing.assert_close(third, second, rtol=0, atol=1e-6)
