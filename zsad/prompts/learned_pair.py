"""The object-agnostic prompt pair of AnomalyCLIP and its descendants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import CheckpointMismatch, UsageError
from zsad.prompts.deep_prompts import Overwrite, rounded_to_half
from zsad.weights.checkpoints import AuthorsFile

__all__ = [
    "NOUNS",
    "PAIR_FILE",
    "PromptPair",
    "compare_start_token",
    "flat_pair",
    "has_projections",
    "pair_sizes",
    "refuse_projections",
]

STD = 0.02  # of the initial tokens
NOUNS = ("object", "damaged object")  # of AnomalyCLIP and Crane
PROJECTIONS = "compound_prompt_projections."  # in AnomalyCLIP's files, used by nothing
PAIR_FILE = AuthorsFile(  # of AnomalyCLIP and Crane, for a ``PromptPair`` that the detector calls ``prompts``
    {
        r"^ctx_pos$": "prompts.normal",
        r"^ctx_neg$": "prompts.anomalous",
        r"^compound_prompts_text\.": "prompts.deep.",
        r"^compound_prompt_projections\.": None,
        r"^(token_prefix|token_suffix|tokenized_prompts)_(pos|neg)$": None,  # follow from the tokenizer
    },
    inside=("prompt_learner",),
)


class TextTower(Protocol):
    """What a prompt pair needs of a backbone."""

    token_embedding: nn.Embedding

    def tokenize(self, sentences: list[str]) -> Tensor:
        """N sentences -> (N, context)."""

    def encode_embeddings(self, x: Tensor, eot: Tensor, prompts: Overwrite | None = None) -> Tensor:
        """Token embeddings -> (N, D)."""


class PromptPair(nn.Module):
    """Learned tokens in place of the words before the nouns, and deep tokens that overwrite the text tower's states.

    Args:
        width: of the text tower.
        context: learned tokens per sentence.
        deep: number of text blocks that are prompted, the input counted: 9 is blocks 2 to 9.
        deep_length: tokens per block.
        nouns: what follows the tokens, normal first; "": nothing does.
    """

    def __init__(self, width: int, context: int, deep: int, deep_length: int, nouns: tuple[str, str] = NOUNS) -> None:
        super().__init__()
        self.nouns = nouns
        self.normal = nn.Parameter(STD * torch.randn(context, width))
        self.anomalous = nn.Parameter(STD * torch.randn(context, width))
        self.deep = nn.ParameterList(STD * torch.randn(deep_length, width) for _ in range(deep - 1))

    def sentences(self) -> tuple[str, str]:
        """Both sentences with an X for each learned token."""
        dummy = " ".join(["X"] * len(self.normal))
        normal, anomalous = (f"{dummy} {noun}".rstrip() + "." for noun in self.nouns)
        return normal, anomalous

    def by_class(self) -> dict[str, tuple[str, ...]]:
        """Both sentences as ``Context.sentences`` has them."""
        return {name: (line,) for name, line in zip(("normal", "anomalous"), self.sentences(), strict=True)}

    def encode(self, backbone: TextTower, *, half: bool, images: Tensor | None = None) -> Tensor:
        """Text features (1, 2, D), not normalised; ``half`` rounds the deep tokens to float16, as published.

        With image features ``images``, (B, D), each picture's is a token behind the learned ones, at length one (Crane): then
        (B, 2, D).

        Raises:
            UsageError: image features of another width than the text tower's.
        """
        ids = backbone.tokenize(list(self.sentences()))
        ends, x = ids.argmax(dim=1), backbone.token_embedding(ids)  # (2,), (2, context length, C)
        learned, rest = torch.stack([self.normal, self.anomalous]), x[:, 1 + len(self.normal) :]
        deep = {layer: rounded_to_half(tokens) if half else tokens for layer, tokens in enumerate(self.deep, 2)}
        if images is None:
            x = torch.cat([x[:, :1], learned, rest], dim=1)
            return backbone.encode_embeddings(x, ends, Overwrite(deep))[None]
        if not self.takes(images):
            raise UsageError(
                f"Image features of width {images.shape[1]} cannot stand among text tokens of width {x.shape[2]}. Leave "
                "image_token out, or take a backbone whose joint space is as wide as its text tower."
            )
        start, learned, rest = (part.expand(images.shape[0], *part.shape) for part in (x[:, :1], learned, rest[:, :-1]))
        own = F.normalize(images, dim=-1)[:, None, None].expand(-1, 2, 1, -1)
        x = torch.cat([start, learned, own, rest], dim=2)  # (B, 2, context length, C)
        encoded = backbone.encode_embeddings(x.flatten(0, 1), ends.repeat(images.shape[0]) + 1, Overwrite(deep))
        return encoded.unflatten(0, (-1, 2))

    def takes(self, images: Tensor) -> bool:
        """True where image features (B, D) are as wide as the tokens."""
        return images.shape[1] == self.normal.shape[1]


def has_projections(state: Mapping[str, Any]) -> bool:
    """True for AnomalyCLIP's layout; Crane's has the same keys without the dead projections."""
    return any(key.startswith(PROJECTIONS) for key in state)


def refuse_projections(state: Mapping[str, Any]) -> None:
    """Raises ``CheckpointMismatch`` for AnomalyCLIP's layout, where Crane's is wanted."""
    if has_projections(state):
        raise CheckpointMismatch(
            "This checkpoint has AnomalyCLIP's layout (compound_prompt_projections): its prompts were learned with another "
            "image tower. Pass it to create('anomalyclip')."
        )


def flat_pair(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors under own names, the sentences' tokens as (tokens, C) instead of the authors' (1, 1, tokens, C)."""
    sentences = ("prompts.normal", "prompts.anomalous")
    return {key: tensor.reshape(tensor.shape[-2:]) if key in sentences else tensor for key, tensor in state.items()}


def pair_sizes(state: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of a ``PromptPair`` from the shapes under own names: ``context``, ``deep`` and ``deep_length``."""
    shapes = {key: tensor.shape for key, tensor in state.items() if isinstance(tensor, Tensor) and tensor.dim() >= 2}
    deep = [shape[0] for key, shape in shapes.items() if key.startswith("prompts.deep.")]
    sizes = {"context": shapes["prompts.normal"][-2]} if "prompts.normal" in shapes else {}
    return sizes | ({"deep": 1 + len(deep), "deep_length": deep[0]} if deep else {})


def compare_start_token(state: Mapping[str, Any], backbone: Any) -> None:
    """The stored start token must be the backbone's, or the prompts were learned on another one.

    Raises:
        CheckpointMismatch: it is another one.
    """
    stored = state.get("token_prefix_pos")
    if not isinstance(stored, Tensor):
        return
    own = backbone.token_embedding.weight[backbone.token_embedding.num_embeddings - 2]
    if own.is_meta and stored.shape[-1] == own.shape[0]:
        return  # a tower without weights, which has no more than shapes to compare
    if stored.shape[-1] != own.shape[0] or not torch.allclose(stored.flatten().to(own), own, atol=1e-2):
        raise CheckpointMismatch(
            f"The prompts were learned on another backbone than {backbone.name}: the start token differs "
            f"(width {stored.shape[-1]} there, {own.shape[0]} here). Pass the backbone that they were learned on."
        )
