"""Small detectors that ask more of the contract than the published six: a second encoder, a loss at test time, several views of
a picture, anomalous references with masks. Each stands for the methods that its docstring names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import map_terms
from zsad.alignment.maps import upsample
from zsad.alignment.similarity import anomaly_probability
from zsad.backbones.clip import CLIP
from zsad.detector import Detector
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.references.fusion import fuse_with_references, nearest_normal
from zsad.references.memory_bank import banks_of_sign
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap

__all__ = ["AdaptsAtTest", "DefectShown", "SecondEncoder", "SeveralViews"]

TEMPERATURE = 0.07


class TextMap(Detector):
    """The common start: the last layer's patches in the joint space against an ensemble of sentences."""

    recipe = Recipe("tiny", 80, "gelu", "bilinear", taps=(12,), depth=12)
    backbone: CLIP

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        sentences = PromptSet.pair("adaclip", name)
        text = encode_ensemble(self.backbone, [*sentences.values()])
        return Context(text, sentences, banks=self.banks(references))

    def projected(self, images: Tensor) -> tuple[Tensor, Tap]:
        """(B, 3, H, W) -> image feature (B, D), the last layer's patches (B, L, D)."""
        seen = self.backbone.encode_image(images, self.recipe.layers(self.backbone.depth))
        tap = seen.taps[self.backbone.depth]
        return seen.image, Tap(self.backbone.visual.project(tap.patches), tap.grid)

    def encode(self, images: Tensor) -> ImageFeatures:
        image, tap = self.projected(images)
        return ImageFeatures(image, {self.backbone.depth: tap})

    def text_map(self, tap: Tap, context: Context) -> Tensor:
        """(B, L, D) -> (B, H, W), the probability of "anomalous"."""
        patches = anomaly_probability(tap.patches, self.text_of(context), TEMPERATURE)
        return upsample(patches.unflatten(1, tap.grid), self.backbone.image_size)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        maps = self.text_map(features.taps[self.backbone.depth], context)
        found = Prediction(anomaly_probability(features.image, self.text_of(context), TEMPERATURE), maps)
        return fuse_with_references(found, features.taps, context.banks)


@register("second_encoder")
class SecondEncoder(TextMap):
    """Another encoder's likeness of patches mixes CLIP's (Crane's D-Attn with DINOv2), behind a learned projection.

    Args:
        backbone: a CLIP ViT.
        structure: any image encoder; its last layer tells which patches belong together.
        sharpness: of the softmax over them.
    """

    encoders: ClassVar = {"structure": Recipe("tiny", 96)}
    learned, schedule = True, Schedule("adam", 1e-3, 2, 2)
    structure: Any

    def __init__(self, backbone: CLIP, structure: Any, sharpness: float = 10.0) -> None:
        super().__init__(backbone)
        self.structure, self.sharpness = structure, sharpness
        self.projection = nn.Linear(*[backbone.visual.proj.shape[1]] * 2)

    def encode(self, images: Tensor) -> ImageFeatures:
        """Plain taps of CLIP; ``streams["structure"]``: the other encoder's, on its own grid."""
        image, tap = self.projected(images)
        own = self.structure.preprocess.again(images, self.backbone.preprocess)
        layer = self.structure.depth
        return ImageFeatures(image, {self.backbone.depth: tap}, {"structure": self.structure.encode_image(own, (layer,)).taps})

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        return super().score(self.mixed(features), context)

    def reference_taps(self, features: ImageFeatures) -> Mapping[int, Tap]:
        return self.mixed(features).taps

    def mixed(self, features: ImageFeatures) -> ImageFeatures:
        """The projected patches, each as the mean of those that the other encoder takes for its like."""
        (own,), (other,) = features.taps.values(), features.streams["structure"].values()
        grid = F.interpolate(other.patches.transpose(1, 2).unflatten(2, other.grid), size=own.grid, mode="bilinear")
        unit = F.normalize(grid.flatten(2), dim=1)  # (B, C, L)
        weights = (self.sharpness * unit.transpose(1, 2) @ unit).softmax(dim=-1)  # (B, L, L)
        return ImageFeatures(features.image, {self.backbone.depth: Tap(self.projection(weights @ own.patches), own.grid)})

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        (tap,) = self.mixed(self.features_of(batch)).taps.values()
        assert batch.masks is not None
        maps = self.text_map(tap, context)
        return map_terms(torch.stack([1 - maps, maps], dim=1), batch.masks)


