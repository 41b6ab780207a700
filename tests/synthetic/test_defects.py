"""Synthetic defects: seeded, their masks are what changed, and they stay on the object."""

from __future__ import annotations

import numpy as np
import pytest

from zsad.errors import UnknownName
from zsad.prompts.prompt_set import PromptSet
from zsad.synthetic.defects import CHANGED, DEFECTS, SMALLEST, make_defect
from zsad.synthetic.shapes import smooth_noise


def texture(seed: int = 0, side: int = 96) -> np.ndarray:
    """A grey-brown noise texture."""
    field = smooth_noise(np.random.default_rng(seed), (side, side), 12, 3)[..., None]
    return np.clip(128 + 25 * field * (1, 0.9, 0.7), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", DEFECTS)
def test_mask_is_what_changed(kind: str) -> None:
    rgb = texture()
    for seed in range(6):
        before = rgb.copy()
        bad, mask, word = make_defect(rgb, np.random.default_rng(seed), kind)
        assert (rgb == before).all(), "the input was written to"
        assert bad.shape == rgb.shape
        assert bad.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        differs = np.abs(bad.astype(int) - rgb).max(2) >= CHANGED
        assert (mask[differs] == 1).all(), "a change outside the mask"
        assert SMALLEST <= mask.mean() < 0.7
        assert differs.sum() >= 0.4 * mask.sum(), "the mask is mostly unchanged places"
        assert word == kind or word == "defect"


@pytest.mark.parametrize("kind", DEFECTS)
def test_the_same_seed_gives_the_same_defect(kind: str) -> None:
    first, second, other = (make_defect(texture(), np.random.default_rng(seed), kind) for seed in (3, 3, 4))
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
    assert (first[0] != other[0]).any()


def test_every_word_is_in_the_default_vocabulary() -> None:
    words = {make_defect(texture(), np.random.default_rng(0), kind)[2] for kind in DEFECTS}
    assert words - {"defect"} == set(PromptSet.load("compact").states) - {"normal", "anomalous"}


def test_starts_on_the_object() -> None:
    where = np.zeros((96, 96), bool)
    where[40:50, 60:70] = True
    for kind in ("hole", "broken", "colour", "missing"):
        _, mask, _ = make_defect(texture(), np.random.default_rng(1), kind, where)
        rows, columns = np.nonzero(mask)
        assert abs(rows.mean() - 45) < 20, kind
        assert abs(columns.mean() - 65) < 20, kind


def test_some_are_faint_and_some_are_plain() -> None:
    rgb = texture()
    strengths = []
    for seed in range(40):
        bad, mask, _ = make_defect(rgb, np.random.default_rng(seed), "stain")
        strengths.append(np.abs(bad.astype(int) - rgb).max(2)[mask == 1].mean())
    assert np.quantile(strengths, 0.1) < 22 < 30 < np.quantile(strengths, 0.9)


def test_any_size_and_shape() -> None:
    rgb = texture(side=200)[:64]
    for kind in DEFECTS:
        assert make_defect(rgb, np.random.default_rng(0), kind)[1].shape == (64, 200)


def test_unknown_kind() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'scratch'"):
        make_defect(texture(), np.random.default_rng(0), "scrach")


def test_smooth_noise_is_standardised() -> None:
    field = smooth_noise(np.random.default_rng(0), (50, 80), 6, 2)
    assert field.shape == (50, 80)
    assert abs(field.mean()) < 1e-5
    assert abs(field.std() - 1) < 1e-4
