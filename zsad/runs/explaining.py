"""``zsad explain``: what a vision-language model says about the flagged pictures of a finished run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zsad.common.output_folder import HIDDEN
from zsad.errors import ImageError, UsageError
from zsad.explain.asking import Asker, Cost
from zsad.explain.known import Explanations
from zsad.explain.model import VisionLanguageModel
from zsad.explain.pictures import Case, Drawing, Outline, Seen
from zsad.images.reading import ImageRef, load_image
from zsad.inference.explaining import first_picture
from zsad.inference.verdict import original_size
from zsad.runs.additions import finished_rows, is_flagged, locked, rewrite_rows, why_none_flagged
from zsad.runs.explain_report import add_explanations
from zsad.runs.records import Records, rows_at
from zsad.runs.source_files import SourceFiles, reference_of_run
from zsad.runs.writers import Watch, unwatched

__all__ = ["ANSWERS", "Explained", "Plan", "explain_run"]

Pair: TypeAlias = tuple[Mapping[str, Any], dict[str, Any]]  # a row, and its record
ANSWERS = "explanations.jsonl"  # below HIDDEN: answers as they came, from which a stopped run goes on


@dataclass(frozen=True)
class Plan:
    """What is to be sent, told before anything is.

    Attributes:
        cost: in pictures and tokens.
        places: folders and files from which pictures are taken; none where nothing leaves the machine and none were named.
        reference: whence the normal picture is that is shown beside each; None: none is.
        refused: why pictures are not sent, by name.
        no_reference: why the run's own reference is not sent; "" where it is, or there is none.
    """

    cost: Cost
    places: Sequence[Path]
    reference: str | None
    refused: Mapping[str, str]
    no_reference: str


@dataclass(frozen=True)
class Explained:
    """What was said about a run.

    Attributes:
        plan: told before.
        explanations: by picture, in the order of the rows.
    """

    plan: Plan
    explanations: Mapping[str, Mapping[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        """Pictures by "yes", "no", "unsure", "plain text" and "error"."""
        return dict(Counter(map(_outcome, self.explanations.values())))

    @property
    def disagreements(self) -> list[str]:
        """Pictures in which the model sees the opposite of the detector's verdict."""
        return [name for name, one in self.explanations.items() if one["disagrees"]]

    @property
    def errors(self) -> dict[str, str]:
        """Why a picture has no explanation, by its name."""
        return {name: one["error"] for name, one in self.explanations.items() if one["error"]}


def _outcome(one: Mapping[str, Any]) -> str:
    return "error" if one["error"] else one["defect_seen"] or "plain text"


def explain_run(
    out: str | Path,
    model: VisionLanguageModel,
    *,
    drawing: Drawing = "contour",
    reference: Any = None,
    source: Sequence[str | Path] = (),
    every: bool = False,
    announce: Callable[[Plan], bool] = lambda plan: True,
    watch: Watch = unwatched,
) -> Explained:
    """Asks about a run's pictures and writes what is said to its rows and its report.

    Args:
        out: results of ``zsad predict``.
        model: what is asked.
        drawing: how regions are drawn.
        reference: a normal picture or a source whose first is taken; None: the first of the run's own references, if it is a
            picture that is still what it was.
        source: folders from which pictures may be sent; none: those of the run's own source, where they are still what they
            were when they were scored (see ``source_files.py``).
        every: normal pictures too.
        announce: gets what will be sent before anything is; False ends here, with no explanations.
        watch: shows progress.

    Raises:
        UsageError: no run, no flagged picture, it is not known which pictures may be sent, or the model does not answer.
    """
    folder = Path(out)
    rows = finished_rows(folder)
    wanted = [row for row in rows if row["pred_score"] is not None and (every or is_flagged(row))]
    if not wanted:
        raise UsageError(f"{why_none_flagged(folder, rows)}, so there is nothing to explain. --all takes normal ones too.")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    files = SourceFiles(run, source, leaves=bool(model.where))
    with locked(folder, "zsad explain"):
        shown, whence, why = _reference(run, reference)
        ask = Asker(model, run["detector"]["target"], drawing, shown, Explanations(folder / HIDDEN / ANSWERS))
        records = Records(folder / HIDDEN)
        records.read()
        pairs = _with_records(records, wanted)
        refused = _refused(pairs, files, {case.name for case in _cases(records, pairs, run, files) if ask.knows(case)})
        sent = [pair for pair in pairs if pair[0]["name"] not in refused]
        cases = partial(_cases, records, sent, run, files)
        plan = Plan(ask.cost(cases()), files.places, whence, refused, why)
        if not announce(plan):
            return Explained(plan, {})
        made = watch(ask.over(cases()), "explaining", len(sent))
        answers = {row["name"]: one for (row, _), one in zip(sent, made, strict=True)}
        answers |= {name: ask.not_asked(f"the picture was not sent: {why}") for name, why in refused.items()}
        found = Explained(plan, {row["name"]: answers[row["name"]] for row in wanted})
        rewrite_rows(folder, ({**row, "explanation": found.explanations.get(row["name"])} for row in rows), "explanation")
        add_explanations(folder / "report.html", wanted, found.explanations, model)
    return found


