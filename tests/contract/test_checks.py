"""A detector that is broken on purpose must fail the check that is about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from checks import CHECKS, pictures
from torch import Tensor, nn

import zsad
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.references.memory_bank import banks_of_sign
from zsad.types import Bank, Batch, Context, ImageFeatures, Prediction, Recipe, References, Tap


class Good(Detector):
    """A small detector that obeys every law: brightness, scaled by one learned number, and the distance to a reference."""

    name = "good"
    recipe = Recipe("tiny", 80)

    def __init__(self, backbone: Any, gain: float = 1.0) -> None:
        super().__init__(backbone)
        self.gain = gain
        self.scale = nn.Parameter(torch.ones(1))

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Context(sentences={"normal": (name,)}, banks=self.banks(references))

    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        return {"picture": features.image[:, None]}

    def distances(self, features: ImageFeatures, bank: Bank) -> Tensor:
        """(B, references)"""
        return (features.image[:, None] - bank.rows).abs().mean(dim=2)

    def encode(self, images: Tensor) -> ImageFeatures:
        return ImageFeatures(images.flatten(1))

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        maps = self.gain * self.scale * features.image.unflatten(1, (3, self.backbone.image_size, -1)).mean(dim=1)
        if context.banks:
            maps = maps + self.distances(features, context.banks["picture"]).amin(dim=1)[:, None, None]
        return Prediction(maps.mean(dim=(1, 2)), maps)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        assert isinstance(batch.images, Tensor)
        return {"score": (self(batch.images, context).pred_score - batch.labels).square().mean()}


class WrongShape(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(found.pred_score, found.anomaly_map[:, ::2])


class NotFinite(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(found.pred_score / 0, found.anomaly_map)


class Random(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(found.pred_score + torch.rand(1), found.anomaly_map)


class Blind(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(torch.ones_like(found.pred_score), torch.ones_like(found.anomaly_map))


class BatchNormed(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(found.pred_score - found.pred_score.mean(), found.anomaly_map)


class DependsOnOrder(Good):
    def needs_set(self, context: Context) -> bool:
        return True

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        for place, one in enumerate(features):
            found = self.score(one, context)
            yield Prediction(found.pred_score + place, found.anomaly_map)


class OtherForward(Good):
    def forward(self, images: Tensor, context: Context) -> Prediction:
        found = super().forward(images, context)
        return Prediction(found.pred_score + 1, found.anomaly_map)


class Remembers(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        self.last = features
        return super().score(features, context)


class Counts(Good):
    def __init__(self, backbone: Any, gain: float = 1.0) -> None:
        super().__init__(backbone, gain)
        self.register_buffer("seen", torch.zeros(1))

    def encode(self, images: Tensor) -> ImageFeatures:
        self.seen += len(images)
        return super().encode(images)


class Rewrites(Good):
    def __init__(self, backbone: Any, gain: float = 1.0) -> None:
        super().__init__(backbone, gain)
        self.gain = 2 * gain


class DeadWeight(Good):
    def __init__(self, backbone: Any, gain: float = 1.0) -> None:
        super().__init__(backbone, gain)
        self.unused = nn.Parameter(torch.ones(1))


class LeaksGradients(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        with self.adapting(features, context) as (own, known):
            return super().score(own, known)


class NeedsItsMode(Good):
    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found = super().score(features, context)
        return Prediction(found.pred_score + torch.is_inference_mode_enabled(), found.anomaly_map)


class TakesDefects(Good):
    """Near an anomalous reference's pixels under the mask, anywhere in the picture, is anomalous."""

    takes_anomalous = True

    def reference_taps(self, features: ImageFeatures) -> dict[int, Tap]:
        side = self.backbone.image_size
        return {1: Tap(features.image.unflatten(1, (3, -1)).transpose(1, 2), (side, side))}  # a pixel is a patch

    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        return super().reference_rows(features) | {"1": self.reference_taps(features)[1].patches}

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        found, bad = super().score(features, context), banks_of_sign(context.banks, -1)
        if not bad:
            return found
        return Prediction(found.pred_score, found.anomaly_map + self.likeness(features, bad["1"]))

    def likeness(self, features: ImageFeatures, bank: Bank) -> Tensor:
        pixels = self.reference_taps(features)[1].patches
        return (-torch.cdist(pixels, bank.rows[None]).amin(dim=2)).unflatten(1, (self.backbone.image_size, -1))


class ForgetsTheMask(TakesDefects):
    def banks(self, references: References | None) -> dict[str, Bank]:
        return super().banks(None if references is None else replace(references, masks=None))


class ForgetsTheSign(TakesDefects):
    def banks(self, references: References | None) -> dict[str, Bank]:
        return {key: Bank(bank.rows, bank.source) for key, bank in super().banks(references).items()}


class ShunsDefects(TakesDefects):
    def likeness(self, features: ImageFeatures, bank: Bank) -> Tensor:
        return -super().likeness(features, bank)


class TakesAnything(Good):
    """Does not take anomalous references, and does not refuse them either."""

    def banks(self, references: References | None) -> dict[str, Bank]:
        return super().banks(None if references is None else replace(references, anomalous=None, masks=None))


