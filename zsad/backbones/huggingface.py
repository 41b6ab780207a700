"""``hf:`` - Hugging Face checkpoints: CLIP (renamed into the trunk), DINOv2 and SigLIP (image only), BiomedCLIP.

``"hf:openai/clip-vit-large-patch14-336"`` or ``"hf:path/to/folder"``. Only safetensors are read, no code of a repository is
run. A download is announced with its size. BiomedCLIP's layout is open_clip's, see ``openclip_hub.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from zsad.backbones.bert_clip import BertCLIP
from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import CLIP
from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.dinov2_weights import build_dinov2
from zsad.backbones.file import load_clip_state
from zsad.backbones.filling import unfilled
from zsad.backbones.openclip_hub import has_layout, load_openclip_repository
from zsad.backbones.siglip import SigLIP
from zsad.errors import UnsupportedBackbone, WeightsUnavailable
from zsad.registry import register_backbone
from zsad.weights.checkpoints import sha256_of
from zsad.weights.download import announce_download, cached_file, quiet_without_a_terminal

__all__ = ["load_huggingface"]

FILE = "model.safetensors"
SIGLIP = ("siglip", "siglip_vision_model")  # transformers' names of the kinds of model
# Hugging Face's names inside a tower -> CLIP's
BLOCK_NAMES = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
OUTER_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
}
TOWERS = {
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "text_model.encoder.layers.": "transformer.resblocks.",
}


@register_backbone("hf:")
def load_huggingface(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> CLIP | DINOv2 | SigLIP | BertCLIP:
    """Loads ``"hf:org/name"`` or ``"hf:folder"``.

    Raises:
        WeightsUnavailable: not in the cache, and no network or ``HF_HUB_OFFLINE`` set.
        UnsupportedBackbone: neither CLIP, DINOv2, SigLIP nor BiomedCLIP's kind.
    """
    import transformers

    source = name.removeprefix("hf:")
    if has_layout(source):
        return load_openclip_repository(name, position_embedding=position_embedding, image_size=image_size)
    if not Path(source).is_dir() and cached_file(source, [FILE]) is None:
        announce_download(name, source, [FILE])
    quiet_without_a_terminal()
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        kind = config.model_type
        if kind not in ("clip", "dinov2", "dinov2_with_registers", *SIGLIP):
            raise UnsupportedBackbone(f"{name} is a {kind!r} model; hf: covers CLIP and DINOv2, and SigLIP's image tower.")
        model = transformers.AutoModel.from_pretrained(source, config=config, use_safetensors=True, dtype=torch.float32)
        file = transformers.utils.cached_file(source, FILE, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsUnavailable(
            f"{name} could not be loaded ({reason}). Check the name, the network and HF_HUB_OFFLINE; a folder that "
            "save_pretrained wrote (config.json and model.safetensors) works without a network: 'hf:path/to/folder'."
        ) from error
    sha256 = sha256_of(file) if file else ""
    if kind == "clip":
        return _clip(name, config, model.state_dict(), sha256, activation, position_embedding, image_size)
    if kind in SIGLIP:
        own = config if kind == "siglip_vision_model" else config.vision_config
        return SigLIP(name, getattr(model, "vision_model", model), own, image_size, sha256)
    return build_dinov2(
        name,
        model.state_dict(),
        sha256,
        heads=config.num_attention_heads,
        position_embedding=position_embedding,
        image_size=image_size,
    )


def _shape(config: Any) -> TowerShape:
    return TowerShape(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)


def _clip(
    name: str,
    config: Any,
    state: dict[str, Tensor],
    sha256: str,
    activation: str | None,
    position_embedding: str | None,
    image_size: int | None,
) -> CLIP:
    vision, text = config.vision_config, config.text_config
    with unfilled():
        model = CLIP(
            name,
            vision=_shape(vision),
            text=_shape(text),
            patch_size=vision.patch_size,
            native_size=vision.image_size,
            dim=config.projection_dim,
            activation=activation or vision.hidden_act,
            position_embedding=position_embedding,
            image_size=image_size,
            vocabulary=text.vocab_size,
            context_length=text.max_position_embeddings,
        )
    load_clip_state(model, rename_clip(state), sha256)
    return model


def rename_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's CLIP keys -> CLIP's; queries, keys and values are stacked, projections transposed."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        tower = next((t for t in TOWERS if key.startswith(t)), None)
        if key in OUTER_NAMES:
            renamed[OUTER_NAMES[key]] = tensor.T.contiguous() if key.endswith("projection.weight") else tensor
        elif tower and ".self_attn.q_proj." in key:
            layer, kind = key.removeprefix(tower).split(".")[0], key.rpartition(".")[2]
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[f"{TOWERS[tower]}{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif tower and "_proj." not in key.replace("out_proj.", ""):
            new = key.replace(tower, TOWERS[tower])
            for theirs, ours in BLOCK_NAMES.items():
                new = new.replace(theirs, ours)
            renamed[new] = tensor
        elif not tower and not key.endswith("position_ids"):
            renamed[key] = tensor  # nothing is dropped in silence: a strict load will name it
    return renamed
