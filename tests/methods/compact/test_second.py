"""The second tower beside the first: novelty and distance against loops, and the scale."""

from __future__ import annotations

import torch

from zsad.methods.compact import second
from zsad.methods.compact.folder import LAST, unit_blocks
from zsad.types import Bank, Tap

GRID = (6, 6)


def taps(seed: int, count: int = 2) -> dict[int, Tap]:
    random = torch.Generator().manual_seed(seed)
    return unit_blocks({LAST: Tap(torch.randn(count, 36, 8, generator=random), GRID)})


def test_distance_is_that_of_the_nearest_reference_patch() -> None:
    seen, kept = taps(0), taps(1, 3)[LAST].patches.float().flatten(0, 1)
    found = second.distances(seen, Bank(kept, torch.zeros(len(kept), dtype=torch.int64)))
    for picture, rows in enumerate(seen[LAST].patches.float()):
        for place, row in enumerate(rows):
            nearest = min(1 - float(torch.cosine_similarity(row, one, dim=0)) for one in kept)
            assert abs(float(found[picture].flatten()[place]) - nearest) < 1e-5


def test_a_reference_of_itself_lowers_the_map_and_another_raises_it() -> None:
    seen, grid = taps(0), torch.zeros(2, 12, 12)
    rows = second.second_rows(seen).flatten(0, 1)
    own, other = (Bank(x, torch.zeros(len(x), dtype=torch.int64)) for x in (rows, -rows))
    assert second.add_distance(grid, seen, own).max() < second.add_distance(grid, seen, other).min()


def test_novelty_counts_up_to_a_bound_and_moves_the_map_by_little() -> None:
    grid = torch.zeros(2, 12, 12)
    found = second.add_novelty(grid, taps(0))
    most = second.NOVELTY_WEIGHT * second.LARGEST
    assert float((found * (second.ALONE_ONE - second.ALONE_ZERO) + second.ALONE_ZERO).abs().max()) <= most + 1e-6
    odd = taps(0)
    patches = odd[LAST].patches.clone()
    patches[:, :] = patches[:, :1]  # the same everywhere, but for one place of 3 x 3 patches
    patches[0].view(6, 6, 8)[2:5, 2:5] = taps(5)[LAST].patches[0, 0]
    found = second.add_novelty(torch.zeros(2, 6, 6), {LAST: Tap(patches, GRID)})
    assert found[0].max() > found[1].max()
