"""WinCLIP, zero-shot: windows of a CLIP image tower against ensembles of sentences.

Paper: Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023, arXiv 2303.14814,
sections 4.1 (prompts), 4.2 (windows, harmonic aggregation). No official code; equal to the two independent public
implementations that agree with each other (zqhang/Accurate-WinCLIP-pytorch, anomalib's with open_clip 2.24).

Kept: the ensemble is the plain mean of un-normalised sentence vectors; the class token keeps its own position in every
window; the image score is the class token's softmax, never the map's maximum; no smoothing.
Dropped: float64 aggregation (differences below 1e-6).

What makes it fast: all windows of both scales and the full image are one batch of rows (the towers' linear layers never
know of windows; only attention does), the first block's norm and projections run once on the image's tokens, since a
window's tokens are the same before the first attention, and the last block runs for the class tokens alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.vit import Block
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.ops.alignment import anomaly_probability
from zsad.ops.maps import upsample
from zsad.prompting import PromptSet, encode_ensemble
from zsad.registry import register
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap, TextBackbone

__all__ = ["WinCLIP"]


class Windows(NamedTuple):
    """Equal-sized groups of tokens that attend among themselves."""

    windows: int  # B * n of them
    tokens: int  # class token and patches of each


@lru_cache(maxsize=16)
def window_tokens(grid: tuple[int, int], scale: int) -> Tensor:
    """Token indices (class token first) of all ``scale`` x ``scale`` windows, stride 1, row by row: (n, 1 + scale * scale)."""
    patches = torch.arange(1, 1 + grid[0] * grid[1]).view(grid)
    windows = patches.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)
    return F.pad(windows, (1, 0), value=0)


@lru_cache(maxsize=16)
def incidence(grid: tuple[int, int], scale: int) -> Tensor:
    """(n, h * w): 1 / (windows that cover the patch) where the window covers it, else 0; columns sum to 1."""
    windows = window_tokens(grid, scale)[:, 1:] - 1
    covers = torch.zeros(len(windows), grid[0] * grid[1]).scatter_(1, windows, 1.0)
    return covers / covers.sum(dim=0)


def attend(qkv: Tensor, groups: list[Windows], heads: int) -> Tensor:
    """Attention inside every window: rows (R, 3 C), windows one behind the other -> (R, C)."""
    mixed = []
    for rows, (count, tokens) in zip(qkv.split([g.windows * g.tokens for g in groups]), groups, strict=True):
        q, k, v = rows.view(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (count, h, tokens, d)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count * tokens, -1))
    return torch.cat(mixed)


def class_tokens(block: Block, x: Tensor, groups: list[Windows]) -> Tensor:
    """The last block for the class tokens alone: rows (R, C) -> (windows, C), queries for one token in each window."""
    normed, width = block.ln_1(x), x.shape[-1]
    weight, bias, heads = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.heads
    keys_values = F.linear(normed, weight[width:], bias[width:])  # (R, 2 C)
    mixed, first = [], []
    sizes = [g.windows * g.tokens for g in groups]
    for rows, residual, own, (count, tokens) in zip(
        keys_values.split(sizes), x.split(sizes), normed.split(sizes), groups, strict=True
    ):
        k, v = rows.view(count, tokens, 2, heads, -1).permute(2, 0, 3, 1, 4)
        q = F.linear(own[::tokens], weight[:width], bias[:width]).view(count, 1, heads, -1).transpose(1, 2)
        mixed.append(F.scaled_dot_product_attention(q, k, v).reshape(count, width))  # (count, h, 1, d), heads in order
        first.append(residual[::tokens])
    return block.feed(torch.cat(first) + block.attn.out_proj(torch.cat(mixed)))


@register("winclip")
class WinCLIP(Detector):
    """Zero-shot WinCLIP.

    Args:
        backbone: a CLIP ViT with text tower.
        scales: sides of the windows in patches.
        temperature: of the softmax over (normal, anomalous).
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
    """

    recipe = Recipe("ViT-B-16-plus-240.laion400m_e32", 240, activation="gelu", position_embedding="bicubic_antialias")
    backbone: TextBackbone

    def __init__(
        self, backbone: TextBackbone, scales: tuple[int, ...] = (2, 3), temperature: float = 0.07, prompts: str = "winclip"
    ) -> None:
        super().__init__(backbone)
        self.scales, self.temperature, self.prompts = tuple(scales), temperature, prompts

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Encodes the ensemble once; ``context.text`` (1, 2, D) holds the plain means, un-normalised."""
        if references is not None:
            raise UsageError("winclip scores without references; leave them out.")
        sentences = PromptSet.load(self.prompts).sentences(name)
        if set(sentences) != {"normal", "anomalous"}:
            raise UsageError(f"winclip needs the classes 'normal' and 'anomalous' in {self.prompts}, not {sorted(sentences)}.")
        text = encode_ensemble(self.backbone, [sentences["normal"], sentences["anomalous"]], normalize="none")
        return Context(text=text, sentences=sentences)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image features (B, D) and ``streams["windows"][scale]``, a tap of (B, n, D) per scale."""
        visual = self.backbone.visual  # type: ignore[attr-defined]
        grid, batch = visual.grid(images), len(images)
        if min(grid) < max(self.scales):
            raise UsageError(f"Windows of {max(self.scales)} patches do not fit a grid of {grid[0]} x {grid[1]} patches.")
        x = visual.embed(images)  # (B, 1 + L, C)
        indices = [torch.arange(x.shape[1])[None], *(window_tokens(grid, scale) for scale in self.scales)]
        groups = [Windows(batch * index.shape[0], index.shape[1]) for index in indices]
        blocks = visual.blocks
        rows = self._rows(blocks[0], x, indices, groups) if len(blocks) > 1 else gather(x, indices)
        for block in blocks[1:-1]:
            qkv = F.linear(block.ln_1(rows), block.attn.in_proj_weight, block.attn.in_proj_bias)
            rows = block.feed(rows + block.attn.out_proj(attend(qkv, groups, block.attn.heads)))
        embedded = visual.project(class_tokens(blocks[-1], rows, groups))  # (windows, D)
        image, *windows = embedded.split([group.windows for group in groups])
        taps = {
            scale: Tap(part.unflatten(0, (batch, -1)), (grid[0] - scale + 1, grid[1] - scale + 1))
            for scale, part in zip(self.scales, windows, strict=True)
        }
        return ImageFeatures(image, streams={"windows": taps})

    @staticmethod
    def _rows(block: Block, x: Tensor, indices: list[Tensor], groups: list[Windows]) -> Tensor:
        """The first block: norm and projections once per token of the image, then cut into windows."""
        qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        mixed = attend(gather(qkv, indices), groups, block.attn.heads)
        return block.feed(gather(x, indices) + block.attn.out_proj(mixed))

    def window_scores(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Probability of "anomalous" per window, (B, n) for each scale."""
        assert context.text is not None
        return {
            scale: anomaly_probability(tap.patches, context.text, self.temperature)
            for scale, tap in features.streams["windows"].items()
        }

    def scale_map(self, scores: Tensor, scale: int, grid: tuple[int, int]) -> Tensor:
        """Harmonic mean over the windows that cover each patch: (B, n) -> (B, h, w)."""
        return 1 / (1 / scores @ incidence(grid, scale).to(scores)).unflatten(1, grid)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability. Map: harmonic mean of the scales and the image score."""
        assert context.text is not None
        image = anomaly_probability(features.image, context.text, self.temperature)  # (B,)
        patches = self.patch_map(image, self.window_scores(features, context), self._grid(features))
        size = (self.backbone.image_size, self.backbone.image_size)
        return Prediction(image, upsample(patches, size))

    def patch_map(self, image: Tensor, windows: dict[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """The map on the patch grid, (B, h, w): one product of all reciprocals with the stacked incidence matrices."""
        covers = torch.cat([incidence(grid, scale) for scale in windows]).to(image)
        reciprocals = torch.cat([1 / scores for scores in windows.values()], dim=1) @ covers + 1 / image[:, None]
        return ((len(windows) + 1) / reciprocals).unflatten(1, grid)

    def _grid(self, features: ImageFeatures) -> tuple[int, int]:
        scale, tap = next(iter(features.streams["windows"].items()))
        return tap.grid[0] + scale - 1, tap.grid[1] + scale - 1


def gather(x: Tensor, indices: list[Tensor]) -> Tensor:
    """Tokens (B, 1 + L, C) -> rows (R, C): group by group, picture by picture, window by window."""
    return torch.cat([x[:, index.to(x.device)].reshape(-1, x.shape[-1]) for index in indices])
