"""AdaCLIP's hybrid (static plus dynamic) prompts, their losses, and the layout of the authors' files.

Cao et al., ECCV 2024, arXiv 2407.15795, section 3; caoyunkang/AdaCLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.blocks import in_blocks
from zsad.alignment.losses import dice, focal
from zsad.alignment.similarity import both
from zsad.errors import CheckpointMismatch
from zsad.prompts.deep_prompts import Overwrite, rounded_to_half
from zsad.weights.checkpoints import AuthorsFile

__all__ = [
    "AUTHORS_FILE",
    "Append",
    "HybridPrompts",
    "compare_sizes",
    "cut",
    "map_losses",
    "prompted_ensemble",
    "stored_sizes",
    "unprompted_states",
]

PICTURES = 8  # whose sentences pass the text tower together
AUTHORS_FILE = AuthorsFile(  # flat, with or without the prefix; the rest is CLIP's own, which a full dump carries twice
    {
        r"^clip_model\.": "",
        r"^text_prompter\.static_prompts\.": "text_prompts.static.",
        r"^visual_prompter\.static_prompts\.": "visual_prompts.static.",
        r"^dynamic_text_prompt_generator\.head\.": "text_prompts.dynamic.",
        r"^dynamic_visual_prompt_generator\.head\.": "visual_prompts.dynamic.",
        r"^patch_token_layer\.head\.": "patch_projection.",
        r"^cls_token_layer\.head\.0\.": "class_projection.",
        r"^(freeze_clip|visual|transformer|token_embedding|ln_final)\.": None,
        r"^(positional_embedding|text_projection|logit_scale|attn_mask)$": None,
    }
)


@dataclass(frozen=True)
class Append:
    """Fulfils ``vit.Prompts``: tokens at the end of the sequence, replaced before each of the first blocks, then left alone.

    Attributes:
        tokens: for blocks 1, 2, ..., (B, n, C) each.
    """

    tokens: Sequence[Tensor]

    def insert(self, x: Tensor, layer: int) -> Tensor:
        """(B, L, C) before block ``layer`` -> (B, L + n, C) at block 1, the same shape behind it."""
        if layer > len(self.tokens):
            return x
        tokens = self.tokens[layer - 1].to(x)
        kept = x if layer == 1 else x[:, : -tokens.shape[1]]
        return torch.cat([kept, tokens], dim=1)


class HybridPrompts(nn.Module):
    """Learned prompts of one tower: static ones for each block, and dynamic ones from a picture, the same for every block.

    Args:
        depth: blocks that are prompted.
        length: tokens of a prompt.
        features: D, channels of a picture's feature.
        width: C of the tower.
        half: whether a prompt is rounded to float16, as published.
    """

    def __init__(self, depth: int, length: int, features: int, width: int, half: bool) -> None:
        super().__init__()
        self.half_prompts = half
        self.static = nn.ParameterList([nn.Parameter(0.02 * torch.randn(length, width)) for _ in range(depth)])
        self.dynamic = nn.ModuleList([nn.Linear(features, width) for _ in range(length)])

    def draw(self, image: Tensor) -> Tensor:
        """A picture's feature (B, D) -> its dynamic prompt (B, length, C)."""
        return torch.stack([head(image) for head in self.dynamic], dim=1)

    def forward(self, dynamic: Tensor) -> list[Tensor]:
        """Dynamic prompts (B, length, C) -> the whole prompt of every prompted block, (B, length, C) each."""
        tokens = [static + dynamic for static in self.static]
        return [rounded_to_half(prompt) for prompt in tokens] if self.half_prompts else tokens


def cut(ids: Tensor) -> Tensor:
    """Tokens (N, context) -> (N, T), without what stands behind the last end token; that has the largest id."""
    return ids[:, : int(ids.argmax(dim=1).max()) + 1]


def unprompted_states(backbone: Any, ids: Tensor) -> Tensor:
    """Tokens (N, T) -> hidden states (N, T, C) behind text block 1, which no prompt reaches: the same for all pictures."""
    embedded = backbone.token_embedding(ids) + backbone.positional_embedding[: ids.shape[1]]
    states: Tensor = backbone.transformer.blocks[0](embedded, causal=True)
    return states


