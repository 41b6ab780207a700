"""A detector and its context as one module without arguments: pixels in, score and map out, or the features of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.images.preprocessing import CornerSquash, ShorterSide, SideBySide, Squash
from zsad.inference.feature_store import packed
from zsad.types import Context, each_tensor

__all__ = ["FEATURES", "SCORES", "Graph", "resize_facts", "rule_of", "squash_of"]

SCORES, FEATURES = "scores", "features"  # what a graph gives: answers, or what a comparison of pictures reads


class Graph(nn.Module):
    """Pixels -> outputs by name; everything that depends on no picture is a constant.

    Args:
        detector: scores or encodes.
        context: of the target and the references.
        kind: ``SCORES``: "score" (B,), "map" (B, H, W) and, where the method has them, "words" (B, N, h, w).
            ``FEATURES``: the tensors of ``ImageFeatures``, named as ``feature_store.packed`` does.

    Raises:
        UsageError: the pictures reach the network in a way that is no resize to a square.
    """

    mean: Tensor  # (3, 1, 1) of the network's input
    deviation: Tensor  # (3, 1, 1)

    def __init__(self, detector: Detector, context: Context, kind: str = SCORES) -> None:
        super().__init__()
        self.squash, self.detector, self.kind = squash_of(detector), detector, kind
        self.register_buffer("mean", torch.tensor(self.squash.mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(self.squash.std)[:, None, None])
        self.names: list[str] = []  # of the outputs, known after the first pass
        self.grids: dict[str, tuple[int, int]] = {}  # of ``FEATURES``: rows and columns of patches by tap, such as "vit/6"
        # plain tensors are constants of a graph; what a pass in torch makes of them alone is found again by their identity
        self.context = each_tensor(context, lambda one: one.detach().clone())

    def example(self, count: int = 2) -> Tensor:
        """Seeded pixels (count, H, W, 3), uint8; two or more, or a graph takes the number of pictures for a constant."""
        drawn = torch.randint(0, 256, (count, *self.squash.shape, 3), generator=torch.Generator().manual_seed(0))
        return drawn.to(torch.uint8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 RGB at the network's size -> the outputs, in the order of ``names``."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.deviation
        features = self.detector.encode(pixels)
        if self.kind == FEATURES:
            found, self.grids = packed(features)
        else:
            answer = self.detector.score(features, self.context)
            found = {"score": answer.pred_score, "map": answer.anomaly_map}
            found |= {} if answer.word_maps is None else {"words": answer.word_maps}
        self.names = list(found)
        return tuple(found.values())


def resize_facts(rule: Squash) -> dict[str, Any]:
    """How a model's input is made, for its metadata; ``rule_of`` reads it."""
    sides = {"sides": [rule.size, rule.second]} if isinstance(rule, SideBySide) else {}
    name = "side by side" if sides else "squash"
    return {"rule": name, **sides, "filter": rule.resample, "antialias": True, "library": "Pillow"}


def rule_of(given: Mapping[str, Any]) -> Squash:
    """The resize of a model's "input" in its metadata."""
    how, scale = given["resize"], (tuple(given["mean"]), tuple(given["deviation"]))
    if "sides" in how:
        return SideBySide(how["sides"][0], *scale, how["filter"], how["sides"][1])
    return Squash(given["size"][0], *scale, how["filter"])


def squash_of(detector: Detector) -> Squash:
    """How pictures become a square for the network.

    Raises:
        UsageError: they do not.
    """
    rule = detector.input_rule()
    own = type(detector).preprocess is not Detector.preprocess
    if own or not isinstance(rule, Squash) or isinstance(rule, (ShorterSide, CornerSquash)):
        raise UsageError(
            f"{detector.name} cannot be exported: it does not read pictures that were resized to a square, which is all that "
            "an exported model takes. Run it in torch."
        )
    return rule
