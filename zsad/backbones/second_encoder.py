"""What a method reads of an encoder beside its CLIP."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zsad.alignment.maps import resize_tokens
from zsad.images.preprocessing import Squash

__all__ = ["aligned_patches"]


def aligned_patches(encoder: Any, images: Tensor, before: Squash, grid: tuple[int, int]) -> Tensor:
    """The last layer's patches of another encoder, on the grid of the first: (B, h * w, C).

    Args:
        encoder: a ``types.Backbone``; where it has a ``norm`` (DINOv2's final LayerNorm), patches are behind it.
        images: (B, 3, H, W) as ``before`` preprocessed them for the first encoder.
        before: preprocessing of the first encoder.
        grid: (h, w); patches of another grid are resized to it, bilinear.
    """
    tap = encoder.encode_image(encoder.preprocess.again(images, before), (encoder.depth,)).taps[encoder.depth]
    patches: Tensor = encoder.norm(tap.patches) if hasattr(encoder, "norm") else tap.patches
    return resize_tokens(patches, tap.grid, grid)
