"""Nearest rows and coresets against slow loops and their laws."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import MissingExtra, UsageError
from zsad.references.coreset import coreset, streamed_coreset
from zsad.references.memory_bank import faiss_index, leave_out, nearest_cosine, nearest_in_index, nearest_value
from zsad.types import Bank


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank(kept: Tensor) -> Bank:
    return Bank(kept, torch.zeros(len(kept), dtype=torch.int64))


def clusters(count: int, kinds: int = 12, channels: int = 24) -> Tensor:
    """Rows around a few centres, as patches are."""
    return rows(kinds, channels, seed=1)[torch.arange(count) % kinds] + 0.2 * rows(count, channels, seed=2)


# ------------------------------------------------------------------ nearest rows
@pytest.mark.parametrize(("block", "kept"), [(1, 1), (7, 3), (50, 4096), (4_000_000, 1), (16_000_000, 4096)])
def test_nearest_is_the_slow_loop(block: int, kept: int) -> None:
    asked, stored = rows(2, 5, 8), rows(23, 8, seed=1)
    found = nearest_cosine(asked, bank(stored), block=block, kept=kept)
    for i in range(2):
        for j in range(5):
            best = max(float(a @ asked[i, j] / (a.norm() * asked[i, j].norm())) for a in stored)
            assert found[i, j].item() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_the_nearest_row_gives_its_value(block: int) -> None:
    asked, stored, values = F.normalize(rows(2, 7, 5), dim=-1), F.normalize(rows(13, 5, seed=1), dim=-1), rows(13, seed=2)
    distance, value = nearest_value(asked, stored, values, block)
    for i in range(2):
        for j in range(7):
            apart = [1 - float(asked[i, j] @ other) for other in stored]
            assert distance[i, j].item() == pytest.approx(min(apart), abs=1e-6)
            assert value[i, j] == values[apart.index(min(apart))]


def test_length_does_not_matter() -> None:
    asked, stored = rows(2, 5, 8), rows(23, 8, seed=1)
    scaled = nearest_cosine(3 * asked, bank(stored * torch.arange(1, 24)[:, None]))
    torch.testing.assert_close(scaled, nearest_cosine(asked, bank(stored)))


def test_own_rows_are_at_zero_and_more_rows_never_farther() -> None:
    asked, stored = rows(1, 9, 8), rows(23, 8, seed=1)
    few, more = nearest_cosine(asked, bank(stored[:11])), nearest_cosine(asked, bank(stored))
    assert (more >= few - 1e-6).all()
    assert (more > few + 1e-3).any()
    torch.testing.assert_close(nearest_cosine(asked, bank(torch.cat([stored, asked[0]]))), torch.ones(1, 9))
    torch.testing.assert_close(nearest_cosine(asked, bank(stored.flip(0))), more)


def test_a_bank_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"bank of 4 rows of 6 channels cannot be compared with patches of 8.*Prepare"):
        nearest_cosine(rows(1, 5, 8), bank(rows(4, 6)))
    with pytest.raises(UsageError, match="bank of 0 rows"):
        nearest_cosine(rows(1, 5, 8), bank(rows(0, 8)))


# ------------------------------------------------------------------ coresets
def greedy(points: Tensor, count: int, start: int) -> list[int]:
    """Farthest-first by the definition, over all pairs."""
    distance, chosen = torch.cdist(points.double(), points.double()), [start]
    while len(chosen) < count:
        nearest = distance[:, chosen].amin(dim=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def radius(points: Tensor, chosen: Tensor) -> float:
    """Largest chord from a row to its nearest chosen one."""
    unit = F.normalize(points.double(), dim=-1)
    return float(torch.cdist(unit, unit[chosen]).amin(dim=1).max())


def test_selection_is_greedy_by_the_definition() -> None:
    points = rows(60, 8)
    found = coreset(points, 0.3, seed=3)
    assert found.tolist() == greedy(F.normalize(points, dim=-1), 18, int(found[0]))


def test_within_twice_the_best_radius() -> None:
    """Every choice of 3 of 12 rows is tried."""
    from itertools import combinations

    points = rows(12, 3)
    best = min(radius(points, torch.tensor(chosen)) for chosen in combinations(range(12), 3))
    for seed in range(5):
        assert radius(points, coreset(points, 0.25, seed=seed)) <= 2 * best + 1e-9


def test_one_row_of_every_cluster_comes_first() -> None:
    """Also behind a projection of 24 channels to 10; a random choice of twelve misses some."""
    for width in (10, 128):
        assert len(set((coreset(clusters(240), 0.05, width=width) % 12).tolist())) == 12


def test_distances_are_off_by_the_radius_at_most() -> None:
    points, asked = clusters(300), rows(1, 40, 24, seed=5)
    chosen = coreset(points, 0.2)

    def chords(kept: Tensor) -> Tensor:
        return (2 - 2 * nearest_cosine(asked, bank(kept))).clamp(min=0).sqrt()

    gap = chords(points[chosen]) - chords(points)
    assert gap.min() >= -1e-5
    assert gap.max() <= radius(points, chosen) + 1e-5


def test_seeded_distinct_and_of_the_asked_size() -> None:
    points = rows(200, 300)  # wider than the projection
    found = coreset(points, 0.25, seed=4)
    assert torch.equal(found, coreset(points, 0.25, seed=4))
    assert not torch.equal(found, coreset(points, 0.25, seed=5))
    assert len(set(found.tolist())) == 50
    assert len(coreset(points, 1e-9)) == 1
    same = coreset(torch.ones(40, 8), 0.5)  # all distances are zero
    assert len(set(same.tolist())) == 20


def test_the_callers_random_numbers_stay() -> None:
    before = torch.random.get_rng_state()
    coreset(rows(50, 300), 0.2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_whole_answers_as_exact() -> None:
    points, asked = rows(50, 8), rows(2, 5, 8, seed=2)
    kept, positions = streamed_coreset(parts := points.split(13), 1.0, [len(part) for part in parts])
    assert torch.equal(positions, torch.arange(50))
    assert torch.equal(nearest_cosine(asked, bank(kept)), nearest_cosine(asked, bank(points)))


def test_streams_block_by_block() -> None:
    """Each block's own coreset, found again in the stream by its position, within the worst of the blocks' radii."""
    points, alive = clusters(300), []

    def blocks() -> Any:
        for block in points.split(70):
            alive.append(len(block))
            yield block.clone()

    kept, positions = streamed_coreset(blocks(), 0.1, [70, 70, 70, 70, 20], seed=2)
    assert alive == [70, 70, 70, 70, 20]
    assert torch.equal(kept, points[positions])
    assert len(positions) == 4 * 7 + 2
    own = [coreset(block, 0.1, seed=2) + 70 * i for i, block in enumerate(points.split(70))]
    assert torch.equal(positions, torch.cat(own))
    worst = max(radius(block, part - 70 * i) for i, (block, part) in enumerate(zip(points.split(70), own, strict=True)))
    assert radius(points, positions) <= worst + 1e-9


def test_what_cannot_be_chosen_is_refused() -> None:
    for fraction in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"fraction in \(0, 1\] of at least one row; got"):
            coreset(rows(5, 3), fraction)
    with pytest.raises(UsageError, match="got 0.5 of 0 rows"):
        coreset(rows(0, 3), 0.5)
    with pytest.raises(UsageError, match="at least one block of rows; got none"):
        streamed_coreset([], 0.5, [])


# ------------------------------------------------------------------ faiss
def test_faiss_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"faiss needs an optional dependency.*zsad\[faiss\]"):
        faiss_index(bank(rows(9, 4)))


@pytest.mark.filterwarnings("ignore:builtin type [sS]wig.*:DeprecationWarning")
def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss", reason="the extra 'faiss' is not installed")
    points, asked = clusters(600), rows(2, 30, 24, seed=5)
    exact = nearest_cosine(asked, bank(points))
    torch.testing.assert_close(nearest_in_index(asked, faiss_index(bank(points))), exact, rtol=0, atol=1e-5)
    everywhere = nearest_in_index(asked, faiss_index(bank(points), cells=12, probes=12))
    torch.testing.assert_close(everywhere, exact, rtol=0, atol=1e-5)
    narrow = nearest_in_index(asked, faiss_index(bank(points), cells=12, probes=1))
    assert (narrow <= exact + 1e-5).all()
    assert (narrow < exact - 1e-3).any()
    assert torch.equal(narrow, nearest_in_index(asked, faiss_index(bank(points), cells=12, probes=1)))
    with pytest.raises(UsageError, match="cells=601: a bank of 600 rows"):
        faiss_index(bank(points), cells=601)


def test_a_reference_is_left_out_of_a_bank() -> None:
    bank = Bank(torch.arange(12.0).unflatten(0, (6, 2)), torch.tensor([0, 0, 1, 1, 2, 2]), -1)
    left = leave_out(bank, 1)
    assert left.rows.tolist() == [[0, 1], [2, 3], [8, 9], [10, 11]]
    assert (left.source.tolist(), left.sign) == ([0, 0, 1, 1], -1)
    assert len(leave_out(Bank(bank.rows, 0 * bank.source), 0).rows) == 0