class SecondTower(Good):
    encoders: ClassVar = {"other": Recipe("tiny", 80)}

    def __init__(self, backbone: Any, other: Any, gain: float = 1.0) -> None:
        super().__init__(backbone, gain)
        self.other = other


class SecondLearns(SecondTower):
    def __init__(self, backbone: Any, other: Any, gain: float = 1.0) -> None:
        super().__init__(backbone, zsad.load_backbone("tiny"), gain)
        self.other.requires_grad_(True)


class SavesTheSecond(SecondTower):
    def learned_state(self) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith("backbone.")}


class HidesTheSecond(SecondTower):
    def save(self, path: Any, **about: Any) -> dict[str, Any]:
        return {key: value for key, value in super().save(path, **about).items() if key != "encoders"}


class Thaws(Good):
    def __init__(self, backbone: Any, gain: float = 1.0) -> None:
        super().__init__(zsad.load_backbone("tiny"), gain)
        self.backbone.requires_grad_(True)


class LoadsAnything(Good):
    def load_learned(self, tensors: Any, origin: str = "") -> None:
        self.load_state_dict(dict(tensors), strict=False)


class LosesSentences(Good):
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Context(sentences={"normal": [name]})  # type: ignore[dict-item]


class KeepsReferences(Good):
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        if references is not None:
            self.seen = references
        return super().prepare(name, references)


class NotFiniteWithReferences(Good):
    def distances(self, features: ImageFeatures, bank: Bank) -> Tensor:
        return super().distances(features, bank).log()  # a reference lies on itself


class RandomRows(Good):
    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        return {"picture": features.image[:, None] + 0.1 * torch.randn(1)}


class IgnoresReferences(Good):
    def distances(self, features: ImageFeatures, bank: Bank) -> Tensor:
        return 0 * super().distances(features, bank)


class MeanOfReferences(Good):
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        found = super().prepare(name, references)
        mean = {key: bank.rows.mean(0) for key, bank in found.banks.items()}
        return Context(sentences=found.sentences, banks=found.banks, extra=mean)


class CentredBanks(Good):
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        banks = {key: Bank(bank.rows - bank.rows.mean(), bank.source) for key, bank in self.banks(references).items()}
        return Context(sentences={"normal": (name,)}, banks=banks)


class NoSources(Good):
    def banks(self, references: References | None) -> dict[str, Bank]:
        return {key: Bank(bank.rows, 0 * bank.source) for key, bank in super().banks(references).items()}


class FirstReferenceOnly(Good):
    def distances(self, features: ImageFeatures, bank: Bank) -> Tensor:
        return super().distances(features, bank)[:, :1]


class Nearness(Good):
    def distances(self, features: ImageFeatures, bank: Bank) -> Tensor:
        return -super().distances(features, bank)


class Unsaved(Context):
    def save(self, path: Any) -> None:
        Context(sentences=self.sentences).save(path)


class LosesBanks(Good):
    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Unsaved(sentences={"normal": (name,)}, banks=self.banks(references))


BROKEN = {
    "shapes_and_finite": [WrongShape, NotFinite],
    "repeatable": [Random],
    "same_answers_in_every_mode": [LeaksGradients, NeedsItsMode],
    "sees_the_picture": [Blind],
    "independent_of_batch_and_order": [BatchNormed, DependsOnOrder],
    "forward_is_score_of_encode": [OtherForward],
    "writes_nothing": [Remembers, Counts, KeepsReferences],
    "constructor_only_stores": [Rewrites],
    "gradients_reach_all_and_only_learned": [DeadWeight],
    "encoders_are_frozen_and_named": [Thaws, SecondLearns, SavesTheSecond, HidesTheSecond],
    "checkpoint_round_trips": [LoadsAnything],
    "context_moves_and_saves": [LosesSentences],
    "references_give_finite_repeatable_answers": [NotFiniteWithReferences, RandomRows],
    "references_are_used": [IgnoresReferences],
    "references_are_banks_and_nothing_else": [MeanOfReferences, CentredBanks, NoSources],
    "order_of_references_does_not_matter": [FirstReferenceOnly],
    "own_reference_is_never_more_suspicious": [Nearness],
    "context_with_references_saves": [LosesBanks],
    "anomalous_references_count_or_are_refused": [ForgetsTheMask, ForgetsTheSign, ShunsDefects, TakesAnything],
}


def build(cls: type[Detector], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(zsad.registry._methods, "good", cls)
    return zsad.create("good", backbone=zsad.load_backbone("tiny"))


def test_every_check_has_a_broken_detector() -> None:
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("good", [Good, TakesDefects, SecondTower])
def test_good_passes(good: type[Detector], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CHECKS[check](build(good, monkeypatch))


@pytest.mark.parametrize(("check", "broken"), [(check, cls) for check, classes in BROKEN.items() for cls in classes])
def test_broken_fails(check: str, broken: type[Detector], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        CHECKS[check](build(broken, monkeypatch))


@pytest.mark.parametrize("check", CHECKS)
def test_a_method_that_refuses_references_passes(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(Good):
        def prepare(self, name: str = "object", references: References | None = None) -> Context:
            if references is not None:
                raise UsageError("takes no references")
            return super().prepare(name)

    CHECKS[check](build(Refuses, monkeypatch))


def test_pictures_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(Good, monkeypatch)
    assert torch.equal(pictures(detector), pictures(detector))
