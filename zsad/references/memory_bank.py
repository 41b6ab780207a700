"""Memory banks of reference patches: built from pictures; the nearest row of each patch, exact or through faiss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.blocks import in_blocks, is_exporting
from zsad.errors import MissingExtra, UsageError
from zsad.references.sum_banks import joined
from zsad.types import Bank, ImageFeatures, References, Tap

__all__ = [
    "ANOMALOUS",
    "banks_of_sign",
    "faiss_index",
    "leave_out",
    "marked_rows",
    "nearest_cosine",
    "nearest_in_index",
    "nearest_value",
    "reference_banks",
    "whole_pictures",
]

TOGETHER = 8  # pictures per pass where references are encoded
ANOMALOUS = " anomalous"  # behind the key of a layer, in the names of banks of anomalous examples
MARKED = 0.5  # part of a patch that a mask has to cover; where none is covered so, the one that is covered most counts
KEPT = 4096  # bank rows at a time; they are normalised piece by piece, so that no second bank is made
BLOCK = 16_000_000  # cosines that are in memory at once: 64 MB


class Encoder(Protocol):
    """The parts of a ``Detector`` that make rows of pictures."""

    reference_angles: tuple[float, ...]

    def turned(self, images: Tensor, degrees: float) -> Tensor:
        """(B, 3, H, W) -> copies at an angle."""

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> features."""

    def view_rows(self, features: ImageFeatures, view: int) -> Mapping[str, Tensor]:
        """(B, M, C) by key."""

    def reference_taps(self, features: ImageFeatures) -> Mapping[int, Tap]:
        """Layers, for the grids of the rows."""

    def marked_rows(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches that masks choose."""


def reference_banks(encoder: Encoder, references: References) -> dict[str, Bank]:
    """Memory banks of reference images by the keys of ``reference_rows``; those of anomalous ones have a sign of -1.

    Args:
        encoder: encodes ``TOGETHER`` pictures at a time.
        references: pictures, or banks, which are given back as they are. Of an anomalous picture with a mask, the patches
            under the mask are kept, and rows that do not lie on a grid of ``reference_taps``. References are counted through,
            normal ones first.

    Raises:
        UsageError: neither pictures nor banks, or masks that do not fit their pictures or mark nothing.
    """
    if references.banks:
        return dict(references.banks)
    normal, anomalous, masks = references.normal, references.anomalous, references.masks
    count = 0 if normal is None else len(normal)
    if not count and (anomalous is None or not len(anomalous)):
        raise UsageError("References without a picture were given. Leave them out, or give at least one normal picture.")
    found: dict[str, Bank] = {}
    if normal is not None and count:
        found |= {key: _bank(rows) for key, (rows, _) in _rows(encoder, normal, encoder.reference_angles).items()}
    if anomalous is None or not len(anomalous):
        return found
    if masks is not None and (masks.shape[0] != len(anomalous) or not bool((masks > 0).flatten(1).any(1).all())):
        raise UsageError(
            f"{len(masks)} masks were given for {len(anomalous)} anomalous references; each needs one that marks a defect "
            "(1 = defect). Leave the masks out where all of each picture is an example."
        )
    for key, (rows, grid) in _rows(encoder, anomalous).items():
        kept = None if masks is None or grid is None else encoder.marked_rows(masks.to(rows.device), grid)
        found[key + ANOMALOUS] = _bank(rows, first=count, kept=kept, sign=-1)
    return found


def _rows(encoder: Encoder, images: Tensor, angles: Sequence[float] = ()) -> dict[str, tuple[Tensor, tuple[int, int] | None]]:
    """(K, 3, H, W) -> by key, rows (K, M, C) and the grid that they lie on; None where ``reference_taps`` has none.

    The rows of turned copies, at ``angles``, are those of their picture too.
    """
    parts: dict[str, list[Tensor]] = {}
    grids: dict[str, tuple[int, int]] = {}
    for some in images.split(TOGETHER):
        views: dict[str, Tensor] = {}
        for view, angle in enumerate((0.0, *angles)):
            features = encoder.encode(encoder.turned(some, angle) if angle else some)
            for key, rows in encoder.view_rows(features, view).items():
                views[key] = joined(key, [views[key], rows], dim=1) if key in views else rows
            grids = {str(layer): tap.grid for layer, tap in encoder.reference_taps(features).items()}
        for key, rows in views.items():
            parts.setdefault(key, []).append(rows)
    return {key: (torch.cat(pieces), grids.get(key.rpartition(".")[2])) for key, pieces in parts.items()}


def _bank(rows: Tensor, first: int = 0, kept: Tensor | None = None, sign: int = 1) -> Bank:
    """(K, M, C) of K references, numbered from ``first`` on -> their bank; ``kept`` (K, M) leaves rows out."""
    source = torch.arange(first, first + len(rows), device=rows.device).repeat_interleave(rows.shape[1])
    whole = Bank(rows.flatten(0, 1), source, sign)
    return whole if kept is None else Bank(whole.rows[kept.flatten()], source[kept.flatten()], sign)


def marked_rows(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches under masks: (K, H, W), 1 = defect, -> (K, h * w) bool, at least one for each mask."""
    share = F.adaptive_avg_pool2d((masks > 0).float()[:, None], grid).flatten(1)  # (K, h * w)
    return share >= share.amax(dim=1, keepdim=True).clamp(max=MARKED)


def banks_of_sign(banks: Mapping[str, Bank], sign: int) -> dict[str, Bank]:
    """The banks of normal (+1) or of anomalous (-1) examples, by the keys of ``reference_rows``."""
    return {key.removesuffix(ANOMALOUS): bank for key, bank in banks.items() if bank.sign == sign}


def nearest_cosine(rows: Tensor, bank: Bank, block: int = BLOCK, kept: int = KEPT) -> Tensor:
    """The largest cosine of each row with any row of a bank, exact.

    Beside its arguments it holds a normalised copy of ``rows``, one of ``kept`` bank rows and ``block`` cosines, however many
    rows either side has. The bank may lie on another device.

    Args:
        rows: (B, L, C), of any length.
        bank: (M, C) rows, of any length.
        block: how many cosines are computed at once.
        kept: how many rows of the bank are.

    Returns:
        (B, L) in [-1, 1] but for rounding; 1 - this is the nearest-normal distance of PatchCore, WinCLIP+ and APRIL-GAN.

    Raises:
        UsageError: the bank is empty, or its rows have another number of channels.
    """
    if not len(bank.rows) or bank.rows.shape[1] != rows.shape[-1]:
        raise UsageError(
            f"A bank of {len(bank.rows)} rows of {bank.rows.shape[-1]} channels cannot be compared with patches of "
            f"{rows.shape[-1]}. Prepare the references with the method and backbone that encode the pictures."
        )
    wanted = F.normalize(rows.flatten(0, 1), dim=-1)
    best = wanted.new_full(wanted.shape[:1], -torch.inf)
    for part in bank.rows.split(min(kept, max(1, block))):
        part = F.normalize(part.to(wanted), dim=-1)
        pieces = in_blocks(wanted, max(1, block // len(part)))
        best = torch.maximum(best, torch.cat([(piece @ part.T).amax(dim=1) for piece in pieces]))
    return best.unflatten(0, rows.shape[:2])


def nearest_value(rows: Tensor, kept: Tensor, values: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """How far the nearest row of a bank is, and a value that this row carries; for rows that have length one already.

    Args:
        rows: (B, L, C) of length one.
        kept: (M, C) of length one; may lie on another device.
        values: (M,) one per kept row.
        block: how many cosines are computed at once.

    Returns:
        Cosine distance (B, L), 0 to 2, and value (B, L).
    """
    flat = rows.flatten(0, 1)
    best, value = flat.new_full(flat.shape[:1], -torch.inf), flat.new_zeros(flat.shape[:1])
    size = len(kept) if is_exporting() else max(1, block // max(1, len(flat)))
    for part, own in zip(kept.to(flat).split(size), values.to(flat).split(size), strict=True):
        cosine, index = (flat @ part.T).max(1)
        value, best = torch.where(cosine > best, own[index], value), torch.maximum(cosine, best)
    return (1 - best).unflatten(0, rows.shape[:2]), value.unflatten(0, rows.shape[:2])


def leave_out(bank: Bank, source: int) -> Bank:
    """The bank as it would be without the reference of that number; those behind it move up by one."""
    kept = bank.source != source
    left = bank.source[kept]
    return Bank(bank.rows[kept], left - (left > source).to(left.dtype), bank.sign)


def whole_pictures(bank: Bank, patches: int) -> Tensor:
    """The rows of a bank as the pictures that they come from: (K * L, C) -> (K, L, C), where a picture has L patches.

    Raises:
        UsageError: the bank is a coreset, from which pictures cannot be put together again.
    """
    if not len(bank.rows) or bool((bank.source.unique(return_counts=True)[1] % patches).any()):
        raise UsageError("Pictures are compared with whole reference images here. Leave coreset out, or take another method.")
    return bank.rows.unflatten(0, (-1, patches))


def faiss_index(bank: Bank, cells: int = 0, probes: int = 8, seed: int = 0) -> Any:
    """A faiss index of a bank's rows for ``nearest_in_index``; the extra ``faiss`` installs the package.

    Args:
        bank: (M, C) rows, of any length.
        cells: 0: an exact index. Else rows are sorted into this many k-means cells, and a search looks into ``probes`` of them:
            faster, and it may miss the nearest row, so that distances are never smaller than the exact ones, only larger.
        probes: cells that a search looks into.
        seed: of the k-means.

    Raises:
        MissingExtra: faiss is not installed.
        UsageError: more cells than rows.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("Searching a bank with faiss", "faiss") from error
    if not 0 <= cells <= len(bank.rows):
        raise UsageError(f"cells={cells}: a bank of {len(bank.rows)} rows can be sorted into 1 to as many cells, 0 for none.")
    rows = F.normalize(bank.rows.float(), dim=-1).cpu().numpy()
    index: Any = faiss.IndexFlatIP(rows.shape[1])  # Any: newer faiss brings types, in which its two kinds share no base
    if cells:
        index = faiss.IndexIVFFlat(index, rows.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.nprobe = seed, min(probes, cells)
        index.cp.min_points_per_centroid = 1  # else faiss prints a warning below 39 rows per cell
        index.train(rows)
    index.add(rows)
    return index


def nearest_in_index(rows: Tensor, index: Any) -> Tensor:
    """As ``nearest_cosine``, from an index of ``faiss_index``: (B, L, C) -> (B, L); -1 where cells were searched in vain."""
    wanted = F.normalize(rows.flatten(0, 1).float(), dim=-1).detach().cpu().numpy()
    cosines, found = index.search(wanted, 1)  # (B * L, 1) each; -1 in found: no row in the cells that were looked into
    best = torch.from_numpy(cosines[:, 0]).masked_fill(torch.from_numpy(found[:, 0] < 0), -1.0)
    return best.to(rows).unflatten(0, rows.shape[:2])
