"""The question to the model: neutral, and "cannot tell" is an answer.

Models that are asked whether a picture shows a defect are right in about three of four pictures, and tend to agree with
whatever the question suggests. So it does not say that the picture was flagged, and calls the marked places no defects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

__all__ = ["PROMPT_VERSION", "Question", "again", "ask_about"]

PROMPT_VERSION = "1"  # goes into every cached answer; counted up with every change of a sentence below


@dataclass(frozen=True, eq=False)
class Question:
    """What a model is asked.

    Attributes:
        text: the question.
        pictures: RGB, in the order in which the text numbers them.
        schema: JSON schema of the answer.
    """

    text: str
    pictures: tuple[Image.Image, ...]
    schema: Mapping[str, Any]


def ask_about(
    target: str, plain: Image.Image, drawn: Image.Image | None, reference: Image.Image | None, schema: Mapping[str, Any]
) -> Question:
    """The question about one picture.

    Args:
        target: name of what is to be seen.
        plain: the picture.
        drawn: the same with its regions drawn; None where it has none.
        reference: a normal picture of the same object.
        schema: of the answer.
    """
    pictures, lines = [plain], [f"Picture 1 shows: {target}. Report what you can see in it."]
    if drawn is not None:
        pictures.append(drawn)
        lines.append(
            f"Picture {len(pictures)} is picture 1 with marks on places that an automatic measurement found unusual. "
            "Unusual places can be harmless, such as reflections, dust or a shadow. The marks are not part of the object."
        )
    if reference is not None:
        pictures.append(reference)
        lines.append(f"Picture {len(pictures)} shows another example that was accepted as flawless.")
    lines += [
        'defect_seen: "yes" if you see a defect in picture 1, "no" if you see none, "unsure" if you cannot tell.',
        "findings: at most three defects, none if you see none. For each, type: what it is in two or three words, or "
        '"cannot tell"; location: where on the object; box: [x0, y0, x1, y1] in thousandths of the width and height of picture '
        "1, from 0 at the left and top to 1000, or null; appearance: colour, shape and size; severity: minor, moderate, severe "
        "or cannot tell; confidence: low, medium or high.",
        "Answer with one JSON object of this schema and nothing else:",
        json.dumps(schema),
    ]
    return Question("\n".join(lines), tuple(pictures), schema)


def again(question: Question, why: str) -> Question:
    """The same question after an answer that was not of the form asked for."""
    text = f"{question.text}\nYour last answer was not of this form ({why}). Answer with the JSON object alone."
    return Question(text, question.pictures, question.schema)
