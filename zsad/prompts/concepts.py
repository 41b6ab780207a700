"""Words of a user as directions in a joint image-text space: what to look at and what to ignore (LAFT).

The paper's program has lists of words and templates for its data sets. Here the words are the user's, and the list begins with
the object itself: "metal nut", "metal nut with scratch", ... so that a single word has something to differ from. Each entry is
the plain mean of its un-normalised sentences over WinCLIP's templates, as in the paper's image-level program. Word lists that
are about one attribute ("red", "green", "blue") work the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from zsad.alignment.concepts import kept_directions
from zsad.errors import UsageError
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.types import TextBackbone

__all__ = ["ROWS", "concept_rows", "concept_texts"]

ROWS = "concepts"  # key of the directions in ``Context.extra``


class WordBackbone(TextBackbone, Protocol):
    """A text tower that knows its vocabulary."""

    def unknown_pieces(self, text: str) -> list[int]:
        """Tokens that no word of the vocabulary is made of."""


def concept_texts(name: str, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Sentences of the object and of the object with each word; a word that has a {} takes the object's name there."""
    phrases = [name, *(word.replace("{}", name) if "{}" in word else f"{name} with {word}" for word in words)]
    templates = PromptSet.load("winclip").templates
    return [tuple(template.replace("{}", phrase) for template in templates) for phrase in phrases]


def check_word(backbone: WordBackbone, word: str) -> None:
    """Raises ``UsageError`` for a word that is empty or that the vocabulary does not have."""
    plain = word.replace("{}", " ").strip()
    if not plain or not plain.isprintable():
        raise UsageError(f"The word {word!r} is empty or does not print. Give a plain English word, such as 'scratch'.")
    if pieces := backbone.unknown_pieces(plain):
        raise UsageError(
            f"The word {word!r} is outside the vocabulary: the text tower reads {len(pieces)} of its pieces as single bytes, "
            "which mean nothing to it. Say it in English, such as 'scratch'."
        )


def concept_rows(
    backbone: WordBackbone, name: str, focus: Sequence[str], ignore: Sequence[str], components: int | None
) -> dict[str, Tensor]:
    """The directions that are left, (m, D), by the one key ``ROWS``; {} where there are no words.

    Args:
        backbone: encodes text.
        name: of the object.
        focus: words for what to look at.
        ignore: words for what not to look at.
        components: most directions of either; None: all.

    Raises:
        UsageError: a word that cannot be, or nothing is left to look at.
    """
    if components is not None and components < 1:
        raise UsageError(f"components={components}: give at least 1, or None for all.")
    if not focus and not ignore:
        return {}
    for word in (*focus, *ignore):
        check_word(backbone, word)
    looked_at, left_out = (
        encode_ensemble(backbone, concept_texts(name, words), normalize="none")[0] if words else None
        for words in (focus, ignore)
    )
    rows = kept_directions(looked_at, left_out, components)
    if not len(rows):
        raise UsageError(
            f"Nothing is left to look at: all that {_listed(focus)} differ in is ignored with {_listed(ignore)}. Change the "
            "words."
        )
    return {ROWS: rows}


def _listed(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words) or "no words"