def prompted_ensemble(
    backbone: Any, prompts: HybridPrompts, dynamic: Tensor, states: Tensor, ends: Tensor, normal: int
) -> Tensor:
    """Every picture's own vectors of normal and anomalous text.

    Args:
        backbone: a ``vit.CLIP``.
        prompts: of the text tower.
        dynamic: (B, length, C), the pictures' dynamic prompts.
        states: (N, T, C) of all sentences, from ``unprompted_states``.
        ends: (N,), where each sentence ends.
        normal: how many of them, from the first, are normal.

    Returns:
        (B, 2, D): sentences of length one, averaged, of length one again.
    """
    parts = in_blocks(dynamic, PICTURES)
    encoded = torch.cat([_prompted_sentences(backbone, prompts, part, states, ends) for part in parts])  # (B, N, D)
    means = [encoded[:, :normal].mean(dim=1), encoded[:, normal:].mean(dim=1)]
    return F.normalize(torch.stack(means, dim=1), dim=-1)


def _prompted_sentences(backbone: Any, prompts: HybridPrompts, dynamic: Tensor, states: Tensor, ends: Tensor) -> Tensor:
    """Prompts (b, length, C) of b pictures, states (N, T, C) -> (b, N, D), of length one."""
    # repeated before they are rounded, so that gradients are rounded per sentence, as in the published training
    tokens = prompts(dynamic.repeat_interleave(len(states), dim=0))
    overwrite = Overwrite(dict(enumerate(tokens[1:], 2)))  # the first words, before blocks 2 to depth
    pictures = dynamic.shape[0]  # no ``len``, which is a constant in a graph
    repeated = states.repeat(pictures, 1, 1), ends.repeat(pictures)
    encoded = backbone.encode_states(*repeated, overwrite, behind=1)
    return F.normalize(encoded, dim=-1).unflatten(0, (pictures, len(states)))


def map_losses(layers: Sequence[Tensor], masks: Tensor) -> dict[str, Tensor]:
    """Focal and both dice losses of every layer's map, summed over the layers.

    The authors' masks lose the batch axis, so their dice losses take each row of pixels for a picture; so do these.

    Args:
        layers: logit differences, (B, H, W) each.
        masks: (B, H, W), 1 = defect.
    """
    maps, rows = [both(margins) for margins in layers], masks.flatten(0, 1)  # (B, 2, H, W) each, (B * H, W)
    dices = [dice(p[:, 1].flatten(0, 1), rows) + dice(p[:, 0].flatten(0, 1), 1 - rows) for p in maps]
    return {"focal": torch.stack([focal(p, masks) for p in maps]).sum(), "dice": torch.stack(dices).sum()}


# ------------------------------------------------------------------ the authors' files
SIZES = {
    "depth": r"(text|visual)_prompts\.static\.(?P<index>\d+)$",
    "length": r"(text|visual)_prompts\.dynamic\.(?P<index>\d+)\.",
    "taps": r"patch_projection\.(?P<index>\d+)\.",
}


def stored_sizes(state: Mapping[str, Any]) -> dict[str, int]:
    """Sizes that own names imply: "depth", "length" and "taps" (their number)."""
    indices = {size: [int(hit["index"]) for key in state if (hit := re.match(p, key))] for size, p in SIZES.items()}
    return {size: max(found) + 1 for size, found in indices.items() if found}


def compare_sizes(state: Mapping[str, Any], own: Mapping[str, int], origin: str) -> None:
    """Compares ``stored_sizes`` with ``own``.

    Raises:
        CheckpointMismatch: says which keywords to pass.
    """
    differ = [(size, stored) for size, stored in stored_sizes(state).items() if stored != own[size]]
    if differ:
        built = ", ".join(f"{own[size]} taps" if size == "taps" else f"{size}={own[size]}" for size, _ in differ)
        needed = ", ".join(f"taps= with its {n} layers" if size == "taps" else f"{size}={n}" for size, n in differ)
        raise CheckpointMismatch(f"{origin} was not learned with {built}: pass {needed}.")
