"""The embedded default's batch mode on the second tower: the pictures of a folder are compared with each other.

What many pictures have in common is normal. Two distances of each patch say how far it is from that, each in robust deviations
over all patches of the folder (median 0, interquartile range 1), and the map is their sum:

* what lies outside of the principal components of all patches, the squared residual. SubspaceAD (arXiv 2602.23013) does this
  with references. Twice: on the blocks 2 and 6, and on 3 and 6, side by side.
* mutual scoring (MuSc, Li et al. 2024, section 3.2): the cosine distance to the nearest patch of another picture, a mean over
  the nearest of the others, on block 6.

Time grows with the number of pictures, memory by three values per patch. ``docs/embedded-default.md`` has the figures and what
else was tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.compact.pool import drawn, nearest_others
from zsad.references.components import PatchSums, residual_along
from zsad.types import ImageFeatures, Tap

__all__ = [
    "BLOCKS",
    "LAST",
    "PAIRS",
    "POOL",
    "SMALL",
    "Blocks",
    "Outside",
    "departures",
    "on_scale",
    "outside_components",
    "robust_scale",
    "three_distances",
    "unit_blocks",
]

BLOCKS = (2, 3, 6)  # of the second tower
LAST = 6
PAIRS = ((2, 6), (3, 6))  # blocks side by side whose principal components are taken
VARIANCE = 0.99  # of the patches, that the components hold
WEIGHT = 0.8  # of mutual scoring beside the two residuals
POOL = 20  # others that a picture is compared with
FITTED = 250  # pictures whose components are taken
SMALL, FOLDS = 40, 5  # pictures, below which the components are those of the other folds
TOGETHER = 4  # pictures whose sums are taken at once
SCALE = 53.0  # of the sum: 0 the median patch of the folder, 1 what nine in ten patches of defects stay below

# by pair of blocks: the mean of all patches, and the directions beyond their principal components
Outside: TypeAlias = Mapping[tuple[int, int], tuple[Tensor, Tensor]]


def unit_blocks(taps: Mapping[int, Tap]) -> dict[int, Tap]:
    """Raw blocks -> patches of length one, (B, L, 384) each, in half precision: half as much to keep of a folder."""
    return {block: Tap(F.normalize(tap.patches.float(), dim=-1).half(), tap.grid) for block, tap in taps.items()}


class Blocks(Sequence[Mapping[int, Tap]]):
    """The second tower's blocks of each of some pictures."""

    def __init__(self, features: Sequence[ImageFeatures]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Any) -> Any:
        return self.features[index].streams["vit"]


def departures(features: Sequence[Mapping[int, Tap]], pool: int | None, seed: int) -> Iterator[Tensor]:
    """The map of each picture of a folder, (1, h, w); 0 is the folder's median patch, 1 a plain defect.

    Args:
        features: ``unit_blocks`` of one picture (B = 1) each; may load from disk, where each is asked for up to three times.
        pool: how many others each picture is compared with, a seeded choice that all share; None: ``POOL``.
        seed: of that choice, and of the pictures whose components are taken, where there are more than ``FITTED``.
    """
    bases = outside_components(features, seed)
    others = drawn(len(features), (POOL if pool is None else pool) + 1, seed)  # one more: none is compared with itself
    kept = torch.stack([features[place][LAST].patches[0] for place in others]).float()  # (pool + 1, L, C)
    parts, grid = [], (0, 0)
    for place, taps in enumerate(features):
        grid = taps[LAST].grid
        left_out = others.index(place) if place in others else -1  # itself, or (so that all have as many) the last one
        parts.append(three_distances(taps, bases[place % len(bases)], kept, left_out).cpu())
    stacked = torch.stack(parts, 1)  # (3, N, L)
    for one in on_scale(stacked, *robust_scale(stacked)):
        yield one.reshape(1, *grid).to(kept.device)


def three_distances(taps: Mapping[int, Tap], bases: Outside, kept: Tensor, left_out: int) -> Tensor:
    """What lies outside of both pairs of blocks' components, and mutual scoring: (3, L) of one picture.

    Args:
        taps: ``unit_blocks`` of it.
        bases: what lies outside of the components.
        kept: (N, L, C) patches of the last block of the others.
        left_out: the number of one of them that does not count.
    """
    own = {block: tap.patches[0].float() for block, tap in taps.items()}
    outside = [residual_along(torch.cat([own[block] for block in pair], 1), *bases[pair]) for pair in PAIRS]
    return torch.stack([*outside, _mutual(own[LAST], kept, left_out)])


def on_scale(parts: Tensor, median: Tensor, spread: Tensor) -> Tensor:
    """Three distances of N pictures, (3, N, L), in robust deviations -> their sum on the method's scale, (N, L)."""
    weights = parts.new_tensor([1.0, 1.0, WEIGHT])[:, None, None] / SCALE
    return (weights * ((parts - median) / spread)).sum(0)


def outside_components(features: Sequence[Mapping[int, Tap]], seed: int) -> list[Outside]:
    """What picture n is held against is entry n modulo their number.

    In a small folder a picture's own patches would bend the components towards themselves, so they are those of the other
    folds there.
    """
    places = drawn(len(features), FITTED, seed)
    folds = 1 if len(features) >= SMALL else min(FOLDS, len(features))
    parts = [_sums(features, places[fold::folds]) for fold in range(folds)]
    whole = reduce(PatchSums.__add__, parts)
    width = len(whole.total) // len(BLOCKS)
    channels = {pair: torch.cat([torch.arange(width) + width * BLOCKS.index(block) for block in pair]) for pair in PAIRS}
    others = [whole - part for part in parts] if folds > 1 else [whole]
    device = features[0][LAST].patches.device
    found = [{pair: sums.outside(VARIANCE, own) for pair, own in channels.items()} for sums in others]
    return [{pair: (mean.to(device), beyond.to(device)) for pair, (mean, beyond) in one.items()} for one in found]


def _sums(features: Sequence[Mapping[int, Tap]], places: Sequence[int]) -> PatchSums:
    """Of all patches of some pictures, the blocks side by side."""
    groups = (places[start : start + TOGETHER] for start in range(0, len(places), TOGETHER))
    rows = (torch.cat([_side_by_side(features[place]) for place in group]) for group in groups)
    return reduce(PatchSums.__add__, map(PatchSums.of, rows))


def _side_by_side(taps: Mapping[int, Tap]) -> Tensor:
    """(L, C of all blocks) of one picture."""
    return torch.cat([taps[block].patches[0].float() for block in BLOCKS], 1)


def _mutual(rows: Tensor, others: Tensor, left_out: int) -> Tensor:
    """(L, C) against N pictures (N, L, C), one of them left out -> (L,) mean of the lowest distances."""
    nearest = (rows @ others.flatten(0, 1).T).unflatten(1, others.shape[:2]).amax(2)  # (L, N) cosines
    nearest[:, left_out] = -torch.inf
    return 1 - nearest.topk(nearest_others(len(others)), dim=1).values.mean(1)


def robust_scale(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Median and interquartile range of each of P distances, (P, N, L) -> two of (P, 1, 1)."""
    flat = parts.flatten(1)
    quarters = [flat.kthvalue(max(1, round(share * flat.shape[1])), dim=1).values[:, None, None] for share in (0.25, 0.5, 0.75)]
    return quarters[1], (quarters[2] - quarters[0]).clamp_min(1e-6)
