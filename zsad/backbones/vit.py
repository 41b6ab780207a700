"""The trunk: CLIP's vision transformer and text tower, with two seams for the methods.

Parameter names are CLIP's, so OpenAI-format and open_clip state dicts load strictly with no map. Every intermediate that
the papers use is a public function: ``embed`` and ``Block`` for loops of one's own, ``project`` for what stands behind the
last block (the papers disagree about it, so it is explicit).

The two seams:

* ``local=LocalPath(start, attend)``: a second residual stream from layer ``start`` on, whose attention is ``attend(q, k, v)``
  on the plain stream's queries, keys and values and which never passes an MLP (CLIP Surgery; AnomalyCLIP's DPAM).
* ``prompts=``: an object with ``insert(x, layer) -> x``, called before every block with the tokens (B, L, C).

Letters: B pictures, L tokens (class token first), C width, D joint dimension, h heads, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.tokens import clip_tokenizer
from zsad.errors import SizeMismatch, UsageError
from zsad.transforms import CLIP_MEAN, CLIP_STD, Squash
from zsad.types import ImageFeatures, Tap

__all__ = ["CLIP", "Block", "LocalPath", "Prompts", "TowerShape", "VisionTransformer", "resize_positions"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
POSITION_MODES = ("bilinear", "bicubic", "bicubic_antialias")


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True)
class LocalPath:
    """A second residual stream with its own attention."""

    start: int  # first layer of the stream, 1-based
    attend: Attend  # (B, h, L, d) queries, keys, values -> (B, h, L, d)


class Prompts(Protocol):
    """Tokens that a method puts into a tower."""

    def insert(self, x: Tensor, layer: int) -> Tensor:
        """Tokens (B, L, C) before block ``layer`` (1-based) -> tokens (B, L', C)."""


@dataclass(frozen=True)
class TowerShape:
    """Size of one transformer."""

    width: int
    layers: int
    heads: int
    mlp: int  # channels of the MLP's hidden layer


class Attention(nn.Module):
    """Multi-head self-attention with ``nn.MultiheadAttention``'s parameter names, its steps open."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(std=width**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, C) -> three of (B, h, L, d)."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def output(self, values: Tensor) -> Tensor:
        """(B, h, L, d) -> (B, L, C)."""
        return self.out_proj(values.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The block's two linear layers."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm residual block, in two public halves."""

    def __init__(self, shape: TowerShape, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width)
        self.attn = Attention(shape.width, shape.heads)
        self.ln_2 = nn.LayerNorm(shape.width)
        self.mlp = MLP(shape.width, shape.mlp, activation)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the normed tokens, three of (B, h, L, d)."""
        return self.attn.qkv(self.ln_1(x))

    def attended(self, x: Tensor, causal: bool = False) -> Tensor:
        """The state between attention and MLP, (B, L, C)."""
        return x + self.attn.output(F.scaled_dot_product_attention(*self.qkv(x), is_causal=causal))

    def feed(self, x: Tensor) -> Tensor:
        """The MLP half, (..., C)."""
        return x + self.mlp(self.ln_2(x))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return self.feed(self.attended(x, causal))

    def fork(self, x: Tensor, local: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """One layer of both streams; the output projection runs once, on both stacked."""
        q, k, v = self.qkv(x)
        values = torch.cat([F.scaled_dot_product_attention(q, k, v), attend(q, k, v)])
        plain, own = self.attn.output(values).chunk(2)
        return self.feed(x + plain), local + own

    def finish(self, x: Tensor, local: Tensor | None = None, attend: Attend | None = None) -> tuple[Tensor, Tensor | None]:
        """The last layer, where only the plain stream's class token is wanted: (B, 1, C), and the local stream (B, L, C)."""
        if local is None or attend is None:
            normed, width = self.ln_1(x), x.shape[-1]
            weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
            k, v = F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, self.attn.heads, -1)).permute(2, 0, 3, 1, 4)
            q = F.linear(normed[:, :1], weight[:width], bias[:width]).unflatten(-1, (self.attn.heads, -1)).transpose(1, 2)
            return self.feed(x[:, :1] + self.attn.output(F.scaled_dot_product_attention(q, k, v))), None
        q, k, v = self.qkv(x)
        values = torch.cat([F.scaled_dot_product_attention(q[:, :, :1], k, v), attend(q, k, v)], dim=2)
        mixed = self.attn.output(values)  # (B, 1 + L, C)
        return self.feed(x[:, :1] + mixed[:, :1]), local + mixed[:, 1:]


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, shape: TowerShape, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(shape, activation) for _ in range(shape.layers))


