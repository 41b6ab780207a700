"""Multiple-choice questions about pictures in MMAD's layout, and the figures of their benchmark.

Jiang et al., "MMAD: A Comprehensive Benchmark for Multimodal Large Language Models in Industrial Anomaly Detection", ICLR
2025, arXiv 2410.09453; code and layout jam-cc/MMAD, commit 3cf2b9b. ``mmad.json`` maps a picture's path to an object with a
list under a key that begins with "conversation", of {"Question", "Options": {letter: text}, "Answer": letter, "type"}, and the
paths of normal pictures under "random_templates" and "similar_templates".

Kept: the first folder of a path is its data set; "Object Structure" and "Object Details" count as "Object Analysis"; "Anomaly
Detection" is the mean of the accuracies on normal and on anomalous pictures; a set's mean is over types, the last row over
sets. Dropped: questions without a readable answer are left out there; here they count as wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zsad.errors import UsageError

__all__ = ["AVERAGE", "DETECTION", "Choice", "accuracies", "chances", "read_choices"]

DETECTION = "Anomaly Detection"
JOINED = {"Object Structure": "Object Analysis", "Object Details": "Object Analysis"}
NORMAL = "good"  # folder of normal pictures
AVERAGE = "Average"
CONVERSATION = "conversation"


@dataclass(frozen=True)
class Choice:
    """A question.

    Attributes:
        picture: path below the data's folder.
        number: of the question among those of its picture, from 0 on.
        kind: its type.
        text: the question.
        options: by letter.
        answer: the right letter.
    """

    picture: str
    number: int
    kind: str
    text: str
    options: Mapping[str, str]
    answer: str

    @property
    def data_set(self) -> str:
        """First folder of the picture."""
        return PurePosixPath(self.picture).parts[0]

    @property
    def normal(self) -> bool:
        """Whether the picture lies in a folder of normal ones."""
        return NORMAL in PurePosixPath(self.picture).parts[:-1]


def read_choices(path: str | Path) -> tuple[dict[str, list[Choice]], dict[str, dict[str, list[str]]], Counter[str]]:
    """The questions of a file by picture, the pictures' templates by kind ("random", "similar"), and what was left out.

    Raises:
        UsageError: no such file, another layout, or no question in it.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The questions in {str(path)!r} cannot be read ({error}). Give MMAD's mmad.json.") from error
    if not isinstance(entries, dict):
        raise UsageError(
            f"{str(path)!r} holds a {type(entries).__name__}; MMAD's layout is an object of pictures and questions."
        )
    left_out = Counter[str]()
    questions, templates = dict[str, list[Choice]](), dict[str, dict[str, list[str]]]()
    for picture, entry in entries.items():
        listed = _conversation(entry)
        found = [_choice(picture, number, one) for number, one in enumerate(listed)]
        left_out["question without text, options, type or an answer among them"] += found.count(None)
        left_out["picture without questions"] += not listed
        if kept := [one for one in found if one is not None]:
            questions[picture] = kept
            templates[picture] = {kind: _texts(entry.get(f"{kind}_templates")) for kind in ("random", "similar")}
    if not questions:
        raise UsageError(f"{str(path)!r} holds no question in MMAD's layout. Give MMAD's mmad.json, or a file of that form.")
    return questions, templates, +left_out


def _conversation(entry: Any) -> Sequence[Any]:
    """The first list under a key that begins with "conversation"."""
    lists = [entry[key] for key in entry if key.startswith(CONVERSATION)] if isinstance(entry, dict) else []
    return lists[0] if lists and isinstance(lists[0], list) else []


def _choice(picture: str, number: int, one: Any) -> Choice | None:
    if not isinstance(one, dict):
        return None
    text, answer, kind = (str(one.get(key) or "") for key in ("Question", "Answer", "type"))
    options = one.get("Options")
    if not (text and kind) or not isinstance(options, dict) or len(options) < 2 or answer not in options:
        return None
    return Choice(
        picture, number, JOINED.get(kind, kind), text, {str(key): str(value) for key, value in options.items()}, answer
    )


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def accuracies(choices: Iterable[Choice], right: Iterable[bool]) -> dict[str, dict[str, float]]:
    """Accuracy by data set and type, with "Average" over types in each row and over sets in the last row.

    Args:
        choices: the questions.
        right: whether each was answered rightly; no answer is a wrong one.
    """
    found: dict[str, dict[str, dict[bool, list[bool]]]] = {}
    for choice, hit in zip(choices, right, strict=True):
        part = choice.kind == DETECTION and choice.normal  # normal and anomalous pictures apart
        found.setdefault(choice.data_set, {}).setdefault(choice.kind, {}).setdefault(part, []).append(hit)
    return _with_averages(
        {
            name: {kind: float(np.mean([np.mean(hits) for hits in parts.values()])) for kind, parts in kinds.items()}
            for name, kinds in found.items()
        }
    )


def chances(choices: Iterable[Choice]) -> dict[str, dict[str, float]]:
    """What guessing would reach, in the form of ``accuracies``."""
    found: dict[str, dict[str, list[float]]] = {}
    for choice in choices:
        found.setdefault(choice.data_set, {}).setdefault(choice.kind, []).append(1 / len(choice.options))
    return _with_averages({name: {kind: float(np.mean(some)) for kind, some in kinds.items()} for name, kinds in found.items()})


def _with_averages(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    table = {name: row | {AVERAGE: float(np.mean(list(row.values())))} for name, row in rows.items()}
    kinds = dict.fromkeys(kind for row in rows.values() for kind in row)
    mean = {kind: float(np.mean([row[kind] for row in table.values() if kind in row])) for kind in (*kinds, AVERAGE)}
    return table | {AVERAGE: mean}
