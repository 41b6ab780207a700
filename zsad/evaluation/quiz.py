"""``zsad quiz``: how often a model is right in multiple-choice questions, with a detector's regions shown or without."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad.common.atomic_files import write_atomically
from zsad.common.folder_lock import FolderLock
from zsad.common.output_folder import HIDDEN, LOCK
from zsad.common.threads import ahead
from zsad.errors import MissingExtra, UsageError
from zsad.evaluation.mmad import Choice, accuracies, chances, read_choices
from zsad.evaluation.quiz_asking import PictureQuestions
from zsad.explain.known import Explanations
from zsad.explain.model import VisionLanguageModel
from zsad.explain.pictures import LONGEST, Drawing, Outline, image_tokens

__all__ = ["Quiz", "QuizPlan", "quiz"]

ANSWERS, FIGURES = "answers.jsonl", "quiz.json"
ANSWER_TOKENS, TEXT_TOKENS = 10, 250  # of one question, estimated
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True)
class QuizPlan:
    """What will be asked, told before anything is.

    Attributes:
        pictures: that questions are about.
        questions: of them all.
        images: that are sent at most: answers from before cost nothing.
        tokens: at most, estimated.
        with_regions: pictures whose regions are drawn.
        left_out: entries of the file that are no questions, by reason.
    """

    pictures: int
    questions: int
    images: int
    tokens: int
    with_regions: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Quiz:
    """The answers.

    Attributes:
        plan: told before.
        rows: one per question; "said" is None where there is no answer, which counts as a wrong one.
        accuracy: by data set and type, with averages (see ``mmad.accuracies``).
        chance: what guessing would reach.
    """

    plan: QuizPlan
    rows: Sequence[Mapping[str, Any]]
    accuracy: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, Mapping[str, float]]

    @property
    def counts(self) -> dict[str, int]:
        """Questions that were answered "right" or "wrong", got an answer of no valid form ("invalid"), or none ("failed")."""
        return dict(Counter(map(_outcome, self.rows)))


def _outcome(row: Mapping[str, Any]) -> str:
    if row["said"] is not None:
        return "right" if row["said"] == row["answer"] else "wrong"
    return "failed" if row["error"] else "invalid"


def quiz(
    questions: str | Path,
    pictures: str | Path,
    model: VisionLanguageModel,
    out: str | Path,
    *,
    results: str | Path | None = None,
    drawing: Drawing = "contour",
    templates: int = 1,
    similar: bool = False,
    announce: Callable[[QuizPlan], bool] = lambda plan: True,
    watch: Watch = lambda items, label, total: items,
) -> Quiz:
    """Asks a model multiple-choice questions about pictures, each by itself, and writes answers.jsonl and quiz.json.

    Args:
        questions: file in MMAD's layout.
        pictures: the folder to which its paths are relative; nothing outside is read.
        model: what is asked.
        out: folder for the results; what was answered there before, in the same setting, is not asked again.
        results: of ``zsad predict`` on the same folder, whose regions are drawn in a second picture.
        drawing: "contour" or "box".
        templates: normal pictures that are shown beside each.
        similar: the most similar ones in place of random ones, as the file lists them.
        announce: gets what will be asked before anything is; False ends here, with no rows.
        watch: shows progress over pictures.

    Raises:
        UsageError: questions, pictures or results cannot be read, ``out`` holds other files, or the model does not answer.
        MissingExtra: pydantic, which checks answers, is not installed.
    """
    try:
        from zsad.explain import choices as _  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Checking what a model answers", "explain") from error
    asked, normal, left_out = read_choices(questions)
    root, regions = _folder(pictures), _regions(results, asked)
    kind = "similar" if similar else "random"
    beside = {picture: normal[picture][kind][:templates] for picture in asked}
    plan = _plan(asked, regions, beside, left_out)
    if not announce(plan):
        return Quiz(plan, (), {}, {})
    place = _claimed(Path(out))
    lock = FolderLock(place / HIDDEN / LOCK, "zsad quiz", place)
    try:
        one = PictureQuestions(model, root, Explanations(place / HIDDEN / ANSWERS), regions, beside, drawing)
        made = watch(ahead(asked.values(), one, model.parallel, 2 * model.parallel), "asking", len(asked))
        found = _result(plan, list(asked.values()), [row for rows in made for row in rows])
        setting = {"model": model.name, "templates": templates, "similar": similar, "drawing": drawing if regions else None}
        _write(place, found, setting | {"results": None if results is None else str(results)})
    finally:
        lock.release()
    return found


def _plan(
    asked: Mapping[str, list[Choice]], regions: Mapping[str, Any], beside: Mapping[str, list[str]], left_out: Mapping[str, int]
) -> QuizPlan:
    images = sum(len(some) * (1 + bool(regions.get(picture)) + len(beside[picture])) for picture, some in asked.items())
    count = sum(map(len, asked.values()))
    tokens = images * image_tokens((LONGEST, LONGEST)) + count * (TEXT_TOKENS + ANSWER_TOKENS)
    return QuizPlan(len(asked), count, images, tokens, sum(map(bool, regions.values())), dict(left_out))


def _result(plan: QuizPlan, asked: Sequence[list[Choice]], rows: list[dict[str, Any]]) -> Quiz:
    flat = [choice for some in asked for choice in some]
    return Quiz(plan, rows, accuracies(flat, (row["said"] == row["answer"] for row in rows)), chances(flat))


# ------------------------------------------------------------------ files
def _folder(pictures: str | Path) -> Path:
    if not Path(pictures).is_dir():
        raise UsageError(f"There is no folder {str(pictures)!r}. Give the one to which the questions' paths are relative.")
    return Path(os.path.realpath(pictures))


def _regions(results: str | Path | None, asked: Mapping[str, Any]) -> dict[str, tuple[Outline, ...]]:
    """Regions of a run by the questions' pictures, which are its rows' relative paths or names."""
    if results is None:
        return {}
    path = Path(results) / "predictions.jsonl"
    if not path.is_file():
        raise UsageError(f"{str(results)!r} holds no results. Give the folder that zsad predict wrote.")
    found: dict[str, tuple[Outline, ...]] = {}
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            name = row.get("relative_path") or row["name"]
            if name in asked:
                found[name] = tuple(Outline(tuple(one["box"]), tuple(map(tuple, one["contour"]))) for one in row["regions"])
    if not found:
        raise UsageError(
            f"{str(results)!r} has no row of any of the questions' pictures. Run zsad predict on the folder that is given as "
            "--pictures."
        )
    return found


def _claimed(out: Path) -> Path:
    """The folder for results: new, empty, or an earlier quiz's."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / HIDDEN).is_dir())):
        raise UsageError(f"{str(out)!r} holds other files. Give another --out.")
    inside = {path.name for path in (out / HIDDEN).iterdir()} if (out / HIDDEN).is_dir() else set()
    if inside - {LOCK} and ANSWERS not in inside:
        raise UsageError(f"{str(out)!r} holds results of another command. Give another --out.")
    (out / HIDDEN).mkdir(parents=True, exist_ok=True)
    return out


def _write(place: Path, found: Quiz, setting: Mapping[str, Any]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    write_atomically(place / ANSWERS, "".join(lines).encode("utf-8", "backslashreplace"))
    facts = {**setting, "questions": found.plan.questions, "pictures_with_regions": found.plan.with_regions}
    facts |= {"left_out": dict(found.plan.left_out), "counts": found.counts, "accuracy": found.accuracy, "chance": found.chance}
    write_atomically(place / FIGURES, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
