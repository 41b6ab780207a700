"""TIPS's text tower and its tokens (Maninis et al., "TIPS: Text-Image Pretraining with Spatial Awareness", ICLR 2025).

Parameter names are those of the published files, which are CLIP's. Sentences of one length pass the tower together, so that
there is no padding, which the authors' code masks.

Letters: N sentences, T tokens, C width.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.blocks import TowerShape, Transformer
from zsad.errors import MissingExtra, UsageError

__all__ = ["LONGEST", "SentencePieces", "TIPSText", "Tokenizer", "WordHashes", "sinusoids"]

LONGEST = 64  # tokens, learned ones included; what stands behind them is cut off
TIMESCALE = 10000.0


class Tokenizer(Protocol):
    """Makes token ids."""

    def __call__(self, sentence: str) -> list[int]:
        """A sentence -> its ids, without start, end and padding."""


class SentencePieces:
    """The published tokenizer: a SentencePiece model on lower-cased text; the extra ``tips`` installs the package.

    Args:
        path: of ``tokenizer.model``. It is read when the first sentence comes, so that pictures alone need no package.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pieces: Any = None

    def __call__(self, sentence: str) -> list[int]:
        if self._pieces is None:
            try:
                from sentencepiece import SentencePieceProcessor
            except ImportError as error:
                raise MissingExtra("The text tower of TIPS (its tokens are SentencePiece's)", "tips") from error
            try:
                self._pieces = SentencePieceProcessor(model_file=str(self.path))
            except (OSError, RuntimeError) as error:
                raise UsageError(
                    f"{str(self.path)!r} is no SentencePiece model: {error}. Give TIPS's tokenizer.model."
                ) from error
        return list(self._pieces.encode(sentence.lower()))


class WordHashes:
    """Token ids by hashing words, for towers with random weights."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, sentence: str) -> list[int]:
        return [3 + zlib.crc32(word.encode()) % (self.vocabulary - 3) for word in sentence.lower().split()]


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (length, width): the sines of all time scales, then their cosines."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-math.log(TIMESCALE) / (half - 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TIPSText(nn.Module):
    """The tower: scaled embeddings with sinusoidal positions, blocks with ReLU, a last norm, the mean over tokens."""

    def __init__(self, shape: TowerShape, vocabulary: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, shape.width)
        self.transformer = Transformer(shape, "gelu")
        for block in self.transformer.blocks:
            block.mlp.activation = F.relu
        self.ln_final = nn.LayerNorm(shape.width)

    def forward(self, ids: Sequence[Sequence[int]], prefix: Tensor | None = None, batch_size: int = 64) -> Tensor:
        """Token ids of N sentences -> (N, C), not normalised.

        Args:
            ids: at least one for each sentence.
            prefix: (n, C), put in front of every sentence; not scaled, as the embeddings are. It counts in the mean.
            batch_size: sentences that pass together.
        """
        embedded: list[Tensor] = [torch.empty(0)] * len(ids)
        for length in sorted({len(row) for row in ids}):
            rows = [index for index, row in enumerate(ids) if len(row) == length]
            for some in (rows[first : first + batch_size] for first in range(0, len(rows), batch_size)):
                encoded = self._same_length(torch.tensor([ids[index] for index in some]), prefix)
                for index, vector in zip(some, encoded, strict=True):
                    embedded[index] = vector
        return torch.stack(embedded)

    def _same_length(self, ids: Tensor, prefix: Tensor | None) -> Tensor:
        """(N, T) -> (N, C)."""
        weight = self.token_embedding.weight
        x = self.token_embedding(ids.to(weight.device)) * math.sqrt(weight.shape[1])
        if prefix is not None:
            x = torch.cat([prefix.to(x).expand(len(x), -1, -1), x], dim=1)[:, :LONGEST]
        x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        for block in self.transformer.blocks:
            x = block(x)
        return self.ln_final(x).mean(dim=1)
