"""How the parts of the embedded default join into one map: the first tower, the second, references, the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from zsad.alignment.losses import top_mean
from zsad.alignment.maps import upsample
from zsad.methods.compact.folder import Blocks, departures
from zsad.methods.compact.head import TOP, CompactHead
from zsad.methods.compact.memory import Near, departure, nearest_in, nearest_in_batch
from zsad.methods.compact.pool import check_pool
from zsad.methods.compact.pooled import distances, without_pool
from zsad.methods.compact.second import BANK, WHOLE, add_distance, add_within, near_taps, reference_distances
from zsad.types import Context, ImageFeatures, Prediction

__all__ = ["FEW", "folder_predictions", "prediction", "single_prediction"]

FEW = 4  # references, from which on they tell more than the rest of the folder does
FOLDER_WEIGHT = 0.75  # of the folder's map with fewer, beside that against them; docs/embedded-default.md has other weights


class Parts(Protocol):
    """What is read of a ``Compact``."""

    backbone: Any
    vit: Any
    vit_alone: bool
    words: tuple[str, ...] | None
    pool: int | None
    seed: int
    head: CompactHead
    weights: Tensor
    bias: Tensor

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """What pictures leave in the banks."""


def map_of(parts: Parts, features: ImageFeatures, context: Context, near: Near | None) -> tuple[Tensor, Tensor]:
    """Map (B, h, w) and cosines with the words (B, N, h, w) of pictures by themselves, or against normal patches.

    Args:
        parts: the detector.
        features: the pictures.
        context: of the category, with the references' banks.
        near: the nearest normal patches in the first tower; None: there are none.
    """
    grid, words = parts.head.zero_shot(features.taps, context, parts.weights, parts.bias)
    if near is not None:
        grid = departure(grid, near, features.taps, parts.weights[1:-1])
    if parts.vit is None:
        return grid, words
    if near is None:
        return add_within(grid, features.streams[WHOLE]), words
    return add_distance(grid, reference_distances(near_taps(features.streams), context.banks[BANK])), words


def near_references(features: ImageFeatures, context: Context) -> Near | None:
    """The nearest patches of the references in the first tower; None: there are none."""
    return nearest_in(features.taps, context.banks) if context.banks else None


def prediction(parts: Parts, features: ImageFeatures, context: Context, near: Near | None) -> Prediction:
    """As ``map_of``, at model size; the score is the mean of the map's highest 1 %, before it is resized.

    With the first tower alone it is that of the resized map, as in version 0.1.
    """
    grid, words = map_of(parts, features, context, near)
    maps = upsample(grid, parts.backbone.image_size)
    return Prediction(top_mean(maps if parts.vit is None else grid, TOP), maps, words)


def single_prediction(parts: Parts, features: ImageFeatures, context: Context) -> Prediction:
    """As ``prediction``, of pictures by themselves, against the references, or against a pool of others."""
    own = replace(context, banks=without_pool(context.banks))
    if len(own.banks) == len(context.banks):
        return prediction(parts, features, context, near_references(features, context))
    grids, words = distances(features.streams[WHOLE], context.banks), None
    if not parts.vit_alone:
        alone, words = map_of(parts, features, own, near_references(features, own))
        grids = joined(parts, grids, alone, own)
    return Prediction(top_mean(grids, TOP), upsample(grids, parts.backbone.image_size), words)


def joined(parts: Parts, grid: Tensor, alone: Tensor, context: Context) -> Tensor:
    """Two maps of the same pictures, by the others and by themselves: their mean where references or words were given.

    The others count for more where there are fewer than ``FEW`` references.
    """
    if not context.banks and parts.words is None:
        return grid
    few = bool(context.banks) and len(context.banks[BANK].source.unique()) < FEW
    weight = FOLDER_WEIGHT if few else 0.5
    return weight * upsample(grid, (alone.shape[1], alone.shape[2])) + (1 - weight) * alone


def folder_predictions(parts: Parts, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
    """One prediction per picture of a folder, by the second tower; where there is none, by the first.

    Where there are references or given words, the map is ``joined`` with that of ``map_of``.

    Raises:
        UsageError: too few pictures, or a pool that is too small.
    """
    if parts.vit is None:
        compared = nearest_in_batch(features, parts.reference_rows, parts.pool, parts.seed)
        return (prediction(parts, one, context, near) for one, near in compared)
    check_pool(len(features), parts.pool)
    return _folder_predictions(parts, features, context)


def _folder_predictions(parts: Parts, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
    size = parts.backbone.image_size
    for place, grid in enumerate(departures(Blocks(features), parts.pool, parts.seed)):
        words = None
        if not parts.vit_alone:
            one = features[place]
            alone, words = map_of(parts, one, context, near_references(one, context))
            grid = joined(parts, grid, alone, context)
        yield Prediction(top_mean(grid, TOP), upsample(grid, size), words)
