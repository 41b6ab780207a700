"""CLAP's zero-shot part: where a picture holds what words of disease say, less where it holds what words of health say.

Paper: Park, Kim and Kim, "Contrastive Language Prompting to Ease False Positives in Medical Anomaly Detection", ISBI 2025,
arXiv 2411.07546; no public code. Its map is M2IB (``alignment/bottleneck.py``), as the code it takes over computes it.

Kept: the bottleneck behind the 8th of 12 layers, beta 0.1, 10 steps of Adam with rate 1, 10 noisy copies; each map is scaled to
0..1 before the difference; the relevance is that of the last forward pass.
Dropped: the U-Net that repaints the suspected places, which is trained on normal pictures of each data set and whose settings
are not known. So the score is ours: the mean of the largest hundredth of the map.
Decisions: the words are the user's, since the paper prints the first of each list only; one sentence per sign. The noise is
seeded and the same for every picture, so batches change nothing. Another seed moves a map by up to 0.27 of its range on random
weights; ``draws`` averages several.

It is slow: each picture and sign takes 10 forward and backward passes of 10 copies through the last third of the tower, about
130 times the arithmetic of the tower alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zsad.alignment.aggregation import picture_scores
from zsad.alignment.bottleneck import Attribution, attribute
from zsad.alignment.maps import upsample
from zsad.backbones.clip import CLIP
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References

__all__ = ["CLAP"]


@register("clap")
class CLAP(Detector):
    """Information bottleneck maps of words for and against; for single medical pictures without masks or normal ones.

    Args:
        backbone: a CLIP ViT with text tower.
        words: what an anomaly is called, as ("Glioma", "Astrocytoma").
        normal_words: what a normal picture is called, as ("Normal", "Healthy gray matter").
        layer: behind which the bottleneck lies, 1-based; None: the paper's, in proportion to the depth.
        beta: weight of the capacity; a larger one leaves fewer places. It matters much.
        steps: of the optimisation.
        copies: noisy copies per step.
        seed: of the noise.
        draws: seeds from ``seed`` on whose maps are averaged.
    """

    recipe = Recipe("ViT-B-16.openai", 224, activation="quick_gelu", taps=(8,), depth=12, follows_weights=True)
    needs = ("visual", "encode_text")
    map_range = (-1.0, 1.0)
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        words: tuple[str, ...] = ("Lesion", "Tumor", "Abnormal", "Damaged"),
        normal_words: tuple[str, ...] = ("Normal", "Healthy", "Clear", "Flawless"),
        layer: int | None = None,
        beta: float = 0.1,
        steps: int = 10,
        copies: int = 10,
        seed: int = 0,
        draws: int = 1,
    ) -> None:
        super().__init__(backbone)
        self.words, self.normal_words, self.layer, self.beta = words, normal_words, layer, beta
        self.steps, self.copies, self.seed, self.draws = steps, copies, seed, draws

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Encodes both lists, each as one sentence with commas; the name changes nothing.

        Raises:
            UsageError: arguments or words that cannot be, or references that do not fit.
        """
        if min(self.steps, self.copies, self.draws) < 1 or not self.beta > 0:
            raise UsageError(
                f"steps={self.steps}, copies={self.copies}, draws={self.draws}, beta={self.beta}: give numbers from 1 on, and "
                "a positive beta."
            )
        for key, words in (("words", self.words), ("normal_words", self.normal_words)):
            if not words or not all(word.strip() for word in words):
                raise UsageError(f"{key}={words} of clap: give at least one word, and none that is empty.")
        sentences = {"normal": (", ".join(self.normal_words),), "anomalous": (", ".join(self.words),)}
        text = self.backbone.encode_text([line for (line,) in sentences.values()])
        return Context(text=text[None], sentences=sentences, banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the image feature and the tokens behind the layer of the bottleneck."""
        return self.backbone.encode_image(images, self.tapped(None if self.layer is None else (self.layer,)))

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: relevance for the anomalous words less that for the normal ones, -1 to 1; score: mean of its top hundredth."""
        ((_, tap),) = features.taps.items()
        maps = []
        with self.adapting(features, context) as (own, there):
            for number in range(len(own)):
                draws = [self._difference(own[number : number + 1], there, self.seed + draw) for draw in range(self.draws)]
                maps.append(torch.stack(draws).mean(dim=0))
        found = torch.stack(maps).detach().to(tap.patches)
        return fuse_with_references(Prediction(picture_scores(found, "top1"), found), features.taps, context.banks)

    def attributions(self, features: ImageFeatures, context: Context, noise: list[list[Tensor]]) -> list[Attribution]:
        """Of one picture, for the normal and for the anomalous words; ``noise`` by sign and step. Gradients have to be on."""
        ((layer, tap),) = features.taps.items()
        assert tap.cls is not None
        tokens = torch.cat([tap.cls[:, None], tap.patches], dim=1)[0]
        texts = self.text_of(context)[0]
        return [
            attribute(tokens, text, lambda x: self.behind(x, layer), drawn, beta=self.beta)
            for text, drawn in zip(texts, noise, strict=True)
        ]

    def behind(self, tokens: Tensor, layer: int) -> Tensor:
        """(copies, 1 + L, C) tokens behind a layer -> image features (copies, D); the last block for the class token alone."""
        blocks = self.backbone.visual.blocks
        place = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        for block in blocks[layer:-1]:
            tokens = block(tokens)
        return self.backbone.visual.project((blocks[-1].only(tokens, place) if layer < len(blocks) else tokens[:, :1])[:, 0])

    def _difference(self, features: ImageFeatures, context: Context, seed: int) -> Tensor:
        """(S, S) map of one picture."""
        ((_, tap),) = features.taps.items()
        shape = (self.copies, 1 + tap.patches.shape[1], tap.patches.shape[2])
        noise = [list(self._noise(shape, seed, tap.patches)) for _ in range(2)]
        normal, anomalous = (
            relevance(found.capacity, tap.grid, self.backbone.image_size)
            for found in self.attributions(features, context, noise)
        )
        return anomalous - normal

    def _noise(self, shape: tuple[int, int, int], seed: int, like: Tensor) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(shape, generator=generator).to(like) for _ in range(self.steps))


def relevance(capacity: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(1 + L,) capacities -> (side, side) map of the patches, scaled to 0..1; a constant one is 0."""
    whole = upsample(capacity[1:].view(1, *grid), side)[0]
    low, high = whole.min(), whole.max()
    return (whole - low) / (high - low).clamp(min=1e-12)
