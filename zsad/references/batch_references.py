"""Reference images in batch mode: the pictures are compared with them too, and they are not scored themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Self, overload

import torch

from zsad.errors import UsageError
from zsad.types import Bank, Context, ImageFeatures, Tap

__all__ = ["BatchWithReferences", "ComparesBatch", "reference_features"]


def reference_features(banks: Mapping[str, Bank], like: ImageFeatures) -> list[ImageFeatures]:
    """Features of the reference images, one (B = 1) per picture, from the memory banks of their tapped patches.

    Args:
        banks: by layer, all patches of every reference image in their order.
        like: a picture of the batch, for the grids; the references' pooled features are not kept, so theirs are zero.

    Raises:
        UsageError: the banks are coresets, from which pictures cannot be put together again.
    """
    if not banks:
        return []
    last = str(max(like.taps))
    found = []
    for source in banks[last].source.unique().tolist():
        rows = {layer: banks[str(layer)].rows[banks[str(layer)].source == source] for layer in like.taps}
        if any(len(rows[layer]) % tap.patches.shape[1] for layer, tap in like.taps.items()):
            raise UsageError("In batch mode, reference images are compared whole. Leave coreset out, or take another method.")
        for piece in range(len(rows[int(last)]) // like.taps[int(last)].patches.shape[1]):
            taps = {
                layer: Tap(rows[layer].split(tap.patches.shape[1])[piece][None], tap.grid) for layer, tap in like.taps.items()
            }
            found.append(ImageFeatures(torch.zeros_like(like.image), taps))
    return found


class ComparesBatch:
    """The part of a method that compares pictures with each other where there are no references, or where ``batch``.

    Before ``Detector`` among a class's bases.
    """

    batch: bool

    def needs_set(self, context: Context) -> bool:
        """True where pictures are compared with each other."""
        return self.batch or not context.banks

    def as_batch(self, context: Context) -> Self:
        """This detector with ``batch``."""
        return self._with(True)

    def against_pool(self, context: Context) -> Self:
        """This detector without ``batch``."""
        return self._with(False)

    def _with(self, batch: bool) -> Self:
        other = copy(self)
        other.batch = batch
        return other


class BatchWithReferences(Sequence[ImageFeatures]):
    """The pictures of a batch, followed by the reference images; features are read when asked for."""

    def __init__(self, features: Sequence[ImageFeatures], banks: Mapping[str, Bank]) -> None:
        self.features = features
        self.references = reference_features(banks, features[0]) if banks and len(features) else []

    def __len__(self) -> int:
        return len(self.features) + len(self.references)

    @overload
    def __getitem__(self, index: int) -> ImageFeatures: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageFeatures]: ...

    def __getitem__(self, index: int | slice) -> ImageFeatures | list[ImageFeatures]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        here = index < len(self.features)
        return self.features[index] if here else self.references[index - len(self.features)]
