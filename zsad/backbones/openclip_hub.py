"""open_clip's layout of a repository with a timm ViT and a BERT: ``open_clip_config.json``, one file of weights, a vocabulary.

``"hf:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"``, or a folder with the same files. BERT's own ``config.json``
is another repository's, which the file names (``hf_model_name``); below the folder, under that name, it is found without a
network. Pickles are read by the strict reader, no code is run, and each download is announced with its size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zsad.backbones.bert_clip import BertCLIP, trunk_names
from zsad.backbones.blocks import TowerShape
from zsad.errors import CheckpointMismatch, UnsupportedBackbone, WeightsUnavailable
from zsad.images.preprocessing import CLIP_MEAN, CLIP_STD
from zsad.weights.checkpoints import read_state_dict, sha256_of
from zsad.weights.download import announce_download, cached_file

__all__ = ["has_layout", "load_openclip_repository"]

CONFIG, VOCABULARY, BERT = "open_clip_config.json", "vocab.txt", "config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
KNOWN = ("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",)
HEAD = 64  # channels of a head, in timm's plain ViTs up to "large"
REPOSITORY = re.compile(r"(?!.*(\.\.|--))\w[\w.-]*\w/\w[\w.-]*\w")  # of the hub
POOLER = "cls_last_hidden_state_pooler"


def has_layout(source: str) -> bool:
    """Whether a folder or repository is to be read by this module; nothing is fetched to find out."""
    folder = Path(source)
    if folder.is_dir():
        return (folder / CONFIG).is_file() and not (folder / BERT).is_file()
    return source in KNOWN or (cached_file(source, [CONFIG]) is not None and cached_file(source, [BERT]) is None)


def load_openclip_repository(name: str, *, position_embedding: str | None = None, image_size: int | None = None) -> BertCLIP:
    """Loads ``"hf:org/name"`` or ``"hf:folder"``.

    Raises:
        WeightsUnavailable: a file is missing, or not in the cache, and no network or ``HF_HUB_OFFLINE`` set.
        UnsupportedBackbone: no plain ViT of timm with a BERT.
        CheckpointMismatch: the weights are not those of the configuration.
    """
    import transformers
    from tokenizers import BertWordPieceTokenizer

    source = name.removeprefix("hf:")
    config = _json(_file(name, source, [CONFIG]))
    model, given = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    _check(name, vision, text)
    bert = _bert_config(name, source, text["hf_model_name"])
    vocabulary = _file(name, source, [VOCABULARY])
    weights = _file(name, source, WEIGHTS)
    raw = read_state_dict(weights)
    state = trunk_names({key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in raw.items()})
    found = BertCLIP(
        name,
        **_shapes(name, state),
        dim=model["embed_dim"],
        text=transformers.BertModel(bert, add_pooling_layer=False),
        head=_head(bert.hidden_size, model["embed_dim"], text["hf_proj_type"]),
        tokenizer=BertWordPieceTokenizer(str(vocabulary), lowercase=True),
        context_length=min(text.get("context_length", 77), bert.max_position_embeddings),
        mean=tuple(given.get("mean", CLIP_MEAN)),
        std=tuple(given.get("std", CLIP_STD)),
        position_embedding=position_embedding,
        image_size=image_size,
    )
    try:
        found.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip()
        raise CheckpointMismatch(f"{weights.name} of {name} does not fit its configuration: {reason}") from error
    found.weights_sha256 = sha256_of(weights)
    return found


def _check(name: str, vision: dict[str, Any], text: dict[str, Any]) -> None:
    """Raises ``UnsupportedBackbone`` where the configuration is of another kind."""
    timm, bert = str(vision.get("timm_model_name", "none of timm")), text.get("hf_model_name")
    plain = re.fullmatch(r"vit_(tiny|small|base|large)_patch\d+_\d+", timm) and not vision.get("timm_pool")
    if not plain or vision.get("timm_proj") != "linear":
        raise UnsupportedBackbone(
            f"The image tower of {name} is {timm}; of open_clip's repositories hf: covers timm's plain ViT with a class token "
            "and a linear projection, beside a BERT (BiomedCLIP)."
        )
    if not bert or text.get("hf_pooler_type") != POOLER or text.get("hf_proj_type") not in ("mlp", "linear"):
        raise UnsupportedBackbone(
            f"The text tower of {name} is {bert} with {text.get('hf_pooler_type')}; of open_clip's repositories hf: covers a "
            "BERT whose first token is projected (BiomedCLIP)."
        )


def _shapes(name: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """Sizes of the image tower, read off the weights."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        layers = 1 + max(int(found[1]) for key in state if (found := re.match(r"visual\.transformer\.resblocks\.(\d+)\.", key)))
        hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        side = math.isqrt(state["visual.positional_embedding"].shape[0] - 1)
    except (KeyError, ValueError) as error:
        raise CheckpointMismatch(f"The weights of {name} have no {error}: they are not those of its configuration.") from error
    return {"vision": TowerShape(width, layers, width // HEAD, hidden), "patch_size": patch, "native_size": side * patch}


def _head(width: int, dim: int, kind: str) -> nn.Module:
    """The projection behind BERT."""
    if kind == "linear":
        return nn.Linear(width, dim, bias=False)
    middle = (width + dim) // 2
    return nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, dim, bias=False))


def _bert_config(name: str, source: str, bert: str) -> Any:
    """BERT's configuration, below the folder under its own name or from its repository."""
    import transformers

    folder = Path(source)
    inside = (folder / bert / BERT).resolve()
    if folder.is_dir() and inside.is_file() and inside.is_relative_to(folder.resolve()):
        found = _json(inside)
    elif REPOSITORY.fullmatch(bert):
        found = _json(_from_hub(f"{name} (its text tower)", bert, [BERT], f"or put its {BERT} to {source}/{bert}/{BERT}"))
    else:
        raise UnsupportedBackbone(f"The text tower of {name} is {bert!r}, which is no repository and does not lie below it.")
    if found.get("model_type") != "bert":
        raise UnsupportedBackbone(f"The text tower of {name} is a {found.get('model_type')!r}; hf: covers BERT here.")
    return transformers.BertConfig(**found)


def _file(name: str, source: str, filenames: Sequence[str]) -> Path:
    """The first of the files that a folder, the cache or the hub has."""
    folder = Path(source)
    if folder.is_dir():
        here = [folder / filename for filename in filenames if (folder / filename).is_file()]
        if not here:
            raise WeightsUnavailable(f"{name} has no {' or '.join(filenames)}. Copy the whole repository into the folder.")
        return here[0]
    return _from_hub(name, source, filenames)


def _from_hub(name: str, source: str, filenames: Sequence[str], hint: str = "") -> Path:
    """The first of the files that lies in the cache, or that the hub has, by an announced download."""
    from huggingface_hub import hf_hub_download

    if (known := cached_file(source, filenames)) is not None:
        return known
    for last, filename in enumerate(filenames, 1 - len(filenames)):
        try:
            announce_download(name, source, [filename])
        except WeightsUnavailable as error:
            if not last:
                raise WeightsUnavailable(f"{error} {hint}".rstrip()) from error
            continue
        return Path(hf_hub_download(source, filename))
    raise AssertionError


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointMismatch(f"{path.name} is no JSON: {error}. Copy it again.") from error
    if not isinstance(found, dict):
        raise CheckpointMismatch(f"{path.name} holds no object. Copy it again.")
    return found
