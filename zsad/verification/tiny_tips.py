"""Deterministic tiny TIPS weights under the names of the published ``.npz`` files, by the rules of ``tiny_clip.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsad.verification.tiny_clip import unit_noise

__all__ = ["tiny_tips_text", "tiny_tips_vision"]

LAYER_SCALE = (0.8, 0.1)  # mean and deviation


class _Weights:
    """A state dict that is filled one tensor after the other; each is fixed by seed and name."""

    def __init__(self, seed: int, tower: str) -> None:
        self.seed, self.tower = seed, tower
        self.state: dict[str, Tensor] = {}

    def put(self, key: str, shape: Sequence[int], std: Any, mean: float = 0.0) -> None:
        """Adds a tensor; ``std`` may be a column, one number per row."""
        values = mean + std * unit_noise(self.seed, f"tips/{self.tower}/{key}", shape)
        self.state[key] = torch.from_numpy(np.ascontiguousarray(values.astype(np.float16).astype(np.float32)))

    def norm(self, key: str, width: int, bias: float = 0.05) -> None:
        """Adds weight and bias of a LayerNorm."""
        self.put(f"{key}.weight", (width,), 0.1, 1.0)
        self.put(f"{key}.bias", (width,), bias)

    def linear(self, key: str, outputs: int, inputs: int, std: float, bias: float = 0.02) -> None:
        """Adds weight and bias of a linear layer."""
        self.put(f"{key}.weight", (outputs, inputs), std)
        self.put(f"{key}.bias", (outputs,), bias)


def _checked(width: int) -> float:
    """Deviation of a layer with ``width`` inputs. Raises ``ValueError`` for a width that 64 does not divide."""
    if width % 64:
        raise ValueError(f"The width is {width}; it must be a multiple of 64 (one head per 64 channels).")
    return float(width**-0.5)


def _rows(width: int, queries: float, values: float) -> Any:
    """Gains of the rows of queries, keys and values, as a column."""
    return np.repeat(np.array([queries, queries, values]), width)[:, None]


def tiny_tips_vision(
    seed: int, *, width: int = 128, layers: int = 12, patch_size: int = 14, image_size: int = 70, swiglu: bool = False
) -> dict[str, Tensor]:
    """State dict of a small image tower, float32; heads are width / 64, the grid of positions is image_size / patch_size."""
    fan, grid, weights = _checked(width), image_size // patch_size, _Weights(seed, "vision")
    put = weights.put
    put("cls_token", (1, 1, width), 0.7)
    put("register_tokens", (1, 1, width), 0.7)
    put("mask_token", (1, width), 0.7)
    put("pos_embed", (1, grid * grid + 1, width), 0.35)
    # pixels lie in 0 to 1, so the filter is larger than CLIP's
    put("patch_embed.proj.weight", (width, 3, patch_size, patch_size), 5.0 / math.sqrt(3 * patch_size * patch_size))
    put("patch_embed.proj.bias", (width,), 0.1)
    for layer in range(layers):
        block = f"blocks.{layer}."
        weights.norm(f"{block}norm1", width)
        put(f"{block}attn.qkv.weight", (3 * width, width), _rows(width, 1.3, 0.7) * fan)
        put(f"{block}attn.qkv.bias", (3 * width,), 0.05)
        weights.linear(f"{block}attn.proj", width, width, 0.8 * fan)
        put(f"{block}ls1.gamma", (width,), LAYER_SCALE[1], LAYER_SCALE[0])
        weights.norm(f"{block}norm2", width)
        if swiglu:
            hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
            weights.linear(f"{block}mlp.w12", 2 * hidden, width, fan, 0.05)
            weights.linear(f"{block}mlp.w3", width, hidden, 0.6 * hidden**-0.5)
        else:
            weights.linear(f"{block}mlp.fc1", 4 * width, width, fan, 0.05)
            weights.linear(f"{block}mlp.fc2", width, 4 * width, 0.35 * fan)
        put(f"{block}ls2.gamma", (width,), LAYER_SCALE[1], LAYER_SCALE[0])
    weights.norm("norm", width, 0.3)
    return weights.state


def tiny_tips_text(
    seed: int, *, width: int = 128, layers: int = 12, vocab_size: int = 32000, temperature: float = 0.015625
) -> dict[str, Tensor]:
    """State dict of a small text tower, float32, with its temperature; heads are width / 64."""
    fan, weights = _checked(width), _Weights(seed, "text")
    weights.put("token_embedding.weight", (vocab_size, width), 0.7 * fan)  # the tower multiplies by sqrt(width)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}."
        weights.put(f"{block}attn.in_proj_weight", (3 * width, width), _rows(width, 1.5, 1.0) * fan)
        weights.put(f"{block}attn.in_proj_bias", (3 * width,), 0.05)
        weights.linear(f"{block}attn.out_proj", width, width, 0.8 * fan)
        weights.norm(f"{block}ln_1", width)
        weights.linear(f"{block}mlp.c_fc", 4 * width, width, fan, 0.05)
        weights.linear(f"{block}mlp.c_proj", width, 4 * width, 0.35 * fan)
        weights.norm(f"{block}ln_2", width)
    weights.norm("ln_final", width, 0.3)
    weights.state["temperature"] = torch.tensor(np.float32(np.float16(temperature)))
    return weights.state
