"""The embedded default's second tower beside the first: its head and novelty within a picture, or distance to references.

References are compared at ``NEAR_SIDE`` pixels, in four times as many patches (``docs/embedded-default.md`` has figures). The
parts read block 6 and are added to the map of the first tower in fixed units, so that maps of different pictures compare: mean
and deviation over normal auxiliary pictures of the families CHOOSING (``scripts/settle_references.py`` prints them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.errors import UsageError
from zsad.images.preprocessing import SideBySide, Squash
from zsad.methods.compact.folder import BLOCKS, LAST, unit_blocks
from zsad.methods.compact.second_head import SecondHead, second_head
from zsad.references.memory_bank import nearest_cosine
from zsad.types import Bank, Tap

__all__ = [
    "BANK",
    "DISTANCE",
    "NEAR",
    "POOLED",
    "SIZES",
    "WHOLE",
    "add_distance",
    "add_within",
    "check_tower",
    "input_rule",
    "near_taps",
    "reference_distances",
    "second_rows",
    "second_streams",
    "sources",
    "streams_of",
    "streams_read",
]

TOWERS = ("both", "small")
BANK = f"vit{LAST}"  # name of the references' bank
WHOLE, NEAR = "vit", "near"  # streams: of the tower's own side, and of NEAR_SIDE
NEAR_SIDE = 448  # pixels
SIZES = {WHOLE: (None, BLOCKS), NEAR: (NEAR_SIDE, (LAST,))}  # stream -> side (None: the tower's own), blocks
POOLED = "pool."  # before the names of the banks of a pool
DISTANCE = (0.107, 0.092)  # to one reference: mean and deviation within normal pictures
LARGEST = 3.0  # deviation of novelty that counts: busbars of a solar cell are novel in every cell
HEAD_WEIGHT, NOVELTY_WEIGHT, DISTANCE_WEIGHT = 0.2, 0.05, 0.3  # beside the map of the first tower
# of the sum, so that the median normal place and what nine in ten places of defects stay below keep their values
ALONE_ZERO, ALONE_ONE = -0.104, 1.046
NEAR_ZERO, NEAR_ONE = -0.1, 1.95  # with references


def check_tower(tower: str) -> None:
    """Raises ``UsageError`` where the keyword ``tower`` is none of ``TOWERS``."""
    if tower not in TOWERS:
        raise UsageError(f"tower of compact is {' or '.join(map(repr, TOWERS))}; got {tower!r}.")


def _both_sides(rule: Squash) -> SideBySide:
    """The first tower's ``rule`` -> one that makes pictures for the second at ``NEAR_SIDE`` too."""
    return SideBySide(NEAR_SIDE, rule.mean, rule.std, rule.resample, rule.size)


def sources(images: Tensor, rule: Squash) -> dict[str, tuple[Tensor, Squash]]:
    """What the streams are made of, and how that was preprocessed; ``WHOLE`` has the first tower's pictures.

    Pictures (B, 3, S, S) by the first tower's ``rule`` alone serve both streams; else they are sheets of ``input_rule``.
    """
    if images.shape[-2] == images.shape[-1]:
        return dict.fromkeys(SIZES, (images, rule))
    sheet = _both_sides(rule)
    near, whole = sheet.parts(images)
    return {WHOLE: (whole, rule), NEAR: (near, sheet)}


def streams_of(vit: Any, fine: bool) -> tuple[str, ...]:
    """The streams that any context may need, of ``SIZES``; none without a second tower."""
    return () if vit is None else tuple(SIZES) if fine else (WHOLE,)


def input_rule(rule: Squash, reads: Collection[str]) -> Squash:
    """The first tower's ``rule``, or where references are compared finely that of both towers."""
    return _both_sides(rule) if NEAR in reads else rule


def second_streams(vit: Any, seen: Mapping[str, tuple[Tensor, Squash]], reads: Collection[str]) -> dict[str, dict[int, Tap]]:
    """Of ``sources``, the second tower's streams of the given names.

    ``WHOLE`` has ``BLOCKS``, ``NEAR`` block 6; see ``unit_blocks``.
    """
    found = {}
    for name in reads:
        (side, blocks), (images, before) = SIZES[name], seen[name]
        own = replace(vit.preprocess, size=side or vit.preprocess.size)
        found[name] = unit_blocks(vit.encode_image(own.again(images, before), blocks).taps)
    return found


def streams_read(reads: Collection[str], banks: Mapping[str, Bank], batch: bool) -> tuple[str, ...]:
    """Which of the streams a context's banks need: ``NEAR`` with references, ``WHOLE`` without, or to compare pictures."""
    near = NEAR in reads and BANK in banks
    whole = WHOLE in reads and (not near or batch or any(key.startswith(POOLED) for key in banks))
    return (WHOLE,) * whole + (NEAR,) * near


def near_taps(streams: Mapping[str, Mapping[int, Tap]]) -> Mapping[int, Tap]:
    """What is compared with references: ``NEAR``, or where that was not computed ``WHOLE``."""
    return streams[NEAR if NEAR in streams else WHOLE]


def second_rows(taps: Mapping[int, Tap]) -> Tensor:
    """(B, L, 384) patches of block 6, of length one, for the references' bank."""
    return taps[LAST].patches.float()


def reference_distances(taps: Mapping[int, Tap], bank: Bank) -> Tensor:
    """(B, h, w) cosine distance of each patch of block 6 to the nearest of the references."""
    return (1 - nearest_cosine(second_rows(taps), bank)).clamp(min=0).unflatten(1, taps[LAST].grid)


def add_within(grid: Tensor, taps: Mapping[int, Tap]) -> Tensor:
    """Zero-shot map (B, h, w) of the first tower -> with the second's head and novelty, on the same scale."""
    novel, residual = SecondHead.compare(taps[LAST])
    part = NOVELTY_WEIGHT * novel.clamp(-LARGEST, LARGEST) + HEAD_WEIGHT * second_head(grid.device)(novel, residual)
    return (grid + upsample(part, (grid.shape[1], grid.shape[2])) - ALONE_ZERO) / (ALONE_ONE - ALONE_ZERO)


def add_distance(grid: Tensor, distance: Tensor) -> Tensor:
    """Map (B, h, w) of the first tower against references -> with ``reference_distances`` too, on the same scale."""
    part = DISTANCE_WEIGHT * (distance - DISTANCE[0]) / DISTANCE[1]
    return (grid + upsample(part, (grid.shape[1], grid.shape[2])) - NEAR_ZERO) / (NEAR_ONE - NEAR_ZERO)
