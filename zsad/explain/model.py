"""What a model is to the rest of the package, and one question to it: asked, checked, and asked once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from zsad.explain.question import Question, again

__all__ = ["Checked", "Failed", "Unusable", "VisionLanguageModel", "ask_checked"]


class Failed(Exception):
    """No answer to one question; another question may be answered."""


class Unusable(Failed):
    """No answer, and there will be none to another question either: no server, no such model, a wrong key."""


class VisionLanguageModel(Protocol):
    """What is asked: ``Endpoint`` or ``LocalModel``."""

    name: str
    where: str
    parallel: int

    def __call__(self, question: Question) -> str:
        """The answer; raises ``Failed`` where there is none."""

    def close(self) -> None:
        """Frees what is open."""


Made = TypeVar("Made")


@dataclass(frozen=True)
class Checked(Generic[Made]):
    """An answer: ``made`` of it, or None with its text and what is wrong with its form."""

    made: Made | None
    text: str = ""
    why: str = ""


def ask_checked(model: VisionLanguageModel, question: Question, read: Callable[[str], Made]) -> Checked[Made]:
    """Asks, and once more where the answer is not of the form asked for.

    Args:
        model: what is asked.
        question: what it is asked.
        read: makes of an answer what it says; raises ``ValueError`` where it is not of the form.

    Raises:
        Failed: no answer.
    """
    from zsad.explain.schema import why_invalid

    text = model(question)
    try:
        return Checked(read(text))
    except ValueError as error:
        why = why_invalid(error)
    try:
        text = model(again(question, why))
        return Checked(read(text))
    except Failed:  # the first answer is one, if not of the form
        return Checked(None, text, why)
    except ValueError as error:
        return Checked(None, text, why_invalid(error))
