"""Anomaly-OV's image-level expert: which patches look more anomalous than normal for this object, and a second look at them.

Paper: Xu et al., "Towards Zero-Shot Anomaly Detection and Reasoning with Multimodal Large Language Models", CVPR 2025, arXiv
2502.07601. Code: honda-research-institute/Anomaly-OneVision, commit d85bec0, Apache-2.0; its two files of weights were not
opened here, and no outputs of the program were compared: every formula is recomputed in the tests.

Kept: the last block of SigLIP is left out; both prompts of a level share a layer, and the object's vector is that of the whole
picture for its crops too; the second prompt is the anomalous one; significant tokens are means of four quarters, which overlap
on an odd grid; the values of the attention are the tokens themselves; a picture's vector is weighted by quarter and by view.
Dropped: the language model, and ``strict=False``, by which a wrong file loads silently there.
Decisions: crops are the cells of a fixed grid, where theirs follows the picture's shape. The map, for which nothing was
trained, is the mean of that of the picture and of those of its crops put side by side: a heat map, unproven as a segmentation.
The loss is the cross-entropy of the picture's label; their training is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.look_twice import attended, significant_tokens, suspicion, weighted_mean
from zsad.alignment.maps import upsample
from zsad.backbones.patch_tokens import patch_width
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap

__all__ = ["AnomalyOV"]

QUARTERS = 2  # along each side


class Attention(nn.Module):
    """Queries and keys of the second look."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.query_proj, self.key_proj = nn.Linear(width, dim), nn.Linear(width, dim)


