"""Sentences that begin alike pass a causal text tower together: each beginning is computed once.

Attention is causal, so a token's state depends on what stands before it alone. The sentences of an ensemble (states by
templates) repeat their beginnings so often that about a third of their tokens is left. Attention itself is computed sentence by
sentence; all else, which takes most of the time, once for each distinct beginning.

Letters: N sentences, L tokens of the longest, U distinct beginnings, C width, h heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.blocks import Block

__all__ = ["Prefixes", "states_at_ends"]


@dataclass(frozen=True)
class Prefixes:
    """The distinct beginnings of some sentences.

    Attributes:
        tokens: the last token of each beginning, (U,).
        places: where that token stands in its sentence, (U,).
        rows: the beginning that ends at each place of each sentence, (N, L); its whole sentence behind its end.
        first: where each beginning is first met in ``rows``, flat, (U,).
        ends: place of each sentence's end token, (N,).
    """

    tokens: Tensor
    places: Tensor
    rows: Tensor
    first: Tensor
    ends: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]], device: torch.device) -> Prefixes:
        """Of token lists, each up to its end token."""
        longest, rows = max(map(len, sentences)), list[list[int]]()
        known: dict[tuple[int, int], int] = {}  # (beginning without its last token, that token) -> beginning
        first: list[int] = []
        for number, tokens in enumerate(sentences):
            last, row = -1, list[int]()
            for place, token in enumerate(tokens):
                if (key := (last, token)) not in known:
                    known[key] = len(known)
                    first.append(number * longest + place)
                row.append(last := known[key])
            rows.append(row + [last] * (longest - len(row)))
        lists = [token for _, token in known], [at % longest for at in first], rows, first, [len(one) - 1 for one in sentences]
        return cls(*(torch.tensor(one, device=device) for one in lists))


def states_at_ends(blocks: Sequence[Block], x: Tensor, found: Prefixes) -> Tensor:
    """(U, C) embeddings with positions -> (N, C), what leaves the last block at each end token.

    That block runs for the end tokens alone.
    """
    for block in blocks[:-1]:
        mixed = F.scaled_dot_product_attention(*_by_sentence(block, x, found), is_causal=True)  # (N, h, L, d)
        chosen = mixed.transpose(1, 2).flatten(0, 1)[found.first]  # (U, h, d)
        x = block.feed(x + block.attn.output(chosen.transpose(0, 1)[None])[0])
    q, k, v = _by_sentence(blocks[-1], x, found)
    numbers, places = torch.arange(len(found.ends), device=x.device), torch.arange(found.rows.shape[1], device=x.device)
    seen = (places <= found.ends[:, None])[:, None, None]  # (N, 1, 1, L)
    mixed = F.scaled_dot_product_attention(q[numbers, :, found.ends][:, :, None], k, v, attn_mask=seen)  # (N, h, 1, d)
    return blocks[-1].feed(x[found.rows[numbers, found.ends]] + blocks[-1].attn.output(mixed)[:, 0])


def _by_sentence(block: Block, x: Tensor, found: Prefixes) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every sentence, three of (N, h, L, d)."""
    q, k, v = (one[0].transpose(0, 1)[found.rows].transpose(1, 2) for one in block.qkv(x[None]))
    return q, k, v
