"""What a patch has beyond the nearest normal patch, and banks of anomalous patches with the masks that chose them (NAGL).

Letters: B pictures, L patches, M rows of a bank, R references, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import UsageError
from zsad.types import Bank

__all__ = ["anomalous_banks", "beyond_normal", "check_masks", "kept_patches", "marked_patches", "next_anomalous"]

KEPT = 4096  # rows of a bank at a time


def beyond_normal(patches: Tensor, rows: Tensor, kept: int = KEPT) -> tuple[Tensor, Tensor]:
    """Likeness to the nearest normal patch by cosine, and the difference from the nearest one by product.

    The two need not be the same patch: the product prefers long rows, as in the published code (by cosine, scores of the
    reference pictures move by up to 1e-2).

    Args:
        patches: (B, L, C), of any length.
        rows: (1 or B, M, C), of any length.
        kept: how many rows are compared at once.

    Returns:
        (1 + cosine) / 2, (B, L); patch less row, (B, L, C).
    """
    rows = rows.expand(len(patches), -1, -1)
    cosine = product = patches.new_full(patches.shape[:2], -torch.inf)
    index = torch.zeros(patches.shape[:2], dtype=torch.int64, device=patches.device)
    lengths = patches.norm(dim=-1).clamp(min=1e-8)
    for start in range(0, rows.shape[1], kept):
        part = rows[:, start : start + kept]
        table = patches @ part.transpose(1, 2)  # (B, L, kept)
        best, place = table.max(dim=2)
        index, product = torch.where(best > product, place + start, index), torch.maximum(best, product)
        scaled = (table / part.norm(dim=-1).clamp(min=1e-8)[:, None]).amax(dim=2) / lengths
        cosine = torch.maximum(cosine, scaled)
    nearest = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
    return (1 + cosine) / 2, patches - nearest


def marked_patches(masks: Tensor, patch_size: int) -> Tensor:
    """Patches with any marked pixel: (R, H, W), above 0 a defect, -> (R, h, w) bool.

    The windows begin one pixel before the patches, as published, so the last row and column of pixels are never seen.
    """
    return F.max_pool2d((masks > 0).float()[:, None], patch_size, patch_size, padding=1)[:, 0] > 0


def kept_patches(marked: Tensor) -> Tensor:
    """(R, L) -> (R, L): the marked patches of each reference, or all where none is."""
    return marked | ~marked.any(dim=1, keepdim=True)


def anomalous_banks(patches: Tensor, marked: Tensor, first: int, key: str, marks: str) -> dict[str, Bank]:
    """Banks of sign -1 of anomalous references: ``key``, their ``kept_patches``; ``marks``, one row of L numbers each.

    Args:
        patches: (R, L, C).
        marked: (R, L) bool.
        first: number of the first of these references.
        key: name of the first bank.
        marks: name of the second.
    """
    source = torch.arange(first, first + len(patches), device=patches.device)
    kept = kept_patches(marked)
    rows = Bank(patches[kept], source[:, None].expand(kept.shape)[kept], -1)
    return {key: rows, marks: Bank(marked.to(patches.dtype), source, -1)}


def check_masks(masks: Tensor | None, pictures: Tensor) -> None:
    """Raises ``UsageError`` unless there is a mask (H, W) of the size of each picture (3, H, W), with a marked pixel."""
    if masks is None:
        return
    wanted, empty = (len(pictures), *pictures.shape[2:]), [i for i, mask in enumerate(masks) if not bool((mask > 0).any())]
    if tuple(masks.shape) != wanted or empty:
        what = f"masks {empty} mark nothing" if empty else f"got {tuple(masks.shape)} of {wanted}"
        raise UsageError(
            f"Each anomalous reference needs a mask of its size that marks a defect (1 = defect): {what}. Leave the masks out "
            "where all of each picture is an example."
        )


def next_anomalous(labels: Tensor) -> Tensor | None:
    """Labels (B,) -> the number of the next anomalous picture behind each, round the end, itself last; None: there is none."""
    count, found = len(labels), labels.nonzero()[:, 0]
    if not len(found):
        return None
    ahead = (found - torch.arange(count, device=labels.device)[:, None] - 1) % count  # (B, anomalous ones)
    return found[ahead.argmin(dim=1)]
