"""Concept subspaces against what is written out in full."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zsad.alignment.concepts import concept_subspace, guided, ignored, kept_directions, mean_nearest, orthonormal


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(*lists: torch.Tensor) -> torch.Tensor:
    """All differences, written out."""
    rows = []
    for i, one in enumerate(lists):
        if len(lists) == 1:
            rows += [one[a] - one[b] for a in range(len(one)) for b in range(a)]
        rows += [one[a] - other[b] for other in lists[:i] for a in range(len(one)) for b in range(len(other))]
    return torch.stack(rows)


@pytest.mark.parametrize("sizes", [(6,), (4, 5), (3, 2, 4)])
def test_equals_the_svd_of_all_differences(sizes: tuple[int, ...]) -> None:
    lists = [noise(size, 16, seed=size) for size in sizes]
    found, (_, values, basis) = concept_subspace(*lists), torch.linalg.svd(pairs(*lists).double(), full_matrices=False)
    rank = sum(sizes) - 1
    assert found.basis.shape == (rank, 16)
    torch.testing.assert_close(found.values, values[:rank])
    for count in (1, 2, rank):
        own, theirs = found.basis[:count].double(), basis[:count]
        torch.testing.assert_close(own.T @ own, theirs.T @ theirs, rtol=0, atol=1e-6)


def test_equal_texts_have_no_direction() -> None:
    assert concept_subspace(noise(1, 8).expand(4, 8)).basis.shape == (0, 8)


def test_both_parts_make_the_whole_and_are_orthogonal() -> None:
    features, basis = noise(5, 12), orthonormal(noise(3, 12, seed=1))
    torch.testing.assert_close(guided(features, basis) + ignored(features, basis), features)
    torch.testing.assert_close(
        (guided(features, basis) * ignored(features, basis)).sum(dim=1), torch.zeros(5), atol=1e-5, rtol=0
    )
    assert orthonormal(torch.cat([noise(2, 12), noise(2, 12)])).shape == (2, 12)  # repeated vectors span nothing new


def test_directions_keep_the_cosines_of_projections() -> None:
    features, other, texts = noise(5, 12), noise(4, 12, seed=1), noise(4, 12, seed=2)
    basis = concept_subspace(texts).basis

    def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T

    for way, rows in ((guided, kept_directions(texts, None)), (ignored, kept_directions(None, texts))):
        torch.testing.assert_close(cosines(features @ rows.T, other @ rows.T), cosines(way(features, basis), way(other, basis)))
    assert kept_directions(texts, None, 2).shape == (2, 12)
    assert kept_directions(None, texts).shape == (9, 12)


def test_what_is_ignored_is_not_looked_at() -> None:
    focus, ignore = noise(4, 12, seed=2), noise(3, 12, seed=3)
    rows, removed = kept_directions(focus, ignore), concept_subspace(ignore).basis
    torch.testing.assert_close(rows @ removed.T, torch.zeros(3, 2), atol=1e-6, rtol=0)
    assert kept_directions(focus, focus).shape == (0, 12)
    with pytest.raises(ValueError, match="Neither"):
        kept_directions(None, None)


def test_mean_of_the_nearest() -> None:
    rows, references = noise(3, 6), noise(5, 6, seed=1)
    distance = torch.stack([torch.stack([1 - torch.cosine_similarity(a, b, dim=0) for b in references]) for a in rows])
    torch.testing.assert_close(mean_nearest(rows, references, 2), distance.sort(dim=1).values[:, :2].mean(dim=1))
    torch.testing.assert_close(mean_nearest(7 * rows, references, 99), distance.mean(dim=1))
    assert mean_nearest(torch.zeros(1, 6), references, 3).item() == 1