def resize_positions(embedding: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """Resizes (1 + n * n, C) position embeddings of a square grid to another grid; the class token's stays.

    ``mode``: "bilinear", "bicubic" (both without antialiasing) or "bicubic_antialias"; align_corners is off in all.
    """
    cls, patches = embedding[:1], embedding[1:]
    side = math.isqrt(patches.shape[0])
    if grid == (side, side):
        return embedding
    square = patches.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    name, _, antialias = mode.partition("_")
    resized = F.interpolate(square, size=grid, mode=name, align_corners=False, antialias=bool(antialias))
    return torch.cat([cls, resized[0].permute(1, 2, 0).flatten(0, 1)])


class VisionTransformer(nn.Module):
    """CLIP's image tower."""

    def __init__(
        self, shape: TowerShape, patch_size: int, native_size: int, dim: int, activation: str, position_embedding: str
    ) -> None:
        super().__init__()
        self.patch_size, self.position_mode = patch_size, position_embedding
        side, scale = native_size // patch_size, shape.width**-0.5
        self.conv1 = nn.Conv2d(3, shape.width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(shape.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(side * side + 1, shape.width))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = Transformer(shape, activation)
        self.ln_post = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(scale * torch.randn(shape.width, dim))

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks; layer l of the papers is ``blocks[l - 1]``."""
        return [cast(Block, block) for block in self.transformer.resblocks]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of (B, 3, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> tokens (B, 1 + h * w, C) with positions, behind ``ln_pre``."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], dim=1)
        return self.ln_pre(tokens + resize_positions(self.positional_embedding, self.grid(images), self.position_mode))

    def project(self, x: Tensor, *, norm: bool = True, proj: bool = True) -> Tensor:
        """Hidden states (..., C) -> ``ln_post`` (if ``norm``) -> the joint space (..., D) (if ``proj``)."""
        x = self.ln_post(x) if norm else x
        return x @ self.proj if proj else x

    def forward(
        self,
        images: Tensor,
        taps: Sequence[int] = (),
        local: LocalPath | None = None,
        prompts: Prompts | None = None,
        *,
        class_only: bool = False,
    ) -> tuple[Tensor, dict[int, Tap], dict[int, Tap]]:
        """(B, 3, H, W) -> class token behind the last block (B, C), taps of the plain and of the local stream (raw states).

        Where ``prompts`` appended tokens, taps leave them out. Before ``local.start`` the local stream is the plain one.
        ``class_only`` computes the plain stream's last block for the class token alone, so that layer has no plain tap.
        """
        grid, last = self.grid(images), len(self.blocks)
        tapped: tuple[dict[int, Tap], dict[int, Tap]] = ({}, {})
        x = self.embed(images)
        own: Tensor | None = x
        for layer, block in enumerate(self.blocks, 1):
            x = prompts.insert(x, layer) if prompts else x
            forked = local is not None and layer >= local.start
            before = own if local and layer > local.start else x
            if class_only and layer == last:
                x, own = block.finish(x, before, local.attend) if forked and local else block.finish(x)
            elif forked and local and before is not None:
                x, own = block.fork(x, before, local.attend)
            else:
                x = own = block(x)
            if layer in taps:
                for taps_of, state in zip(tapped, (x, own) if local else (x,), strict=False):
                    if state is not None and state.shape[1] > 1:
                        taps_of[layer] = Tap(state[:, 1 : 1 + grid[0] * grid[1]], grid, state[:, 0])
        return x[:, 0], *tapped


class CLIP(nn.Module):
    """An image tower and a text tower in one space; fulfils ``types.TextBackbone``.

    Attributes:
        name: as ``load_backbone`` takes it.
        image_size: side of the square input in pixels.
        weights_sha256: of the file of weights; "" where they are random.
    """

    def __init__(
        self,
        name: str,
        *,
        vision: TowerShape,
        text: TowerShape,
        patch_size: int,
        native_size: int,
        dim: int,
        activation: str,
        position_embedding: str | None = None,
        image_size: int | None = None,
        vocabulary: int = 49408,
        context_length: int = 77,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.name, self.weights_sha256 = name, ""
        self.activation = _choice("activation", activation, tuple(ACTIVATIONS))
        # open_clip's own way of resizing, for whoever does not ask for another
        self.position_embedding = _choice("position_embedding", position_embedding or "bicubic_antialias", POSITION_MODES)
        self.image_size = image_size or native_size
        if self.image_size % patch_size:
            raise SizeMismatch(name, self.image_size, patch_size)
        self.preprocess = Squash(self.image_size, mean, std)
        self.visual = VisionTransformer(vision, patch_size, native_size, dim, activation, self.position_embedding)
        self.token_embedding = nn.Embedding(vocabulary, text.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, text.width))
        self.transformer = Transformer(text, activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(text.width**-0.5 * torch.randn(text.width, dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(
        self, images: Tensor, taps: Sequence[int] = (), *, local: LocalPath | None = None, prompts: Prompts | None = None
    ) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> ``.image`` (B, D) behind ``ln_post`` and projection, raw states of the tapped layers.

        The local stream's taps are in ``.streams["local"]``.
        """
        layers = len(self.visual.blocks)
        if any(not 1 <= tap <= layers for tap in taps):
            raise UsageError(f"taps={tuple(taps)} must lie in 1..{layers}, the layers of {self.name}.")
        cls, plain, own = self.visual(images, taps, local, prompts)
        return ImageFeatures(self.visual.project(cls), plain, {"local": own} if local else {})

    def encode_class(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, D) as ``encode_image(...).image``; the last block runs for the class token alone."""
        return self.visual.project(self.visual(images, class_only=True)[0])

    # ------------------------------------------------------------------ text
    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """N sentences -> (N, context) int64: start, tokens, end, zeros.

        Raises:
            UsageError: a sentence is longer than the context.
        """
        tokenizer = clip_tokenizer()
        context = self.positional_embedding.shape[0]
        start, end = self.token_embedding.num_embeddings - 2, self.token_embedding.num_embeddings - 1
        ids = torch.zeros(len(sentences), context, dtype=torch.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            tokens = [start, *tokenizer(sentence), end]
            if len(tokens) > context:
                raise UsageError(
                    f"The sentence {sentence[:60]!r}... has {len(tokens)} tokens; {self.name} reads {context}. Use fewer words."
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return ids.to(self.positional_embedding.device)

    def encode_embeddings(self, x: Tensor, eot: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Token embeddings (N, L, C) without positions and the index (N,) of each end token -> (N, D), not normalised.

        What stands behind the last end token is cut off: attention is causal, so it changes nothing.
        """
        used = int(eot.max()) + 1
        x = x[:, :used] + self.positional_embedding[:used]
        for layer, block in enumerate(self.transformer.resblocks, 1):
            x = prompts.insert(x, layer) if prompts else x
            x = block(x, causal=True)
        return self.ln_final(x[torch.arange(len(x), device=x.device), eot]) @ self.text_projection

    def encode_text(self, sentences: Sequence[str], batch_size: int = 64) -> Tensor:
        """N sentences -> (N, D), not normalised. Sentences of like length share a batch, so little padding is computed."""
        ids = self.tokenize(sentences)
        ends = ids.argmax(dim=1)  # the end token has the largest id
        order = ends.argsort(stable=True)
        encoded = [self.encode_embeddings(self.token_embedding(ids[rows]), ends[rows]) for rows in order.split(batch_size)]
        return torch.cat(encoded)[order.argsort(stable=True)]


def _choice(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{what}={value!r} is not known; choose one of {', '.join(allowed)}.")
    return value
