"""After the last picture: each picture once, levels from all scores where none were known, a label in every row, and counts.

The batch rule is exact: it sorts all scores, 8 bytes each. Each step is repeated without harm: a file of the table is rewritten
whole, and says which levels its labels rest on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.decision.thresholds import REVIEW, Thresholds, decide
from zsad.distributed.places import Place
from zsad.distributed.table import TABLE, digests_of, levels_of_part, read_part, scanned, stamp_of, write_part
from zsad.runs.summary import levels_of
from zsad.runs.tables import load_pyarrow

__all__ = ["Outcome", "count", "finish", "kind_of", "remove_repeats", "settle"]


@dataclass
class Outcome:
    """What a table holds.

    Attributes:
        thresholds: what the labels rest on.
        counts: pictures per label, with "unlabelled" and "error".
        errors: pictures per kind of error.
        repeats: rows that were there twice and were taken out.
    """

    thresholds: Thresholds
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    repeats: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        counts, errors = dict(sorted(self.counts.items())), dict(self.errors.most_common())
        return {"thresholds": levels_of(self.thresholds), "counts": counts, "errors": errors, "repeats": self.repeats}


def finish(place: Place, given: Thresholds, far: float | None) -> Outcome:
    """Takes out repeats, settles the levels, labels and counts.

    Args:
        place: of the results.
        given: levels that are known before; what they leave open is settled by the batch rule.
        far: see ``decide``.
    """
    repeats = remove_repeats(place)
    thresholds = given if given.anomalous is not None else settle(place, given, far)
    stamp = stamp_of(levels_of(thresholds))
    outcome = Outcome(thresholds, repeats=repeats)
    for name, table in scanned(place, ("score", "blank", "label", "error")):
        labels = table.column("label")
        if given.anomalous is None and levels_of_part(table) != stamp:
            labels = label_part(place, name, thresholds, stamp)
        count(outcome, labels.to_pylist(), table.column("error").to_pylist())
    return outcome


def count(outcome: Outcome, labels: list[str | None], errors: list[str | None]) -> None:
    """Takes up rows."""
    outcome.counts.update("error" if error else label or "unlabelled" for label, error in zip(labels, errors, strict=True))
    outcome.errors.update(kind_of(error) for error in errors if error)


def kind_of(error: str) -> str:
    """An error without the picture's name and numbers: what many pictures have in common."""
    plain = re.sub(r"^('[^']*'|\"[^\"]*\") ", "", error)
    return re.sub(r"\d[\d.,]*", "N", re.split(r"[.:;] ", plain, maxsplit=1)[0]).rstrip(".")[:100]


def settle(place: Place, given: Thresholds, far: float | None) -> Thresholds:
    """The batch rule over the scores of all pictures but frames without content; reads two columns."""
    found = [np.empty(0)]
    for _, table in scanned(place, ("score", "blank")):
        scores = table.column("score").to_numpy()
        found.append(scores[np.isfinite(scores) & ~_blank(table)])
    return decide(np.concatenate(found), (), given, far)


def label_part(place: Place, name: str, thresholds: Thresholds, stamp: str) -> Any:
    """Rewrites a file of the table with labels; returns them."""
    table = read_part(place, name)
    scores = table.column("score").to_numpy()
    labels = _labels(scores, _blank(table), thresholds)
    levels = [None if label is None else thresholds.anomalous for label in labels]
    arrow = load_pyarrow()
    for column, values in (("label", labels), ("threshold", levels)):
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(column), arrow.array(values, table.schema.field(column).type))
    write_part(place, name, table, stamp)
    return table.column("label")


def _labels(scores: NDArray[np.float64], blank: NDArray[np.bool_], thresholds: Thresholds) -> list[str | None]:
    """As ``verdict_of``, of many."""
    both = zip(scores.tolist(), blank.tolist(), strict=True)
    return [None if score != score else REVIEW if flat else thresholds.label(score) for score, flat in both]


def _blank(table: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = table.column("blank").fill_null(False).to_numpy()
    return found


# ------------------------------------------------------------------ each picture once
def remove_repeats(place: Place) -> int:
    """Takes out rows of pictures that are there twice: errors before scores, then all but the first; returns how many.

    They come about where a worker outlives its driver and writes after the next run has listed the table, and where failures
    are tried again.
    """
    digests, errors, where, names = [np.empty(0, "S16")], [np.empty(0, bool)], [np.empty(0, np.int64)], list[str]()
    for name, table in scanned(place, ("path", "error")):
        digests.append(digests_of(table.column("path").to_pylist()))
        errors.append(table.column("error").is_valid().to_numpy())
        where.append(np.full(len(table), len(names)))
        names.append(name)
    whole, failed, part = np.concatenate(digests), np.concatenate(errors), np.concatenate(where)
    order = np.argsort(whole, kind="stable")
    alike = np.flatnonzero(whole[order][1:] == whole[order][:-1])
    if not len(alike):
        return 0
    drop = np.zeros(len(whole), bool)
    for group in _groups(order, alike):
        group.sort(key=lambda row: (failed[row], row))
        drop[group[1:]] = True
    for number in np.unique(part[drop]).tolist():
        rows = np.flatnonzero(part == number)
        table = read_part(place, names[number])
        kept = table.filter(load_pyarrow().array(~drop[rows]))
        if len(kept):
            write_part(place, names[number], kept, levels_of_part(table))
        else:
            place.delete(f"{TABLE}/{names[number]}")
    return int(drop.sum())


def _groups(order: NDArray[np.int64], alike: NDArray[np.int64]) -> Iterator[list[int]]:
    """Rows of equal digests; ``alike`` has the places in ``order`` whose next row is equal."""
    group, last = list[int](), -2
    for place in alike.tolist():
        if place != last + 1 and group:
            yield group
            group = []
        group = group or [int(order[place])]
        group.append(int(order[place + 1]))
        last = place
    yield group
