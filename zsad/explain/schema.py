"""The form of an answer: asked for as a JSON schema, and checked when it comes; needs pydantic."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Answer", "Finding", "answer_schema", "json_in", "read_answer", "why_invalid"]

MOST_FINDINGS = 3
SCALE = 1000  # coordinates of an answer are thousandths of the picture's width and height
Text = Annotated[str, Field(max_length=600)]
Coordinate = Annotated[float, Field(ge=0, le=SCALE)]
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)  # of models that write down what they think first


class Finding(BaseModel):
    """One thing that the model sees."""

    model_config = ConfigDict(extra="forbid")
    type: Text
    location: Text
    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4)] | None
    appearance: Text
    severity: Literal["minor", "moderate", "severe", "cannot tell"]
    confidence: Literal["low", "medium", "high"]


class Answer(BaseModel):
    """What the model says about one picture."""

    model_config = ConfigDict(extra="forbid")
    defect_seen: Literal["yes", "no", "unsure"]
    findings: Annotated[list[Finding], Field(max_length=MOST_FINDINGS)]


def answer_schema() -> dict[str, Any]:
    """JSON schema of an answer."""
    return Answer.model_json_schema()


def json_in(text: str) -> str:
    """The JSON object within an answer, without thoughts before it and words around it; "" if there is none."""
    rest = THOUGHTS.sub("", text)
    return rest[rest.find("{") : rest.rfind("}") + 1] if "{" in rest else ""


def read_answer(text: str, size: tuple[int, int]) -> dict[str, Any]:
    """Checks an answer.

    Args:
        text: what the model wrote.
        size: (H, W) of the picture, to whose pixels the boxes are converted.

    Returns:
        "defect_seen" and "findings", whose "box" is (x0, y0, x1, y1) in pixels of the picture, or None.

    Raises:
        ValueError: it has no JSON object of this form.
    """
    found = Answer.model_validate(json.loads(json_in(text))).model_dump()
    for finding in found["findings"]:
        finding["box"] = None if finding["box"] is None else _pixels(finding["box"], size)
    return found


def _pixels(box: list[float], size: tuple[int, int]) -> list[int]:
    """Thousandths as pixels, corners in order whichever way they were given."""
    (x0, x1), (y0, y1) = sorted(box[0::2]), sorted(box[1::2])
    height, width = size
    return [round(x0 * width / SCALE), round(y0 * height / SCALE), round(x1 * width / SCALE), round(y1 * height / SCALE)]


def why_invalid(error: ValueError) -> str:
    """The reason in a few words, for the model's second try and for the row."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return "it holds no valid JSON object"
