"""Class tokens that look at a part of the picture alone (AnomalyNCD's mask-guided attention)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.dinov2 import DINOv2
from zsad.errors import UsageError

__all__ = ["masked_class_tokens", "masked_states"]

HALF = 0.5  # share of a patch that a mask has to cover


def masked_states(tower: DINOv2, images: Tensor, masks: Tensor, layers: int = 9) -> list[Tensor]:
    """All tokens before the first block and behind each, where the class token of the last blocks sees the mask alone.

    Args:
        tower: without registers.
        images: (B, 3, H, W) preprocessed.
        masks: (B, H, W), 0 to 1; a patch belongs to it where their mean is a half or more. Of an empty mask the class token
            sees only itself.
        layers: how many blocks at the end are masked.

    Returns:
        ``depth`` + 1 of (B, 1 + L, C), raw.

    Raises:
        UsageError: the tower has registers, or has not so many blocks.
    """
    if tower.registers or not 0 <= layers <= tower.depth:
        raise UsageError(
            f"{layers} masked blocks of {tower.name}: it has {tower.depth}, and {tower.registers} registers (needs 0)."
        )
    share = F.avg_pool2d(masks[:, None].float(), tower.patch_size).flatten(1)  # (B, L)
    seen = F.pad(share >= HALF, (1, 0), value=True)  # the class token sees itself
    x = tower.embed(images)
    found = [x]
    for number, block in enumerate(tower.blocks, 1):
        allowed = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        if number > tower.depth - layers:
            allowed[:, 0, 0] = seen
        q, k, v = block.qkv(x)  # type: ignore[operator]
        x = x + block.attn.output(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed))  # type: ignore[union-attr,operator]
        x = block.feed(x)  # type: ignore[operator]
        found.append(x)
    return found


def masked_class_tokens(tower: DINOv2, images: Tensor, masks: Tensor, layers: int = 9) -> Tensor:
    """(B, C) class tokens behind the final norm; arguments as of ``masked_states``."""
    return tower.norm(masked_states(tower, images, masks, layers)[-1][:, 0])
