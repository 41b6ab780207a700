"""What differs between a picture and its references, seen by learned heads (AdaptCLIP's prompt-query adapter)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.branches import Branch
from zsad.alignment.maps import average, upsample
from zsad.alignment.residual_adapter import RowNorm
from zsad.types import Tap

__all__ = ["Compared", "PromptQuery", "nearest_rows", "over_layers"]

BLOCK = 16_000_000  # cosines that are in memory at once: 64 MB
HIGHEST = 10  # patches whose mean, per channel, stands beside the mean of all


@dataclass(frozen=True)
class Compared(Branch):
    """One layer of B pictures beside their references; ``grid`` is four times as fine as the patches."""

    distance: Tensor  # (B, h, w), 1 - cosine with the nearest reference patch, in [0, 2]
    index: Tensor  # (B, L), that patch's row


def nearest_rows(queries: Tensor, references: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The reference row that is nearest to each query, all of length one.

    Args:
        queries: (B, L, C).
        references: (1 or B, M, C); one set is shared by all pictures.
        block: how many cosines are computed at once.

    Returns:
        Cosines and rows' indices, (B, L) each.
    """
    found = []
    for query, rows in zip(queries, references.expand(len(queries), -1, -1), strict=True):
        found += [(some @ rows.T).max(dim=1) for some in query.split(max(1, block // len(rows)))]
    shape = queries.shape[:2]
    return torch.cat([one.values for one in found]).view(shape), torch.cat([one.indices for one in found]).view(shape)


class PromptQuery(nn.Module):
    """Heads on ``q + |q - r|`` of each patch q and the nearest reference patch r.

    One batch normalisation per layer; the heads are shared by all layers, as in the authors' code, where each stands in the
    checkpoint once per layer.

    Args:
        channels: C of the patches.
        middle: channels of the heads' first layers; the second have half.
        layers: how many layers are compared.
        context: whether the patch itself is added to the difference.
    """

    def __init__(self, channels: int, middle: int, layers: int, context: bool = True) -> None:
        super().__init__()
        half, self.context = middle // 2, context
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
        self.local_adapter = nn.Sequential(
            *(nn.Conv2d(channels, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
            nn.ConvTranspose2d(middle, middle, 2, stride=2),
            *(nn.Conv2d(middle, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
            *(nn.ConvTranspose2d(half, half, 2, stride=2), nn.Conv2d(half, 2, 1)),
        )
        self.global_adapter = nn.Sequential(
            *(nn.Linear(channels, middle, bias=False), RowNorm(middle), nn.ReLU()),
            *(nn.Linear(middle, half, bias=False), RowNorm(half), nn.ReLU(), nn.Linear(half, 2, bias=False)),
        )

    def compare(self, taps: Mapping[int, Tap], rows: Mapping[int, Tensor]) -> dict[int, Compared]:
        """Every layer's patches beside the layer's reference rows (1 or B, M, C)."""
        return {layer: self(i, tap.patches, tap.grid, rows[layer]) for i, (layer, tap) in enumerate(sorted(taps.items()))}

    def forward(self, number: int, patches: Tensor, grid: tuple[int, int], references: Tensor) -> Compared:
        """Compares one layer.

        Args:
            number: of the layer, from 0.
            patches: (B, L, C), of any length.
            grid: (h, w) of the patches.
            references: (1 or B, M, C), of any length.
        """
        queries, rows = F.normalize(patches, dim=-1), F.normalize(references, dim=-1)
        cosine, index = nearest_rows(queries, rows)
        nearest = rows.expand(len(queries), -1, -1).gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
        seen = (queries - nearest).abs()
        seen = queries + seen if self.context else seen
        x = self.norms[number](seen.transpose(1, 2).unflatten(2, grid))  # (B, C, h, w)
        flat = x.flatten(2)
        highest = flat.topk(min(HIGHEST, flat.shape[2]), dim=2).values
        pooled = (flat.mean(dim=2) + highest.mean(dim=2)) / 2  # (B, C)
        distance = (1 - cosine).clamp(min=0).unflatten(1, grid)  # rounding takes a cosine above 1
        return Compared(self.global_adapter(pooled), self.local_adapter(x), distance, index)


def over_layers(compared: Mapping[int, Compared], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of all layers together: probability of the picture (B,), map of probabilities and map of distances (B, size, size).

    Probabilities are averaged, distances harmonically: one layer that finds the patch among the references is enough.
    """
    layers = list(compared.values())
    image = average([one.image_probability() for one in layers])
    seen = average([one.probability_map(size) for one in layers])
    return image, seen, average([upsample(one.distance, size) for one in layers], "harmonic")
