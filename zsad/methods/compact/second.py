"""The embedded default's second tower beside the first: its head and novelty within a picture, or distance to references.

They read block 6 and are added to the map of the first tower in fixed units, so that maps of different pictures compare: mean
and deviation over normal auxiliary pictures of the families CHOOSING (``scripts/settle_references.py`` prints them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.errors import UsageError
from zsad.images.preprocessing import Squash
from zsad.methods.compact.folder import BLOCKS, LAST, unit_blocks
from zsad.methods.compact.second_head import SecondHead, second_head
from zsad.references.memory_bank import nearest_cosine
from zsad.types import Bank, Tap

__all__ = [
    "BANK",
    "DISTANCE",
    "add_distance",
    "add_within",
    "check_tower",
    "distances",
    "second_blocks",
    "second_rows",
]

TOWERS = ("both", "small")
BANK = f"vit{LAST}"  # name of the references' bank
DISTANCE = (0.123, 0.101)  # to one reference: mean and deviation within normal pictures
LARGEST = 3.0  # deviation of novelty that counts: busbars of a solar cell are novel in every cell
HEAD_WEIGHT, NOVELTY_WEIGHT, DISTANCE_WEIGHT = 0.2, 0.05, 0.2  # beside the map of the first tower
# of the sum, so that the median normal place and what nine in ten places of defects stay below keep their values
ALONE_ZERO, ALONE_ONE = -0.104, 1.046
NEAR_ZERO, NEAR_ONE = -0.1, 1.55  # with references


def check_tower(tower: str) -> None:
    """Raises ``UsageError`` where the keyword ``tower`` is none of ``TOWERS``."""
    if tower not in TOWERS:
        raise UsageError(f"tower of compact is {' or '.join(map(repr, TOWERS))}; got {tower!r}.")


def second_blocks(vit: Any, images: Tensor, before: Squash) -> dict[int, Tap]:
    """Pictures (B, 3, H, W) that ``before`` preprocessed for the first tower -> blocks of the second, see ``unit_blocks``."""
    return unit_blocks(vit.encode_image(vit.preprocess.again(images, before), BLOCKS).taps)


def second_rows(taps: Mapping[int, Tap]) -> Tensor:
    """(B, L, 384) patches of block 6, of length one, for the references' bank."""
    return taps[LAST].patches.float()


def distances(taps: Mapping[int, Tap], bank: Bank) -> Tensor:
    """(B, h, w) cosine distance of each patch of block 6 to the nearest of the references."""
    return (1 - nearest_cosine(second_rows(taps), bank)).clamp(min=0).unflatten(1, taps[LAST].grid)


def add_within(grid: Tensor, taps: Mapping[int, Tap]) -> Tensor:
    """Zero-shot map (B, h, w) of the first tower -> with the second's head and novelty, on the same scale."""
    novel, residual = SecondHead.compare(taps[LAST])
    part = NOVELTY_WEIGHT * novel.clamp(-LARGEST, LARGEST) + HEAD_WEIGHT * second_head(grid.device)(novel, residual)
    return (grid + upsample(part, (grid.shape[1], grid.shape[2])) - ALONE_ZERO) / (ALONE_ONE - ALONE_ZERO)


def add_distance(grid: Tensor, taps: Mapping[int, Tap], bank: Bank) -> Tensor:
    """Map (B, h, w) of the first tower against references -> with the second's distance to them, on the same scale."""
    part = DISTANCE_WEIGHT * (distances(taps, bank) - DISTANCE[0]) / DISTANCE[1]
    return (grid + upsample(part, (grid.shape[1], grid.shape[2])) - NEAR_ZERO) / (NEAR_ONE - NEAR_ZERO)
