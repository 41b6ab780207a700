"""The embedded default: intra-image novelty and a small text-aligned head on EfficientNet-Lite0; all weights ship.

Not a paper's method; every part is somebody's idea. Novelty: how far a patch is from its nearest neighbours in the same
picture (MuSc's mutual scoring, Li et al. 2024, within one picture; 3x3 means and stages as in PatchCore, Roth et al. 2022).
Head: convolutions on the stages and on what remains of each patch after its neighbours' weighted mean is taken away
(residuals, as InCTRL and ResAD use them), ending in a sentence encoder's space, trained on synthetic defects with the VAND
family's losses (``checkpoints/compact.md``). References and batch join the zero-shot map (``methods/compact/memory.py``).

Kept on purpose: novelty counts against its mean and deviation at the same place in plain textures, since zero padding makes
every border look odd (without: image AUROC 0.05 lower on kept-out auxiliary textures). The object's name is not encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.losses import top_mean
from zsad.alignment.maps import upsample
from zsad.common.assets import asset
from zsad.detector import Detector
from zsad.errors import NeedsSet
from zsad.methods.compact.head import CHANNELS, DIM, SIDES, TOP, CompactHead
from zsad.methods.compact.memory import Near, check_references, departure, memory_rows, nearest_in, nearest_in_batch
from zsad.prompts.prompt_set import PromptSet
from zsad.prompts.sentence_encoder import CLASS_NAMES, check_words, encode_sentences, word_phrases
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule

__all__ = ["Compact", "default_phrases"]

HEAD = "checkpoints/compact-head.safetensors"
OBJECT = "object"


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
        batch: batch mode: pictures are compared with each other (five or more, most normal); then ``score_set`` is the way.
        pool: in batch mode, how many others each picture is compared with; None: all. Time grows with pictures x pool.
        seed: which ones, where ``pool`` leaves some out.

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
    # goes on from what ships
    schedule = Schedule("adamw", 3e-4, 5, 18, weight_decay=0.02, clip=1.0, one_name=False, labels_only=True)

    def __init__(
        self,
        backbone: Backbone,
        words: tuple[str, ...] | None = None,
        batch: bool = False,
        pool: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.words, self.batch, self.pool, self.seed = words, batch, pool, seed
        self.vocabulary = tuple(word for word in default_phrases().states if word not in CLASS_NAMES)
        self.head = CompactHead()
        self.register_buffer("weights", torch.ones(2 + len(SIDES)))
        shapes = {"sides": (2, DIM), "vectors": (len(self.vocabulary), DIM), "centre": (DIM,), "bias": (), "margin": ()}
        for key, shape in shapes.items():
            self.register_buffer(key, torch.zeros(shape))

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads strictly; takes the margin of the defect words from the tensors too."""
        super().load_learned(tensors, origin)
        self.word_margin = float(self.margin)

    def restore(self, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
        """Loads the weights that ship, unless others are named."""
        super().restore(asset(HEAD) if checkpoint is None and tag is None else checkpoint, tag)

    def prepare(self, name: str = OBJECT, references: References | None = None) -> Context:
        """Vectors of the two sides and of the defect words, and the references' banks; ``name`` changes nothing (measured).

        Raises:
            UsageError: ``words`` are none; references that are anomalous, empty, or beside ``batch=True``.
            MissingExtra: a word outside the default vocabulary, and no text tower.
        """
        check_references(references, self.batch)
        lines, vectors = default_phrases().sentences(OBJECT), dict(zip(self.vocabulary, self.vectors, strict=True))
        words = self.vocabulary if self.words is None else check_words(self.words)
        if new := [word for word in words if word not in vectors]:
            own = word_phrases(new, default_phrases().templates).sentences(OBJECT)
            lines |= own
            encoded = F.normalize(encode_sentences(own.values()).to(self.centre) - self.centre, dim=-1)
            vectors |= dict(zip(new, encoded, strict=True))
        chosen = torch.stack([vectors[word] for word in words])
        extra = {"words": chosen} if self.words is None else {"words": chosen, "steer": chosen - self.vectors.mean(0)}
        lines = {key: lines[key] for key in (*CLASS_NAMES, *words)}
        return Context(self.sides[None], lines, words, self.banks(references), extra)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the raw stages 2 to 6."""
        return self.backbone.encode_image(images, self.recipe.taps)

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Patches of the compared stages, and how novel each is within its own picture."""
        return memory_rows(features.taps, self.head.compare(features.taps).novel)

    def needs_set(self, context: Context) -> bool:
        """True in batch mode."""
        return self.batch

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: weighted sum of text logits, novelty, and distance to the references. Score: the mean of its highest 1 %."""
        if self.batch:
            raise NeedsSet("compact with batch=True compares pictures with each other. Call score_set, or leave batch out.")
        return self._predict(features, context, nearest_in(features.taps, context.banks) if context.banks else None)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture; in batch mode by the other pictures. Raises ``UsageError`` for fewer than five."""
        if not self.batch:
            return super().score_set(features, context)
        compared = nearest_in_batch(features, self.reference_rows, self.pool, self.seed)
        return (self._predict(one, context, near) for one, near in compared)

    def _predict(self, features: ImageFeatures, context: Context, near: Near | None) -> Prediction:
        grid, words = self.head.zero_shot(features.taps, context, self.weights, self.bias)
        if near is not None:
            grid = departure(grid, near, features.taps, self.weights[1:-1])
        maps = upsample(grid, self.backbone.image_size)
        return Prediction(top_mean(maps, TOP), maps, words)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``CompactHead.losses`` of a batch; pictures without masks train the image term alone."""
        features, cells = self.features_of(batch), None
        if batch.masks is not None:
            cells = F.adaptive_avg_pool2d(batch.masks[:, None].float(), features.taps[min(CHANNELS)].grid)[:, 0]
        mixed = self.head(self.head.compare(features.taps))
        return self.head.losses(mixed, cells, batch.labels.float(), context, batch.kinds)
