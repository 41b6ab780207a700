"""The embedded default: intra-image novelty, a small text-aligned head, two small towers; all weights ship.

Not a paper's method; every part is somebody's idea. Novelty: how far a patch is from its nearest neighbours in the same
picture (MuSc's mutual scoring, Li et al. 2024, within one picture; 3x3 means and stages as in PatchCore, Roth et al. 2022).
Head: convolutions on the stages and on what remains of each patch after its neighbours' weighted mean is taken away
(as in InCTRL and ResAD), ending in a sentence encoder's space, trained on synthetic defects (``checkpoints/compact.md``).
References (``memory.py``) and a ViT (``second.py``) join the zero-shot map. In batch mode the pictures of a folder are compared
by the ViT alone (``folder.py``), or with a pool of others (``pooled.py``). The object's name is not encoded. Novelty counts
against its usual value at the same place, since zero padding makes borders look odd (image AUROC 0.05 lower without).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.common.assets import asset
from zsad.detector import Detector
from zsad.errors import NeedsSet
from zsad.images.preprocessing import Squash
from zsad.methods.compact import second
from zsad.methods.compact.head import CHANNELS, DIM, SIDES, CompactHead
from zsad.methods.compact.memory import check_references, memory_rows
from zsad.methods.compact.pooled import banks_of
from zsad.methods.compact.scoring import FEW, folder_predictions, single_prediction
from zsad.methods.compact.vocabulary import OBJECT, context_of, vocabulary
from zsad.registry import register
from zsad.types import Backbone, Bank, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule

__all__ = ["Compact"]
HEAD = "checkpoints/compact-head.safetensors"


@register("compact")
class Compact(Detector):
    """The detector that works out of the box: no download, no text tower, 256 px.

    Args:
        backbone: the compact tower.
        vit: the second tower.
        words: defect words to look for instead of the default vocabulary; others than its own need the extra ``words``. They
            steer the score: places that look like one of them count more.
        batch: batch mode: pictures are compared with each other (five or more, most normal); then ``score_set`` is the way.
        pool: how many others each is compared with then; None: 20, or all with tower="small". Time grows with pictures x pool.
        seed: which ones, where ``pool`` leaves some out.
        tower: "both", or "small" for the first alone, as versions before 0.2 had it: faster, and weaker on objects.
        fine: compare with references at 448 px, in four times as many patches: finds more, and takes longer.

    Maps and scores are on one scale for all pictures: 0 is the median place of auxiliary normal pictures, 1 what nine in
    ten places of auxiliary defects stay below. They are not bounded.
    """

    encoders: ClassVar = {"vit": Recipe("compact-vit", 224, optional=("tower", "small"))}  # the second tower
    vit: Any
    sides: Tensor  # (2, 384) normal, anomalous
    vectors: Tensor  # (9, 384) of the vocabulary
    centre: Tensor  # (384,) taken off every sentence vector
    weights: Tensor  # (6,) of the head's logit, the novelty of each stage, the given words
    bias: Tensor  # () added to their sum
    margin: Tensor  # () word_margin
    recipe = Recipe(backbone="compact", image_size=256, taps=tuple(CHANNELS))
    needs, learned, own_references, far_score = ("stages",), True, True, 1.5  # above all normal pictures that were measured
    schedule = Schedule("adamw", 3e-4, 5, 18, weight_decay=0.02, clip=1.0, one_name=False, labels_only=True)  # from what ships

    def __init__(
        self,
        backbone: Backbone,
        vit: Any = None,
        words: tuple[str, ...] | None = None,
        batch: bool = False,
        pool: int | None = None,
        seed: int = 0,
        tower: str = "both",
        fine: bool = True,
    ) -> None:
        super().__init__(backbone)
        second.check_tower(tower)
        self.words, self.batch, self.pool, self.seed, self.tower, self.fine = words, batch, pool, seed, tower, fine
        self.vit, self.vit_alone = vit if tower == "both" else None, False  # alone: nothing reads the first tower
        self.reads, self.enough_references = second.streams_of(self.vit, fine), 1 if self.vit is None else FEW
        self.vocabulary, self.head = vocabulary(), CompactHead()
        self.register_buffer("weights", torch.ones(2 + len(SIDES)))
        shapes = {"sides": (2, DIM), "vectors": (len(self.vocabulary), DIM), "centre": (DIM,), "bias": (), "margin": ()}
        for key, shape in shapes.items():
            self.register_buffer(key, torch.zeros(shape))

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads strictly; takes the margin of the defect words from the tensors too."""
        super().load_learned(tensors, origin)
        self.word_margin = float(self.margin)

    def restore(self, checkpoint: str | Path | None = None, tag: str | None = None) -> None:
        super().restore(asset(HEAD) if checkpoint is None and tag is None else checkpoint, tag)

    def prepare(self, name: str = OBJECT, references: References | None = None) -> Context:
        """Vectors of the two sides and the words, and the references' banks; ``name`` does nothing. Raises ``UsageError``."""
        check_references(references, self.batch and self.vit is None)
        vectors = dict(zip(self.vocabulary, self.vectors, strict=True))
        return context_of(self.words, self.sides, vectors, self.centre, self.banks(references))

    def as_batch(self, context: Context, batch: bool = True) -> Detector:
        other = copy(self)
        other.batch, other.vit_alone = batch, self.vit is not None and not context.banks and self.words is None
        return other

    def for_context(self, context: Context) -> Detector:
        other = copy(self)
        other.reads = second.streams_read(self.reads, context.banks, self.batch)
        return other

    def against_pool(self, context: Context) -> Detector | None:
        return None if self.vit is None else self.as_batch(context, False)

    def pool_banks(self, features: Sequence[ImageFeatures], context: Context) -> dict[str, Bank]:
        return banks_of([one.streams[second.WHOLE] for one in features], self.pool, self.seed)

    def input_rule(self) -> Squash:
        return second.input_rule(self.backbone.preprocess, self.reads)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the raw stages 2 to 6, and in ``streams`` the second tower's blocks, of length one."""
        seen = second.sources(images, self.backbone.preprocess)
        first, _ = seen[second.WHOLE]
        own = ImageFeatures(images.new_zeros(images.shape[0], 0)) if self.vit_alone else self.encode_for_loss(first)
        return replace(own, streams=second.second_streams(self.vit, seen, self.reads))

    def encode_for_loss(self, images: Tensor) -> ImageFeatures:
        return self.backbone.encode_image(images, self.recipe.taps)

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Patches of the compared stages, and how novel each is within its own picture; patches of the second tower."""
        rows = memory_rows(features.taps, self.head.compare(features.taps).novel)
        return rows if self.vit is None else rows | {second.BANK: second.second_rows(second.near_taps(features.streams))}

    def needs_set(self, context: Context) -> bool:
        return self.batch

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: weighted sum of text logits, novelty, and distance to the references. Score: the mean of its highest 1 %."""
        if self.batch:
            raise NeedsSet("compact with batch=True compares pictures with each other. Call score_set, or leave batch out.")
        return single_prediction(self, features, context)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture; in batch mode by the others. Raises ``UsageError`` for fewer than five."""
        return folder_predictions(self, features, context) if self.batch else super().score_set(features, context)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """``CompactHead.losses`` of a batch; pictures without masks train the image term alone."""
        features, cells = self.features_of(batch), None
        if batch.masks is not None:
            cells = F.adaptive_avg_pool2d(batch.masks[:, None].float(), features.taps[min(CHANNELS)].grid)[:, 0]
        return self.head.losses(self.head(self.head.compare(features.taps)), cells, batch.labels.float(), context, batch.kinds)
