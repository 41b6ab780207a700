"""Regions of scored pictures as crops, and what an encoder makes of each: the mean of its patches under the mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.masked_class import masked_class_tokens
from zsad.kinds.binarization import Range, binarize
from zsad.kinds.crops import Box, cut, merged_boxes, region_boxes, to_size
from zsad.kinds.merging import class_probability, merge_regions
from zsad.references.descriptors import mid_layers, patch_descriptors

__all__ = ["Found", "eight_bits", "features_of", "limits_of", "picture_kinds", "regions_of"]

HIGHEST = 0.5  # part of a map's range that is its region where no threshold is stable
TOGETHER = 8  # crops per pass
MASKED, DEPTH = 9, 12  # blocks whose class token sees the mask alone, of as many (AnomalyNCD)


@dataclass(frozen=True, eq=False)
class Found:
    """A region of a picture."""

    picture: int  # number of the picture
    box: Box  # of the crop, in the picture's pixels
    crop: NDArray[np.uint8]  # (h, w, 3)
    mask: NDArray[np.bool_]  # (h, w)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


def eight_bits(one: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """A map on the scale of its set, from the least to the largest value of all, 0 to 255; NaN, which was not scored, is 0."""
    share = np.nan_to_num((one.astype(np.float64) - low) / ((high - low) or 1.0), nan=0.0)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def limits_of(peaks: Sequence[float], low: float, high: float) -> Range:
    """The range of a set's maps, from the largest value of each; 0 is its low end where all have one maximum.

    So a single picture, and a set of like ones, has regions too, unlike in the paper's program.
    """
    levels = [int(one) for one in eight_bits(np.array(peaks, dtype=np.float32), low, high)]
    return Range(min(levels) if min(levels) < max(levels) else 0, max(levels))


def regions_of(number: int, picture: NDArray[np.uint8], one: NDArray[np.uint8], limits: Range) -> list[Found]:
    """The regions of one picture: those at its map's stable threshold, else its highest place.

    Args:
        number: of the picture.
        picture: (H, W, 3).
        one: (h, w) map on the set's scale.
        limits: of the set.
    """
    found = binarize(one, limits)
    mask, count = found.mask, found.number
    if not mask.any():
        mask, count = one >= int(one.min()) + HIGHEST * (int(one.max()) - int(one.min())), 1
    whole = to_size(mask, picture.shape[:2])
    boxes = merged_boxes(region_boxes(whole), picture.shape[:2], count)
    parts = [(box, cut(picture, box), cut(whole.astype(np.uint8), box) > 0) for box in boxes]
    return [Found(number, box, crop, inside) for box, crop, inside in parts if inside.any()]


def features_of(regions: Iterable[Found], backbone: Any, device: torch.device | str = "cpu") -> NDArray[np.float64]:
    """(N, D) of length one: the middle layers' patches, averaged with the share of the mask in each patch as weight.

    Of a DINOv2 without registers it is AnomalyNCD's: the class token, whose attention sees the mask alone.
    """
    rows = [row for some in _batches(regions) for row in _encoded(some, backbone, device)]
    return np.stack(rows) if rows else np.zeros((0, 1))


def _batches(regions: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    for region in regions:
        batch.append(region)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _encoded(regions: Sequence[Found], backbone: Any, device: torch.device | str) -> NDArray[np.float64]:
    images = torch.stack([backbone.preprocess(region.crop) for region in regions]).to(device)
    if isinstance(backbone, DINOv2) and not backbone.registers:
        masks = torch.stack([_resized(region.mask, tuple(images.shape[-2:])) for region in regions]).to(device)
        with torch.inference_mode():
            tokens = masked_class_tokens(backbone, images, masks, backbone.depth * MASKED // DEPTH)
        return F.normalize(tokens, dim=-1).cpu().double().numpy()
    with torch.inference_mode():
        layers = mid_layers("kinds", backbone, None)
        tap = patch_descriptors(backbone.encode_image(images, layers).taps, side=1)
    weights = torch.stack([_shares(region.mask, tuple(images.shape[-2:]), tap.grid) for region in regions]).to(tap.patches)
    pooled = F.normalize((weights[..., None] * tap.patches).sum(dim=1), dim=-1)  # (B, D)
    found: NDArray[np.float64] = pooled.cpu().double().numpy()
    return found


def _shares(mask: NDArray[np.bool_], side: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """(h * w,): share of the mask in each patch of a crop that is squashed to ``side``."""
    return F.adaptive_avg_pool2d(_resized(mask, side)[None], grid).flatten() + 1e-6


def _resized(mask: NDArray[np.bool_], side: tuple[int, ...]) -> Tensor:
    """(h, w) -> ``side``, 0 to 1."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((side[1], side[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).float() / 255


def picture_kinds(regions: Sequence[Found], cosines: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(count,): number of each picture's kind, by region merging; -1 for a picture without regions.

    Args:
        regions: of all pictures.
        cosines: (N, K) of the regions with the kinds.
        count: of pictures.
    """
    found = np.full(count, -1, dtype=np.int64)
    owners = np.array([region.picture for region in regions], dtype=np.int64)
    areas = np.array([region.area for region in regions], dtype=np.float64)
    for picture in np.unique(owners):
        mine = owners == picture
        found[picture] = merge_regions(class_probability(cosines[mine]), areas[mine]).argmax()
    return found
