"""DINOv2 by name, and its weights in the four layouts that are published, under the names of ``DINOv2``.

``"dinov2-small"``, ``-base``, ``-large`` and ``-giant``, each also with ``-registers``, are facebook's repositories on the
Hugging Face hub; ``"timm:vit_small_patch14_dinov2.lvd142m"`` is a model of timm. Both download safetensors, announced with
their size. ``"hf:folder"`` and ``"file:path"`` read what lies on disk: Hugging Face's, timm's and facebookresearch's files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsad.backbones.blocks import TowerShape
from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.filling import fill, unfilled
from zsad.errors import CheckpointMismatch, UnknownName, UsageError, WeightsUnavailable
from zsad.registry import register_backbone
from zsad.weights.checkpoints import read_state_dict, sha256_of
from zsad.weights.download import announce_download, cached_file

__all__ = ["REPOSITORIES", "build_dinov2", "is_dinov2", "own_names"]

FILE = "model.safetensors"
REPOSITORIES = {
    f"dinov2-{size}{end}": f"facebook/dinov2-{middle}{size}"
    for end, middle in (("", ""), ("-registers", "with-registers-"))
    for size in ("small", "base", "large", "giant")
}
# names of Hugging Face's files, transformers 5's modules, timm's and facebookresearch's files -> DINOv2's
NAMES = (
    (r"^(?:dinov2|dinov2_with_registers|backbone)\.", ""),
    (r"^(?:embeddings\.)?cls_token$", "class_token"),
    (r"^(?:embeddings\.register_tokens|register_tokens|reg_token)$", "register_tokens"),
    (r"^(?:embeddings\.position_embeddings|pos_embed)$", "positions"),
    (r"^(?:embeddings\.patch_embeddings\.projection|patch_embed\.proj)\.", "patches."),
    (r"^(?:layernorm|norm)\.", "final_norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", lambda hit: f".attn.{ {'q': 'query', 'k': 'key', 'v': 'value'}[hit[1]] }."),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|attn\.proj)\.", ".attn.out_proj."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.(?:layer_scale|ls)([12])\.(?:lambda1|gamma)$", r".scale_\1"),
    (r"\.mlp\.(?:fc1|weights_in|w12)\.", ".mlp.c_fc."),
    (r"\.mlp\.(?:fc2|weights_out|w3|down_proj)\.", ".mlp.c_proj."),
)
STACKED = {
    ".attn.query.": (".attn.in_proj_", (".attn.query.", ".attn.key.", ".attn.value.")),
    ".mlp.gate_proj.": (".mlp.c_fc.", (".mlp.gate_proj.", ".mlp.up_proj.")),
}
DROPPED = re.compile(r"mask_token$|^(?:classifier|head)\.")  # of training and of classifiers
SCALED = {"scale_1": "attn.out_proj", "scale_2": "mlp.c_proj"}  # layer scale -> the linear layer before it


def is_dinov2(state: Mapping[str, Any]) -> bool:
    """True where a state dict has the names of one of the layouts."""
    names = {_renamed(key) for key in state}
    return {"class_token", "positions", "blocks.0.scale_1", "final_norm.weight"} <= names


def own_names(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under ``DINOv2``'s names, float32: queries, keys and values stacked, layer scale folded in."""
    named = {_renamed(key): tensor.float() for key, tensor in state.items() if not DROPPED.search(key)}
    found: dict[str, Tensor] = {}
    for key, tensor in named.items():
        stack = next((hit for hit in STACKED if hit in key), None)
        if stack:
            whole, parts = STACKED[stack]
            found[key.replace(stack, whole)] = torch.cat([named[key.replace(stack, part)] for part in parts])
        elif not any(part in key for _, parts in STACKED.values() for part in parts):
            found[key] = tensor
    for key in [key for key in found if key.rpartition(".")[2] in SCALED]:
        block, _, kind = key.rpartition(".")
        scale = found.pop(key)
        found[f"{block}.{SCALED[kind]}.weight"] = scale[:, None] * found[f"{block}.{SCALED[kind]}.weight"]
        found[f"{block}.{SCALED[kind]}.bias"] = scale * found[f"{block}.{SCALED[kind]}.bias"]
    found["class_token"] = found["class_token"].flatten()
    width = len(found["class_token"])
    found["register_tokens"] = found.get("register_tokens", torch.zeros(0, width)).reshape(-1, width)
    positions = found["positions"].reshape(-1, width)
    if math.isqrt(len(positions)) ** 2 == len(positions):  # timm adds the class token's to that token where there are registers
        positions = torch.cat([torch.zeros(1, width), positions])
    return found | {"positions": positions}


