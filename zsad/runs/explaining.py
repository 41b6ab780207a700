"""``zsad explain``: what a vision-language model says about the flagged pictures of a finished run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.output_folder import HIDDEN
from zsad.errors import UsageError, ZsadError
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
from zsad.runs.writers import Watch, unwatched

__all__ = ["ANSWERS", "Explained", "explain_run"]

ANSWERS = "explanations.jsonl"  # below HIDDEN: answers as they came, from which a stopped run goes on


@dataclass(frozen=True)
class Explained:
    """What was said about a run.

    Attributes:
        cost: told before.
        explanations: by picture, in the order of the rows.
    """

    cost: Cost
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
    every: bool = False,
    announce: Callable[[Cost], bool] = lambda cost: True,
    watch: Watch = unwatched,
) -> Explained:
    """Asks about a run's pictures and writes what is said to its rows and its report.

    Args:
        out: results of ``zsad predict``.
        model: what is asked.
        drawing: how regions are drawn.
        reference: a normal picture or a source whose first is taken; None: the first of the run's own references, if they are
            pictures that are still there.
        every: normal pictures too.
        announce: gets the cost before anything is asked; False ends here, with no explanations.
        watch: shows progress.

    Raises:
        UsageError: no run, no flagged picture, or the model does not answer.
    """
    folder = Path(out)
    rows = finished_rows(folder)
    wanted = [row for row in rows if row["pred_score"] is not None and (every or is_flagged(row))]
    if not wanted:
        raise UsageError(f"{why_none_flagged(folder, rows)}, so there is nothing to explain. --all takes normal ones too.")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    with locked(folder, "zsad explain"):
        detector = run["detector"]
        shown = _reference(run) if reference is None else first_picture(reference, _range(detector))
        ask = Asker(model, detector["target"], drawing, shown, Explanations(folder / HIDDEN / ANSWERS))
        cases = partial(_cases, Records(folder / HIDDEN), wanted, run)
        cost = ask.cost(cases())
        if not announce(cost):
            return Explained(cost, {})
        made = watch(ask.over(cases()), "explaining", len(wanted))
        found = Explained(cost, {row["name"]: one for row, one in zip(wanted, made, strict=True)})
        rewrite_rows(folder, ({**row, "explanation": found.explanations.get(row["name"])} for row in rows), "explanation")
        add_explanations(folder / "report.html", wanted, found.explanations, model)
    return found


def _cases(records: Records, rows: Iterable[Mapping[str, Any]], run: Mapping[str, Any]) -> Iterator[Case]:
    """The pictures of rows, none of them read yet."""
    records.read()
    places = {name: place for name, (place, _) in records.known.items()}
    low, high = run["detector"]["map_range"]
    for row in rows:
        if row["name"] not in places:
            raise UsageError(f"The record of {row['name']!r} is gone. Run zsad predict again with --overwrite.")
        (record,) = rows_at(records.file, [places[row["name"]]])
        yield Case(
            name=row["name"],
            size=(record["size"][0], record["size"][1]),
            identity=json.dumps(record["file"]),
            flagged=is_flagged(row),
            regions=_outlines(row["regions"]),
            map_range=(low, high),
            load=partial(_load, records, record, _range(run["detector"]), run["thresholds"]["pixel"]),
        )


def _outlines(regions: Sequence[Mapping[str, Any]]) -> tuple[Outline, ...]:
    return tuple(Outline(tuple(one["box"]), tuple((x, y) for x, y in one["contour"])) for one in regions)


def _load(
    records: Records, record: dict[str, Any], value_range: tuple[float, float] | None, pixel_threshold: float | None
) -> Seen:
    """Picture, and its map where it reaches the threshold; raises ``ImageError``."""
    scored = records.recall(record)
    picture = load_image(ImageRef(scored.name, scored.path), value_range=value_range).rgb
    if scored.model_map is None or pixel_threshold is None:
        return Seen(picture)
    whole = original_size(scored.model_map, (record["size"][0], record["size"][1]))
    return Seen(picture, np.where(whole >= pixel_threshold, whole, np.float32("nan")))


def _range(detector: Mapping[str, Any]) -> tuple[float, float] | None:
    given = detector["value_range"]
    return None if given is None else (given[0], given[1])


def _reference(run: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The first of the run's references; None where it has none, or they are no pictures, or are gone."""
    try:
        return first_picture(run.get("references_from"), _range(run["detector"]))
    except ZsadError:
        return None
