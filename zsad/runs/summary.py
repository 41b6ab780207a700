"""The outcome of a run in numbers: pictures per verdict, the thresholds behind them, the order from worst to best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zsad.common.file_names import many
from zsad.decision.thresholds import ANOMALOUS, NORMAL, REVIEW, Thresholds
from zsad.runs.notes import Notes

__all__ = ["Summary", "label_of", "levels_of", "verdict_line"]


@dataclass
class Summary:
    """Outcome of a run.

    Attributes:
        thresholds: what the verdicts rest on.
        counts: pictures per label: "normal", "review", "anomalous", "unlabelled", "error".
        order: places in predictions.jsonl, worst first, errors last.
        notes: what the pictures' notes state, counted.
    """

    thresholds: Thresholds
    counts: Counter[str] = field(default_factory=Counter)
    order: list[int] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a row of predictions.jsonl."""
        self.counts[label_of(row)] += 1
        if row["pred_score"] is not None:
            self.notes.add(row["notes"])

    @property
    def total(self) -> int:
        """Number of pictures."""
        return self.counts.total()

    def as_dict(self) -> dict[str, Any]:
        """Thresholds, counts of verdicts and of notes as run.json holds them."""
        counts = dict(sorted(self.counts.items()))
        return {"thresholds": levels_of(self.thresholds), "counts": counts, "notes": self.notes.as_dict()}


def label_of(row: Mapping[str, Any]) -> str:
    """The label under which a row of predictions.jsonl is counted."""
    return "error" if row["error"] else row["pred_label"] or "unlabelled"


def levels_of(thresholds: Thresholds) -> dict[str, Any]:
    """The levels and where they come from, as a JSON object."""
    return {key: getattr(thresholds, key) for key in ("anomalous", "review", "pixel", "source")}


def verdict_line(counts: Mapping[str, int], false_alarm_rate: str = "") -> str:
    """ "12 pictures: 3 anomalous, 1 review, 8 normal"; errors, pictures without a verdict and the rate where there are any."""
    total = sum(counts.values())
    labels = [label for label in (ANOMALOUS, REVIEW, NORMAL) if counts.get("unlabelled", 0) < total - counts.get("error", 0)]
    parts = [f"{counts.get(label, 0)} {label}" for label in labels]
    parts += [f"{counts['unlabelled']} scored without a verdict"] if counts.get("unlabelled") else []
    parts += [f"{counts['error']} could not be scored"] if counts.get("error") else []
    return f"{many(total, 'picture')}: {', '.join(parts)}{false_alarm_rate and f'; {false_alarm_rate}'}"
