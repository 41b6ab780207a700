"""``tiny`` - a seeded CLIP of 12 narrow layers for tests and dry runs. Its weights are random: its scores mean nothing."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import nn

from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import CLIP
from zsad.registry import register_backbone

__all__ = ["load_tiny"]


@register_backbone("tiny")
def load_tiny(
    name: str,
    *,
    activation: str | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
    layers: int = 12,
    seed: int = 0,
) -> CLIP:
    """A CLIP of width 64, patch 16, native size 80 px and seeded random weights; ``image_size=None`` is 80 px."""
    return copy.deepcopy(_made(name, activation, position_embedding, image_size, layers, seed))


@lru_cache(maxsize=4)  # drawing three million numbers takes five times as long as copying them
def _made(
    name: str, activation: str | None, position_embedding: str | None, image_size: int | None, layers: int, seed: int
) -> CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            name,
            vision=TowerShape(64, layers, 1, 128),
            text=TowerShape(64, layers, 1, 128),
            patch_size=16,
            native_size=80,
            dim=32,
            activation=activation or "gelu",
            position_embedding=position_embedding,
            image_size=image_size,
        )
        for module in model.modules():  # so that layers and biases differ from one another
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1.0, 0.1)
                nn.init.normal_(module.bias, 0.0, 0.1)
    return model
