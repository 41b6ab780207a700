"""Explanations as a section of ``report.html``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from zsad.common.file_names import many
from zsad.explain.model import VisionLanguageModel
from zsad.runs.additions import put_section
from zsad.runs.report import MOST_ROWS

__all__ = ["add_explanations", "as_lines"]

SEEN = {"yes": "sees a defect", "no": "sees no defect", "unsure": "cannot tell whether there is a defect"}


def add_explanations(
    path: Path, rows: Iterable[Mapping[str, Any]], explanations: Mapping[str, Mapping[str, Any]], model: VisionLanguageModel
) -> None:
    """Puts what a model said into a report, in the place of earlier words; disagreements come first.

    Args:
        path: of the report.
        rows: of the pictures that were explained.
        explanations: by name.
        model: that said it.
    """
    ordered = sorted(rows, key=lambda row: (not explanations[row["name"]]["disagrees"], -row["pred_score"]))
    listed = "".join(_row(row, explanations[row["name"]]) for row in islice(ordered, MOST_ROWS))
    against = sum(bool(one["disagrees"]) for one in explanations.values())
    put_section(
        path,
        "explanations",
        f"<h2>What a language model says</h2><p class='soft'>{escape(model.name)} describes the pictures. Its words are not "
        f"checked and change no verdict. It sees the opposite of the verdict in {many(against, 'picture')}.</p>"
        "<table><thead><tr><th scope='col'>Name</th><th scope='col'>Verdict</th><th scope='col'>The model</th></tr></thead>"
        f"<tbody>{listed}</tbody></table>",
    )


def _row(row: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    label = row["pred_label"] or "unlabelled"
    lines = as_lines(one)
    against = "<p><strong>disagrees with the verdict</strong></p>" if one["disagrees"] else ""
    said = f"{against}<p>{escape(lines[0])}</p>" + "".join(f"<p class='soft'>{escape(line)}</p>" for line in lines[1:])
    return (
        f"<tr><td class='name'>{escape(row['name'])}</td><td><span class='verdict is-{label}'>{label}</span></td>"
        f"<td>{said}</td></tr>\n"
    )


def as_lines(one: Mapping[str, Any]) -> list[str]:
    """An explanation in plain lines: what the model sees, then each finding; or its words, marked as unchecked."""
    if one["error"]:
        return [f"no explanation: {one['error']}"]
    if one["defect_seen"] is None:
        return [f"plain text, not in the form asked for: {one['text']}"]
    return [SEEN[one["defect_seen"]], *map(_finding, one["findings"])]


def _finding(one: Mapping[str, Any]) -> str:
    place = "" if one["box"] is None else " at x {0} to {2}, y {1} to {3}".format(*one["box"])
    sure = f"severity {one['severity']}, {one['confidence']} confidence"
    return f"{one['type']}: {one['location']}{place}; {one['appearance']}; {sure}"
