"""``report.html``: one file that a person reads offline, written row by row."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from zsad.common.file_names import many
from zsad.decision.thresholds import ANOMALOUS, NORMAL, REVIEW, Thresholds
from zsad.images.heatmap import colours
from zsad.runs.summary import label_of, verdict_line

__all__ = ["Shown", "write_report"]

MOST_ROWS = 5000  # a browser sorts that many at once; the rest is in predictions.csv
LISTED_REGIONS = 6
BINS = 48
ORDER = {ANOMALOUS: 4, REVIEW: 3, NORMAL: 2, "unlabelled": 1, "error": 0}


@dataclass(frozen=True)
class Shown:
    """One row: the picture's row of predictions.jsonl, and thumbnails (JPEG), empty where it has none."""

    row: Mapping[str, Any]
    picture: bytes = b""
    overlay: bytes = b""


def write_report(
    path: Path,
    rows: Iterable[Shown],
    *,
    counts: Mapping[str, int],
    thresholds: Thresholds,
    detector: Mapping[str, Any],
    scores: NDArray[np.float64],
    limit: int,
    cautions: Iterable[str] = (),
    table: str = "predictions.csv",
) -> None:
    """Writes the report.

    Args:
        path: the file.
        rows: worst first, errors last.
        counts: pictures per verdict, with "unlabelled" and "error".
        thresholds: what the verdicts rest on.
        detector: ``Inspector.describe()`` of what scored.
        scores: all raw scores, NaN where there is none.
        limit: how many rows come with pictures.
        cautions: sentences on the pictures as a whole.
        table: where the rows are that are not shown.
    """
    total = sum(counts.values())
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        _write_head(file, counts, thresholds, detector, scores)
        file.writelines(f'<p class="soft">{escape(one)}</p>\n' for one in cautions)
        _write_tools(file, counts)
        file.write(_TABLE.format(caption=_caption(total, int(np.isfinite(scores).sum()), limit, table)))
        for rank, shown in enumerate(islice(rows, MOST_ROWS)):
            file.write(_row(rank, shown))
        file.write("</tbody></table>\n")
        _write_prompts(file, detector)
        file.write(f"</main><script>{_part('report.js')}</script></body></html>\n")


def _write_head(
    file: IO[str],
    counts: Mapping[str, int],
    thresholds: Thresholds,
    detector: Mapping[str, Any],
    scores: NDArray[np.float64],
) -> None:
    title = escape(f"Inspection: {detector['target']}")
    facts = {
        "Threshold": _number(thresholds.anomalous, "none, so there are no verdicts"),
        "Review from": _number(thresholds.review, "no review band"),
        "Regions from": _number(thresholds.pixel, "no pixel threshold, so there are no regions"),
        "Where from": thresholds.source,
        "Detector": f"{detector['method']} on {detector['backbone']} at {detector['image_size']} px",
        "Weights": _weights(detector),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    file.write(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_part("report.css")}</style></head>\n<body><main><h1>{title}</h1>'
        f'<p class="lead">{escape(verdict_line(counts, thresholds.false_alarm_rate))}.</p>\n'
        f'<div class="about"><dl>{listed}</dl><div>'
        f"{_histogram(scores, thresholds)}{_scale(detector['map_range'])}</div></div>\n"
    )


def _weights(detector: Mapping[str, Any]) -> str:
    named = {"backbone": detector["backbone_sha256"], "method": detector["weights_sha256"]}
    parts = [f"{part} sha256 {digest[:12]}…" for part, digest in named.items() if digest]
    return ", ".join(parts) or "seeded random weights: the scores mean nothing"


def _scale(map_range: Iterable[float]) -> str:
    low, high = map_range
    return (
        f'<figure><div class="scale" role="img" aria-label="colour scale of the heat maps, from {low:g} to {high:g}" '
        f'style="background:linear-gradient(90deg,{",".join(colours())})"></div>'
        f'<div class="ends soft"><span>{low:g}</span><span>{high:g}</span></div>'
        "<figcaption>Heat map: one fixed scale of this model for all pictures; the lower a value, the more transparent."
        "</figcaption></figure>"
    )


def _histogram(scores: NDArray[np.float64], thresholds: Thresholds) -> str:
    """Bars of the scores with the levels as lines."""
    known = scores[np.isfinite(scores)]
    if len(known) < 2:
        return ""
    marks = {label: level for label, level in ((REVIEW, thresholds.review), (ANOMALOUS, thresholds.anomalous)) if level}
    low, high = min(known.min(), *marks.values(), known.max()), max(known.max(), *marks.values(), known.min())
    wide = (high - low) or 1.0
    heights, _ = np.histogram((known - low) / wide, BINS, (0, 1))  # of scores that hardly differ bins would have no width
    bars = "".join(
        f'<rect x="{10 * i + 1}" y="{90 - 88 * n / heights.max():.1f}" width="8" height="{88 * n / heights.max():.1f}"/>'
        for i, n in enumerate(heights)
        if n
    )
    dashes = ' stroke-dasharray="6 4"'
    lines = "".join(
        f'<line class="{label}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="90" stroke-width="3"'
        f"{dashes if label == REVIEW else ''}><title>{label} from {level:.4g}</title></line>"
        for label, level in marks.items()
        for x in [10 * BINS * (level - low) / wide]
    )
    legend = "; lines: review (dashed) and anomalous" if marks else ""
    return (
        f'<figure><svg viewBox="-2 0 {10 * BINS + 4} 92" role="img" aria-label="histogram of the scores">{bars}{lines}</svg>'
        f'<div class="ends soft"><span>{low:.4g}</span><span>{high:.4g}</span></div>'
        f"<figcaption>Scores of {many(len(known), 'picture')}{legend}.</figcaption></figure>"
    )


