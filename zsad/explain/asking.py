"""From cases to explanations: asked in parallel, checked, tried once more, kept on disk as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.common.threads import ahead
from zsad.errors import ImageError, MissingExtra
from zsad.explain.known import Explanations
from zsad.explain.model import Failed, VisionLanguageModel, ask_checked
from zsad.explain.patience import Patience
from zsad.explain.pictures import Case, Drawing, drawn, image_tokens, plain
from zsad.explain.question import PROMPT_VERSION, Question, ask_about

__all__ = ["Asker", "Cost"]

MOST_TEXT = 2000  # characters of an answer that is kept as plain text
ANSWER_TOKENS = 200  # of one answer, estimated


@dataclass(frozen=True)
class Cost:
    """What explaining will take.

    Attributes:
        cases: pictures to be explained.
        known: of them, explained before.
        images: pictures that are sent.
        tokens: of questions, pictures and answers, estimated.
    """

    cases: int
    known: int
    images: int
    tokens: int


class Asker:
    """Asks a model about cases.

    Args:
        model: what is asked.
        target: name of what is to be seen.
        how: regions are drawn.
        reference: (H, W, 3) a normal picture of the same object; None: none is sent.
        known: earlier answers.

    Raises:
        MissingExtra: pydantic, which checks answers, is not installed.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        target: str,
        how: Drawing = "contour",
        reference: NDArray[np.uint8] | None = None,
        known: Explanations | None = None,
    ) -> None:
        try:
            from zsad.explain import schema
        except ImportError as error:
            raise MissingExtra("Checking what a model answers", "explain") from error
        self._read, self._form = schema.read_answer, schema.answer_schema()
        self.model, self.target, self.how = model, target, how
        self.known = Explanations() if known is None else known
        self._reference = None if reference is None else plain(reference)
        shown = "" if reference is None else hashlib.blake2b(reference.tobytes(), digest_size=16).hexdigest()
        self._setting = [PROMPT_VERSION, model.name, target, how, shown]
        self._patience = Patience(model)

    def key(self, case: Case) -> str:
        """Under which the answer is kept: by picture, regions, drawing, question and model."""
        regions = [[one.box, one.contour] for one in case.regions]
        text = json.dumps([self._setting, case.identity, case.size, regions, case.map_range])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def knows(self, case: Case) -> bool:
        """Whether there is an answer from before."""
        return self.known.get(self.key(case)) is not None

    def cost(self, cases: Iterable[Case]) -> Cost:
        """What asking about the cases will take; no picture is read."""
        count = known = images = tokens = 0
        bare = ask_about(self.target, Image.new("RGB", (1, 1)), None, None, self._form)
        for case in cases:
            count += 1
            if self.knows(case):
                known += 1
                continue
            shown = 1 + bool(case.regions)
            images += shown + (self._reference is not None)
            tokens += shown * image_tokens(case.size) + len(bare.text) // 4 + ANSWER_TOKENS
            if self._reference is not None:
                tokens += image_tokens((self._reference.height, self._reference.width))
        return Cost(count, known, images, tokens)

    def over(self, cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
        """An explanation of each case, in order, ``model.parallel`` at a time.

        Raises:
            UsageError: the model does not answer at all.
        """
        yield from ahead(cases, self, self.model.parallel, 2 * self.model.parallel)

    def __call__(self, case: Case) -> dict[str, Any]:
        """The explanation of a case, a JSON object; ``error`` is set where there is none."""
        key = self.key(case)
        made = self.known.get(key)
        if made is None:
            try:
                seen = case.load()
                if seen.picture.shape[:2] != case.size:
                    raise ImageError("the file was changed since it was scored")
            except ImageError as error:
                return self._row(case, error=f"the picture cannot be read: {error}")
            regions, picture = drawn(case, seen, self.how), plain(seen.picture)
            question = ask_about(self.target, picture, regions, self._reference, self._form)
            with self._patience.turn():
                try:
                    made = self._ask(question, case.size)
                except Failed as error:
                    self._patience.failed(error)
                    return self._row(case, error=f"the model gave no answer: {error}")
                self._patience.answered()
            self.known.add(key, made)
        return self._row(case, made)

    def not_asked(self, why: str) -> dict[str, Any]:
        """The explanation of a picture that the model may not see."""
        return self._row(None, error=why)

    def _ask(self, question: Question, size: tuple[int, int]) -> dict[str, Any]:
        """The checked answer, or after a second try plain text."""
        found = ask_checked(self.model, question, lambda text: self._read(text, size))
        return found.made or {"text": found.text.strip()[:MOST_TEXT], "invalid": found.why}

    def _row(self, case: Case | None, made: Mapping[str, Any] | None = None, error: str | None = None) -> dict[str, Any]:
        found = {"defect_seen": None, "findings": [], "text": None, "invalid": None, **(made or {})}
        said = found["defect_seen"]
        return {
            **found,
            "disagrees": case is not None and ((said == "no" and case.flagged) or (said == "yes" and not case.flagged)),
            "model": self.model.name,
            "prompt_version": PROMPT_VERSION,
            "error": error,
        }
