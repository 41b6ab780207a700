"""The losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from zsad.alignment.losses import dice, focal, top_mean


def test_focal_of_one_pixel() -> None:
    probability = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)
    # the target 1 becomes (1e-5, 1 - 1e-5), so the chosen probability is 0.25e-5 + 0.75 * (1 - 1e-5), and 1e-5 is added
    chosen = 0.25e-5 + 0.75 * (1 - 1e-5) + 1e-5
    expected = -((1 - chosen) ** 2) * math.log(chosen)
    assert focal(probability, torch.ones(1, 1, 1)).item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(0.25**2 * math.log(4 / 3), rel=1e-3)


def test_focal_is_the_mean_over_pixels_and_forgives_the_easy() -> None:
    probability = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 2, 1, 2)
    target = torch.tensor([[[0, 0]]])
    alone = [focal(probability[..., i : i + 1], target[..., i : i + 1]).item() for i in range(2)]
    assert focal(probability, target).item() == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert alone[1] / alone[0] > 100  # plain cross-entropy: a factor of 9


def test_focal_with_a_certain_mistake_is_finite() -> None:
    probability = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert torch.isfinite(focal(probability, torch.ones(1, 1, 1)))


def test_dice_by_hand() -> None:
    p = torch.tensor([[[1.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    g = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    first = (2 * 1.0 + 1) / (1.5 + 2 + 1)  # overlap 1, sums 1.5 and 2
    assert dice(p, g).item() == pytest.approx(1 - (first + 1) / 2)  # the two empty masks of the second agree


def test_top_mean_takes_at_least_one_place() -> None:
    maps = torch.arange(12.0).view(2, 2, 3)
    assert top_mean(maps, 0.34).tolist() == [4.5, 10.5]
    assert top_mean(maps, 0.0).tolist() == [5.0, 11.0]
