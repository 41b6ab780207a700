"""Principal components from sums, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsad.references.components import PatchSums, residual, residual_along


def rows(seed: int = 0, count: int = 300) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=random) @ torch.randn(12, 12, generator=random) + 5


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_components_and_residual_equal_scikit_learn(variance: float) -> None:
    from sklearn.decomposition import PCA

    x = rows()
    theirs = PCA(variance, svd_solver="full").fit(x.double().numpy())
    mean, outside = PatchSums.of(x).outside(variance)
    assert outside.shape == (12, 12 - theirs.n_components_)
    back = theirs.inverse_transform(theirs.transform(x.double().numpy()))
    expected = ((x.numpy() - back) ** 2).sum(1)
    np.testing.assert_allclose(residual_along(x, mean, outside).numpy(), expected, rtol=1e-3, atol=1e-3)
    components = torch.from_numpy(theirs.components_.T).float()
    np.testing.assert_allclose(residual(x, mean, components).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_sums_add_up_and_can_be_taken_off() -> None:
    x = rows()
    whole, parts = PatchSums.of(x), [PatchSums.of(part) for part in x.split(70)]
    total = sum(parts[1:], parts[0])
    for one, other in ((total, whole), (whole - parts[0], PatchSums.of(x[70:]))):
        assert one.count == other.count
        torch.testing.assert_close(one.total, other.total)
        torch.testing.assert_close(one.products, other.products, rtol=1e-6, atol=1e-3)


def test_some_channels_are_as_if_there_were_no_others() -> None:
    x, chosen = rows(), torch.tensor([1, 4, 7, 8])
    some, alone = PatchSums.of(x).outside(0.8, chosen), PatchSums.of(x[:, chosen]).outside(0.8)
    both = residual_along(x[:, chosen], *some), residual_along(x[:, chosen], *alone)
    torch.testing.assert_close(*both, rtol=1e-3, atol=1e-4)


def test_rows_that_are_all_the_same_have_no_residual() -> None:
    same = torch.full((20, 4), 3.0)
    torch.testing.assert_close(residual_along(same, *PatchSums.of(same).outside(0.99)), torch.zeros(20), rtol=0, atol=1e-5)
