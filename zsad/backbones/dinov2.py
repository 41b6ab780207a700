"""DINOv2's image tower (Oquab et al. 2023), with or without registers (Darcet et al. 2023), with an MLP or SwiGLU.

The blocks are ``blocks.Block``: layer scale is folded into the linear layers behind it, so nothing but SwiGLU is new. Register
tokens stand between the class token and the patches and get no position. What a layer's number means in other code, for a tower
of ``depth`` blocks (there is no block 0 here, and -1 is refused):

| here, ``taps=``     | transformers             | facebookresearch, timm            | what it is                            |
|---------------------|--------------------------|-----------------------------------|---------------------------------------|
| ``embed``           | hidden_states[0]         |                                   | tokens before the first block         |
| l, 1 to depth       | hidden_states[l]         | blocks[l - 1], layer index l - 1  | raw output of the l-th block          |
| depth + 1 - n       | hidden_states[-n]        | get_intermediate_layers(n)[0]     | the n-th block from the end           |
| l, ``normed=True``  | layernorm(hidden_states) | get_intermediate_layers(norm)     | behind the final norm                 |
| ``image``           | last_hidden_state[:, 0]  | x_norm_clstoken                   | class token behind the final norm     |

transformers' hidden_states[-1] is the raw last block, not last_hidden_state; facebookresearch's layers are normed by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.blocks import Block, SwiGLU, TowerShape
from zsad.backbones.vit import POSITION_MODES, resize_positions
from zsad.errors import SizeMismatch, UnknownName, UsageError
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Squash
from zsad.types import ImageFeatures, Tap

__all__ = ["MODES", "SALIENCY", "DINOv2"]

EPSILON = 1e-6  # of the norms
OFFSET = "bicubic_offset"  # the scale factor of facebookresearch's models without registers, (n + 0.1) / native
MODES = (*POSITION_MODES, OFFSET)
SALIENCY = "saliency"  # name of the stream


class DINOv2(nn.Module):
    """A DINOv2 image tower; fulfils ``types.Backbone``, has no text. The module's docstring says which layer is which.

    Args:
        name: what it calls itself.
        shape: width C, blocks, heads, and channels of the feed-forward's hidden layer.
        registers: number of register tokens; 0: none.
        swiglu: whether the feed-forward is SwiGLU, or an MLP with exact GELU.
        patch_size: in pixels.
        native_size: side of the pictures that the positions were learned for.
        position_embedding: how positions are resized: a mode of ``resize_positions``, or "bicubic_offset" (scale factor
            (n + 0.1) / native, no antialiasing: facebookresearch's code for models without registers). None: as transformers,
            "bicubic_antialias" with registers and "bicubic" without.
        image_size: side of the input; None: the native one.
    """

    def __init__(
        self,
        name: str,
        shape: TowerShape,
        *,
        registers: int = 0,
        swiglu: bool = False,
        patch_size: int = 14,
        native_size: int = 518,
        position_embedding: str | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.depth, self.registers, self.patch_size = name, shape.layers, registers, patch_size
        self.image_size, self.weights_sha256 = image_size or native_size, ""
        self.activation = "swiglu" if swiglu else "gelu"
        self.position_embedding = position_embedding or ("bicubic_antialias" if registers else "bicubic")
        if self.position_embedding not in MODES:
            raise UnknownName.among(f"position_embedding of {name}", self.position_embedding, MODES)
        if self.image_size % patch_size:
            raise SizeMismatch(name, self.image_size, patch_size)
        self.preprocess = Squash(self.image_size, IMAGENET_MEAN, IMAGENET_STD)
        side, width = native_size // patch_size, shape.width
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.register_tokens = nn.Parameter(torch.zeros(registers, width))
        self.positions = nn.Parameter(torch.zeros(1 + side * side, width))  # the first is the class token's
        self.blocks = nn.ModuleList(Block(shape, "gelu") for _ in range(shape.layers))
        if swiglu:
            for block in self.blocks:
                block.mlp = SwiGLU(width, shape.mlp)
        self.final_norm = nn.LayerNorm(width)
        for norm in (one for one in self.modules() if isinstance(one, nn.LayerNorm)):
            norm.eps = EPSILON

    def norm(self, x: Tensor) -> Tensor:
        """Raw states (..., C) -> behind the final LayerNorm."""
        normed: Tensor = self.final_norm(x)
        return normed

    def resized_positions(self, grid: tuple[int, int]) -> Tensor:
        """(1 + h * w, C) positions of the class token and of a grid of patches."""
        side = math.isqrt(len(self.positions) - 1)
        if self.position_embedding != OFFSET or grid == (side, side):
            return resize_positions(self.positions, grid, self.position_embedding.replace(OFFSET, "bicubic"))
        square = self.positions[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
        factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")  # (1, C, h, w)
        return torch.cat([self.positions[:1], resized[0].permute(1, 2, 0).flatten(0, 1)])

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class token, registers and patches before the first block, (B, 1 + registers + h * w, C)."""
        positions = self.resized_positions(self.grid(images))
        first = (self.class_token + positions[0]).expand(images.shape[0], 1, -1)
        registers = self.register_tokens.expand(images.shape[0], -1, -1)
        return torch.cat([first, registers, self.patches(images).flatten(2).transpose(1, 2) + positions[1:]], dim=1)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of (B, 3, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def states(self, images: Tensor) -> Iterator[Tensor]:
        """(B, 3, H, W) -> all tokens before the first block and behind each block, ``depth`` + 1 of (B, L, C).

        A block is computed when its state is asked for.
        """
        x = self.embed(images)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def saliency(self, x: Tensor, layer: int) -> Tensor:
        """Attention of the registers (of the class token where there are none) to the patches in a block.

        Args:
            x: tokens before the block, (B, 1 + registers + L, C).
            layer: the block, from 1 on.

        Returns:
            (B, L), the mean over heads and registers; larger is the foreground.
        """
        q, k, _ = self.blocks[layer - 1].qkv(x)  # type: ignore[operator]
        rows = q[:, :, 1 : 1 + self.registers] if self.registers else q[:, :, :1]
        attention = (rows @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)  # (B, h, rows, 1 + registers + L)
        found: Tensor = attention[..., 1 + self.registers :].mean((1, 2))
        return found

    def encode_image(
        self,
        images: Tensor,
        taps: Sequence[int] = (),
        *,
        normed: bool = False,
        pooled: bool = True,
        saliency: int | None = None,
    ) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> ``.image`` (B, C) and the tokens of the tapped blocks, registers left out.

        Args:
            images: of any size that patches divide.
            taps: blocks, counted from 1 on.
            normed: whether taps are behind the final LayerNorm.
            pooled: False computes no block behind the last tap; then ``.image`` is the raw class token there.
            saliency: a block whose ``saliency`` becomes the stream of that name, patches (B, L, 1).

        Raises:
            UsageError: a tap that is no block.
        """
        asked = {*taps} if saliency is None else {*taps, saliency}
        if any(not 1 <= tap <= self.depth for tap in asked):
            raise UsageError(f"taps={tuple(taps)} must lie in 1..{self.depth}, the layers of {self.name}.")
        grid, found, streams = self.grid(images), {}, {}
        last = self.depth if pooled else max(asked, default=self.depth)
        for layer, x in enumerate(self.states(images)):
            if layer in taps:
                tokens = self.norm(x) if normed else x
                found[layer] = Tap(tokens[:, 1 + self.registers :], grid, tokens[:, 0])
            if saliency is not None and layer == saliency - 1:
                streams[SALIENCY] = {saliency: Tap(self.saliency(x, saliency)[..., None], grid)}
            if layer == last:
                break
        return ImageFeatures(self.norm(x[:, 0]) if pooled else x[:, 0], found, streams)
