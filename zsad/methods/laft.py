"""LAFT: the distance of a picture to normal ones along what words differ in: "look for scratches, not for lighting".

Paper: Yun et al., "Language-Assisted Feature Transformation for Anomaly Detection", ICLR 2025, arXiv 2503.01184. Code:
yuneg11/LAFT, commit 035b0b9, which states no licence: written from measured facts of its program, without its text.

Kept: image features are not normalised before they are projected; the score is the mean cosine distance to the 30 nearest
normal references, at most to all. Their other use, in WinCLIP, is ``winclip`` with the same two keywords.
Dropped: components beyond the rank, which are the noise of a random range finder there; the sign alignment of pairs, which
changes nothing; the shorter side resized and the centre cut out (a picture is squashed as a whole here).
Ours: a list of words begins with the object itself (``prompts/concepts.py``); both kinds of words together; the map, which the
paper has not at image level, is that of its WinCLIP part with windows against windows alone. Without words it is the paper's
baseline: nearest neighbours of plain CLIP features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsad.alignment.concepts import mean_nearest
from zsad.alignment.maps import upsample
from zsad.alignment.windows import harmonic_map
from zsad.backbones.clip import CLIP
from zsad.backbones.token_subsets import encode_windows
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.prompts.concepts import ROWS, concept_rows
from zsad.references.memory_bank import nearest_cosine
from zsad.registry import register
from zsad.types import Bank, Context, ImageFeatures, Prediction, Recipe, References

__all__ = ["LAFT"]

FLOOR = 1e-7  # of a distance: the harmonic mean needs a positive one


@register("laft")
class LAFT(Detector):
    """Nearest normal pictures in a space that words choose; needs at least one normal reference.

    Args:
        backbone: a CLIP ViT with text tower.
        focus: words for what to look at, as "scratch"; all else counts for nothing.
        ignore_words: words for what not to look at, as "bright lighting".
        components: most directions of each kind of words; None: all.
        neighbours: of a picture, whose mean distance is its score.
        scales: sides of the map's windows in patches.
    """

    own_references, needs_references = True, 1
    recipe = Recipe(
        "ViT-B-16-plus-240.laion400m_e31", 240, activation="gelu", position_embedding="bicubic_antialias", follows_weights=True
    )
    needs = ("visual", "encode_text")
    map_range = (0.0, 1.0)
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        focus: tuple[str, ...] = (),
        ignore_words: tuple[str, ...] = (),
        components: int | None = None,
        neighbours: int = 30,
        scales: tuple[int, ...] = (2, 3),
    ) -> None:
        super().__init__(backbone)
        self.focus, self.ignore_words, self.components = focus, ignore_words, components
        self.neighbours, self.scales = neighbours, scales

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The references' pictures and windows, and the directions of the words.

        Raises:
            UsageError: arguments or words that cannot be, or references that do not fit.
        """
        if self.neighbours < 1 or not self.scales or min(self.scales) < 1:
            raise UsageError(f"neighbours={self.neighbours} and scales={self.scales}: give numbers from 1 on.")
        rows = concept_rows(self.backbone, name, self.focus, self.ignore_words, self.components)
        return Context(banks=self.banks(references), extra=rows)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the picture, its windows by scale and its patches; see ``encode_windows``."""
        return encode_windows(self.backbone.visual, images, self.scales)

    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        """The picture "image" (B, 1, D) and its windows "window_<scale>" (B, n, D), along all directions."""
        windows = {f"window_{scale}": tap.patches for scale, tap in features.streams["windows"].items()}
        return {"image": features.image[:, None]} | windows

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Score: mean cosine distance to the nearest references. Map: half that of each window to the nearest window.

        Raises:
            UsageError: a context without references.
        """
        self.require_references(context)
        rows, banks = self.reference_rows(features), context.banks
        score = mean_nearest(_along(rows["image"][:, 0], context), _along(banks["image"].rows, context), self.neighbours)
        (grid,) = (tap.grid for tap in features.streams["patches"].values())
        levels = []
        for scale in self.scales:
            bank = banks[f"window_{scale}"]
            seen = Bank(_along(bank.rows, context), bank.source)
            distance = (1 - nearest_cosine(_along(rows[f"window_{scale}"], context), seen)).clamp(min=2 * FLOOR) / 2
            levels.append(harmonic_map(distance, scale, grid))
        return Prediction(score, upsample(torch.stack(levels).mean(dim=0), self.backbone.image_size))


def _along(features: Tensor, context: Context) -> Tensor:
    """(..., D) -> (..., m): along the directions of the words, where there are some."""
    return features @ context.extra[ROWS].T if ROWS in context.extra else features
