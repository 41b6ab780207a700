"""Deterministic tiny DINOv2 weights: the same bits from the same seed on every platform, by the rules of ``tiny_clip.py``.

Key names are those of the published Hugging Face files (facebook/dinov2-* and facebook/dinov2-with-registers-*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from zsad.verification.tiny_clip import half_exact, unit_noise

__all__ = ["swiglu_width", "tiny_dino_state_dict"]

ATTENTION = (("query", 1.3), ("key", 1.3), ("value", 0.7))  # parts and their gains
SCALE = (0.8, 0.1)  # mean and deviation of layer scale


def swiglu_width(width: int, ratio: int = 4) -> int:
    """Channels of the hidden layer of DINOv2's SwiGLU: two thirds of ratio * width, up to a multiple of 8."""
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8


def tiny_dino_state_dict(
    seed: int,
    *,
    width: int = 128,
    layers: int = 24,
    patch_size: int = 14,
    image_size: int = 70,
    registers: int = 4,
    swiglu: bool = True,
) -> dict[str, Tensor]:
    """State dict of a small DINOv2, float32, of values that float16 holds; heads are width / 64.

    Args:
        seed: of all values.
        width: of the tower.
        layers: blocks.
        patch_size: in pixels.
        image_size: side of the pictures that the positions belong to.
        registers: register tokens; 0: the layout without.
        swiglu: the feed-forward of the giant model, or that of the others.

    Raises:
        ValueError: a width that 64 does not divide, or an image size that the patch size does not divide.
    """
    if width % 64 or image_size % patch_size:
        raise ValueError(f"width={width} must be a multiple of 64, and image_size={image_size} one of patch_size={patch_size}.")
    state: dict[str, Tensor] = {}

    def put(key: str, shape: Sequence[int], std: float, mean: float = 0.0) -> None:
        state[key] = half_exact(mean + std * unit_noise(seed, "dino/" + key, shape))

    put("embeddings.cls_token", (1, 1, width), 0.7)
    put("embeddings.mask_token", (1, width), 0.7)
    if registers:
        put("embeddings.register_tokens", (1, registers, width), 0.7)
    put("embeddings.position_embeddings", (1, (image_size // patch_size) ** 2 + 1, width), 0.35)
    filters = "embeddings.patch_embeddings.projection."
    # neighbouring pixels differ little, so the patch filter is scaled up
    put(filters + "weight", (width, 3, patch_size, patch_size), 1.5 / math.sqrt(3 * patch_size * patch_size))
    put(filters + "bias", (width,), 0.1)
    for layer in range(layers):
        _put_block(state, seed, f"encoder.layer.{layer}.", width, swiglu)
    put("layernorm.weight", (width,), 0.1, 1.0)
    put("layernorm.bias", (width,), 0.3)
    return state


def _put_block(state: dict[str, Tensor], seed: int, prefix: str, width: int, swiglu: bool) -> None:
    def put(key: str, shape: Sequence[int], std: float, mean: float = 0.0) -> None:
        state[prefix + key] = half_exact(mean + std * unit_noise(seed, "dino/" + prefix + key, shape))

    def linear(key: str, outputs: int, inputs: int, std: float, bias: float) -> None:
        put(key + ".weight", (outputs, inputs), std)
        put(key + ".bias", (outputs,), bias)

    fan = width**-0.5
    for norm in ("norm1", "norm2"):
        put(norm + ".weight", (width,), 0.1, 1.0)
        put(norm + ".bias", (width,), 0.05)
    for part, gain in ATTENTION:
        linear(f"attention.attention.{part}", width, width, gain * fan, 0.05)
    linear("attention.output.dense", width, width, 0.8 * fan, 0.02)
    for scale in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
        put(scale, (width,), SCALE[1], SCALE[0])
    if swiglu:
        hidden = swiglu_width(width)
        linear("mlp.weights_in", 2 * hidden, width, fan, 0.05)
        linear("mlp.weights_out", width, hidden, 0.6 * hidden**-0.5, 0.02)
    else:
        linear("mlp.fc1", 4 * width, width, fan, 0.05)
        linear("mlp.fc2", width, 4 * width, 0.35 * fan, 0.02)
