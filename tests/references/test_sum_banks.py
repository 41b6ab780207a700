"""Sums of patches in memory banks: packed, added, taken off; and the subspace of them, against scikit-learn."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch

from zsad.errors import UsageError
from zsad.references.components import PatchSums
from zsad.references.sum_banks import SUMS, fit, joined, less, packed, sums_of, unpacked, with_sums
from zsad.types import Bank


def rows(seed: int = 0, count: int = 120, width: int = 12) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=random) @ torch.randn(width, width, generator=random) + 5


def bank(tensor: torch.Tensor) -> Bank:
    return Bank(tensor, torch.zeros(len(tensor), dtype=torch.int64))


@pytest.mark.parametrize("width", [1, 5, 12])
def test_nothing_is_lost_when_packed(width: int) -> None:
    sums = PatchSums.of(rows(width=width), exact=True, left_out=7)
    again = unpacked(packed(sums))
    assert (again.count, again.left_out) == (120, 7)
    assert torch.equal(again.total, sums.total)
    assert torch.equal(again.products, sums.products)
    assert packed(sums).dtype == torch.int32
    assert packed(sums).shape[1] == 2 * width


def test_added_and_taken_off() -> None:
    parts = [PatchSums.of(some, exact=True) for some in rows().split(40)]
    whole = packed(reduce(PatchSums.__add__, parts))
    assert torch.equal(joined(SUMS, map(packed, parts)), whole)
    below = unpacked(torch.cat([packed(one) for one in parts]))  # one below the other
    assert torch.equal(below.products, unpacked(whole).products)
    torch.testing.assert_close(unpacked(less(whole, packed(parts[0]))).products, (parts[1] + parts[2]).products)
    assert joined("3", [torch.ones(1, 2), torch.zeros(2, 2)]).tolist() == [[1, 1], [0, 0], [0, 0]]
    more = with_sums(bank(packed(parts[0])), parts[1:])
    assert torch.equal(unpacked(more.rows).total, unpacked(whole).total)


def test_the_subspace_equals_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x = rows()
    theirs = PCA(5, svd_solver="full").fit(x.double().numpy())
    found = fit({SUMS: bank(packed(PatchSums.of(x, exact=True)))}, 5, False)
    np.testing.assert_allclose(found.values[:5], theirs.explained_variance_, rtol=1e-5)
    inside = theirs.transform(x.double().numpy())
    np.testing.assert_allclose(found.distance(x, "euclidean"), (inside**2).sum(1), rtol=1e-3, atol=1e-3)
    expected = (inside**2 / theirs.explained_variance_).sum(1)
    np.testing.assert_allclose(found.distance(x, "mahalanobis"), expected, rtol=1e-3, atol=1e-3)
    back = theirs.inverse_transform(inside)
    np.testing.assert_allclose(found.distance(x), ((x.numpy() - back) ** 2).sum(1), rtol=1e-3, atol=1e-3)
    cosine = (back * x.numpy()).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(x.numpy(), axis=1)
    np.testing.assert_allclose(found.distance(x, "cosine"), 1 - cosine, atol=1e-5)
    by_share = PCA(0.9, svd_solver="full").fit(x.double().numpy())
    assert fit({SUMS: bank(packed(PatchSums.of(x, exact=True)))}, 0.9, False).held == by_share.n_components_
    assert fit({SUMS: bank(packed(PatchSums.of(x, exact=True)))}, 99, False).held == 12  # no more than channels


def test_a_subspace_is_computed_once_for_the_same_bank() -> None:
    one = bank(packed(PatchSums.of(rows(), exact=True)))
    assert fit({SUMS: one}, 0.9, True) is fit({SUMS: one}, 0.9, True)
    assert fit({SUMS: one}, 0.9, True) is not fit({SUMS: one}, 0.8, True)


def test_a_mask_leaves_patches_out() -> None:
    patches, kept = rows(count=20).unflatten(0, (2, 10)), torch.ones(2, 10, dtype=torch.bool)
    kept[1, :4] = False
    first, second = sums_of(patches, kept)
    assert (first.count, first.left_out, second.count, second.left_out) == (10, 0, 6, 4)
    torch.testing.assert_close(second.total, patches[1, 4:].double().sum(0))
    both = first + second
    assert (both.count, both.left_out) == (16, 4)
    assert (both - first).left_out == 4


def test_one_patch_has_no_components() -> None:
    with pytest.raises(UsageError, match="need two patches or more; got 1"):
        PatchSums.of(rows(count=1), exact=True).subspace(0.9)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_references() -> None:
    """A tenth of the patches of 1,000 references of 1,369 patches and 1,024 channels, on 256 channels: one bank's size."""
    width, pieces = 256, (PatchSums.of(rows(seed, 137, 256), exact=True) for seed in range(100))
    whole = joined(SUMS, map(packed, pieces))
    assert whole.numel() * 4 < 8 * (width + 2) * (width + 3) // 2 + 8 * 2 * width
    assert unpacked(whole).count == 13_700