@register("anomaly_ov")
class AnomalyOV(Detector):
    """Anomaly-OV's expert: an image score without text and without references, for which only labels were learned from.

    Args:
        backbone: a SigLIP tower; any transformer with patches, to be trained.
        taps: layers whose patches are compared; None: 7, 13, 19, 25 of 27, and alike elsewhere.
        cells: crops along each side beside the whole picture; 0: none.
        dim: channels of prompts, and of the attention.
    """

    recipe = Recipe("hf:google/siglip-so400m-patch14-384", 384, taps=(7, 13, 19, 25), depth=27)
    needs, learned = ("encode_image", "depth"), True
    schedule = Schedule("adamw", 1e-4, 5, 8, labels_only=True, one_name=False)

    def __init__(self, backbone: Backbone, taps: tuple[int, ...] | None = None, cells: int = 2, dim: int = 512) -> None:
        super().__init__(backbone)
        self.taps, self.cells, self.dim = taps, cells, dim
        self.layers, self.last = self.recipe.layers(backbone.depth, taps), max(1, backbone.depth - 1)
        tower: Any = getattr(backbone, "visual", backbone)
        width, places = patch_width(backbone), (backbone.image_size // int(tower.patch_size)) ** 2
        self.positive_embedding, self.negative_embedding = (nn.Parameter(torch.randn(1, dim)) for _ in range(2))
        self.pooling_layer = nn.Sequential(nn.Linear(places, 1))
        self.class_predictor = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))
        self.siglip_adaptors = nn.ModuleList(nn.Linear(width, dim) for _ in self.layers)
        self.prompt_adaptors = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in self.layers)
        self.final_predictor = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, 1))
        self.q_former = Attention(width, dim)

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """The width of the prompts."""
        return {"dim": state["positive_embedding"].shape[-1]} if "positive_embedding" in state else {}

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Banks; there is no text, and the name changes nothing. Raises ``UsageError`` for cells that cannot be."""
        if self.cells < 0:
            raise UsageError(f"cells={self.cells}: give 0 for the whole picture alone, or the crops along each side.")
        return Context(banks=self.banks(references))

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 -> (3, (1 + cells * cells) * S, S): the picture and its cells, one below the other."""
        rows, columns = (np.linspace(0, side, self.cells + 1).round().astype(int) for side in rgb.shape[:2])
        cuts = [rgb[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] for i in range(self.cells) for j in range(self.cells)]
        views = [rgb, *cuts] if all(cut.size for cut in cuts) else [rgb] * (1 + len(cuts))  # of a picture of one pixel
        return torch.cat([self.backbone.preprocess(view) for view in views], dim=1)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, N * S, S) -> the picture's patches of the layers and of the last, and those of crop n as ``streams["n"]``."""
        views = images.unflatten(2, (-1, images.shape[-1])).transpose(1, 2)  # (B, N, 3, S, S)
        found = self.backbone.encode_image(views.flatten(0, 1), sorted({*self.layers, self.last}))
        image = found.image.unflatten(0, views.shape[:2])[:, 0]
        parts = {layer: tap.patches.unflatten(0, views.shape[:2]) for layer, tap in found.taps.items()}
        (grid,) = {tap.grid for tap in found.taps.values()}
        each = [{layer: Tap(rows[:, n], grid) for layer, rows in parts.items()} for n in range(views.shape[1])]
        return ImageFeatures(image, each[0], {str(n): taps for n, taps in enumerate(each[1:], 1)})

    def views(self, features: ImageFeatures, layer: int) -> Tensor:
        """(B, N, L, C) patches of a layer, the whole picture first."""
        return torch.stack([features.taps[layer].patches, *(taps[layer].patches for taps in features.streams.values())], dim=1)

    def prompts(self, features: ImageFeatures) -> list[Tensor]:
        """Per level, (B, 2, dim), normal first: what is learned, for the object of this picture."""
        tokens = features.taps[self.last].patches  # (B, L, C)
        kind = self.class_predictor(self.pooling_layer(tokens.transpose(1, 2))[..., 0])  # (B, dim)
        pair = torch.cat([self.positive_embedding, self.negative_embedding]).expand(len(kind), -1, -1)  # (B, 2, dim)
        joined = torch.cat([pair, kind[:, None].expand(-1, 2, -1)], dim=-1)
        return [adaptor(joined) for adaptor in self.prompt_adaptors]

    def suspicions(self, features: ImageFeatures) -> Tensor:
        """(B, N, L) mean over the levels of the probability of "anomalous"."""
        levels = zip(self.layers, self.siglip_adaptors, self.prompts(features), strict=True)
        found = [suspicion(adaptor(self.views(features, layer)), prompts) for layer, adaptor, prompts in levels]
        return torch.stack(found).mean(dim=0)

    def logits(self, features: ImageFeatures, suspicions: Tensor) -> Tensor:
        """(B,) of the pictures: a second look at what is significant in each quarter of each view."""
        tokens, grid = self.views(features, self.last), features.taps[self.last].grid
        batch, views = tokens.shape[:2]
        flat = tokens.flatten(0, 1)  # (B * N, L, C)
        significant, weights = significant_tokens(flat, suspicions.flatten(0, 1), grid, QUARTERS)
        seen = attended(self.q_former.query_proj(significant), self.q_former.key_proj(flat), flat)  # (B * N, 4, C)
        weights = weights.view(batch, views, -1) * suspicions.mean(dim=2)[..., None]  # (B, N, 4)
        picture = weighted_mean(seen.view(batch, weights[0].numel(), -1), weights.flatten(1))
        logits: Tensor = self.final_predictor(picture)[:, 0]
        return logits

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Score: sigmoid of the logit. Map: mean of the picture's suspicion and of its cells', 0 to 1."""
        suspicions, side = self.suspicions(features), self.backbone.image_size
        maps = suspicions.unflatten(2, features.taps[self.last].grid)  # (B, N, h, w)
        whole = upsample(maps[:, 0], side)
        if maps.shape[1] > 1:
            cells = maps[:, 1:].unflatten(1, (self.cells, self.cells)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
            whole = (whole + upsample(cells, side)) / 2
        found = Prediction(self.logits(features, suspicions).sigmoid(), whole)
        return fuse_with_references(found, features.taps, context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Cross-entropy of the picture's label."""
        features = self.features_of(batch)
        logits = self.logits(features, self.suspicions(features))
        return {"picture": F.binary_cross_entropy_with_logits(logits, batch.labels.to(logits))}
