"""What each prompt does to the scores of given pictures, and two prompt sets beside each other.

Two kinds of prompts. **Defect words** (``compact``) steer: a word's effect is the picture's score with this word alone, less
the score without any. **Sentences** (``winclip``) stand for normal and anomalous as the plain means of their vectors: a
sentence's effect is the picture's text score with all sentences, less the score without this one; it is the exact effect on
the text part of WinCLIP's image score, and leaves windows and references out of account. A prompt whose effect stays below a
stated bound on every picture is dead: it may be taken out, and nothing would be seen of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from zsad.alignment.similarity import anomaly_probability
from zsad.errors import UsageError
from zsad.inference.feature_store import load_features
from zsad.inference.inspector import Inspector
from zsad.prompts.prompt_set import PromptSet
from zsad.runs.session import Session

__all__ = ["DEAD_SENTENCE", "DEAD_WORD", "PromptEffect", "compare_prompts", "prompt_effects", "sentence_effects", "variant"]

DEAD_WORD = 0.01  # of the score of compact, where 1 is a plain defect
DEAD_SENTENCE = 0.0005  # of a probability; one of 154 sentences moves a mean by less than a hundredth


@dataclass(frozen=True)
class PromptEffect:
    """What one prompt does to the scores.

    Attributes:
        kind: "word", or the sentence's class.
        text: the prompt.
        effects: score with it less score without it, per picture.
        bound: the least effect that counts.
    """

    kind: str
    text: str
    effects: tuple[float, ...]
    bound: float

    @property
    def dead(self) -> bool:
        """True where no picture's effect reaches the bound."""
        return all(abs(effect) < self.bound for effect in self.effects)


def prompt_effects(session: Session, numbers: Sequence[int]) -> list[PromptEffect]:
    """The effect of every prompt on some pictures of a session, without encoding them again.

    Args:
        session: the pictures, references and corrections.
        numbers: of the pictures.

    Raises:
        UsageError: the method has neither words nor sentences whose effect could be measured.
    """
    inspector = session.inspector
    detector: Any = inspector.detector
    if hasattr(detector, "words"):
        plain = _scores(variant(inspector, words=None), session, numbers)
        chosen: Sequence[str] = detector.words or inspector.context.words
        found = []
        for word in chosen:
            steered = _scores(variant(inspector, words=(word,)), session, numbers)
            found.append(_effect("word", word, [a - b for a, b in zip(steered, plain, strict=True)], DEAD_WORD))
        return found
    sentences = inspector.context.sentences
    if set(sentences) != {"normal", "anomalous"} or not hasattr(detector, "prompts") or not hasattr(detector, "temperature"):
        raise UsageError(
            f"{detector.name} has learned prompts or none, so there is no sentence whose effect could be measured."
        )
    with torch.inference_mode():
        text = {kind: detector.backbone.encode_text(list(lines)) for kind, lines in sentences.items()}
        images = torch.cat([load_features(session.encoded[number].files[0]).image for number in numbers])
        effects = sentence_effects(images, text, float(detector.temperature))
    return [
        _effect(kind, line, effects[kind][:, place].tolist(), DEAD_SENTENCE)
        for kind, lines in sentences.items()
        for place, line in enumerate(lines)
    ]


def sentence_effects(images: Tensor, text: Mapping[str, Tensor], temperature: float) -> dict[str, Tensor]:
    """Probability of "anomalous" with all sentences, less that without each one.

    Args:
        images: (N, D) image features.
        text: (n, D) sentence vectors of "normal" and "anomalous".
        temperature: of the softmax over the two cosines.

    Returns:
        (N, n) by class; 0 for a class of a single sentence, which cannot be left out.
    """
    means = {kind: vectors.mean(0) for kind, vectors in text.items()}
    whole = _probability(images, means, temperature)
    found = {}
    for kind, vectors in text.items():
        count = len(vectors)
        found[kind] = torch.zeros(len(images), count)
        for place in range(count if count > 1 else 0):
            without = means | {kind: (vectors.sum(0) - vectors[place]) / (count - 1)}
            found[kind][:, place] = whole - _probability(images, without, temperature)
    return found


def _probability(images: Tensor, means: Mapping[str, Tensor], temperature: float) -> Tensor:
    """(N,) from one vector of each class."""
    pair = torch.stack([means["normal"], means["anomalous"]])[None]  # (1, 2, D)
    return anomaly_probability(images[:, None], pair, temperature)[:, 0]


def compare_prompts(session: Session, sets: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> list[list[float]]:
    """Scores of the same pictures by several prompt sets, side by side.

    Args:
        session: the pictures, references and corrections.
        sets: keywords of ``variant`` each.
        numbers: of the pictures.

    Returns:
        A row per picture with a column per set, raw scores; higher is more anomalous.
    """
    columns = [_scores(variant(session.inspector, **one), session, numbers) for one in sets]
    return [list(row) for row in zip(*columns, strict=True)]


def variant(
    inspector: Inspector,
    *,
    target: str | None = None,
    words: Sequence[str] | None = None,
    states: Sequence[str] = (),
    folder: Path | None = None,
    adaptive: bool | None = None,
) -> Inspector:
    """An inspector with other prompts and all else the same; the given one is not changed.

    Args:
        inspector: the model.
        target: another name for what is to be seen.
        words: defect words, for methods that take them; None: the default vocabulary, which does not steer.
        states: phrases for "anomalous" with one ``{}`` each, for methods with a prompt set, in place of its own.
        folder: where the set of these phrases is written.
        adaptive: whether sentences are chosen for each picture (``prompts/adaptive.py``); None: as it is.

    Raises:
        UsageError: the method takes no such prompts, or a phrase is none.
    """
    other, detector = copy(inspector), cast(Any, copy(inspector.detector))
    takes_words = hasattr(detector, "words")
    if (words and not takes_words) or (states and not hasattr(detector, "prompts")):
        raise UsageError(f"{detector.name} takes no {'defect words' if words else 'phrases'}, so they would change nothing.")
    if takes_words:
        detector.words = None if words is None else tuple(words)
    if states and folder is not None:
        detector.prompts = str(_written(PromptSet.load(str(detector.prompts)), states, folder))
    if adaptive is not None:
        if not hasattr(detector, "adaptive_prompts"):
            raise UsageError(f"{detector.name} chooses no sentences for each picture, so adaptive would change nothing.")
        detector.adaptive_prompts = adaptive
    other.detector = detector
    other.target = target or inspector.target
    other.refresh()
    return other


def _written(base: PromptSet, states: Sequence[str], folder: Path) -> Path:
    path = folder / "phrases.toml"
    PromptSet({**base.states, "anomalous": tuple(states)}, base.templates).save(path)
    return path


def _scores(inspector: Inspector, session: Session, numbers: Sequence[int]) -> list[float]:
    found = list(inspector.answers(session.encoded.only(numbers), session.marks))
    if wrong := [one for one in found if one.score is None]:
        raise UsageError(f"{wrong[0].name} has no score, so prompts cannot be compared on it: {wrong[0].error}")
    return [one.score for one in found if one.score is not None]


def _effect(kind: str, text: str, effects: Sequence[float], bound: float) -> PromptEffect:
    return PromptEffect(kind, text, tuple(effects), bound)
