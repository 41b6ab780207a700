"""When to give up on a model that does not answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from threading import Lock

from zsad.errors import UsageError
from zsad.explain.model import Failed, Unusable, VisionLanguageModel

__all__ = ["Patience"]

SILENT = 5  # questions in a row without an answer, after which the model is given up
SILENT_AT_FIRST = 3  # the same before its first answer


class Patience:
    """Counts answers and failures of a model that several threads ask.

    Args:
        model: what is asked.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model, self._first, self._answered, self._silent = model, Lock(), False, 0

    def turn(self) -> AbstractContextManager[object]:
        """To be held while a question is asked: one by one until the model has answered."""
        return nullcontext() if self._answered else self._first

    def answered(self) -> None:
        """The model gave an answer."""
        self._answered, self._silent = True, 0

    def failed(self, error: Failed) -> None:
        """It gave none.

        Raises:
            UsageError: it makes no sense to ask on.
        """
        self._silent += 1
        least = (1 if isinstance(error, Unusable) else SILENT_AT_FIRST) if not self._answered else SILENT
        if self._silent < least or (self._answered and not isinstance(error, Unusable)):
            return
        where = f" at {self._model.where}" if self._model.where else ""
        raise UsageError(
            f"{self._model.name}{where} cannot be asked: {error}. Check the address, the model's name, the key, and that it "
            "takes pictures; answers so far are kept."
        ) from None
