"""SigLIP's image tower (Zhai et al. 2023), by transformers: no class token, and here no text.

Layer l is transformers' ``hidden_states[l]``, the raw output of the l-th block; the LLaVA family's "last layer removed" is
``depth - 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zsad.errors import UsageError
from zsad.images.preprocessing import Squash
from zsad.types import ImageFeatures, Tap

__all__ = ["SigLIP"]

HALF = (0.5, 0.5, 0.5)  # mean and deviation of the input


class SigLIP(nn.Module):
    """A SigLIP image tower; fulfils ``types.Backbone``.

    Args:
        name: what it calls itself.
        tower: transformers' vision model.
        config: of the tower.
        image_size: side of the input; None: the native one. Positions are resized by transformers, bicubic.
    """

    activation, position_embedding = "gelu", "bicubic"

    def __init__(self, name: str, tower: nn.Module, config: Any, image_size: int | None = None, sha256: str = "") -> None:
        super().__init__()
        self.name, self.weights_sha256, self.tower = name, sha256, tower
        self.depth, self.width, self.patch_size = config.num_hidden_layers, config.hidden_size, config.patch_size
        self.native_size = config.image_size
        self.image_size = image_size or self.native_size
        self.preprocess = Squash(self.image_size, HALF, HALF)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of whole patches of (B, 3, H, W); what is left of the border is not seen."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> ``.image`` (B, C), the mean of the last block's tokens, and the tapped blocks, raw.

        Raises:
            UsageError: a tap that is no block.
        """
        if any(not 1 <= tap <= self.depth for tap in taps):
            raise UsageError(f"taps={tuple(taps)} must lie in 1..{self.depth}, the layers of {self.name}.")
        resized = images.shape[-1] != self.native_size
        states = self.tower(images, output_hidden_states=True, interpolate_pos_encoding=resized).hidden_states
        grid = self.grid(images)
        return ImageFeatures(states[-1].mean(dim=1), {tap: Tap(states[tap], grid) for tap in taps})
