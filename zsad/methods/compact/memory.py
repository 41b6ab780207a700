"""The embedded default against other pictures of the same product: references, or the rest of an unlabelled batch.

A patch is compared with the nearest one (cosine, 3x3 means of the raw stages 3 to 6: PatchCore, Roth et al. 2022) of each
other picture, and two values are taken over from it: how far it is, and how novel it is itself within its own picture. The
second explains away what is rare in every picture of the product: a logo, a screw, a busbar, a border. References: the
nearest of all. Batch: the mean over the 30 % nearest pictures (MuSc, Li et al. 2024), since some of the others are defective.

Kept on purpose: patches of any place may match, so that pieces may lie anywhere. Constants were settled on auxiliary categories
by ``scripts/settle_references.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.errors import UsageError
from zsad.methods.compact.head import SIDES
from zsad.methods.compact.pool import check_pool, drawn, nearest_others
from zsad.references.memory_bank import nearest_value
from zsad.types import Bank, ImageFeatures, References, Tap

__all__ = ["Near", "check_references", "departure", "memory_rows", "nearest_in", "nearest_in_batch", "unit_rows"]

# of the distance to one reference, over the normal pictures of the families CHOOSING: mean and deviation by stage
USUAL = {3: (0.054, 0.048), 4: (0.087, 0.076), 5: (0.052, 0.057), 6: (0.063, 0.062)}
WEIGHT = 0.2  # of the stages' mean distance in those deviations, beside the zero-shot map
ZERO, ONE = -0.1, 1.6  # of the sum: the median normal place, what nine in ten places of defects stay below
TOGETHER = 32  # pictures of a batch that are compared at once: with 1000 others their distances take 160 MB
NOVELTY = "novelty."  # before the stage, in the names of the banks

Near: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]  # stage -> distance to the nearest patch, and its novelty: (B, L) each


def check_references(references: References | None, batch: bool) -> None:
    """Raises ``UsageError`` for references in batch mode."""
    if references is not None and batch:
        raise UsageError(
            "compact compares with references or, with batch=True, with the other pictures; got both. Leave one out."
        )


def unit_rows(taps: Mapping[int, Tap]) -> dict[int, Tensor]:
    """Raw stages -> (B, L, C) per compared stage: the mean of each patch and its neighbours, length one."""
    found = {}
    for stage in SIDES:
        x = taps[stage].patches.transpose(1, 2).unflatten(2, taps[stage].grid)
        found[stage] = F.normalize(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).flatten(2).transpose(1, 2), dim=-1)
    return found


def memory_rows(taps: Mapping[int, Tap], novel: Tensor) -> dict[str, Tensor]:
    """What B pictures leave in the banks.

    Args:
        taps: raw stages.
        novel: (B, 4, h, w) their novelty, as ``CompactHead.compare`` gives it.

    Returns:
        By stage, patches (B, L, C) of length one as ``"3"``, and the novelty of each (B, L, 1) as ``"novelty.3"``.
    """
    found: dict[str, Tensor] = {}
    for index, (stage, rows) in enumerate(unit_rows(taps).items()):
        pooled = F.adaptive_avg_pool2d(novel[:, index : index + 1], taps[stage].grid)  # (B, 1, h, w)
        found |= {str(stage): rows, f"{NOVELTY}{stage}": pooled.flatten(2).transpose(1, 2)}
    return found


def nearest_in(taps: Mapping[int, Tap], banks: Mapping[str, Bank]) -> Near:
    """B pictures against the references' banks."""
    return {
        stage: nearest_value(rows, banks[str(stage)].rows, banks[f"{NOVELTY}{stage}"].rows[:, 0])
        for stage, rows in unit_rows(taps).items()
    }


def departure(grid: Tensor, near: Near, taps: Mapping[int, Tap], weights: Tensor, weight: float = WEIGHT) -> Tensor:
    """Zero-shot map -> map against normal examples, on the same scale: 0 a usual normal place, 1 a plain defect.

    Args:
        grid: (B, h, w) the zero-shot map.
        near: by stage, the nearest normal patches.
        taps: raw stages, for their grids.
        weights: (4,) of the novelty of each stage in the zero-shot map; that of the nearest patch is taken off with them.
        weight: of the distance.
    """
    for (stage, (distance, novelty)), own in zip(near.items(), weights, strict=True):
        mean, deviation = USUAL[stage]
        part = weight / len(USUAL) * (distance - mean) / deviation - own * novelty
        grid = grid + upsample(part.unflatten(1, taps[stage].grid), (grid.shape[1], grid.shape[2]))
    return (grid - ZERO) / (ONE - ZERO)


# ------------------------------------------------------------------ batch
def nearest_in_batch(
    features: Sequence[ImageFeatures], rows_of: Callable[[ImageFeatures], Mapping[str, Tensor]], pool: int | None, seed: int
) -> Iterator[tuple[ImageFeatures, Near]]:
    """Each picture of a batch, with distance and novelty of the nearest patches in the other pictures.

    ``features`` may load from disk: each is asked for once, and the others again for every ``TOGETHER`` pictures.

    Args:
        features: one picture (B = 1) each.
        rows_of: features -> ``memory_rows``.
        pool: how many others each picture is compared with, a seeded choice that all pictures share; None: all.
        seed: of that choice.

    Raises:
        UsageError: as ``check_pool``.
    """
    check_pool(len(features), pool)
    others = drawn(len(features), len(features) if pool is None else pool + 1, seed)  # one more: none is compared with itself
    return _compared(features, rows_of, others)


def _compared(
    features: Sequence[ImageFeatures], rows_of: Callable[[ImageFeatures], Mapping[str, Tensor]], others: list[int]
) -> Iterator[tuple[ImageFeatures, Near]]:
    for start in range(0, len(features), TOGETHER):
        places = list(range(start, min(start + TOGETHER, len(features))))
        own = [features[place] for place in places]
        near = _lowest([unit_rows(one.taps) for one in own], (rows_of(features[other]) for other in others), places, others)
        for row, one in enumerate(own):
            yield one, {stage: (distance[row : row + 1], value[row : row + 1]) for stage, (distance, value) in near.items()}


def _lowest(own: list[dict[int, Tensor]], kept: Iterator[Mapping[str, Tensor]], places: list[int], others: list[int]) -> Near:
    """Means over the ``LOWEST`` of the other pictures, patch by patch; ``places`` and ``others`` are numbers in the batch."""
    rows = {stage: torch.cat([one[stage] for one in own]) for stage in SIDES}
    found = {stage: x.new_empty(2, *x.shape[:2], len(others)) for stage, x in rows.items()}  # distance, novelty: (B, L, N)
    for column, bank in enumerate(kept):
        for stage, x in rows.items():
            pair = nearest_value(x, bank[str(stage)][0], bank[f"{NOVELTY}{stage}"][0, :, 0])
            found[stage][..., column] = torch.stack(pair)
    count = nearest_others(len(others))
    near = {}
    for stage, (distance, value) in found.items():
        for row, place in enumerate(places):  # itself, or (so that all have as many) the last one
            distance[row, :, others.index(place) if place in others else -1] = torch.inf
        least = distance.topk(count, dim=-1, largest=False)
        near[stage] = (least.values.mean(-1), value.gather(-1, least.indices).mean(-1))
    return near
