"""A coreset of many references, made block by block: seconds, peak memory, and what an answer from it costs and loses.

    python benchmarks/coreset.py                        # 1,000 references of 1,369 patches x 768 channels, 10 % kept
    python benchmarks/coreset.py --references 100 --threads 1

Features are seeded and made up, with the structure that coresets live on: 200 kinds of surface at their places, varied smoothly
from picture to picture, and noise. Nothing of them is kept but the chosen rows. Exact search is measured on the ``--exact``
first references, whose full bank is held only after the peak was read.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from memory import peak_mb
from torch import Tensor
from tqdm import tqdm

from zsad.references.coreset import streamed_coreset
from zsad.references.memory_bank import faiss_index, nearest_cosine, nearest_in_index
from zsad.types import Bank

KINDS, VARIED = 200, 16


def picture(number: int, patches: int, channels: int) -> Tensor:
    """Features (patches, channels) of one made-up reference; the same number gives the same ones."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + number)
    kinds = torch.randn(KINDS, channels, generator=shared)
    directions = torch.randn(VARIED, channels, generator=shared)
    places = torch.arange(patches) * KINDS // patches
    shifted = (places + torch.randint(-3, 4, (patches,), generator=own)).clamp(0, KINDS - 1)
    varied = torch.randn(patches, VARIED, generator=own) @ directions / VARIED**0.5
    return kinds[shifted] + 0.5 * varied + 0.3 * torch.randn(patches, channels, generator=own)


def blocks(given: argparse.Namespace, count: int) -> Iterator[Tensor]:
    """``given.block`` references at a time, (block * patches, channels)."""
    starts = range(0, count, given.block)
    for start in tqdm(starts, unit="block", mininterval=10):
        numbers = range(start, min(start + given.block, count))
        yield torch.cat([picture(number, given.patches, given.channels) for number in numbers])


def timed(search: Callable[[Tensor], Tensor], asked: list[Tensor]) -> tuple[float, Tensor]:
    """Median seconds per picture, and the distances of all pictures."""
    seconds, found = [], []
    for rows in asked:
        start = time.perf_counter()
        found.append(1 - search(rows[None])[0])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.stack(found)


def bank_of(rows: Tensor) -> Bank:
    return Bank(rows, torch.zeros(len(rows), dtype=torch.int64))


def compare(given: argparse.Namespace, asked: list[Tensor]) -> dict[str, float]:
    """Exact search of the first references beside a coreset of just these."""
    full = torch.cat([picture(number, given.patches, given.channels) for number in range(given.exact)])
    seconds, exact = timed(lambda rows: nearest_cosine(rows, bank_of(full)), asked)
    parts = full.split(given.block * given.patches)
    few, _ = streamed_coreset(parts, given.fraction, [len(part) for part in parts], 0, given.width)
    less, near = timed(lambda rows: nearest_cosine(rows, bank_of(few)), asked)
    rows = {
        "exact_references": given.exact,
        "exact_rows": len(full),
        "exact_seconds_per_picture": seconds,
        "its_coreset_seconds_per_picture": less,
        "distance_exact_mean": exact.mean().item(),
        "distance_coreset_mean": near.mean().item(),
        "distance_gap_max": (near - exact).max().item(),
        "correlation": torch.corrcoef(torch.stack([exact.flatten(), near.flatten()]))[0, 1].item(),
    }
    try:
        index = faiss_index(bank_of(full))
    except ImportError:
        return rows
    seconds, through = timed(lambda one: nearest_in_index(one, index), asked)
    return rows | {"faiss_exact_seconds_per_picture": seconds, "faiss_gap_max": (through - exact).abs().max().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=1000)
    parser.add_argument("--patches", type=int, default=1369)
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=128, help="channels of the random projection")
    parser.add_argument("--block", type=int, default=4, help="references whose rows are selected from together")
    parser.add_argument("--exact", type=int, default=100, help="references that exact search is measured on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    start = time.perf_counter()
    each = [min(given.block, given.references - start) * given.patches for start in range(0, given.references, given.block)]
    rows, _ = streamed_coreset(blocks(given, given.references), given.fraction, each, 0, given.width)
    made = time.perf_counter() - start
    # pictures that are no references, the last with a defect: a ninth of its patches are of another kind
    asked = [picture(10_000 + number, given.patches, given.channels) for number in range(3)]
    asked[-1][: given.patches // 9] = asked[-1][: given.patches // 9].flip(1)
    answer, _ = timed(lambda one: nearest_cosine(one, bank_of(rows)), asked)
    row = {"references": given.references, "rows_kept": len(rows), "seconds": made, "coreset_seconds_per_picture": answer}
    row |= {"peak_mb": peak_mb(), **compare(given, asked)}
    row |= {"machine": f"{platform.machine()}, {given.threads} threads", "torch": torch.__version__}
    if given.json:
        print(json.dumps(row, indent=1))
        return
    for key, value in row.items():
        print(f"{key:34} {value:.4f}" if isinstance(value, float) else f"{key:34} {value}")


if __name__ == "__main__":
    main()
