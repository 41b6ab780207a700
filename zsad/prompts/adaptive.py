"""Sentences chosen for each picture: those of the other list, and those that the picture does not bear out, are left out.

The idea that prompts from a language model have to be filtered for each picture is ALFA's (Zhu et al., "Do LLMs Understand
Visual Anomalies?", ACM MM 2024, arXiv 2404.09654), whose formulas are not public. The two rules here are this package's own and
claim no equality with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.types import TextBackbone

__all__ = ["adaptive_text", "kept_sentences", "sentence_rows"]

CLASSES = ("normal", "anomalous")
SPREADS = 1.0  # standard deviations below its list's mean cosine, from which on a sentence is not borne out by a picture


def kept_sentences(images: Tensor, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which sentences count for each picture.

    1. A sentence that lies nearer to the mean of the other list than to the mean of the rest of its own is left out for all.
    2. Of the others, one whose cosine with the picture lies more than ``SPREADS`` standard deviations below their mean is left
       out for this picture.

    A list of which nothing would be left stays whole.

    Args:
        images: (B, D) image features, of any length.
        text: (n, D) sentence vectors of "normal" and "anomalous", of any length.

    Returns:
        (B, n) bool by class.
    """
    found = {}
    for own, other in (CLASSES, CLASSES[::-1]):
        near = _nearer_to_own(text[own], text[other])
        near = near if near.any() else torch.ones_like(near)
        cosine = F.normalize(images, dim=-1) @ F.normalize(text[own], dim=-1).T  # (B, n)
        mean = cosine[:, near].mean(dim=1, keepdim=True)
        spread = cosine[:, near].std(dim=1, keepdim=True, correction=0)
        found[own] = near & (cosine >= mean - SPREADS * spread - 1e-6)
    return found


def _nearer_to_own(own: Tensor, other: Tensor) -> Tensor:
    """(n,) whether each sentence lies at least as near to the mean of the rest of its list as to that of the other."""
    if len(own) == 1:
        return torch.ones(1, dtype=torch.bool, device=own.device)
    rest = (own.sum(dim=0) - own) / (len(own) - 1)
    return F.cosine_similarity(own, rest, dim=-1) >= F.cosine_similarity(own, other.mean(dim=0)[None], dim=-1)


def adaptive_text(images: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """The plain mean of the sentences that count for each picture, (B, 2, D), normal first; arguments as ``kept_sentences``."""
    kept = kept_sentences(images, text)
    means = [kept[kind].to(text[kind]) @ text[kind] / kept[kind].sum(dim=1, keepdim=True) for kind in CLASSES]
    return torch.stack(means, dim=1)


def sentence_rows(backbone: TextBackbone, sentences: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """(n, D) vectors of the sentences by class, as ``adaptive_text`` takes them."""
    return {kind: backbone.encode_text(list(lines)) for kind, lines in sentences.items()}
