"""No encoder at all: the pixels as they are, for a method that is one network from the picture on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zsad.errors import SizeMismatch, UsageError
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, CornerSquash
from zsad.registry import register_backbone
from zsad.types import ImageFeatures, Tap

__all__ = ["Pixels"]

STRIDE = 32  # of the networks that it feeds


class Pixels(nn.Module):
    """The preprocessed picture as its only layer; a ``types.Backbone`` without weights."""

    activation = position_embedding = weights_sha256 = ""
    depth = 1

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        if image_size % STRIDE:
            raise SizeMismatch(name, image_size, STRIDE)
        self.name, self.image_size = name, image_size
        self.preprocess = CornerSquash(image_size, IMAGENET_MEAN, IMAGENET_STD)

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """(B, 3, H, W) -> the mean colour, (B, 3), and the pixels of layer 1, (B, H * W, 3)."""
        grid = (images.shape[-2], images.shape[-1])
        return ImageFeatures(images.mean(dim=(2, 3)), {tap: Tap(images.flatten(2).transpose(1, 2), grid) for tap in taps})


@register_backbone("pixels")
def load_pixels(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> Pixels:
    """Pictures of ``image_size``, resized bilinearly with corners aligned, less ImageNet's mean, by its deviation.

    Args:
        name: "pixels".
        activation: there is none.
        position_embedding: there is none.
        image_size: side in pixels, a multiple of 32; None is 256.
    """
    if activation or position_embedding:
        raise UsageError("The backbone 'pixels' has no weights, so it takes neither activation= nor position_embedding=.")
    return Pixels(name, image_size or 256)
