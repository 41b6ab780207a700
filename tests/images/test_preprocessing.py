"""A picture at two sizes on one sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, SideBySide, Squash

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8)


@pytest.mark.parametrize(("size", "second", "shape"), [(28, 16, (28, 44)), (16, 28, (28, 44))])
def test_each_square_is_what_its_own_resize_makes(size: int, second: int, shape: tuple[int, int]) -> None:
    rule = SideBySide(size, IMAGENET_MEAN, IMAGENET_STD, "bilinear", second)
    sheets = torch.stack([rule(PICTURE), rule(PICTURE[:20])])
    assert sheets.shape == (2, 3, *rule.shape) == (2, 3, *shape)
    for found, side in zip(rule.parts(sheets), (size, second), strict=True):
        own = Squash(side, IMAGENET_MEAN, IMAGENET_STD, "bilinear")
        assert torch.equal(found, torch.stack([own(PICTURE), own(PICTURE[:20])]))
    assert rule.resized(PICTURE)[16:].reshape(-1, 3).min(axis=1).tolist().count(0) >= 12 * 16, "black below the smaller one"
