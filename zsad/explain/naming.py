"""A short name for a kind of defect, asked of a model that sees its contact sheet; needs pydantic to check answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated

from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator

from zsad.explain.model import Failed, Unusable, VisionLanguageModel, ask_checked
from zsad.explain.pictures import image_tokens
from zsad.explain.question import Question
from zsad.explain.schema import json_in

__all__ = ["ANSWER_TOKENS", "KindName", "Named", "ask_for_name", "name_all", "tokens_of"]

MOST_WORDS = 4
ANSWER_TOKENS = 30  # estimated
GONE = "the model cannot be asked"  # how a reason begins for which the others are not asked about either
NO_NAME = ("cannot tell", "new")  # the second stands for "like no kind"


class KindName(BaseModel):
    """What an answer holds."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=40, pattern=r"^[^=<>{}\n\r\t]+$")]

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name.split()) > MOST_WORDS:
            raise ValueError(f"{name!r} has more than {MOST_WORDS} words")
        return name.lower()


@dataclass(frozen=True)
class Named:
    """A kind's name, and why it is not the model's own; "" where it is."""

    name: str
    why: str = ""


def ask_for_name(target: str, sheet: Image.Image) -> Question:
    """The question about one kind.

    Args:
        target: name of the object.
        sheet: crops of the kind side by side.
    """
    schema = KindName.model_json_schema()
    lines = (
        f"The picture is a sheet of cut-outs from photographs of: {target}. An automatic measurement found them unusual "
        "and alike. They may show defects, or harmless things such as reflections, dirt or shadows.",
        f"name: what they have in common, in one to {MOST_WORDS} words that a person would use to sort them, such as "
        '"long scratch", "dark stain" or "bright reflection"; "cannot tell" if they have nothing in common that you can see.',
        "Answer with one JSON object of this schema and nothing else:",
        json.dumps(schema),
    )
    return Question("\n".join(lines), (sheet,), schema)


def tokens_of(target: str, size: tuple[int, int]) -> int:
    """Tokens of one question with a sheet of a size (H, W) and its answer, estimated."""
    return image_tokens(size) + len(ask_for_name(target, Image.new("RGB", (1, 1))).text) // 4 + ANSWER_TOKENS


def name_all(model: VisionLanguageModel, target: str, sheets: Sequence[Image.Image], words: Sequence[str]) -> list[Named]:
    """A name for each kind, one request each; where there is none, the kind keeps its own.

    Two kinds never get one name, since that would join them: the second one's has a number behind it.

    Args:
        model: what is asked.
        target: name of the object.
        sheets: of each kind.
        words: names that the kinds have.
    """
    found, taken, stopped = list[Named](), set(words), ""
    for sheet, word in zip(sheets, words, strict=True):
        name, why = ("", stopped) if stopped else _one(model, ask_for_name(target, sheet))
        stopped = stopped or why if why.startswith(GONE) else stopped
        free = next(one for one in _numbered(name or word) if one not in taken or one == word)
        taken.add(free)
        found.append(Named(free, why))
    return found


def _one(model: VisionLanguageModel, question: Question) -> tuple[str, str]:
    """The name, or "" and why there is none."""
    try:
        answer = ask_checked(model, question, lambda text: KindName.model_validate(json.loads(json_in(text))))
    except Unusable as error:
        return "", f"{GONE}: {error}"
    except Failed as error:
        return "", f"the model gave no answer: {error}"
    if answer.made is None:
        return "", f"the answer was twice not of the form asked for ({answer.why})"
    return ("", "the model cannot tell") if answer.made.name in NO_NAME else (answer.made.name, "")


def _numbered(name: str) -> Iterator[str]:
    """The name, and with 2, 3 ... behind it."""
    yield name
    yield from (f"{name} {number}" for number in count(2))
