"""Preprocessing of RGB pictures into a backbone's input tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "CornerSquash",
    "ShorterSide",
    "SideBySide",
    "Squash",
    "squashed_middle",
]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Squash:
    """Resizes to a square without keeping the aspect ratio (PIL, antialiased), scales and normalises.

    This is what every method of the field does at test time (torchvision ``Resize((S, S), BICUBIC)``, ``ToTensor``,
    ``Normalize``); AnoVL and Tipsomaly resize bilinearly.
    """

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resample: str = "bicubic"  # or "bilinear"

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the resized picture."""
        return self.size, self.size

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what is made of a square picture."""
        return self.target(self.size, self.size)

    def resized(self, rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(H, W, 3) uint8 -> (size, size, 3) uint8."""
        height, width = self.target(*rgb.shape[:2])
        if rgb.shape[:2] == (height, width):
            return rgb
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling[self.resample.upper()]))

    def __call__(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 -> (3, size, size) float32."""
        pixels = torch.from_numpy(np.array(self.resized(rgb), copy=True)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def pixels(self, images: Tensor) -> Tensor:
        """Preprocessed pictures (B, 3, H, W) -> their RGB values (B, H, W, 3), uint8."""
        mean, std = (images.new_tensor(row)[:, None, None] for row in (self.mean, self.std))
        return (255 * (images * std + mean)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def again(self, images: Tensor, before: Squash) -> Tensor:
        """Pictures (B, 3, H, W) that ``before`` preprocessed for another encoder -> (B, 3, size, size) for this one.

        Their mean and deviation are taken off exactly; another size is reached by a second resize (bicubic, antialiased).
        """
        old, own = ([images.new_tensor(row)[:, None, None] for row in (one.mean, one.std)] for one in (before, self))
        pixels = images * old[1] + old[0]
        if before.size != self.size:
            pixels = F.interpolate(pixels, size=self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return (pixels - own[0]) / own[1]


@dataclass(frozen=True)
class CornerSquash(Squash):
    """As ``Squash``, but of floating-point pixels, bilinear, with corners aligned and without antialias (MetaUAS)."""

    def __call__(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 -> (3, size, size) float32."""
        pixels = torch.from_numpy(np.array(rgb, copy=True)).permute(2, 0, 1).float() / 255
        pixels = F.interpolate(pixels[None], size=(self.size, self.size), mode="bilinear", align_corners=True)[0]
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


@dataclass(frozen=True)
class ShorterSide(Squash):
    """As ``Squash``, but the shorter side becomes ``size`` and the aspect ratio stays: (3, H', W')."""

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the resized picture, fractions of a pixel dropped."""
        short = min(height, width)
        return self.size * height // short, self.size * width // short


@dataclass(frozen=True)
class SideBySide(Squash):
    """As ``Squash``, at two sizes: a sheet with one square of ``size``, and at the right of its top one of ``second`` pixels.

    What is below the smaller square is black. (3, larger side, size + second) in place of (3, size, size).
    """

    second: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the sheet."""
        return max(self.size, self.second), self.size + self.second

    def resized(self, rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(H, W, 3) uint8 -> the sheet, uint8."""
        sheet = np.zeros((*self.shape, 3), np.uint8)
        for start, side in ((0, self.size), (self.size, self.second)):
            sheet[:side, start : start + side] = Squash(side, resample=self.resample).resized(rgb)
        return sheet

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Preprocessed sheets (B, 3, H, W) -> the pictures at ``size`` and at ``second`` pixels."""
        return images[:, :, : self.size, : self.size], images[:, :, : self.second, self.size :]


def squashed_middle(rgb: np.ndarray[Any, Any], like: Squash, part: float) -> Tensor:
    """The middle of a picture that was resized bilinearly to a square; (H, W, 3) uint8 -> (3, size, size).

    Args:
        rgb: of any size.
        like: size of the middle, mean and deviation.
        part: side of the middle as a part of the square's; 1: the whole picture.
    """
    whole = Squash(round(like.size / part), like.mean, like.std, "bilinear")(rgb)
    first = (whole.shape[1] - like.size) // 2
    return whole[:, first : first + like.size, first : first + like.size]