def _with_records(records: Records, rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Rows, each with the record of its picture."""
    known, found = records.known, list[Pair]()
    for row in rows:
        if row["name"] not in known:
            raise UsageError(f"The record of {row['name']!r} is gone. Run zsad predict again with --overwrite.")
        (record,) = rows_at(records.file, [known[row["name"]][0]])
        found.append((row, record))
    return found


def _refused(pairs: Iterable[Pair], files: SourceFiles, known: Collection[str]) -> dict[str, str]:
    """Why pictures may not be read, by name; ``known``: names of those that have an answer, and need not be."""
    found = {}
    for row, record in pairs:
        try:
            if row["name"] not in known:
                files.find(record)
        except ImageError as error:
            found[row["name"]] = str(error)
    return found


def _cases(records: Records, pairs: Iterable[Pair], run: Mapping[str, Any], files: SourceFiles) -> Iterator[Case]:
    """The pictures of rows, none of them read yet."""
    low, high = run["detector"]["map_range"]
    for row, record in pairs:
        yield Case(
            name=row["name"],
            size=(record["size"][0], record["size"][1]),
            identity=json.dumps(record["file"]),
            flagged=is_flagged(row),
            regions=_outlines(row["regions"]),
            map_range=(low, high),
            load=partial(_load, records, record, files, _range(run["detector"]), run["thresholds"]["pixel"]),
        )


def _outlines(regions: Sequence[Mapping[str, Any]]) -> tuple[Outline, ...]:
    return tuple(Outline(tuple(one["box"]), tuple((x, y) for x, y in one["contour"])) for one in regions)


def _load(
    records: Records,
    record: dict[str, Any],
    files: SourceFiles,
    value_range: tuple[float, float] | None,
    pixel_threshold: float | None,
) -> Seen:
    """Picture, and its map where it reaches the threshold; raises ``ImageError``."""
    scored = records.recall(record)
    picture = load_image(ImageRef(scored.name, files.find(record)), value_range=value_range).rgb
    if scored.model_map is None or pixel_threshold is None:
        return Seen(picture)
    whole = original_size(scored.model_map, (record["size"][0], record["size"][1]))
    return Seen(picture, np.where(whole >= pixel_threshold, whole, np.float32("nan")))


def _range(detector: Mapping[str, Any]) -> tuple[float, float] | None:
    given = detector["value_range"]
    return None if given is None else (given[0], given[1])


def _reference(run: Mapping[str, Any], given: Any) -> tuple[NDArray[np.uint8] | None, str | None, str]:
    """The normal picture that is shown, whence it is, and why the run's own is not."""
    limits = _range(run["detector"])
    if given is not None:
        return first_picture(given, limits), str(given) if isinstance(given, (str, Path)) else "the picture given", ""
    try:
        path = reference_of_run(run)
        if path is None:
            return None, None, ""
        return load_image(ImageRef(path.name, path), value_range=limits).rgb, str(path), ""
    except ImageError as error:
        return None, None, str(error)
