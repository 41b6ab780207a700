"""The embedded default's defect words: the vocabulary whose vectors ship, and words that a user gives instead."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.prompts.prompt_set import PromptSet
from zsad.prompts.sentence_encoder import CLASS_NAMES, check_words, encode_sentences, word_phrases
from zsad.types import Bank, Context

__all__ = ["OBJECT", "context_of", "default_phrases", "vocabulary"]

OBJECT = "object"


def default_phrases() -> PromptSet:
    """The vocabulary whose vectors ship: "normal", "anomalous" and nine defect words."""
    return PromptSet.load("compact")


def vocabulary() -> tuple[str, ...]:
    """The nine words."""
    return tuple(word for word in default_phrases().states if word not in CLASS_NAMES)


def context_of(
    given: tuple[str, ...] | None, sides: Tensor, vectors: Mapping[str, Tensor], centre: Tensor, banks: Mapping[str, Bank]
) -> Context:
    """Vectors of the two sides and of the defect words; given words get an entry "steer", since they count in the map.

    Args:
        given: words to look for in place of the vocabulary; None: the vocabulary.
        sides: (2, 384) of normal and anomalous.
        vectors: (384,) by word of the vocabulary.
        centre: (384,) taken off every sentence vector.
        banks: of the references.

    Raises:
        UsageError: the words are none.
        MissingExtra: a word outside the vocabulary, and no text tower.
    """
    lines, known = default_phrases().sentences(OBJECT), dict(vectors)
    words = tuple(known) if given is None else check_words(given)
    if new := [word for word in words if word not in known]:
        own = word_phrases(new, default_phrases().templates).sentences(OBJECT)
        lines |= own
        encoded = F.normalize(encode_sentences(own.values()).to(centre) - centre, dim=-1)
        known |= dict(zip(new, encoded, strict=True))
    chosen = torch.stack([known[word] for word in words])
    usual = torch.stack(list(vectors.values())).mean(0)
    extra = {"words": chosen} if given is None else {"words": chosen, "steer": chosen - usual}
    return Context(sides[None], {key: lines[key] for key in (*CLASS_NAMES, *words)}, words, banks, extra)
