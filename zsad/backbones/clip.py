"""CLIP: an image tower and a text tower in one space, on the trunk of ``vit.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zsad.alignment.blocks import is_exporting
from zsad.backbones.blocks import ACTIVATIONS, TowerShape, Transformer
from zsad.backbones.shared_prefixes import Prefixes, states_at_ends
from zsad.backbones.tokens import clip_tokenizer, unknown_pieces
from zsad.backbones.vit import POSITION_MODES, LocalPath, Prompts, VisionTransformer
from zsad.errors import SizeMismatch, UsageError
from zsad.images.preprocessing import CLIP_MEAN, CLIP_STD, Squash
from zsad.types import ImageFeatures

__all__ = ["CLIP", "LOGIT_SCALE", "WithVisual"]
LOGIT_SCALE = math.log(1 / 0.07)  # at the beginning of a training


class WithVisual(nn.Module):
    """What towers on the trunk do with pictures, whatever the text tower is."""

    name: str
    depth: int
    visual: VisionTransformer

    def encode_image(
        self, images: Tensor, taps: Sequence[int] = (), *, local: LocalPath | None = None, prompts: Prompts | None = None
    ) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> ``.image`` (B, D) behind ``ln_post`` and projection, raw states of the tapped layers.

        The local stream's taps are in ``.streams["local"]``.
        """
        if any(not 1 <= tap <= self.depth for tap in taps):
            raise UsageError(f"taps={tuple(taps)} must lie in 1..{self.depth}, the layers of {self.name}.")
        states = self.visual(images, taps, local, prompts)
        return ImageFeatures(self.visual.project(states.cls), states.plain, {"local": states.local} if local else {})

    def encode_class(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed -> (B, D) as ``encode_image(...).image``; the last block runs for the class token alone."""
        return self.visual.project(self.visual(images, class_only=True).cls)


class CLIP(WithVisual):
    """An image tower and a text tower in one space; fulfils ``types.TextBackbone``.

    Attributes:
        name: as ``load_backbone`` takes it.
        image_size: side of the square input in pixels.
        depth: blocks of the image tower.
        weights_sha256: of the file of weights; "" where they are random.
    """

    def __init__(
        self,
        name: str,
        *,
        vision: TowerShape,
        text: TowerShape,
        patch_size: int,
        native_size: int,
        dim: int,
        activation: str,
        position_embedding: str | None = None,
        image_size: int | None = None,
        vocabulary: int = 49408,
        context_length: int = 77,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.name, self.weights_sha256 = name, ""
        self.activation = _choice("activation", activation, tuple(ACTIVATIONS))
        # open_clip's own way of resizing, for whoever does not ask for another
        self.position_embedding = _choice("position_embedding", position_embedding or "bicubic_antialias", POSITION_MODES)
        self.image_size = image_size or native_size
        if self.image_size % patch_size:
            raise SizeMismatch(name, self.image_size, patch_size)
        self.preprocess = Squash(self.image_size, mean, std)
        self.depth = vision.layers
        self.visual = VisionTransformer(vision, patch_size, native_size, dim, activation, self.position_embedding)
        self.token_embedding = nn.Embedding(vocabulary, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text.width).normal_(std=0.01))
        self.transformer = Transformer(text, activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, dim).normal_(std=text.width**-0.5))
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    # ------------------------------------------------------------------ text
    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """N sentences -> (N, context) int64: start, tokens, end, zeros.

        Raises:
            UsageError: a sentence is longer than the context.
        """
        tokenizer = clip_tokenizer()
        context = self.positional_embedding.shape[0]
        start, end = self.token_embedding.num_embeddings - 2, self.token_embedding.num_embeddings - 1
        ids = torch.zeros(len(sentences), context, dtype=torch.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            tokens = [start, *tokenizer(sentence), end]
            if len(tokens) > context:
                raise UsageError(
                    f"The sentence {sentence[:60]!r}... has {len(tokens)} tokens; {self.name} reads {context}. Use fewer words."
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return ids.to(self.positional_embedding.device)

    def unknown_pieces(self, text: str) -> list[int]:
        """Tokens of a text that are single bytes of a letter or sign: no word of the vocabulary is made of them."""
        return unknown_pieces(text)

    def encode_embeddings(self, x: Tensor, eot: Tensor, prompts: Prompts | None = None) -> Tensor:
        """Token embeddings (N, L, C) without positions and the index (N,) of each end token -> (N, D), not normalised.

        What stands behind the last end token is cut off: attention is causal, so it changes nothing.
        """
        used = x.shape[1] if is_exporting() else int(eot.max()) + 1  # no value decides a graph's shapes
        return self.encode_states(x[:, :used] + self.positional_embedding[:used], eot, prompts)

    def encode_states(self, x: Tensor, eot: Tensor, prompts: Prompts | None = None, *, behind: int = 0) -> Tensor:
        """As ``encode_embeddings``, from the hidden states (N, L, C) behind block ``behind``; 0: embeddings with positions.

        The last block runs for the end tokens alone.
        """
        blocks = self.transformer.blocks
        for layer, block in enumerate(blocks[behind:], behind + 1):
            x = prompts.insert(x, layer) if prompts else x
            x = block(x, causal=True) if layer < len(blocks) else block.only(x, eot, causal=True)
        return self.ln_final(x[:, 0]) @ self.text_projection

    def encode_text(self, sentences: Sequence[str], batch_size: int = 128) -> Tensor:
        """N sentences -> (N, D), not normalised. In the order of their tokens, so that a batch shares beginnings."""
        ids = self.tokenize(sentences).tolist()
        lines = [row[: row.index(max(row)) + 1] for row in ids]  # the end token has the largest id
        order = sorted(range(len(lines)), key=lines.__getitem__)
        encoded = [
            self._encode_sorted([lines[one] for one in order[i : i + batch_size]]) for i in range(0, len(order), batch_size)
        ]
        return torch.cat(encoded)[torch.tensor(order).argsort().to(encoded[0].device)]

    def _encode_sorted(self, lines: list[list[int]]) -> Tensor:
        """Token lists up to their end tokens -> (N, D)."""
        found = Prefixes.of(lines, self.positional_embedding.device)
        x = self.token_embedding(found.tokens) + self.positional_embedding[found.places]
        return self.ln_final(states_at_ends(self.transformer.blocks, x, found)) @ self.text_projection


def _choice(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{what}={value!r} is not known; choose one of {', '.join(allowed)}.")
    return value
