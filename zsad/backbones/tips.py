"""TIPS: an image tower and a text tower in one space (Maninis et al., "TIPS: Text-Image Pretraining with Spatial Awareness",
ICLR 2025, arXiv 2410.16512; google-deepmind/tips, read at 4db271d; code Apache-2.0, weights CC BY 4.0).

The image tower is a ViT with a class token and one register, which serves as a second class token and has no position; both
towers are made of ``blocks.Block``, with layer scale folded into the linear layers. Pictures come as they are in 0 to 1.

Letters: B pictures, L patches, C width of both towers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from zsad.backbones.blocks import MLP, SwiGLU, TowerShape, Transformer
from zsad.backbones.tips_text import LONGEST, TIPSText, Tokenizer
from zsad.backbones.vit import resize_positions
from zsad.errors import SizeMismatch, UsageError
from zsad.images.preprocessing import Squash
from zsad.types import ImageFeatures, Tap

__all__ = ["TIPS", "TIPSVision"]

EPSILON = 1e-6  # of the image tower's norms
POSITIONS = "bilinear_antialias"


class TIPSVision(nn.Module):
    """The image tower.

    Args:
        shape: ``mlp`` counts the channels behind the gate where ``swiglu``.
        patch_size: pixels.
        side: patches of a side of the grid that the positions were learned for.
        registers: tokens without a position, behind the class token.
        swiglu: whether MLPs are gated.
    """

    def __init__(self, shape: TowerShape, patch_size: int, side: int, registers: int = 1, swiglu: bool = False) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv1 = nn.Conv2d(3, shape.width, patch_size, stride=patch_size)
        self.class_embedding = nn.Parameter(torch.randn(shape.width))
        self.registers = nn.Parameter(torch.randn(registers, shape.width))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1 + side * side, shape.width))
        self.transformer = Transformer(shape, "gelu")
        if swiglu:
            for block in self.transformer.blocks:
                block.mlp = cast(MLP, SwiGLU(shape.width, shape.mlp))
        self.ln_post = nn.LayerNorm(shape.width)
        for norm in (one for one in self.modules() if isinstance(one, nn.LayerNorm)):
            norm.eps = EPSILON

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of (B, 3, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> tokens (B, 1 + registers + L, C): class, registers, patches."""
        positions = resize_positions(self.positional_embedding, self.grid(images), POSITIONS)
        patches = self.conv1(images).flatten(2).transpose(1, 2) + positions[1:]
        first = torch.cat([self.class_embedding[None] + positions[:1], self.registers])
        return torch.cat([first.expand(images.shape[0], -1, -1), patches], dim=1)

    def forward(self, images: Tensor, taps: Collection[int] = ()) -> tuple[Tensor, dict[int, Tap]]:
        """(B, 3, H, W) -> all tokens behind the last norm, (B, 1 + registers + L, C), and raw states of the layers ``taps``."""
        x, kept, grid = self.embed(images), {}, self.grid(images)
        for layer, block in enumerate(self.transformer.blocks, 1):
            x = block(x)
            if layer in taps:
                kept[layer] = Tap(x[:, 1 + len(self.registers) :], grid, x[:, 0])
        return self.ln_post(x), kept


class TIPS(nn.Module):
    """An image tower and a text tower in one space; fulfils ``types.TextBackbone``.

    Attributes:
        name: as ``load_backbone`` takes it.
        image_size: side of the square input in pixels.
        depth: blocks of the image tower.
        temperature: of the softmax over cosines, as the text tower learned it.
        weights_sha256: of the files of weights; "" where they are random.
    """

    position_embedding = POSITIONS

    def __init__(
        self, name: str, vision: TIPSVision, text: TIPSText, tokenizer: Tokenizer, image_size: int | None, temperature: float
    ) -> None:
        super().__init__()
        self.name, self.weights_sha256, self.temperature = name, "", temperature
        self.vision, self.text, self.tokenizer = vision, text, tokenizer
        blocks, side = vision.transformer.blocks, math.isqrt(len(vision.positional_embedding) - 1)
        self.depth, self.activation = len(blocks), "swiglu" if isinstance(blocks[0].mlp, SwiGLU) else "gelu"
        self.image_size = image_size or side * vision.patch_size
        if self.image_size % vision.patch_size:
            raise SizeMismatch(name, self.image_size, vision.patch_size)
        self.preprocess = Squash(self.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """(B, 3, H, W) in 0 to 1 -> the class token behind the last norm (B, C), raw patches of the tapped layers."""
        if any(not 1 <= tap <= self.depth for tap in taps):
            raise UsageError(f"taps={tuple(taps)} must lie in 1..{self.depth}, the layers of {self.name}.")
        tokens, kept = self.vision(images, taps)
        return ImageFeatures(tokens[:, 0], kept)

    def encode_tokens(self, images: Tensor) -> tuple[Tensor, Tap]:
        """(B, 3, H, W) in 0 to 1 -> class tokens (B, 1 + registers, C) and patches, all behind the last norm."""
        tokens, _ = self.vision(images)
        classes = 1 + len(self.vision.registers)
        return tokens[:, :classes], Tap(tokens[:, classes:], self.vision.grid(images))

    def tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        """N sentences -> their token ids.

        Raises:
            UsageError: a sentence is longer than the tower reads, or has no token.
            MissingExtra: sentencepiece is not installed.
        """
        ids = [self.tokenizer(sentence) for sentence in sentences]
        for row, sentence in zip(ids, sentences, strict=True):
            if not 1 <= len(row) <= LONGEST:
                raise UsageError(f"The sentence {sentence[:60]!r} has {len(row)} tokens; {self.name} reads 1 to {LONGEST}.")
        return ids

    def encode_text(self, sentences: Sequence[str], prefix: Tensor | None = None) -> Tensor:
        """N sentences, with learned tokens (n, C) in front of each where they are given -> (N, C), not normalised."""
        return cast(Tensor, self.text(self.tokenize(sentences), prefix))
