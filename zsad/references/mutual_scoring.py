"""Mutual scoring of a set of pictures (MuSc, Li et al., ICLR 2024, arXiv 2401.16753, sections 3.1 to 3.3).

Letters: N pictures, L patches, C channels, R neighbourhood sides, n pictures that one picture is compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import UsageError

__all__ = [
    "check_arguments",
    "expected_cost",
    "lnamd",
    "mutual_cosines",
    "near_and_far",
    "nearest_cosines",
    "neighbourhood_means",
    "reach",
    "require_enough",
    "rerank",
    "seeded_order",
]

BLOCK = 32  # pictures that are held at once
TILE = 500_000  # cosines of one product, where several pictures share it: what fits a core's cache


def neighbourhood_means(x: Tensor, radii: Sequence[int]) -> Tensor:
    """Means over r x r neighbourhoods, zeros beyond the border counted, for all r in one widening pass.

    Args:
        x: (B, h, w, C).
        radii: odd sides r of the neighbourhoods.

    Returns:
        (R, B, h, w, C), in the order of ``radii``.
    """
    edge, (height, width) = max(radii) // 2, x.shape[1:3]
    padded = F.pad(x, (0, 0, edge, edge, edge, edge))  # (B, h + 2 edge, w + 2 edge, C)
    rows, reach, means = padded[:, edge : edge + height], 0, {}
    for side in sorted(set(radii)):
        for step in range(reach + 1, side // 2 + 1):  # widens the sum over rows from the last side to this one
            above, below = edge - step, edge + step
            rows = rows + padded[:, above : above + height] + padded[:, below : below + height]
        reach = side // 2
        total = rows[:, :, edge - reach : edge - reach + width]
        for start in range(edge - reach + 1, edge + reach + 1):
            total = total + rows[:, :, start : start + width]
        means[side] = total / side**2
    return torch.stack([means[side] for side in radii])


def lnamd(patches: Tensor, grid: tuple[int, int], radii: Sequence[int]) -> Tensor:
    """Local neighbourhood aggregation (section 3.1): LayerNorm over a picture's whole block, means over r x r, unit length.

    Args:
        patches: (B, L, C) raw hidden states.
        grid: (h, w) with h * w == L.
        radii: odd sides r of the neighbourhoods.

    Returns:
        (R, B, L, C), rows of length one.
    """
    normed = F.layer_norm(patches, patches.shape[1:])  # one mean and one deviation per picture
    return F.normalize(neighbourhood_means(normed.unflatten(1, grid), radii).flatten(2, 3), dim=-1)


def nearest_cosines(one: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of each patch with any patch of another picture, both ways round, from one product per pair.

    Args:
        one: (R, L, C) unit rows of a picture.
        others: (R, n, C, L') unit rows of n pictures, transposed.

    Returns:
        (n, R, L): of the picture's patches with each of the others; (n, R, L'): of the others' patches with the picture.
    """
    step, there, back = max(1, TILE // (one.shape[1] * others.shape[3])), [], []
    for rows, columns in zip(one, others, strict=True):  # per neighbourhood, (L, C) and (n, C, L')
        found = [_maxima(rows, part) for part in columns.split(step)]
        there.append(torch.cat([first for first, _ in found]))
        back.append(torch.cat([second for _, second in found]))
    return torch.stack(there, 1), torch.stack(back, 1)


def _maxima(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(L, C) and (n, C, L') -> the largest of each row and of each column of their n products, (n, L) and (n, L')."""
    product = rows.expand(len(columns), -1, -1).bmm(columns) if len(columns) > 1 else (rows @ columns[0])[None]
    return product.amax(2), product.amax(1)


def _earlier(place: int, start: int, stop: int, count: int, reach: int) -> list[range]:
    """Places in [start, stop) before ``place`` that lie within ``reach`` of it on a circle of ``count`` places."""
    wrapped = range(start, min(stop, place - count + reach + 1))
    beside = range(max(start, place - reach), min(stop, place))
    if wrapped and beside and wrapped.stop >= beside.start:
        return [range(start, beside.stop)]
    return [part for part in (wrapped, beside) if part]


def mutual_cosines(
    rows: Callable[[int], Tensor],
    count: int,
    reach: int | None = None,
    block: int = BLOCK,
    others: dict[int, list[int]] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """For each picture, the largest cosine of its patches with any patch of each picture that it is compared with.

    Pictures stand on a circle and are compared with those at most ``reach`` places away. Every unordered pair is multiplied
    once. In memory at once: ``block`` pictures, their results, and reach^2 * R * L numbers of results that wait for the rest
    (a quarter of all where every pair is compared). ``rows`` is called about ``count * (1 + reach / block)`` times.

    Args:
        rows: index -> (R, L, C) unit rows; may read from disk.
        count: N.
        reach: None, or at least N // 2, compares every pair.
        block: pictures that are held at once.
        others: is filled with the n pictures of each index, in the order of its results.

    Yields:
        Index and (n, R, L), the n pictures in an arbitrary order; n is 2 * reach, or N - 1.
    """
    others = {} if others is None else others
    reach = count // 2 if reach is None else min(reach, count // 2)
    waiting: dict[int, list[Tensor]] = {}
    for start in range(0, count, block):
        stop = min(start + block, count)
        held = torch.stack([rows(place).transpose(1, 2) for place in range(start, stop)], 1)  # (R, block, C, L)
        found = [waiting.pop(place, []) for place in range(start, stop)]
        for place in range(start + 1, count):
            parts = _earlier(place, start, stop, count, reach)
            if not parts:
                continue
            one = held[:, place - start].transpose(1, 2) if place < stop else rows(place)
            own = found[place - start] if place < stop else waiting.setdefault(place, [])
            for part in parts:
                there, back = nearest_cosines(one, held[:, part.start - start : part.stop - start])
                own.append(there)
                others.setdefault(place, []).extend(part)
                for earlier, cosines in zip(part, back, strict=True):
                    found[earlier - start].append(cosines[None])
                    others.setdefault(earlier, []).append(place)
        for place, pieces in enumerate(found, start):
            yield place, torch.cat(pieces)


def expected_cost(rows: Callable[[int], Tensor], count: int, reach: int, block: int = BLOCK) -> tuple[float, int]:
    """Seconds and bytes that ``mutual_cosines`` takes for ``count`` pictures, from two timed products of one by itself."""
    times = []
    for _ in range(2):  # the first one also pays for what is set up once
        begun = time.perf_counter()
        one = rows(0)
        read = time.perf_counter()
        nearest_cosines(one, one.transpose(1, 2)[:, None].contiguous())
        times.append((read - begun, time.perf_counter() - read))
    reading, product = map(min, zip(*times, strict=True))
    held, places = min(block, count), one[..., 0].numel()
    seconds = count * (reach * product + (1 + reach / block) * reading)
    return seconds, 4 * (held * one.numel() + (reach**2 + held * 2 * reach) * places)


def near_and_far(cosines: Tensor, topmin: float) -> tuple[Tensor, Tensor]:
    """Two of (...), Euclidean distances between unit vectors (0 to 2): mean of the lowest part over the others, and median.

    The first is MuSc's patch score (section 3.2, interval [0, topmin]): a patch that has no like in most pictures, but in
    a few, scores low. Near 0 the square root makes 4e-4 of float32's rounding.

    Args:
        cosines: (n, ...) from ``mutual_cosines``.
        topmin: part of the n that is averaged: int(topmin * n), at least one.
    """
    count, shape = len(cosines), cosines.shape[1:]
    columns = cosines.flatten(1).T.contiguous()
    on_cpu = columns.device.type == "cpu"  # where numpy sorts short rows many times faster
    ordered = torch.from_numpy(np.sort(columns.numpy(), axis=1)) if on_cpu else columns.sort(dim=1).values
    distances = (2 - 2 * ordered).clamp(min=0).sqrt()  # from far to near
    lowest = max(1, int(topmin * count))
    return distances[:, -lowest:].mean(1).view(shape), distances[:, (count - 1) // 2].view(shape)


def check_arguments(radii: Sequence[int], topmin: float, rscin_k: Sequence[int], pool: int | None) -> None:
    """Raises ``UsageError`` for arguments of MuSc that nothing can be computed with."""
    odd = radii and all(side > 0 and side % 2 for side in radii)
    if not odd or not 0 < topmin <= 1 or min(rscin_k, default=1) < 1 or not (pool is None or pool > 1):
        raise UsageError(
            f"radii={radii}, topmin={topmin}, rscin_k={rscin_k}, pool={pool}: give odd radii, topmin in (0, 1], windows of at "
            "least 1 picture, a pool of at least 2."
        )


def reach(count: int, pool: int | None) -> int:
    """How far apart on the circle pictures are compared: half of the pool, or half of the set."""
    return count // 2 if pool is None or pool >= count - 1 else (pool + 1) // 2


def require_enough(own: int, count: int, least: int, *, reranked: bool) -> None:
    """Raises ``UsageError`` where fewer than ``least`` pictures are there to compare with, references included (``count``).

    ``rerank`` knows the set's own least and largest score alone, so ``own``, the scored pictures, must be as many for it.
    """
    if count < least:
        raise UsageError(f"musc compares pictures with each other and needs at least {least}; got {count}. Add more.")
    if reranked and own < least:
        raise UsageError(
            f"musc ranks pictures among their own kind (RsCIN) and needs at least {least} of them beside the references; got "
            f"{own}. Add more, or leave RsCIN out: --set 'rscin_k=()'."
        )


def rerank(scores: Tensor, image: Tensor, ks: Sequence[int]) -> Tensor:
    """RsCIN (section 3.3): each picture's score becomes a mean over the k pictures that look most like it, itself included.

    Args:
        scores: (N,) of a set.
        image: (N, D) pooled features.
        ks: sizes k of the window, averaged over; k = 1 leaves the scores as they are.

    Returns:
        (N,) on the scale of min-max normalised scores: 0 and 1 are the least and the most anomalous of this set.
    """
    unit, span = F.normalize(image, dim=-1), scores.amax() - scores.amin()
    scaled = (scores - scores.amin()) / span.clamp(min=torch.finfo(scores.dtype).tiny)
    total = torch.zeros_like(scaled)
    for k in ks:
        weights, index = (unit @ unit.T).topk(min(k, len(unit)))
        total = total + (weights * scaled[index]).sum(1) / weights.sum(1)
    return total / len(ks)


def seeded_order(image: Tensor, seed: int) -> list[int]:
    """A shuffled order of N pictures (N, D) that depends on the seed and their features, not on the order they come in.

    Pictures are ranked along a random direction, and the ranks are shuffled; rounding swaps at most pictures of equal rank.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(image.detach().cpu().double(), dim=-1)
    ranked = (rows @ torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)).argsort()
    return ranked[torch.randperm(len(rows), generator=generator)].tolist()
