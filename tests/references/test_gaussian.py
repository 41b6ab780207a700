"""Gaussians of patches from sums: against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsad.errors import UsageError
from zsad.references.gaussian import Gaussian, gaussian, gaussian_per_position, with_lengths

CHANNELS = 6


def rows(count: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Correlated rows far from the origin."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(99))
    return scale * (torch.randn(count, CHANNELS, generator=random) @ mixing + 3)


def of(x: torch.Tensor, shrinkage: float | str) -> Gaussian:
    longer = with_lengths(x.double())
    return gaussian(longer.sum(0), longer.T @ longer, len(x), shrinkage)  # type: ignore[arg-type]


def squared(found: Gaussian, x: torch.Tensor) -> np.ndarray:
    """Squared Mahalanobis distances."""
    return found.distance(x[None])[0].double().numpy() ** 2 * x.shape[1]


@pytest.mark.parametrize("count", [5, 9, 40, 2000])  # also fewer than channels
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_equals_ledoit_and_wolf_of_scikit_learn(count: int, scale: float) -> None:
    from sklearn.covariance import LedoitWolf

    x, asked = rows(count, scale=scale), rows(30, seed=1, scale=scale)
    theirs = LedoitWolf().fit(x.double().numpy())
    assert 0 < theirs.shrinkage_ < 1
    np.testing.assert_allclose(squared(of(x, "ledoit_wolf"), asked), theirs.mahalanobis(asked.double().numpy()), rtol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1])
def test_equals_the_density_of_scipy(shrinkage: float) -> None:
    from scipy.stats import multivariate_normal
    from sklearn.covariance import ShrunkCovariance

    x, asked = rows(50), rows(30, seed=1).double()
    spread = ShrunkCovariance(shrinkage=shrinkage).fit(x.double().numpy()).covariance_
    density = multivariate_normal(x.double().mean(0), spread).logpdf(asked)
    expected = -2 * density - CHANNELS * np.log(2 * np.pi) - np.linalg.slogdet(spread)[1]
    np.testing.assert_allclose(squared(of(x, shrinkage), asked.float()), expected, rtol=1e-4)


def test_sums_of_parts_are_those_of_all() -> None:
    parts = [with_lengths(some.double()) for some in rows(60).split(20)]
    total, products = sum(one.sum(0) for one in parts), sum(one.T @ one for one in parts)
    assert isinstance(total, torch.Tensor)
    assert isinstance(products, torch.Tensor)
    found = gaussian(total, products, 60, "ledoit_wolf")
    torch.testing.assert_close(found.whitening, of(rows(60), "ledoit_wolf").whitening)


@pytest.mark.parametrize("shrinkage", ["ledoit_wolf", 0.2])
def test_positions_have_their_own(shrinkage: float | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.references.gaussian.TOGETHER", 2)
    x = torch.stack([rows(9, seed) + seed for seed in range(5)], 1)  # (K, L, C)
    asked = torch.stack([rows(3, 10 + seed) for seed in range(5)], 1)
    found = gaussian_per_position(x, shrinkage).distance(asked)  # type: ignore[arg-type]
    for place in range(5):
        alone = of(x[:, place], shrinkage).distance(asked[:, place][None])[0]
        torch.testing.assert_close(found[:, place], alone, rtol=1e-4, atol=1e-5)


def test_places_where_references_agree_are_not_infinitely_strict() -> None:
    x = torch.stack([rows(4), rows(4, 1)], 1)
    x[:, 0] = 1.0
    with pytest.raises(UsageError, match="no inverse"):
        gaussian_per_position(x, "ledoit_wolf")
    found = gaussian_per_position(x, "ledoit_wolf", 0.01)
    added = 0.01 * x.double().var(0, correction=0).mean()
    asked = x[:1].clone()
    asked[:, 0] += 0.5
    assert found.distance(asked)[0, 0].item() == pytest.approx(0.5 / added.sqrt().item(), rel=1e-5)


@pytest.mark.parametrize(("count", "shrinkage"), [(6, 0.0), (1, "ledoit_wolf"), (3, 0.0)])
def test_a_covariance_without_inverse(count: int, shrinkage: float | str) -> None:
    with pytest.raises(UsageError, match=f"The covariance of {count} patches of 6 channels has no inverse. Give more referenc"):
        of(rows(count), shrinkage)


def test_patches_of_another_encoder() -> None:
    found = of(rows(50), 0.1)
    with pytest.raises(UsageError, match=r"the shape \(6,\) and the pictures' patches \(5,\)"):
        found.distance(torch.ones(1, 3, 5))
    found = gaussian_per_position(torch.stack([rows(9), rows(9, 1)], 1), 0.1)
    with pytest.raises(UsageError, match=r"the shape \(2, 6\) and the pictures' patches \(3, 6\)"):
        found.distance(torch.ones(1, 3, 6))
