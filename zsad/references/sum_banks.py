"""Memory banks that hold sums of reference patches in place of the patches.

A reference leaves the same rows whatever its size and however many turned copies of it there are. Sums are packed: the bits of
float64 as int32, so that any device holds them (MPS has no float64). Banks whose name begins with ``SUMS`` may be added up in
place of being put end to end, see ``joined``: 1,000 references take no more memory than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import UsageError
from zsad.references.components import PatchSums, Subspace
from zsad.types import Bank

__all__ = ["SECOND", "SUMS", "fit", "joined", "less", "packed", "sums_of", "unpacked", "with_sums"]

SUMS = "sums"  # how the names of banks of packed sums begin, and the name of the first
SECOND = f"{SUMS}_second"  # those of the covariance, where the first has the mean of other patches


def packed(sums: PatchSums) -> Tensor:
    """Both counts, the total and the upper triangle of the products, as rows of a bank: (M, 2 C) int32."""
    width = len(sums.total)
    upper = torch.triu_indices(width, width)
    counts = sums.total.new_tensor([sums.count, sums.left_out])
    flat = torch.cat([counts, sums.total, sums.products[upper[0], upper[1]]])
    return F.pad(flat, (0, -len(flat) % width)).view(torch.int32).view(-1, 2 * width)


def unpacked(rows: Tensor) -> PatchSums:
    """What was packed; of several one below the other, their sum."""
    width = rows.shape[1] // 2
    each = -(-(2 + width + width * (width + 1) // 2) // width)  # rows of one
    flat = reduce(Tensor.__add__, (_values(part) for part in rows.split(each))).flatten()
    upper, products = torch.triu_indices(width, width), flat.new_zeros(width, width)
    products[upper[0], upper[1]] = products[upper[1], upper[0]] = flat[2 + width :][: upper.shape[1]]
    return PatchSums(flat[2 : 2 + width].clone(), products, int(flat[0]), int(flat[1]))


def sums_of(patches: Tensor, kept: Tensor | None = None) -> list[PatchSums]:
    """Of each of B pictures, exact: patches (B, L, C), of which those count that are True in ``kept`` (B, L)."""
    if kept is None:
        return [PatchSums.of(rows, exact=True) for rows in patches]
    both = zip(patches, kept, strict=True)
    return [PatchSums.of(rows[own], exact=True, left_out=int((~own).sum())) for rows, own in both]


def fit(banks: Mapping[str, Bank], components: int | float, over_all: bool) -> Subspace:
    """The subspace of the banks ``SUMS`` and, where it is there, ``SECOND``; computed once for the same banks.

    Raises:
        UsageError: there are none; another method made them.
    """
    if SUMS not in banks:
        raise UsageError("This context has no sums of patches. Make it with prepare() of the detector that scores.")
    second = banks[SECOND].rows if SECOND in banks else None
    return fitted(banks[SUMS].rows, second, components, over_all)


def with_sums(bank: Bank | None, sums: Iterable[PatchSums]) -> Bank:
    """A bank with further patches; None: of those alone."""
    rows = packed(reduce(PatchSums.__add__, sums))
    rows = rows if bank is None else torch.cat([bank.rows, rows.to(bank.rows.device)])
    return Bank(rows, torch.zeros(len(rows), dtype=torch.int64, device=rows.device))


@lru_cache(maxsize=2)
def fitted(rows: Tensor, second: Tensor | None, components: int | float, over_all: bool) -> Subspace:
    """The subspace of packed sums, in float32 on their device; kept for the same tensors, by identity.

    Args:
        rows: of one or more banks, see ``packed``.
        second: sums of the covariance, where ``rows`` are those of the mean alone.
        components: as ``PatchSums.subspace``.
        over_all: likewise.
    """
    sums = unpacked(rows)
    own = sums if second is None else unpacked(second)
    found = own.subspace(components, centre=sums, over_all=over_all)
    mean, vectors, values = (one.to(rows.device, torch.float32) for one in (found.mean, found.components, found.values))
    return Subspace(mean, vectors, values, found.held)


def joined(key: str, parts: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Rows of a bank from several pictures, or pieces of one: packed sums are added, all else is put end to end.

    Args:
        key: name of the bank.
        parts: (M, C) each, or (K, M, C); at most two of them are in memory where they are added.
        dim: the axis of the rows.
    """
    if not key.startswith(SUMS):
        return torch.cat(list(parts), dim)
    return reduce(_plus, parts)


def less(rows: Tensor, part: Tensor) -> Tensor:
    """Packed sums without those of a part of them."""
    return (_values(rows) - _values(part)).view(torch.int32).view_as(rows)


def _plus(one: Tensor, other: Tensor) -> Tensor:
    return (_values(one) + _values(other)).view(torch.int32).view_as(one)


def _values(rows: Tensor) -> Tensor:
    """(M, 2 C) int32 -> the float64 values whose bits they are, (M, C)."""
    return rows.cpu().contiguous().view(torch.float64)
