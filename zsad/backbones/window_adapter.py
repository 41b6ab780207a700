"""Window attention adapters on the patches of a frozen tower (SOWA): values attend to values, with learned scale and positions.

Hu et al., "SOWA: Adapting Hierarchical Frozen Window Self-Attention to Visual-Language Models for Better Anomaly Detection",
arXiv 2407.03634; attention and positions as in Swin Transformer V2 (Liu et al., CVPR 2022).

Letters: B pictures, L patches of a grid, C width, D joint dimension, h heads, s side of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.windows import join_windows, split_windows
from zsad.backbones.blocks import Attention
from zsad.backbones.vit import VisionTransformer
from zsad.types import Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["ADAPTER_FILE", "WindowAdapter", "WindowAdapters", "half_of", "relative_offsets", "stored_heads"]

HIDDEN = 64  # channels of the network that makes position biases
LARGEST_BIAS = 16.0
LARGEST_SCALE = math.log(100)
DROPOUT = 0.1  # of attention weights, in training
ADAPTER_FILE = AuthorsFile(  # SOWA's Lightning file, which holds the frozen CLIP four times over; prompts are a ``PromptPair``
    {
        r"^net\.": "",
        r"^(clip_model|text_encoder|visual_encoder\.(clip_model|proj$)|prompt_learner\.(clip_model|token))": None,
        r"\.attn\.(qkv|proj\.(weight|bias)|relative_coords_table|relative_position_index)$": None,  # CLIP's own, and derived
        r"^prompt_learner\.ctx_pos$": "prompts.normal",
        r"^prompt_learner\.ctx_neg$": "prompts.anomalous",
        r"^cross_fusion\.linear\.": "text_linear.",
        r"^visual_encoder\.(adapters\.\d+)\.blocks\.0\.": r"\1.",
        r"\.attn\.logit_scale$": ".logit_scale",
        r"\.attn\.cpb_mlp\.": ".positions.",
        r"\.mlp\.layers\.0\.": ".linear.",
    }
)


def half_of(grid: tuple[int, int]) -> int:
    """Side of the windows of which a square grid has four, as published (12 of 24); an odd grid is one window."""
    return grid[0] // 2 if grid[0] % 2 == 0 else grid[0]


def relative_offsets(side: int) -> Tensor:
    """Offsets of two patches of a window, logarithmic and about -1 to 1, in rows and columns: (2s - 1, 2s - 1, 2)."""
    steps = 8 * torch.arange(1 - side, side) / max(1, side - 1)
    scaled = steps.sign() * (steps.abs() + 1).log2() / math.log2(8)
    return torch.stack(torch.meshgrid(scaled, scaled, indexing="ij"), dim=-1)


def stored_heads(state: Mapping[str, Any]) -> dict[str, int]:
    """``heads`` of adapters from the shapes under own names, or {} where there are none."""
    scale = state.get("adapters.0.logit_scale")
    return {"heads": len(scale)} if isinstance(scale, Tensor) and scale.dim() else {}


class WindowAdapter(nn.Module):
    """Attention within windows by a frozen block's values and output, then a linear layer; both are normed and added.

    Args:
        width: of the tower.
        heads: of the adapter's attention, whatever the tower's are.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.positions = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, heads, bias=False))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear = nn.Linear(width, width, bias=False)

    def position_bias(self, side: int) -> Tensor:
        """What the place of a key beside its query adds to their logit: (h, s * s, s * s), 0 to 16."""
        table = LARGEST_BIAS * self.positions(relative_offsets(side).to(self.logit_scale)).sigmoid()
        y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
        rows, columns = (place[:, None] - place + side - 1 for place in (y, x))  # query less key, from 0 on
        return table[rows, columns].permute(2, 0, 1)

    def attend(self, x: Tensor, grid: tuple[int, int], side: int, frozen: Attention) -> Tensor:
        """Attention's output (B, L, C): cosines of values within each window, by the value rows of ``frozen`` without bias."""
        values = F.linear(x, frozen.in_proj_weight[2 * x.shape[-1] :])
        v = split_windows(values, grid, side).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B * n, h, s * s, d)
        unit, scale = F.normalize(v, dim=-1), self.logit_scale.clamp(max=LARGEST_SCALE).exp()
        dropout = DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(unit * scale, unit, v, self.position_bias(side), dropout, scale=1.0)
        return frozen.out_proj(join_windows(mixed.transpose(1, 2).flatten(2), grid, side))

    def forward(self, x: Tensor, grid: tuple[int, int], side: int, frozen: Attention) -> Tensor:
        """Raw patches of a block (B, L, C) and that block's attention -> adapted patches (B, L, C); ``side`` parts the grid."""
        x = x + self.norm1(self.attend(x, grid, side, frozen))
        return x + self.norm2(self.linear(x))


class WindowAdapters(nn.ModuleList):
    """One adapter per tapped layer.

    Args:
        layers: 1-based.
        width: of the tower.
        heads: of the adapters' attention.
    """

    def __init__(self, layers: tuple[int, ...], width: int, heads: int) -> None:
        super().__init__(WindowAdapter(width, heads) for _ in layers)
        self.layers = layers

    def projected(self, taps: Mapping[int, Tap], visual: VisionTransformer) -> dict[int, Tensor]:
        """Raw patches of the layers -> adapted ones times the tower's projection, (B, L, D) each, of any length."""
        found = {}
        for layer, adapter in zip(self.layers, self, strict=True):
            patches, grid = taps[layer].patches, taps[layer].grid
            adapted = adapter(patches, grid, half_of(grid), visual.blocks[layer - 1].attn)
            found[layer] = visual.project(adapted, norm=False)
        return found
