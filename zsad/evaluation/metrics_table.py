"""``Evaluation``: the table of metrics per category, with means, as Markdown, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from zsad.common.text_table import csv_text, markdown, number
from zsad.evaluation.metrics import HEADS, PIXEL, SHORT

__all__ = ["Evaluation", "Row", "Spread"]

THRESHOLDS = ("image_f1_max", "pixel_f1_max")


class Spread(NamedTuple):
    """Mean of some values, their sample standard deviation (NaN for fewer than two), and their number."""

    mean: float
    std: float
    over: int


@dataclass(frozen=True)
class Row:
    """Metrics of one category, with one draw of references.

    Attributes:
        category: as the data set writes it.
        target: its object name in prompts.
        seed: of the draw; None without references.
        references: names of the drawn pictures.
        normal: normal pictures that were scored.
        anomalous: anomalous ones.
        masks: anomalous pictures with a usable mask: with the normal ones, the pictures behind the pixel metrics.
        values: metrics by name; NaN where one is undefined.
        bounds: how far the exact pixel metric can be from the binned one at most.
        thresholds: of F1-max: a picture or pixel with a score >= it is called anomalous.
        notes: remarks on the category.
        errors: pictures and masks that could not be used.
        boxes: how many of the masks are of bounding boxes, at least in part.
    """

    category: str
    target: str
    seed: int | None = None
    references: tuple[str, ...] = ()
    normal: int = 0
    anomalous: int = 0
    masks: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    boxes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The row as a JSON object; NaN is None."""
        lists = {key: list(getattr(self, key)) for key in ("references", "notes", "errors")}
        return asdict(self) | lists | {key: _to_json(getattr(self, key)) for key in ("values", "bounds", "thresholds")}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Row:
        """Builds a row from what ``as_dict`` gave, read from JSON."""
        numbers = {
            key: {name: math.nan if value is None else value for name, value in kept[key].items()}
            for key in ("values", "bounds", "thresholds")
        }
        lists = {key: tuple(kept[key]) for key in ("references", "notes", "errors")}
        return cls(**(dict(kept) | numbers | lists))


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate``: metrics per category, their means, and what is needed to read and repeat them.

    Attributes:
        data: the data set's name.
        method: the method's name.
        metrics: names, in the order of the columns.
        rows: one per category and seed, in the data set's order.
        map_size: side in pixels of the square at which maps and masks were compared.
        shots: references per category.
        seeds: of their draws.
        leakage: a message where the weights have seen the data; "" otherwise.
        notes: remarks on the whole evaluation.
        problems: of the data set, from its reader.
        about: settings, versions and digests that are needed to repeat it, as a JSON object.
    """

    data: str
    method: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    map_size: int
    shots: int = 0
    seeds: tuple[int, ...] = ()
    leakage: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, in the data set's order."""
        return tuple(dict.fromkeys(row.category for row in self.rows))

    @property
    def errors(self) -> tuple[str, ...]:
        """Messages about pictures and masks that could not be used, each once."""
        return tuple(dict.fromkeys(text for row in self.rows for text in row.errors))

    def figure(self, category: str, metric: str) -> Spread:
        """A category's metric over the seeds; NaN is left out and not counted."""
        return _spread([row.values[metric] for row in self.rows if row.category == category])

    def mean(self, metric: str) -> Spread:
        """The mean over the categories where the metric is defined; ``std`` is over the seeds' means.

        ``over`` is the number of categories.
        """
        means = []
        for seed in dict.fromkeys(row.seed for row in self.rows):
            own = _spread([row.values[metric] for row in self.rows if row.seed == seed])
            means.append(own.mean)
        count = sum(self.figure(one, metric).over > 0 for one in self.categories)
        return Spread(_spread(means).mean, _spread(means).std, count)

    def as_dict(self) -> dict[str, Any]:
        """The whole evaluation as a JSON object; NaN is None."""
        table = {one: {name: _spread_to_json(self.figure(one, name)) for name in self.metrics} for one in self.categories}
        kept = {key: getattr(self, key) for key in ("data", "method", "map_size", "shots", "leakage")}
        lists = {key: list(getattr(self, key)) for key in ("metrics", "seeds", "notes", "problems", "errors")}
        rows = [row.as_dict() for row in self.rows]
        mean = {name: _spread_to_json(self.mean(name)) for name in self.metrics}
        return kept | lists | {"mean": mean, "categories": table, "rows": rows, "about": dict(self.about)}

    def table(self, *, short: bool = False) -> list[dict[str, str]]:
        """The table's cells as text: one row per category, and the mean; ``short`` headings are for a terminal."""
        lines = []
        for category in self.categories:
            first = next(row for row in self.rows if row.category == category)
            counts = {"normal": str(first.normal), "anomalous": str(first.anomalous), "masks": _masks(first)}
            cells = {self._head(name, short): number(*self.figure(category, name)[:2]) for name in self.metrics}
            lines.append({"category": category + self._mark(), **counts, **cells})
        size = len(self.categories)
        last = {"category": f"mean of {size}" + self._mark(), "normal": "", "anomalous": "", "masks": ""}
        for name in self.metrics:
            found = self.mean(name)
            over = f" ({found.over} of {size})" if found.over < size else ""
            last[self._head(name, short)] = number(found.mean, found.std) + over
        return [*lines, last]

    def _mark(self) -> str:
        return " [LEAKED]" if self.leakage else ""

    def _head(self, name: str, short: bool) -> str:
        size = f"@{self.map_size}" if short else f" ({self.map_size} px)"
        return (SHORT if short else HEADS)[name] + (size if name in PIXEL else "")

    def remarks(self) -> list[str]:
        """Remarks on the whole evaluation, for below the table."""
        lines = [f"Leakage: {self.leakage} These figures are not those of data never seen."] if self.leakage else []
        if any(name in PIXEL for name in self.metrics):
            bounds = [value for row in self.rows for value in row.bounds.values() if not math.isnan(value)]
            most = max(bounds, default=0.0)
            how = "exact" if most == 0 else f"binned: exact values differ by at most {most:.1g}"
            lines.append(f"Pixel metrics at {self.map_size} x {self.map_size} pixels, {how}.")
        if boxes := sum(row.boxes for row in self.rows):
            count = sum(row.masks for row in self.rows)
            lines.append(f"Boxes: {boxes} of {count} masks are bounding boxes, larger than the defects in them.")
        if self.shots:
            spread = " ± is the sample standard deviation over them." if len(self.seeds) > 1 else ""
            plural = "s" * (self.shots > 1)
            lines.append(
                f"{self.shots} reference picture{plural} per category, seeds {', '.join(map(str, self.seeds))}.{spread}"
            )
        return [*lines, *self.notes]

    def row_notes(self) -> list[str]:
        """Remarks on single categories."""
        named = [(row.category if row.seed is None else f"{row.category}, seed {row.seed}", row.notes) for row in self.rows]
        return [f"{where}: {text}" for where, notes in named for text in notes]

    def to_markdown(self) -> str:
        """The table in Markdown, with the remarks below it."""
        detector = self.about.get("detector", {})
        by = f"{self.method} on {detector.get('backbone', '?')} at {detector.get('image_size', '?')} px"
        lists = [self.remarks(), self.row_notes(), [f"Error: {text}" for text in self.errors]]
        below = [f"- {' '.join(text.split())}" for part in lists for text in part]
        return "\n".join([f"{self.data}, {by}", "", *markdown(self.table()), "", *below]).rstrip() + "\n"

    def to_csv(self) -> str:
        """The table as CSV: one line per category and seed, with every digit, and the mean over categories as the last."""
        rows = [self._line(row) for row in self.rows]
        mean: dict[str, Any] = dict.fromkeys(rows[0], "") | {"category": "mean", "map_size": self.map_size}
        mean |= {name: self.mean(name).mean for name in self.metrics} | {"leakage": bool(self.leakage)}
        return csv_text([*rows, mean])

    def _line(self, row: Row) -> dict[str, Any]:
        start = {"category": row.category, "target": row.target, "seed": "" if row.seed is None else row.seed}
        start |= {"normal": row.normal, "anomalous": row.anomalous, "masks": row.masks}
        if any(one.boxes for one in self.rows):
            start["boxes"] = row.boxes
        values = {name: row.values[name] for name in self.metrics}
        limits = {f"{name}_threshold": row.thresholds.get(name) for name in THRESHOLDS if name in self.metrics}
        end = {"map_size": self.map_size, "errors": len(row.errors), "leakage": bool(self.leakage)}
        return start | values | limits | end


def _masks(row: Row) -> str:
    """ "12", "12 (boxes)" or "12 (5 boxes)"."""
    return f"{row.masks}" + (f" ({f'{row.boxes} ' * (row.boxes < row.masks)}boxes)" if row.boxes else "")


def _spread(values: Sequence[float]) -> Spread:
    known = [value for value in values if not math.isnan(value)]
    return Spread(fmean(known) if known else math.nan, stdev(known) if len(known) > 1 else math.nan, len(known))


def _spread_to_json(found: Spread) -> dict[str, Any]:
    return {**_to_json({"mean": found.mean, "std": found.std}), "over": found.over}


def _to_json(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in numbers.items()}
