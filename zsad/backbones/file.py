"""``file:`` - a CLIP state dict on disk, in OpenAI's or open_clip's key layout, of any width and depth; or a DINOv2's.

Everything is read off the shapes but three things that a state dict does not say: the activation (ask for it), the heads
(width / 64 unless ``heads=`` says otherwise) and how positions are resized.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import CLIP, LOGIT_SCALE
from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.dinov2_weights import build_dinov2, is_dinov2
from zsad.backbones.filling import fill, unfilled
from zsad.errors import CheckpointMismatch, UnsupportedBackbone, UsageError
from zsad.registry import register_backbone
from zsad.weights.checkpoints import read_state_dict, sha256_of

__all__ = ["load_clip_state", "load_file"]

# what published files carry beside the weights
DROPPABLE = frozenset({"input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias"})
# open_clip's ViT-H, ViT-g, ViT-bigG and ViT-e do not use heads of 64 channels
ODD_WIDTHS = {1280: 16, 1408: 16, 1664: 16, 1792: 16}


@register_backbone("file:")
def load_file(
    name: str,
    *,
    activation: str | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
    heads: int | None = None,
    text_heads: int | None = None,
) -> CLIP | DINOv2:
    """Loads ``"file:path"``; DINOv2's files are known by their names, see ``dinov2_weights.py``, and need no activation.

    Args:
        name: ``file:`` and a path.
        activation: "gelu" or "quick_gelu" (OpenAI's weights); needed, since a state dict does not say.
        position_embedding: "bilinear", "bicubic" or "bicubic_antialias" (default).
        image_size: side of the input; None is the native one.
        heads: of the image tower, where width / 64 is not right.
        text_heads: of the text tower, likewise.

    Raises:
        UsageError: no activation was given.
        CheckpointMismatch, UnsupportedBackbone: no plain CLIP ViT.
    """
    path = name.removeprefix("file:")
    raw = read_state_dict(path)
    if is_dinov2(raw):
        sha256 = sha256_of(path)
        return build_dinov2(name, raw, sha256, heads=heads, position_embedding=position_embedding, image_size=image_size)
    if activation is None:
        raise UsageError(
            f"A state dict does not say its activation: pass activation='quick_gelu' (OpenAI's weights, open_clip's "
            f"*-quickgelu models) or activation='gelu' (open_clip's others) with {name!r}."
        )
    state = clip_state(raw, name)
    visual = [int(i) for i in _numbers(r"visual\.transformer\.resblocks\.(\d+)\.", state)]
    text = [int(i) for i in _numbers(r"transformer\.resblocks\.(\d+)\.", state)]
    width, text_width = state["visual.conv1.weight"].shape[0], state["ln_final.weight"].shape[0]
    patch_size = state["visual.conv1.weight"].shape[-1]
    with unfilled():
        model = CLIP(
            name,
            vision=_tower(state, "visual.transformer", width, max(visual) + 1, heads, "heads"),
            text=_tower(state, "transformer", text_width, max(text) + 1, text_heads, "text_heads"),
            patch_size=patch_size,
            native_size=math.isqrt(state["visual.positional_embedding"].shape[0] - 1) * patch_size,
            dim=state["visual.proj"].shape[1],
            activation=activation,
            position_embedding=position_embedding,
            image_size=image_size,
            vocabulary=state["token_embedding.weight"].shape[0],
            context_length=state["positional_embedding"].shape[0],
        )
    load_clip_state(model, state, sha256_of(path))
    return model


def clip_state(raw: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Unwraps a training checkpoint and drops what is no weight.

    Raises:
        UnsupportedBackbone: the keys are not those of a plain CLIP ViT.
    """
    state = raw.get("state_dict", raw)
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    state = {key: value.float() for key, value in state.items() if key not in DROPPABLE}
    blocks = ("visual.transformer.resblocks.0.mlp.c_fc.weight", "transformer.resblocks.0.mlp.c_fc.weight")
    needed = (
        *blocks,
        "token_embedding.weight",
        "positional_embedding",
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.proj",
        "ln_final.weight",
        "text_projection",
    )
    absent = [key for key in needed if key not in state]
    if absent:
        hint = (
            " This is a Hugging Face layout: load its folder with 'hf:path'."
            if "vision_model.post_layernorm.weight" in state
            else ""
        )
        raise UnsupportedBackbone(
            f"{name} is no plain CLIP ViT in OpenAI's or open_clip's layout: {', '.join(absent)} missing, it starts with "
            f"{', '.join(sorted(state)[:3]) or 'nothing'}.{hint}"
        )
    return state


def _numbers(pattern: str, state: dict[str, Tensor]) -> set[str]:
    return {found[1] for key in state if (found := re.match(pattern, key))}


def _tower(state: dict[str, Tensor], prefix: str, width: int, layers: int, heads: int | None, keyword: str) -> TowerShape:
    """Shape of one tower; refuses to guess the heads where width / 64 is not safe."""
    if heads is None and (width % 64 or (width in ODD_WIDTHS and keyword == "heads")):
        likely = f" (open_clip's models of this width have {ODD_WIDTHS[width]})" if width in ODD_WIDTHS else ""
        raise UsageError(f"A width of {width} does not tell the number of attention heads{likely}: pass {keyword}=.")
    heads = heads or width // 64
    if width % heads:
        raise UsageError(f"{keyword}={heads} does not divide the width {width}.")
    return TowerShape(width, layers, heads, state[f"{prefix}.resblocks.0.mlp.c_fc.weight"].shape[0])


def load_clip_state(model: CLIP, state: dict[str, Tensor], sha256: str) -> None:
    """Loads strictly; a missing ``logit_scale`` (some files leave it out) has CLIP's initial value.

    Raises:
        CheckpointMismatch: names what is missing, unexpected or of another shape.
    """
    scale = state.get("logit_scale", torch.tensor(LOGIT_SCALE))
    try:
        fill(model, state | {"logit_scale": scale.reshape(())})
    except RuntimeError as error:
        raise CheckpointMismatch(f"{model.name} does not fit the trunk: {str(error).partition(chr(10))[2].strip()}") from error
    model.weights_sha256 = sha256
