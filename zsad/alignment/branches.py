"""One branch of a method that has several: logits of pictures and of places, their probabilities and their losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.losses import map_terms
from zsad.alignment.maps import upsample

__all__ = ["Branch", "logits", "text_branch"]


@dataclass(frozen=True)
class Branch:
    """Logits of B pictures, row 0 normal, row 1 anomalous."""

    image: Tensor  # (B, 2)
    grid: Tensor  # (B, 2, h, w)

    def image_probability(self) -> Tensor:
        """Probability of "anomalous" of the pictures, (B,)."""
        return self.image.softmax(dim=1)[:, 1]

    def probability_map(self, size: int) -> Tensor:
        """Probability of "anomalous" of the places, resized bilinearly behind the softmax: (B, size, size)."""
        return upsample(self.grid.softmax(dim=1)[:, 1], size)

    def losses(self, labels: Tensor, masks: Tensor | None, size: int) -> dict[str, Tensor]:
        """ "picture", the cross-entropy, and ``map_terms``.

        Args:
            labels: (B,), 0 or 1.
            masks: (B, size, size), 1 = defect; None leaves the map out.
            size: of the masks.
        """
        losses = {"picture": F.cross_entropy(self.image, labels.long())}
        if masks is None:
            return losses
        anomalous = self.probability_map(size)
        return losses | map_terms(torch.stack([1 - anomalous, anomalous], dim=1), masks)


def logits(features: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature: (B, N, D) beside text (1 or B, 2, D) -> (B, N, 2)."""
    return F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).transpose(1, 2) / temperature


def text_branch(image: Tensor, patches: Tensor, grid: tuple[int, int], text: Tensor, temperature: float) -> Branch:
    """Image features (B, D) and patches (B, L, D) of a grid beside text (1 or B, 2, D)."""
    places = logits(patches, text, temperature).transpose(1, 2).unflatten(2, grid)
    return Branch(logits(image[:, None], text, temperature)[:, 0], places)
