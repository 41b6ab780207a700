"""The questions about one picture: what is shown with them, which answers are known, and the rows that they become."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from zsad.errors import ImageError
from zsad.evaluation.mmad import Choice
from zsad.explain.known import Explanations
from zsad.explain.model import Failed, VisionLanguageModel, ask_checked
from zsad.explain.patience import Patience
from zsad.explain.pictures import Case, Drawing, Outline, Seen, drawn, plain
from zsad.images.reading import ImageRef, load_image

__all__ = ["PictureQuestions"]


class PictureQuestions:
    """Asks the questions about one picture.

    Args:
        model: what is asked.
        root: folder of the pictures.
        known: earlier answers.
        regions: by picture.
        beside: paths of normal pictures, by picture.
        drawing: of regions.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        root: Path,
        known: Explanations,
        regions: Mapping[str, tuple[Outline, ...]],
        beside: Mapping[str, list[str]],
        drawing: Drawing,
    ) -> None:
        self.model, self.root, self.known, self.regions, self.beside, self.how = model, root, known, regions, beside, drawing
        self.patience = Patience(model)

    def __call__(self, choices: list[Choice]) -> list[dict[str, Any]]:
        """Rows of the picture's questions."""
        picture = choices[0].picture
        outlines = self.regions.get(picture, ())
        try:
            paths = [_below(self.root, one) for one in (picture, *self.beside[picture])]
            shown = [self._state(path) for path in paths]
            keys = [self._key(choice, shown, outlines) for choice in choices]
            missing = [choice for choice, key in zip(choices, keys, strict=True) if self.known.get(key) is None]
            seen = self._pictures(paths, outlines) if missing else None
        except ImageError as error:
            return [_row(choice, {"said": None}, f"a picture cannot be read: {error}") for choice in choices]
        return [self._answer(choice, key, seen) for choice, key in zip(choices, keys, strict=True)]

    def _state(self, path: Path) -> list[Any]:
        try:
            stat = path.stat()
        except OSError as error:
            raise ImageError(f"{path.name!r} cannot be read: {error.strerror}") from error
        return [str(path), stat.st_size, stat.st_mtime_ns]

    def _key(self, choice: Choice, shown: list[Any], outlines: tuple[Outline, ...]) -> str:
        """Under which an answer is kept: by question, pictures, regions and model."""
        from zsad.explain.choices import CHOICE_VERSION

        drawn_as = [self.how, [[one.box, one.contour] for one in outlines]] if outlines else None
        setting = [CHOICE_VERSION, self.model.name, choice.text, list(choice.options.items()), shown, drawn_as]
        return hashlib.blake2b(json.dumps(setting).encode(), digest_size=16).hexdigest()

    def _pictures(
        self, paths: list[Path], outlines: tuple[Outline, ...]
    ) -> tuple[Image.Image, Image.Image | None, list[Image.Image]]:
        """The picture, with its regions drawn, and normal ones."""
        own, *others = (load_image(ImageRef(path.name, path)).rgb for path in paths)
        case = Case(paths[0].name, (own.shape[0], own.shape[1]), "", True, outlines, (0.0, 1.0), lambda: Seen(own))
        return plain(own), drawn(case, Seen(own), self.how), [plain(one) for one in others]

    def _answer(self, choice: Choice, key: str, seen: Any) -> dict[str, Any]:
        from zsad.explain.choices import ask_choice, read_choice

        made = self.known.get(key)
        if made is None:
            with self.patience.turn():
                try:
                    question = ask_choice(choice.text, choice.options, *seen)
                    found = ask_checked(self.model, question, lambda text: read_choice(text, choice.options))
                except Failed as error:
                    self.patience.failed(error)
                    return _row(choice, {"said": None}, f"the model gave no answer: {error}")
                self.patience.answered()
            made = {"said": found.made} | ({} if found.made else {"invalid": found.why})
            self.known.add(key, made)
        return _row(choice, made)


def _row(choice: Choice, made: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
    facts = {"picture": choice.picture, "number": choice.number, "type": choice.kind, "question": choice.text}
    return facts | {"answer": choice.answer, "said": made["said"], "invalid": made.get("invalid"), "error": error}


def _below(root: Path, name: str) -> Path:
    """A path of the questions' file; raises ``ImageError`` where it leads out of the folder, links resolved."""
    path = Path(os.path.realpath(root / name)) if "\0" not in name else root.parent
    if not path.is_relative_to(root):
        raise ImageError(f"{name!r} leads out of {str(root)!r}")
    return path
