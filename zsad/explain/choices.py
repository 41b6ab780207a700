"""A multiple-choice question to a model: how it is put, and which answers are taken; needs pydantic."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, create_model

from zsad.explain.question import Question
from zsad.explain.schema import json_in

__all__ = ["CHOICE_VERSION", "ask_choice", "read_choice"]

CHOICE_VERSION = "1"  # goes into every kept answer; counted up with every change of a sentence below
LETTER = re.compile(r"\W*([A-Za-z])\W*")  # an answer that is a letter alone


def ask_choice(
    text: str,
    options: Mapping[str, str],
    picture: Image.Image,
    drawn: Image.Image | None = None,
    normal: Sequence[Image.Image] = (),
) -> Question:
    """The question about one picture.

    Args:
        text: the question.
        options: by letter.
        picture: what it is about.
        drawn: the same with its regions drawn.
        normal: flawless examples of the same object.
    """
    pictures, lines = [picture], ["Picture 1 shows an industrial product."]
    if drawn is not None:
        pictures.append(drawn)
        lines.append(
            f"Picture {len(pictures)} is picture 1 with marks on places that an automatic measurement found unusual; they can "
            "be harmless. The marks are not part of the product."
        )
    for one in normal:
        pictures.append(one)
        lines.append(f"Picture {len(pictures)} shows a flawless example of the same product.")
    schema = _form(options).model_json_schema()
    lines += [
        f"Question about picture 1: {text}",
        *(f"{letter}: {option}" for letter, option in options.items()),
        "Choose one. Answer with one JSON object of this schema and nothing else:",
        json.dumps(schema),
    ]
    return Question("\n".join(lines), tuple(pictures), schema)


def read_choice(answer: str, options: Mapping[str, str]) -> str:
    """The letter that was chosen, from a JSON object or a letter that stands alone.

    Raises:
        ValueError: it is neither, or none of the options.
    """
    alone = LETTER.fullmatch(answer)
    found = {"answer": alone[1].upper()} if alone else json.loads(json_in(answer))
    letter: str = _form(options).model_validate(found).answer  # type: ignore[attr-defined]
    return letter


def _form(options: Mapping[str, str]) -> type[BaseModel]:
    letters: Any = Literal[tuple(options)]
    return create_model("Choice", __config__=ConfigDict(extra="forbid"), answer=(letters, ...))
