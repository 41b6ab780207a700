"""How wide an encoder's patches are, its final norm, and means of groups of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.siglip import SigLIP
from zsad.backbones.tapped import merged
from zsad.errors import UnsupportedBackbone
from zsad.types import Tap

__all__ = ["final_norm", "mean_of_groups", "patch_width"]


def patch_width(backbone: Any) -> int:
    """Channels of a transformer's patches. Raises ``UnsupportedBackbone`` where they cannot be read off."""
    if isinstance(backbone, DINOv2):
        return backbone.class_token.numel()
    if isinstance(backbone, SigLIP):
        return int(backbone.width)
    if hasattr(backbone, "visual"):
        return int(backbone.visual.proj.shape[0])
    raise UnsupportedBackbone(f"The width of {backbone.name!r} is not known. Take a DINOv2 or a CLIP ViT.")


def final_norm(backbone: Any, x: Tensor) -> Tensor:
    """Raw states (..., C) behind the encoder's last LayerNorm; CLIP's is ``ln_post``."""
    normed: Tensor = backbone.norm(x) if isinstance(backbone, DINOv2) else backbone.visual.ln_post(x)
    return normed


def mean_of_groups(taps: Mapping[int, Tap], layers: Sequence[int], groups: int) -> dict[int, Tap]:
    """Mean patches of as many groups of successive ``layers``, each as a tap of the group's last layer."""
    size = len(layers) // groups
    parts = [layers[start : start + size] for start in range(0, groups * size, size)]
    return {part[-1]: merged([taps[layer] for layer in part], "mean") for part in parts}
