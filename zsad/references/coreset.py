"""Coresets of memory banks: few rows that leave no row far from its nearest (PatchCore, Roth et al., CVPR 2022, 3.2, 3.3).

Greedy k-centre selection: the next row is the one that is farthest from those already chosen. Rows are normalised first, as in
the search that follows, so that distances are chords of the unit sphere: |a - b|^2 = 2 - 2 cos(a, b).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, MutableMapping, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import UsageError

__all__ = ["blocks_of", "coreset", "picked", "stacked", "streamed_coreset"]

WIDTH = 128  # channels that distances are computed in; PatchCore projects to 128 too


def coreset(rows: Tensor, fraction: float, seed: int = 0, width: int = WIDTH) -> Tensor:
    """Selects rows by greedy k-centre.

    With distances as they are (``width`` at least C), the largest distance of a row to its nearest chosen one is at most twice
    the smallest that so many rows can reach (Gonzalez 1985). A random projection keeps distances roughly: to about a tenth
    at 128 channels.

    Args:
        rows: (M, C), of any length.
        fraction: of the rows that are chosen, in (0, 1]; at least one is.
        seed: of the projection and of the first row.
        width: channels after the projection; rows of no more channels are not projected.

    Returns:
        (m,) int64 indices, distinct, in the order of choice; in order of the rows where all are chosen.

    Raises:
        UsageError: a fraction outside (0, 1], or no rows.
    """
    count = _kept(fraction, len(rows))
    if count == len(rows):
        return torch.arange(len(rows), device=rows.device)
    generator = torch.Generator().manual_seed(seed)
    points = _projected(rows, width, generator)
    start = int(torch.randint(len(rows), (), generator=generator))
    return _farthest_first(points, count, start)


def streamed_coreset(
    blocks: Iterable[Tensor],
    fraction: float,
    sizes: Sequence[int],
    seed: int = 0,
    width: int = WIDTH,
    known: MutableMapping[Hashable, Tensor] | None = None,
    names: Iterable[Hashable] = (),
) -> tuple[Tensor, Tensor]:
    """Selects a coreset of rows that come block by block and never are in memory together.

    Of each block its own coreset is kept, nothing else. So every row of the stream is as near to a kept row as its block's
    coreset makes it: the largest such distance is the largest of the blocks', each at most twice the best that so many rows of
    that block can reach. It is not guaranteed that the rows are as few, or the distance as small, as if all blocks had been
    seen at once; rows that are alike in several blocks are kept in each. Larger blocks come nearer to it and cost their
    square.

    Args:
        blocks: (M_i, C) rows each, of any length; one block at a time is held.
        fraction: of every block's rows that are kept.
        sizes: of the blocks, M_i each.
        seed: of the projection and of the first rows; all blocks have the same.
        width: as in ``coreset``.
        known: what was chosen of blocks before, by name; what is chosen now is added.
        names: of the blocks, one each and equal only where rows, fraction, seed and width are; for ``known``.

    Returns:
        rows (m, C), as they came; positions (m,) int64 in the whole stream: where every reference leaves M rows, a kept row is
        reference ``position // M``'s, which is what ``Bank.source`` wants.
    """
    counts = [_kept(fraction, size) for size in sizes]
    if not counts:
        raise UsageError("A coreset needs at least one block of rows; got none.")
    # All that stays is made before the first block: small tensors that are kept between large ones that are freed would leave
    # holes in the heap that the next block does not fit into.
    chosen, known, name = torch.empty(sum(counts), dtype=torch.int64), {} if known is None else known, iter(names)

    def kept() -> Iterator[Tensor]:
        for number, (block, own) in enumerate(zip(blocks, chosen.split(counts), strict=True)):
            key = next(name, number)
            own.copy_(known[key] if key in known else coreset(block, fraction, seed, width))
            known.setdefault(key, own)
            yield block[own]

    rows = stacked(kept(), len(chosen))
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0).repeat_interleave(torch.tensor(counts))
    return rows, (chosen + starts).to(rows.device)


def stacked(parts: Iterable[Tensor], count: int) -> Tensor:
    """The parts (M_i, C) below each other, ``count`` rows in all; written in place, so that they are not in memory twice."""
    whole, start = torch.empty(0), 0
    for part in parts:
        whole = whole if start else part.new_empty(count, *part.shape[1:])
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def _kept(fraction: float, count: int) -> int:
    """How many of ``count`` rows a coreset has. Raises ``UsageError`` for no rows, or a fraction that is none."""
    if not 0 < fraction <= 1 or not count:
        raise UsageError(f"A coreset takes a fraction in (0, 1] of at least one row; got {fraction} of {count} rows.")
    return max(1, round(fraction * count))


def _projected(rows: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Normalised rows (M, C) -> (M, min(width, C)), by a Gaussian projection that keeps squared lengths on average."""
    points = F.normalize(rows.detach().float(), dim=-1)
    channels = points.shape[1]
    if channels <= width:
        return points
    return points @ (torch.randn(channels, width, generator=generator) / width**0.5).to(points)


def _farthest_first(points: Tensor, count: int, start: int) -> Tensor:
    """Indices (count,): ``start``, then always the point that is farthest from those chosen."""
    lengths = points.square().sum(dim=1)
    nearest = torch.full_like(lengths, torch.inf)  # squared distance to the chosen ones, less the point's own length
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    latest = torch.tensor(start, device=points.device)
    for step in range(count):
        chosen[step] = latest
        torch.minimum(nearest, torch.addmv(lengths[latest], points, points[latest], alpha=-2), out=nearest)
        nearest[latest] = -torch.inf  # never again, even where all others lie on a chosen one
        latest = (nearest + lengths).argmax()
    return chosen


def blocks_of(parts: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Concatenates the parts (M, C) in blocks of ``count`` parts."""
    while block := list(islice(parts, count)):
        yield torch.cat(block)


def picked(parts: Iterable[Tensor], positions: Tensor) -> Tensor:
    """Selects the rows at these positions of the concatenated parts, in the order of ``positions``."""
    start, found = 0, torch.empty(0)
    for part in parts:
        inside = ((positions >= start) & (positions < start + len(part))).nonzero()[:, 0]
        found = found if start else part.new_empty(len(positions), *part.shape[1:])
        found[inside] = part[positions[inside] - start]
        start += len(part)
    return found
