"""The second tower beside the first: novelty and distance against loops, and the scale."""

from __future__ import annotations

import pytest
import torch

from zsad.methods.compact import second
from zsad.methods.compact.folder import LAST, unit_blocks
from zsad.methods.compact.second_head import SecondHead, second_head
from zsad.types import Bank, Tap

GRID = (6, 6)


def taps(seed: int, count: int = 2) -> dict[int, Tap]:
    random = torch.Generator().manual_seed(seed)
    return unit_blocks({LAST: Tap(torch.randn(count, 36, 384, generator=random), GRID)})


def test_distance_is_that_of_the_nearest_reference_patch() -> None:
    seen, kept = taps(0), taps(1, 3)[LAST].patches.float().flatten(0, 1)
    found = second.reference_distances(seen, Bank(kept, torch.zeros(len(kept), dtype=torch.int64)))
    for picture, rows in enumerate(seen[LAST].patches.float()):
        for place, row in enumerate(rows):
            nearest = min(1 - float(torch.cosine_similarity(row, one, dim=0)) for one in kept)
            assert abs(float(found[picture].flatten()[place]) - nearest) < 1e-5


def test_a_reference_of_itself_lowers_the_map_and_another_raises_it() -> None:
    seen, grid = taps(0), torch.zeros(2, 12, 12)
    rows = second.second_rows(seen).flatten(0, 1)
    own, other = (Bank(x, torch.zeros(len(x), dtype=torch.int64)) for x in (rows, -rows))
    nearer, farther = (second.add_distance(grid, second.reference_distances(seen, bank)) for bank in (own, other))
    assert nearer.max() < farther.min()


def test_novelty_counts_up_to_a_bound_and_moves_the_map_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "HEAD_WEIGHT", 0.0)
    grid = torch.zeros(2, 12, 12)
    found = second.add_within(grid, taps(0))
    most = second.NOVELTY_WEIGHT * second.LARGEST
    assert float((found * (second.ALONE_ONE - second.ALONE_ZERO) + second.ALONE_ZERO).abs().max()) <= most + 1e-6
    found = second.add_within(torch.zeros(2, 6, 6), odd_patch())
    assert found[0].max() > found[1].max()


def odd_patch() -> dict[int, Tap]:
    """Two pictures that are the same everywhere, but for one place of 3 x 3 patches in the first."""
    patches = taps(0)[LAST].patches.clone()
    patches[:, :] = patches[:, :1]
    patches[0].view(6, 6, -1)[2:5, 2:5] = taps(5)[LAST].patches[0, 0]
    return {LAST: Tap(patches, GRID)}


def test_the_head_reads_what_differs_and_not_what_is_shown() -> None:
    """Nothing differs in a picture of one kind of patch: whatever that patch is, the head's answer is one and the same."""
    head = second_head(torch.device("cpu"))
    with torch.inference_mode():
        answers = []
        for seed in (0, 1):
            patches = taps(seed)[LAST].patches[:, :1].expand(-1, 36, -1)
            answers.append(head(*head.compare(Tap(patches, GRID))))
        torch.testing.assert_close(answers[0], answers[1], atol=1e-3, rtol=0)
        found = head(*head.compare(odd_patch()[LAST]))
    assert found[0, 2:5, 2:5].mean() > found[1].mean() + 0.2


def test_the_head_can_be_trained() -> None:
    torch.manual_seed(0)
    head, cells = SecondHead(), torch.zeros(2, *GRID)
    cells[0, 2:5, 2:5] = 1
    labels, before = torch.tensor([1.0, 0.0]), None
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(40):
        loss = head.loss(head(*head.compare(odd_patch()[LAST])), cells, labels)
        before = before or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < before / 2
