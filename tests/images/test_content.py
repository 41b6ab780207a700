"""Frames without content are recognised as such, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from zsad.images.content import blank_notes, is_blank
from zsad.images.reading import list_images, load_image


def noise(level: float, deviation: float, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    values = level + np.random.default_rng(0).normal(0, deviation, (*size, 3))
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "what"),
    [
        (noise(0, 0), "black"),
        (noise(0, 4), "almost black"),
        (noise(255, 0), "white"),
        (noise(255, 3), "almost white"),
        (noise(128, 0), "of one colour (128, 128, 128)"),
        (noise(90, 2), "of one colour (90, 90, 90)"),
        (np.full((1, 1, 3), 7, np.uint8), "almost black"),
        (np.full((3, 900, 3), (200, 30, 40), np.uint8), "of one colour (200, 30, 40)"),
        (np.full((3000, 2000, 3), 77, np.uint8), "of one colour (77, 77, 77)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frames_without_content(rgb: np.ndarray, what: str) -> None:
    assert blank_notes(rgb) == (f"without content: the frame is {what}, so it is for review",)
    assert is_blank(("turned upright", *blank_notes(rgb)))


def test_a_few_broken_pixels_are_no_content() -> None:
    rgb = noise(0, 1)
    rgb[5, 5], rgb[100, 200] = 255, 200
    assert is_blank(blank_notes(rgb))


def changed(place: tuple[slice, slice], by: int) -> np.ndarray:
    """A plain surface with a sensor's noise, and something on it."""
    rgb = noise(128, 2).astype(int)
    rgb[place] += by
    return rgb.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [
        changed((slice(50, 60), slice(50, 60)), 40),
        changed((slice(50, 51), slice(50, 80)), -60),
        changed((slice(50, 90), slice(50, 90)), 6),
        noise(128, 8),
        np.repeat(np.linspace(120, 134, 320).astype(np.uint8)[None, :, None], 240, axis=0).repeat(3, axis=2),
        np.indices((64, 64)).sum(0)[..., None].repeat(3, axis=2).astype(np.uint8) % 2 * 255,
    ],
    ids=["spot", "scratch", "faint stain", "grain", "shading", "pattern"],
)
def test_plain_surfaces_have_content(rgb: np.ndarray) -> None:
    assert blank_notes(rgb) == ()


def test_real_pictures_have_content(root: object) -> None:
    for ref in list_images(f"{root}/demo/examples"):
        assert blank_notes(load_image(ref).rgb) == (), ref.name
