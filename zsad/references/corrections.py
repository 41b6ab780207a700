"""Corrections by a person: a marked false alarm becomes an example of normal, a marked miss an example of a defect.

A decision of this package and no paper's. The patches under a mark are a bank: ``sign`` +1 where they are normal (the place
joins the normal references), -1 where they are anomalous. A patch elsewhere is *like* the mark by ::

    likeness = clip(1 - mean over layers of (distance to the nearest marked patch / reach of the layer), 0, 1)

with cosine distances; a layer's reach is the distance below which 5 % of the unmarked patches of the marked picture lie, so
that a mark acts on what looks the same and, in its own picture, hardly on the rest. Marks act in the order in which they were
made: a false alarm pulls the map by its likeness towards the low end of ``map_range`` and never raises it, a miss towards the
high end and never lowers it. The picture's score moves with the mean of the highest 1 % of its map; for ``compact``, whose
score is that mean before the map is resized, this is nearly exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.losses import top_mean
from zsad.alignment.maps import upsample
from zsad.errors import UsageError
from zsad.references.memory_bank import nearest_cosine
from zsad.types import Bank, ImageFeatures, Prediction, Tap

__all__ = ["FALSE_ALARM", "MISS", "Mark", "corrected", "likeness", "mark_of"]

FALSE_ALARM, MISS = 1, -1  # Bank.sign of a mark
REACH = 0.05  # part of the unmarked patches of the marked picture that lie within reach
LEAST_REACH = 1e-4  # cosine distance; where the rest of the picture looks exactly the same
COVERED = 0.5  # part of a patch that has to be marked to count; where none is, the one that is marked most counts
TOP = 0.01  # part of the map whose mean carries the score


@dataclass(frozen=True)
class Mark:
    """A place that a person marked in a picture, as the patches under it.

    Attributes:
        name: of the picture.
        banks: the patches under the mark by layer, all of one sign.
        reach: cosine distance by layer from which on a patch is not like them at all.
    """

    name: str
    banks: Mapping[str, Bank]
    reach: Mapping[str, float]

    @property
    def sign(self) -> int:
        """``FALSE_ALARM`` or ``MISS``."""
        return next(iter(self.banks.values())).sign


def mark_of(features: ImageFeatures, place: Tensor, sign: int, name: str = "") -> Mark:
    """Makes a mark of the patches under a place.

    Args:
        features: of one picture (B = 1).
        place: (h, w), larger than 0 where it is marked, on any grid that covers what the method saw.
        sign: ``FALSE_ALARM`` or ``MISS``.
        name: of the picture.

    Raises:
        UsageError: nothing is marked, or the method keeps no patches.
    """
    if not bool((place > 0).any()):
        raise UsageError("Nothing is marked. Draw over the place, or choose a region.")
    banks, reach = {}, {}
    for key, tap in _patches(features).items():
        share = F.adaptive_avg_pool2d((place > 0).float()[None, None].to(tap.patches.device), tap.grid).flatten()  # (L,)
        inside = share >= min(COVERED, float(share.max()))
        rows = tap.patches[0].float()
        banks[key] = Bank(rows[inside].cpu(), torch.zeros(int(inside.sum()), dtype=torch.int64), sign)
        away = _distance(rows[None], banks[key])[0][~inside]
        reach[key] = max(LEAST_REACH, float(away.quantile(REACH))) if len(away) else LEAST_REACH
    return Mark(name, banks, reach)


def likeness(features: ImageFeatures, mark: Mark, size: tuple[int, int]) -> Tensor:
    """Likeness to a mark, (B, H, W) in [0, 1] of the given size: 1 where a picture looks the same, 0 where not at all."""
    parts = []
    for key, tap in _patches(features).items():
        share = _distance(tap.patches.float(), mark.banks[key]) / mark.reach[key]  # (B, L)
        parts.append(upsample(share.unflatten(1, tap.grid), size))
    return (1 - torch.stack(parts).mean(0)).clamp(0, 1)


def corrected(found: Prediction, features: ImageFeatures, marks: Iterable[Mark], map_range: tuple[float, float]) -> Prediction:
    """Applies marks to a prediction; without marks it is returned as it is.

    Args:
        found: the method's prediction for B pictures.
        features: of those pictures.
        marks: in the order in which they were made; later ones override earlier ones.
        map_range: of the method.
    """
    maps, (low, high) = found.anomaly_map, map_range
    for mark in marks:
        near = likeness(features, mark, (maps.shape[1], maps.shape[2])).to(maps)
        maps = maps + near * ((low - maps).clamp(max=0) if mark.sign == FALSE_ALARM else (high - maps).clamp(min=0))
    if maps is found.anomaly_map:
        return found
    moved = top_mean(maps, TOP) - top_mean(found.anomaly_map, TOP)
    return replace(found, pred_score=found.pred_score + moved, anomaly_map=maps)


def _distance(rows: Tensor, bank: Bank) -> Tensor:
    """(B, L, C) -> (B, L) cosine distance to the nearest row of the bank."""
    return (1 - nearest_cosine(rows, bank)).clamp(min=0)


def _patches(features: ImageFeatures) -> dict[str, Tap]:
    """Patches of every layer, of the plain stream and of the others."""
    streams = {"": features.taps, **features.streams}
    found = {f"{stream}/{layer}": tap for stream, taps in streams.items() for layer, tap in taps.items()}
    kept = {
        key: replace(tap, patches=tap.patches.float())
        for key, tap in found.items()
        if tap.grid[0] * tap.grid[1] == tap.patches.shape[1]
    }
    if not kept:
        raise UsageError("This method keeps no patches of its pictures, so places cannot be marked.")
    return kept