def _write_tools(file: IO[str], counts: Mapping[str, int]) -> None:
    options = "".join(f'<option value="{label}">{label} ({counts[label]})</option>' for label in ORDER if counts.get(label))
    file.write(
        f'<div class="tools" hidden><label>Show <select id="verdict"><option value="">all</option>{options}</select></label>'
        '<label>Name contains <input id="text" type="search" size="16"></label>'
        '<span id="shown" class="soft" role="status"></span></div>\n'
    )


_TABLE = """<table><caption>{caption}</caption><thead><tr><th class="pictures" scope="col">Picture and heat map</th>
<th scope="col" data-key="score" aria-sort="descending"><button type="button">Score</button></th>
<th scope="col" data-key="name"><button type="button">Name</button></th>
<th scope="col" data-key="verdict"><button type="button">Verdict</button></th>
<th scope="col" data-key="regions"><button type="button">Regions</button></th></tr></thead>
<tbody>
"""


def _caption(total: int, scored: int, limit: int, table: str) -> str:
    sentences = ["Worst first."]
    if limit < scored:
        sentences.append(f"Pictures are shown for the {limit} highest scores of {scored}.")
    if total > MOST_ROWS:
        sentences.append(f"{many(total - MOST_ROWS, 'more row is', 'more rows are')} in {table}.")
    return " ".join(sentences)


def _row(rank: int, shown: Shown) -> str:
    row = shown.row
    label = label_of(row)
    score, regions = row["pred_score"], row["regions"]
    keys = {
        "rank": rank,
        "score": "" if score is None else score,
        "name": row["name"],
        "verdict": ORDER[label],
        "label": label,
        "regions": len(regions),
    }
    data = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in keys.items())
    verdict = "" if label == "unlabelled" else label
    places = _regions(regions) + "".join(f'<p class="soft">{escape(note)}</p>' for note in row["notes"])
    return (
        f'<tr {data}><td class="pictures">{_pair(shown)}</td><td class="score">{_score(row)}</td>'
        f'<td class="name">{escape(row["name"])}</td><td><span class="verdict is-{label}">{verdict}</span></td>'
        f'<td class="places">{escape(row["error"] or "")}{places}</td></tr>\n'
    )


def _score(row: Mapping[str, Any]) -> str:
    if row["pred_score"] is None:
        return ""
    p_value = row.get("p_value")
    return f"{row['pred_score']:.4g}" + ("" if p_value is None else f'<p class="soft">p = {p_value:.3g}</p>')


def _pair(shown: Shown) -> str:
    images = "".join(
        f'<img loading="lazy" alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for alt, data in (("picture", shown.picture), ("heat map", shown.overlay))
        if data
    )
    if not shown.overlay:
        return images
    where = escape(quote(shown.row["overlay"], errors="surrogateescape"))
    return f'<a class="pair" href="{where}" aria-label="heat map of {escape(shown.row["name"])} in full size">{images}</a>'


def _regions(regions: list[dict[str, Any]]) -> str:
    def line(region: dict[str, Any]) -> str:
        x0, y0, x1, y1 = region["box"]
        word = f", maybe {escape(region['suggested_word'])}" if region["suggested_word"] else ""
        return f"<li>x {x0} to {x1}, y {y0} to {y1}: {region['area']} px, peak {region['peak']:.3g}{word}</li>"

    if not regions:
        return ""
    more = len(regions) - LISTED_REGIONS
    rest = f'<p class="soft">and {more} smaller peaks in predictions.jsonl</p>' if more > 0 else ""
    return f'<ol class="regions">{"".join(map(line, regions[:LISTED_REGIONS]))}</ol>{rest}'


def _write_prompts(file: IO[str], detector: Mapping[str, Any]) -> None:
    sentences = detector["sentences"]
    if not sentences:
        file.write('<p class="soft">This method uses no sentences.</p>')
        return
    count = sum(map(len, sentences.values()))
    file.write(f"<details><summary>Sentences that were used ({count})</summary>")
    for kind, lines in sentences.items():
        listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
        file.write(f"<h2 class='soft'>{escape(kind)} ({len(lines)})</h2><ul class='prompts'>{listed}</ul>")
    file.write("</details>\n")


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.4g}"


def _part(name: str) -> str:
    return resources.files("zsad.runs").joinpath(name).read_text(encoding="utf-8")
