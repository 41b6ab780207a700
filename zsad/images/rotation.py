"""Rotated copies of pictures, for methods that remember reference images at several angles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["angles_of", "rotated", "rotated_again"]

LARGEST = 345.0  # degrees, of drawn angles


def rotated(rgb: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """(H, W, 3) turned anticlockwise about its middle, in the same frame: nearest pixels, black corners; 0 is the picture."""
    return np.array(Image.fromarray(np.ascontiguousarray(rgb)).rotate(degrees)) if degrees else rgb


def rotated_again(images: Tensor, preprocess: Any, degrees: float) -> Tensor:
    """Pictures (B, 3, H, W) that ``preprocess``, a ``Squash``, made, turned at the size that they have now."""
    if not degrees:
        return images
    turned = [preprocess(rotated(pixels, degrees)) for pixels in preprocess.pixels(images).cpu().numpy()]
    return torch.stack(turned).to(images)


def angles_of(rotations: int | tuple[float, ...], seed: int, draws: int = 1) -> tuple[float, ...]:
    """Given angles as they are; or for a number as many, drawn evenly from 0 to 345 degrees, ``draws`` times in a row."""
    if not isinstance(rotations, int):
        return tuple(rotations)
    generator = torch.Generator().manual_seed(seed)
    return tuple(float(torch.empty(1).uniform_(0, LARGEST, generator=generator)) for _ in range(rotations * draws))
