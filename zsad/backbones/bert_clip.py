"""CLIP whose image tower is timm's plain ViT and whose text tower is BERT: BiomedCLIP (Zhang et al. 2023, arXiv 2303.00915).

timm's ViT runs on the trunk: it has no normalisation before the blocks, and the bias of its patch embedding is added to the
positions. BERT is transformers'. Methods that learn prompts put tokens into CLIP's own text tower and cannot run on this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import WithVisual
from zsad.backbones.vit import VisionTransformer
from zsad.errors import SizeMismatch, UsageError
from zsad.images.preprocessing import Squash

__all__ = ["BertCLIP", "trunk_names"]

PADDING, UNKNOWN = 0, "[UNK]"  # id and piece in every BERT's vocabulary
EPSILON = 1e-6  # of timm's layer norms
BLOCK_NAMES = {"norm1.": "ln_1.", "norm2.": "ln_2.", "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj."}
BLOCK_NAMES |= {"mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj."}


class BertCLIP(WithVisual):
    """An image tower and BERT in one space; fulfils ``types.TextBackbone``.

    Args:
        name: as ``load_backbone`` takes it.
        vision: shape of the image tower.
        patch_size: in pixels.
        native_size: side of the pictures that the positions are for.
        dim: of the joint space.
        text: transformers' BertModel without a pooler.
        head: from BERT's width to the joint space.
        tokenizer: ``tokenizers.BertWordPieceTokenizer`` with the vocabulary of ``text``.
        context_length: tokens of the longest sentence, with the first and the last.
        mean: of the input, by channel.
        std: likewise.
        position_embedding: how positions are resized; None: timm's own way.
        image_size: side of the input in pixels; None: the native one.
    """

    activation = "gelu"

    def __init__(
        self,
        name: str,
        *,
        vision: TowerShape,
        patch_size: int,
        native_size: int,
        dim: int,
        text: nn.Module,
        head: nn.Module,
        tokenizer: Any,
        context_length: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        position_embedding: str | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weights_sha256, self.depth = name, "", vision.layers
        self.position_embedding = position_embedding or "bicubic_antialias"
        self.image_size = image_size or native_size
        if self.image_size % patch_size:
            raise SizeMismatch(name, self.image_size, patch_size)
        self.preprocess = Squash(self.image_size, mean, std)
        self.visual = VisionTransformer(vision, patch_size, native_size, dim, self.activation, self.position_embedding)
        self.visual.ln_pre = nn.Identity()  # type: ignore[assignment]
        for module in self.visual.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = EPSILON
        self.text, self.head, self.context_length, self._tokenizer = text, head, context_length, tokenizer
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """N sentences -> (N, longest) int64: start, tokens, end, padding.

        Raises:
            UsageError: a sentence is longer than the context.
        """
        read = self._tokenizer.encode_batch([" ".join(sentence.split()) for sentence in sentences])
        longest = max(len(one.ids) for one in read)
        if longest > self.context_length:
            worst = next(sentence for sentence, one in zip(sentences, read, strict=True) if len(one.ids) == longest)
            raise UsageError(
                f"The sentence {worst[:60]!r}... has {longest} tokens; {self.name} reads {self.context_length}. Use fewer."
            )
        ids = torch.zeros(len(read), longest, dtype=torch.int64)
        for row, one in zip(ids, read, strict=True):
            row[: len(one.ids)] = torch.tensor(one.ids)
        return ids.to(self.logit_scale.device)

    def unknown_pieces(self, text: str) -> list[int]:
        """Tokens of a text that stand for what the vocabulary has no piece of."""
        read = self._tokenizer.encode(text)
        return [one for one, piece in zip(read.ids, read.tokens, strict=True) if piece == UNKNOWN]

    def encode_text(self, sentences: Sequence[str], batch_size: int = 64) -> Tensor:
        """N sentences -> (N, D), not normalised: BERT's first token behind its last block, projected."""
        found = []
        for start in range(0, len(sentences), batch_size):
            ids = self.tokenize(sentences[start : start + batch_size])
            seen = (ids != PADDING).long()
            found.append(self.head(self.text(input_ids=ids, attention_mask=seen).last_hidden_state[:, 0]))
        return torch.cat(found)


def trunk_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names of a timm ViT and a BERT -> ``BertCLIP``'s; others keep theirs, so that a strict load names them."""
    blocks, found = "visual.trunk.blocks.", dict[str, Tensor]()
    bias, positions = (state.get(f"visual.trunk.{key}") for key in ("patch_embed.proj.bias", "pos_embed"))
    for key, tensor in state.items():
        if key.startswith(blocks):
            new = key.replace(blocks, "visual.transformer.resblocks.")
            for theirs, ours in BLOCK_NAMES.items():
                new = new.replace(theirs, ours)
            found[new] = tensor
        elif tensor is positions and bias is not None:
            found["visual.positional_embedding"] = torch.cat([tensor[0, :1], tensor[0, 1:] + bias])
        elif key.startswith("text.proj."):
            found[key.replace("text.proj.", "head.")] = tensor
        elif key != "text.transformer.embeddings.position_ids" and (tensor is not bias or positions is None):
            found[OUTER.get(key, key.replace("text.transformer.", "text."))] = _shaped(key, tensor)
    return found


OUTER = {
    "visual.trunk.cls_token": "visual.class_embedding",
    "visual.trunk.patch_embed.proj.weight": "visual.conv1.weight",
    "visual.trunk.norm.weight": "visual.ln_post.weight",
    "visual.trunk.norm.bias": "visual.ln_post.bias",
    "visual.head.proj.weight": "visual.proj",
}


def _shaped(key: str, tensor: Tensor) -> Tensor:
    if key == "visual.trunk.cls_token":
        return tensor[0, 0]
    return tensor.T.contiguous() if key == "visual.head.proj.weight" else tensor
