"""NAGL: normal and anomalous references; what defects have beyond normal patches is looked for in the picture.

Paper: "Normal-Abnormal Guided Generalist Anomaly Detection", NeurIPS 2025, arXiv 2510.00495. Code: JasonKyng/NAGL, MIT,
read at 5466edf.

Kept: the nearest normal patch by raw product; windows of the mask that begin one pixel early; marked patches do not advance the
position code. Quirks with a switch: in a training step of several pictures half of the heads see another picture's mask
(``faithful``; proxies differ by up to 3.1, gradients by up to 80 %); several anomalous references get each other's position
codes, so their order counts (``aliased_positions``; scores move by up to 6e-3). Dropped: anomalous references that are tested
too, or drawn anew for each good picture. Maps are smoothed at the model's size. A training step without anomalous references
takes each picture's next one with a defect in the batch (its own where there is no other).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zsad.alignment.aggregation import picture_scores
from zsad.alignment.losses import likeness_terms, picture_term, zero_loss
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.residual_proxies import ResidualProxies, Shown, mean_likeness
from zsad.backbones.patch_tokens import final_norm, patch_width
from zsad.backbones.tapped import tapped
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.references.memory_bank import banks_of_sign
from zsad.references.residuals import beside_each, beyond_normal, marked_patches, places_on, where_marked
from zsad.registry import register
from zsad.types import Backbone, Bank, Batch, Context, ImageFeatures, Phase, Prediction, Recipe, Schedule, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["NAGL"]

HIGHEST, SIGMA = 20, 4.0  # patches that are the score in training; of the map's Gaussian
PLACE = "place"  # bank with the places of another's rows


@register("nagl")
class NAGL(Detector):
    """NAGL; needs learned weights and a normal reference, takes anomalous ones with masks.

    Args:
        backbone: a DINOv2, as published without registers; another transformer will do.
        proxies: how many are learned.
        aliased_positions: position codes of several anomalous references in the published order.
        faithful: the published order of masks in a training step.
    """

    recipe = Recipe("hf:facebook/dinov2-small", 448, "gelu", "bicubic_offset", depth=12)
    learned = own_references = takes_anomalous = True
    needs_references = 1
    phases = Phase(10, {"": 1e-5}), Phase(5, {"": 1e-6}), Phase(5, {"": 1e-7})
    schedule = Schedule("adamw", 1e-5, 20, 8, weight_decay=0.01, phases=phases, references=1, anomalous=1)
    counted = ("proxies", "guide.learnable_proxies.weight")
    authors_file = AuthorsFile({r"^(learnable_|rm_|afl_)": r"guide.\1", r"\.(multihead|self)_attn\.": ".attention."})

    def __init__(self, backbone: Backbone, proxies: int = 25, aliased_positions: bool = True, faithful: bool = False) -> None:
        super().__init__(backbone)
        self.proxies, self.aliased_positions, self.faithful = proxies, aliased_positions, faithful
        self.layer, self.guide = self.backbone.depth, ResidualProxies(patch_width(backbone), proxies)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the last layer's patches behind the final norm."""
        found = tapped(self.backbone, images, (self.layer,))
        tap = found.taps[self.layer]
        return ImageFeatures(found.image, {self.layer: Tap(final_norm(self.backbone, tap.patches), tap.grid)})

    def patches_of(self, images: Tensor | ImageFeatures) -> Tensor:
        """(B, L, C) of pictures or of their features."""
        return (self.encode(images) if isinstance(images, Tensor) else images).taps[self.layer].patches

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Patches (B, L, C), and the number of each on the grid (B, L, 1)."""
        patches = self.patches_of(features)
        return {str(self.layer): patches, f"{PLACE}.{self.layer}": places_on(patches)}

    def marked_rows(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with any marked pixel, by the published windows; all where these see none."""
        marked = self.seen(masks, grid)
        return marked | ~marked.any(dim=1, keepdim=True)

    def seen(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches (R, L) with any marked pixel, by the published windows."""
        return marked_patches(masks, grid, self.backbone.image_size // grid[1]).flatten(1)

    def shown(self, banks: Mapping[str, Bank], grid: tuple[int, int]) -> Shown | None:
        """What banks with anomalous references show; None where they have none."""
        bad = banks_of_sign(banks, -1)
        if not bad:
            return None
        tokens = bad[str(self.layer)].rows[None]
        number, places, marked = where_marked(bad[str(self.layer)], bad[f"{PLACE}.{self.layer}"], grid[0] * grid[1])
        codes = self.guide.codes(marked, grid, self.aliased_positions)[number, places][None]
        residuals = beyond_normal(tokens, banks[str(self.layer)].rows[None])[1]
        return Shown(tokens, residuals, codes, torch.zeros_like(tokens[..., 0], dtype=torch.bool))

    def likeness(self, tap: Tap, rows: Tensor, shown: Shown | None) -> tuple[Tensor, Tensor]:
        """To normal patches (1 or B, M, C) and to the shown defects, (B, L) in [0, 1] each."""
        normal, residuals = beyond_normal(tap.patches, rows)
        if not shown:
            return normal, 1 - normal
        found = self.guide.find(self.guide.mine(shown, self.faithful), tap.patches, residuals, tap.grid)
        return normal, mean_likeness(tap.patches, found)

    def patch_scores(self, tap: Tap, banks: Mapping[str, Bank]) -> Tensor:
        """(B, h, w) in [0, 1]."""
        normal, anomalous = self.likeness(tap, banks[str(self.layer)].rows[None], self.shown(banks, tap.grid))
        return ((anomalous + 1 - normal) / 2).unflatten(1, tap.grid)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: scores of patches, resized and smoothed. Image score: the mean of their highest hundredth."""
        self.require_references(context)
        grid = self.patch_scores(features.taps[self.layer], context.banks)
        return Prediction(picture_scores(grid, "top1"), smooth(upsample(grid, self.backbone.image_size), SIGMA))

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Cross-entropy of the mean of the 20 highest patches; focal and Dice losses of both likenesses' maps."""
        if batch.references is None:
            raise UsageError("nagl learns beside normal references. Give the batch some.")
        tap, normal = self.features_of(batch).taps[self.layer], self.patches_of(batch.references)
        rows = normal.reshape(len(tap.patches), -1, normal.shape[2])
        shown = self.shown_in(batch, tap, rows)
        alike, unlike = self.likeness(tap, rows, shown)
        parts = {"picture": picture_term((unlike + 1 - alike) / 2, batch.labels, HIGHEST)}
        if batch.masks is not None:
            maps = upsample(torch.cat([alike, unlike]).unflatten(1, tap.grid), self.backbone.image_size)
            parts |= likeness_terms(torch.stack(maps.chunk(2), dim=1), batch.masks)
        return parts if shown else parts | {"nothing": zero_loss(self.parameters())}

    def shown_in(self, batch: Batch, tap: Tap, rows: Tensor) -> Shown | None:
        """Each picture's anomalous references in a training step, beside its normal rows (B, M, C)."""
        found = beside_each(batch, tap.patches, None if batch.anomalous is None else self.patches_of(batch.anomalous))
        if found is None:
            return None
        tokens = found[0].reshape(len(rows), -1, rows.shape[2])  # (B, a * L, C)
        marked = self.seen(found[1], tap.grid).view(len(rows), -1, tap.patches.shape[1])
        return self.guide.shown(tokens, beyond_normal(tokens, rows)[1], marked, tap.grid, self.aliased_positions)
