"""Image scores that few-shot methods scale by the lowest and the highest maximum of a set's anomaly maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor

from zsad.alignment.maps import scaled_within_set
from zsad.errors import NeedsSet
from zsad.types import Context, ImageFeatures, Prediction

__all__ = ["FaithfulToSet", "mix_within_set", "score_within_set"]

TINY = 1e-6  # added to the range of the scores where both halves are scaled


class FaithfulToSet:
    """The part of a method whose authors scale scores by the whole set, which it does with ``faithful=True``.

    Else a picture's score is its own. Before ``Detector`` among a class's bases.
    """

    name: ClassVar[str]
    faithful: bool
    scaled_with_references: ClassVar[bool] = False  # True: only with references are scores scaled
    text_share: float | None = None  # the text's part where both parts are scaled; None: half, and the map's alone is scaled

    def needs_set(self, context: Context) -> bool:
        """True where scores are scaled by the set."""
        return self.faithful and (bool(context.banks) or not self.scaled_with_references)

    def scales_within_set(self, context: Context) -> str:
        """How to avoid that."""
        return "leave faithful=True out" if self.needs_set(context) else ""

    def check_alone(self, context: Context) -> None:
        """Raises ``NeedsSet`` where a picture cannot be scored by itself."""
        if self.needs_set(context):
            how = "with references and faithful=True" if self.scaled_with_references else "with faithful=True"
            raise NeedsSet(
                f"{self.name} {how} scales its image score by the whole set's maps, so it cannot score a picture by itself. "
                "Call score_set with the features of all pictures, or leave faithful=True out."
            )

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """Where scores are scaled, two passes over ``features``; see ``score_within_set`` and ``mix_within_set``."""
        own = cast(Any, self)
        if not self.needs_set(context):
            return (own.score(one, context) for one in features)
        if self.text_share is None:
            return score_within_set(own, features, context)
        return mix_within_set(own, features, context, self.text_share)


class TextAndMap(Protocol):
    """The parts of a method that are scaled."""

    def text_score(self, features: ImageFeatures, context: Context) -> Tensor:
        """The text's image score, (B,)."""

    def anomaly_map(self, features: ImageFeatures, context: Context) -> Tensor:
        """(B, H, W)."""


def score_within_set(method: TextAndMap, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
    """Mean of the text's score and the map's maximum, the latter scaled to 0 to 1 over the set (APRIL-GAN, SOWA).

    Two passes, one of them for the maxima, of which nothing else is kept. Where all maxima of a set are equal, their half is 0
    (the published code divides by zero).

    Args:
        method: has both parts.
        features: one picture each; may live on disk.
        context: with references.
    """
    maxima = [method.anomaly_map(one, context).amax(dim=(1, 2)) for one in features]  # (B,) each, B = 1
    for one, scaled in zip(features, scaled_within_set(torch.cat(maxima)).split(1), strict=True):
        yield Prediction((method.text_score(one, context) + scaled) / 2, method.anomaly_map(one, context))


def mix_within_set(
    method: TextAndMap, features: Sequence[ImageFeatures], context: Context, share: float
) -> Iterator[Prediction]:
    """``share`` of the text's score and the rest of the map's maximum, both scaled to 0 to 1 over the set (DictAS).

    Two passes, one of them for both numbers, of which nothing else is kept.

    Args:
        method: has both parts.
        features: one picture each; may live on disk.
        context: with references.
        share: of the text, 0 to 1.
    """
    found = [(method.text_score(one, context), method.anomaly_map(one, context).amax(dim=(1, 2))) for one in features]
    scaled = []
    for parts in zip(*found, strict=True):
        values = torch.cat(parts)
        scaled.append((values - values.min()) / (values.max() - values.min() + TINY))
    scores = share * scaled[0] + (1 - share) * scaled[1]
    for one, score in zip(features, scores, strict=True):
        yield Prediction(score[None], method.anomaly_map(one, context))
