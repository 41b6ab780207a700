"""What a patch has beyond the nearest normal patch, and which patches of a picture have a defect (NAGL).

Letters: B pictures, L patches, M rows of a bank, R references, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.types import Bank, Batch

__all__ = ["beside_each", "beyond_normal", "marked_patches", "next_anomalous", "places_on", "where_marked"]

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
    rows = rows.expand(patches.shape[0], -1, -1)  # no ``len``, which is a constant in a graph
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


def marked_patches(masks: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Patches with any marked pixel.

    The windows begin one pixel before the patches, as published, so the last row and column of pixels are never seen.

    Args:
        masks: (R, H, W), above 0 a defect; resized to the model's input by the nearest pixel.
        grid: (h, w) of the patches.
        side: of a patch, in pixels of the input.

    Returns:
        (R, h, w) bool.
    """
    marked = F.interpolate((masks > 0).float()[:, None], size=(grid[0] * side, grid[1] * side), mode="nearest")
    return F.max_pool2d(marked, side, side, padding=1)[:, 0] > 0


def places_on(patches: Tensor) -> Tensor:
    """The number of each patch of (B, L, C) on its grid, (B, L, 1) in float32."""
    places = torch.arange(patches.shape[1], dtype=torch.float32, device=patches.device)
    return places[:, None].expand(len(patches), -1, -1)


def where_marked(bank: Bank, places: Bank, patches: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rows of anomalous references lay: the number of each one's reference and its place, and both as a table.

    Args:
        bank: (M, C) of marked patches.
        places: (M, 1), beside it, see ``places_on``.
        patches: of a picture, L.

    Returns:
        (M,), (M,), and (R, L) bool, True where a reference left a row.
    """
    number, place = bank.source.unique(return_inverse=True)[1], places.rows[:, 0].long()
    marked = torch.zeros(int(number.max()) + 1, patches, dtype=torch.bool, device=bank.rows.device)
    marked[number, place] = True
    return number, place, marked


def beside_each(batch: Batch, patches: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Patches and masks of what each picture of a training step is shown as anomalous; None: there is nothing.

    Without masks the defect may be anywhere: they are one marked pixel each, which is resized to all.

    Args:
        batch: the step.
        patches: of its pictures, (B, L, C).
        given: of its anomalous references; without them each picture is shown the next one with a defect.
    """
    masks = batch.anomalous_masks
    if given is None:
        if (chosen := next_anomalous(batch.labels)) is None:
            return None
        given, masks = patches[chosen], None if batch.masks is None else batch.masks[chosen]
    return given, given.new_ones(len(given), 1, 1) if masks is None else masks


def next_anomalous(labels: Tensor) -> Tensor | None:
    """Labels (B,) -> the number of the next anomalous picture behind each, round the end, itself last; None: there is none."""
    count, found = len(labels), labels.nonzero()[:, 0]
    if not len(found):
        return None
    ahead = (found - torch.arange(count, device=labels.device)[:, None] - 1) % count  # (B, anomalous ones)
    return found[ahead.argmin(dim=1)]