@register("adapts_at_test")
class AdaptsAtTest(TextMap):
    """A shift of the text features learns on each picture that is scored (AnoVL's test-time adaptation).

    Args:
        backbone: a CLIP ViT.
        steps: of gradient descent, from a shift of zero.
        lr: their size.
    """

    def __init__(self, backbone: CLIP, steps: int = 5, lr: float = 0.05) -> None:
        super().__init__(backbone)
        self.steps, self.lr = steps, lr

    def entropy(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """(B,) mean entropy of the patches' decisions: the loss at test time."""
        (tap,) = features.taps.values()
        p = anomaly_probability(tap.patches, text, TEMPERATURE).clamp(1e-6, 1 - 1e-6)  # (B, L)
        return -(p * p.log() + (1 - p) * (1 - p).log()).mean(dim=1)

    def adapted(self, features: ImageFeatures, context: Context) -> Tensor:
        """(B, 2, D): every picture's own text features."""
        with self.adapting(features, context) as (own, known):
            text = self.text_of(known)
            shift = torch.zeros(len(own), *text.shape[1:], device=text.device, requires_grad=True)
            for _ in range(self.steps):
                (gradient,) = torch.autograd.grad(self.entropy(own, text + shift).sum(), shift)
                shift = (shift - self.lr * gradient).detach().requires_grad_()
            return (text + shift).detach()

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        return super().score(features, replace(context, text=self.adapted(features, context)))


@register("several_views")
class SeveralViews(TextMap):
    """A picture, mirrored and turned: the views' maps and scores are averaged (AnoVL, SubspaceAD).

    Args:
        backbone: a CLIP ViT.
        views: "plain", "mirrored", "turned" (by a half).
    """

    AXES = {"plain": (), "mirrored": (-1,), "turned": (-2, -1)}  # noqa: RUF012

    def __init__(self, backbone: CLIP, views: tuple[str, ...] = ("plain", "mirrored", "turned")) -> None:
        super().__init__(backbone)
        self.views = views

    def encode(self, images: Tensor) -> ImageFeatures:
        """One stream per view, its patches back where they lie in the picture; ``image``: the views' mean."""
        image, tap = self.projected(torch.cat([images.flip(self.AXES[view]) for view in self.views]))
        streams = {}
        for view, patches in zip(self.views, tap.patches.chunk(len(self.views)), strict=True):
            back = patches.unflatten(1, tap.grid).flip([axis - 1 for axis in self.AXES[view]])  # (B, h, w, D)
            streams[view] = {self.backbone.depth: Tap(back.flatten(1, 2), tap.grid)}
        return ImageFeatures(torch.stack(image.chunk(len(self.views))).mean(dim=0), streams=streams)

    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        """The patches of all views, (B, V * L, D)."""
        taps = [tap for stream in features.streams.values() for tap in stream.values()]
        return {str(self.backbone.depth): torch.cat([tap.patches for tap in taps], dim=1)}

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        views = [ImageFeatures(features.image, taps) for taps in features.streams.values()]
        seen = [super(SeveralViews, self).score(view, context) for view in views]
        maps = torch.stack([one.anomaly_map for one in seen]).mean(dim=0)
        return Prediction(torch.stack([one.pred_score for one in seen]).mean(dim=0), maps)


@register("defect_shown")
class DefectShown(TextMap):
    """Anomalous references with masks beside normal ones (NAGL): near a shown defect and far from normal is anomalous."""

    takes_anomalous = True

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        normal, anomalous = (banks_of_sign(context.banks, sign) for sign in (1, -1))
        found = super().score(features, replace(context, banks=normal))
        if not anomalous:
            return found
        near = 1 - nearest_normal(features.taps, anomalous)  # (B, h, w), 1: as a shown defect
        maps = (found.anomaly_map + upsample(near, self.backbone.image_size)) / 2
        return Prediction((found.pred_score + near.amax(dim=(1, 2))) / 2, maps)
