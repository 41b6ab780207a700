"""open_clip as the source of configurations, weights and tokenizer; the forward pass is the trunk's.

Covered is every plain CLIP ViT of open_clip: class token, learned positions, ``ln_pre``, causal text tower with the CLIP
tokenizer. The others (timm towers, SigLIP, EVA, CoCa, CLIPA, ResNets, multilingual text towers ...) are refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import CLIP
from zsad.backbones.file import clip_state, load_clip_state
from zsad.backbones.filling import unfilled
from zsad.backbones.openclip_package import architectures, configuration, part
from zsad.errors import UnknownName, UnsupportedBackbone, WeightsUnavailable
from zsad.registry import register_backbone
from zsad.weights.checkpoints import read_state_dict, sha256_of
from zsad.weights.download import announce_download, cached_file

__all__ = ["build", "cached", "hub_files", "load_openclip", "megabytes", "plain_models"]

MODEL_KEYS = {"embed_dim", "quick_gelu"}
VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def _is_plain(config: dict[str, Any]) -> bool:
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    return (
        set(config) - {"vision_cfg", "text_cfg"} <= MODEL_KEYS
        and set(vision) <= VISION_KEYS
        and set(text) <= TEXT_KEYS
        and isinstance(vision.get("layers"), int)
        and text.get("vocab_size") == 49408
    )


def plain_models() -> list[str]:
    """All ``architecture.tag`` names that the trunk covers, sorted."""
    return sorted(f"{arch}.{tag}" for arch, tag in part("pretrained").list_pretrained() if _is_plain(configuration(arch)))


def build(name: str, architecture: str, **options: Any) -> CLIP:
    """The trunk with an open_clip architecture's sizes and random weights.

    Args:
        name: what the backbone calls itself.
        architecture: as open_clip calls it, such as "ViT-B-16-plus-240".
        **options: ``activation``, ``position_embedding``, ``image_size``, ``mean`` and ``std`` of ``CLIP``.

    Raises:
        UnknownName: open_clip has no such architecture.
        UnsupportedBackbone: it is no plain CLIP ViT.
    """
    config = configuration(architecture)
    if not config:
        raise UnknownName.among("open_clip architecture", architecture, architectures())
    if not _is_plain(config):
        good = [arch for arch in architectures() if _is_plain(configuration(arch))]
        raise UnsupportedBackbone(
            f"{architecture} is no plain CLIP ViT, so the trunk does not cover it. Covered: {', '.join(good)}."
        )
    vision, text = config["vision_cfg"], config["text_cfg"]
    native = options.pop("activation", None) or ("quick_gelu" if config.get("quick_gelu") else "gelu")
    width = vision["width"]
    return CLIP(
        name,
        vision=TowerShape(
            width, vision["layers"], width // vision.get("head_width", 64), int(width * vision.get("mlp_ratio", 4.0))
        ),
        text=TowerShape(text["width"], text["layers"], text["heads"], 4 * text["width"]),
        patch_size=vision["patch_size"],
        native_size=vision["image_size"],
        dim=config["embed_dim"],
        activation=native,
        vocabulary=text["vocab_size"],
        context_length=text["context_length"],
        **options,
    )


@register_backbone("openclip:")
def load_openclip(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> CLIP:
    """Loads ``"architecture.tag"`` (or ``"openclip:architecture.tag"``), from the cache or by an announced download.

    ``activation=None`` takes the one that the weights were trained with.

    Raises:
        UnknownName: no such architecture or tag.
        UnsupportedBackbone: not a plain CLIP ViT.
        WeightsUnavailable: not in the cache, and no network or ``HF_HUB_OFFLINE`` set.
    """
    architecture, _, tag = name.removeprefix("openclip:").partition(".")
    published = part("pretrained")
    source = published.get_pretrained_cfg(architecture, tag)
    trained_with = "quick_gelu" if source and source.get("quick_gelu") else None
    options = {"position_embedding": position_embedding, "image_size": image_size}
    with unfilled():
        model = build(name, architecture, activation=activation or trained_with, **options | _statistics(source or {}))
    if not source:
        raise UnknownName.among(f"pretrained tag of {architecture}", tag, published.list_pretrained_tags_by_model(architecture))
    path = _fetch(name, source)
    load_clip_state(model, clip_state(read_state_dict(path), name), sha256_of(path))
    return model


def _statistics(source: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {key: tuple(source[key]) for key in ("mean", "std") if key in source}


def hub_files(source: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Repository and file names of a pretrained tag on the hub; the first existing file counts."""
    repository, _, filename = source.get("hf_hub", "").rpartition("/")
    return repository, (filename,) if filename else WEIGHT_FILES


def megabytes(name: str) -> float:
    """Size of an ``architecture.tag``'s weights in float32, by counting the trunk's parameters."""
    with torch.device("meta"), unfilled():
        model = build(name, name.partition(".")[0])
    return sum(p.numel() for p in model.parameters()) * 4 / 1e6


def cached(name: str) -> Path | None:
    """The weights' file of an ``architecture.tag`` in the Hugging Face cache, or None."""
    architecture, _, tag = name.partition(".")
    return cached_file(*hub_files(part("pretrained").get_pretrained_cfg(architecture, tag) or {}))


def _fetch(name: str, source: dict[str, Any]) -> Path:
    """The file of weights: cached, or by an announced download."""
    repository, filenames = hub_files(source)
    if (cached := cached_file(repository, filenames)) is not None:
        return cached
    announce_download(name, repository, filenames)
    try:
        return Path(part("pretrained").download_pretrained(source))
    except Exception as error:  # open_clip and the hub raise a dozen kinds, down to their transports'
        raise WeightsUnavailable(f"The download of {name} broke off: {error}. Run the same command again to go on.") from error
