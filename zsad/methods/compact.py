"""The embedded default: intra-image novelty and a small text-aligned head on EfficientNet-Lite0; all weights ship.

Not a paper's method; every part is somebody's idea. Novelty: how far a patch is from its nearest neighbours in the same
picture (MuSc's mutual scoring, Li et al. 2024, within one picture; 3x3 means and stages as in PatchCore, Roth et al.
2022). Head: convolutions on the stages and on what remains of each patch after its neighbours' weighted mean is taken
away (residuals, as InCTRL and ResAD use them against references), ending in a sentence encoder's space, trained on
synthetic defects with the losses of the VAND family. ``checkpoints/compact.md`` is the card, ``scripts/train_compact.py``
the command.

Kept on purpose: novelty is measured against its mean and deviation at the same place in plain textures, since zero
padding makes every border look odd (without it the image AUROC on kept-out auxiliary textures is 0.05 lower). The object's
name changes nothing, so it is not encoded; defect words steer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.assets import asset
from zsad.backbones.sentences import SIDE_NAMES, check_words, encode_sentences, word_phrases
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.layers.compact_head import CHANNELS, DIM, SIDES, CompactHead
from zsad.losses import dice, focal, top_mean
from zsad.ops.maps import upsample
from zsad.prompting import PromptSet
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule

__all__ = ["Compact", "default_phrases"]

HEAD = "checkpoints/compact-head.safetensors"
OBJECT = "object"
COVERED = 0.12  # part of a cell that a defect has to cover to count in training
TOP = 0.01  # part of the map whose mean is the image score


def default_phrases() -> PromptSet:
    """The vocabulary whose vectors ship: "normal", "anomalous" and nine defect words."""
    return PromptSet.load("compact")


@register("compact")
class Compact(Detector):
    """The detector that works out of the box: no download, no text tower, 256 px.

    Args:
        backbone: the compact tower.
        words: defect words to look for instead of the default vocabulary. Words of that vocabulary need nothing; others
            need the extra ``words``. They steer the score: places that look like one of them count more.

    Maps and scores are on one scale for all pictures: 0 is the median place of auxiliary normal pictures, 1 what nine in
    ten places of auxiliary defects stay below. They are not bounded.
    """

    sides: Tensor  # (2, 384) normal, anomalous
    vectors: Tensor  # (9, 384) of the vocabulary
    centre: Tensor  # (384,) taken off every sentence vector
    weights: Tensor  # (6,) of the head's logit, the novelty of each stage, the given words
    bias: Tensor  # () with the weights: 0 is a usual normal place, 1 a plain defect
    margin: Tensor  # () word_margin
    needs = ("stages",)
    recipe = Recipe(backbone="compact", image_size=256, taps=tuple(CHANNELS))
    learned = True
    schedule = Schedule("adamw", 3e-4, 5, 18, weight_decay=0.02, clip=1.0, one_name=False)  # goes on from what ships

    def __init__(self, backbone: Backbone, words: tuple[str, ...] | None = None) -> None:
        super().__init__(backbone)
        self.words = words
        self.vocabulary = tuple(word for word in default_phrases().states if word not in SIDE_NAMES)
        self.head = CompactHead()
        self.register_buffer("sides", torch.zeros(2, DIM))
        self.register_buffer("vectors", torch.zeros(len(self.vocabulary), DIM))
        self.register_buffer("centre", torch.zeros(DIM))
        self.register_buffer("weights", torch.ones(1 + len(SIDES) + 1))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("margin", torch.zeros(()))

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """As every method's; takes the margin of the defect words from the tensors too."""
        super().load_learned(tensors, origin)
        self.word_margin = float(self.margin)

    def restore(self, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
        """Loads the weights that ship, unless others are named."""
        if checkpoint is None and tag is None:
            checkpoint = asset(HEAD)
        super().restore(checkpoint, tag)

    def prepare(self, name: str = OBJECT, references: References | None = None) -> Context:
        """Text vectors of the two sides and of the defect words; ``name`` changes nothing (measured), so it is not encoded.

        Raises:
            UsageError: references were given, or ``words`` are none.
            MissingExtra: a word outside the default vocabulary, and no text tower.
        """
        if references is not None:
            raise UsageError("compact takes no reference pictures yet. Leave them out, or choose a method that does.")
        lines, vectors = default_phrases().sentences(OBJECT), dict(zip(self.vocabulary, self.vectors, strict=True))
        words = self.vocabulary if self.words is None else check_words(self.words)
        if new := [word for word in words if word not in vectors]:
            own = word_phrases(new, default_phrases().templates).sentences(OBJECT)
            lines |= own
            encoded = F.normalize(encode_sentences(own.values()).to(self.centre) - self.centre, dim=-1)
            vectors |= dict(zip(new, encoded, strict=True))
        chosen = torch.stack([vectors[word] for word in words])
        extra = {"words": chosen} if self.words is None else {"words": chosen, "steer": chosen - self.vectors.mean(0)}
        return Context(self.sides[None], {key: lines[key] for key in (*SIDE_NAMES, *words)}, words, extra=extra)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the raw stages 2 to 6."""
        features: ImageFeatures = self.backbone.encode_image(images, self.recipe.taps)
        return features

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: weighted sum of text logits and novelty. Score: the mean of the map's highest 1 %."""
        assert context.text is not None
        seen = self.head.compare(features.taps)
        mixed, scale = self.head(seen), self.head.scale.exp()
        sides = self.head.similarity(mixed, context.text[0]) * scale
        words = self.head.similarity(mixed, context.extra["words"])
        grid = self.bias + self.weights[0] * (sides[:, 1] - sides[:, 0])  # (B, h, w)
        grid = grid + torch.einsum("s,bshw->bhw", self.weights[1:-1], seen.novel)
        if "steer" in context.extra:
            steer = self.head.similarity(mixed, context.extra["steer"]) * scale
            grid = grid + self.weights[-1] * steer.amax(1)
        maps = upsample(grid, (self.backbone.image_size, self.backbone.image_size))
        return Prediction(top_mean(maps, TOP), maps, words)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Focal and Dice on the head's cells, cross-entropy of the picture by its highest cells.

        Raises:
            UsageError: pictures without masks.
        """
        if batch.masks is None:
            raise UsageError("compact learns from masks; got a batch without. Give a mask per picture (all zero: normal).")
        features = batch.images if isinstance(batch.images, ImageFeatures) else self.encode(batch.images)
        seen = self.head.compare(features.taps)
        cells = F.adaptive_avg_pool2d(batch.masks[:, None].float(), features.taps[min(CHANNELS)].grid)[:, 0]
        return self.loss_of(self.head(seen), cells, batch.labels.float(), context)

    def loss_of(self, mixed: Tensor, cells: Tensor, labels: Tensor, context: Context) -> dict[str, Tensor]:
        """As ``loss``, of the head's output (B, WIDTH, h, w) and the defective part of each cell (B, h, w)."""
        assert context.text is not None
        sides = self.head.similarity(mixed, context.text[0]) * self.head.scale.exp()  # (B, 2, h, w)
        target, probability = (cells >= COVERED).float(), sides.softmax(1)
        top = top_mean(sides[:, 1] - sides[:, 0], TOP)
        return {
            "focal": 8 * focal(probability, target),
            "dice": 0.5 * dice(probability[:, 1], target),
            "picture": 0.3 * F.binary_cross_entropy_with_logits(top, labels),
        }