def _renamed(key: str) -> str:
    for theirs, own in NAMES:
        key = re.sub(theirs, own, key)
    return key


def build_dinov2(
    name: str,
    state: Mapping[str, Any],
    sha256: str = "",
    *,
    heads: int | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
) -> DINOv2:
    """The tower that a state dict of any of the layouts holds; sizes are read off the shapes.

    Args:
        name: what it calls itself.
        state: the weights.
        sha256: of their file.
        heads: None: width / 64, as in all published models.
        position_embedding: as ``DINOv2``.
        image_size: likewise.

    Raises:
        CheckpointMismatch: names what is missing, unexpected or of another shape.
        UsageError: ``heads`` are needed, or do not divide the width.
    """
    try:
        own = own_names(state)
        patches, hidden, inner = (
            own[key] for key in ("patches.weight", "blocks.0.mlp.c_proj.weight", "blocks.0.mlp.c_fc.weight")
        )
    except KeyError as error:
        raise CheckpointMismatch(f"{name} is no DINOv2 that is known here: {error.args[0]} is missing.") from error
    width, layers = len(own["class_token"]), 1 + max(int(key.split(".")[1]) for key in own if key.startswith("blocks."))
    if width % (heads or 64):
        raise UsageError(f"heads={heads} does not fit the width {width} of {name}. Pass heads=, a number that divides it.")
    with unfilled():
        model = DINOv2(
            name,
            TowerShape(width, layers, heads or width // 64, hidden.shape[1]),
            registers=len(own["register_tokens"]),
            swiglu=len(inner) == 2 * hidden.shape[1],
            patch_size=patches.shape[-1],
            native_size=math.isqrt(len(own["positions"]) - 1) * patches.shape[-1],
            position_embedding=position_embedding,
            image_size=image_size,
        )
    try:
        fill(model, own)
    except RuntimeError as error:
        raise CheckpointMismatch(f"{name} does not fit: {str(error).partition(chr(10))[2].strip()}") from error
    model.weights_sha256 = sha256
    return model


def load_from_hub(name: str, repository: str, **options: Any) -> DINOv2:
    """The weights of a repository: from the cache, or by a download that is announced under ``name``.

    Raises:
        WeightsUnavailable: not in the cache, and no network or ``HF_HUB_OFFLINE`` set.
    """
    from huggingface_hub import hf_hub_download

    path = cached_file(repository, [FILE])
    if path is None:
        announce_download(name, repository, [FILE])
        try:
            path = Path(hf_hub_download(repository, FILE))
        except Exception as error:  # the hub and its transport raise a dozen kinds
            raise WeightsUnavailable(
                f"The download of {name} broke off: {error}. Run the same command again to go on."
            ) from error
    return build_dinov2(name, read_state_dict(path), sha256_of(path), **options)


def load_named(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> DINOv2:
    """Loads ``"dinov2-small"`` and its kin; ``activation`` is the weights' own, whatever is asked for."""
    return load_from_hub(name, REPOSITORIES[name], position_embedding=position_embedding, image_size=image_size)


for _name in REPOSITORIES:
    register_backbone(_name)(load_named)


@register_backbone("timm:")
def load_timm(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> DINOv2:
    """Loads ``"timm:vit_small_patch14_dinov2.lvd142m"``, from the cache or by an announced download.

    Raises:
        UnknownName: timm has no DINOv2 of that name.
    """
    from timm.models import list_pretrained  # a dependency of open_clip

    known = list_pretrained("*dinov2*")
    if (wanted := name.removeprefix("timm:")) not in known:
        raise UnknownName.among("DINOv2 of timm", wanted, known)
    return load_from_hub(name, f"timm/{wanted}", position_embedding=position_embedding, image_size=image_size)
