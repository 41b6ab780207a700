"""From records and thresholds to the files that a person reads: the second stage of ``zsad predict``."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.file_names import OutputNames
from zsad.common.threads import ahead
from zsad.decision.thresholds import Thresholds, decide
from zsad.inference.inspector import Inspector
from zsad.runs.drawing import Drawer, Drawn, Options
from zsad.runs.records import Records, rows_at
from zsad.runs.report import Shown, write_report
from zsad.runs.summary import Summary, label_of

__all__ = ["Watch", "unwatched", "write_facts", "write_results", "write_tables"]

COLUMNS = (
    *("path", "name", "pred_score", "p_value", "pred_label", "threshold", "threshold_source", "regions", "prompts"),
    *("method", "error", "notes", "overlay", "mask", "map"),
)
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]  # wraps a loop, with a label and its length, to show progress


def unwatched(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """A ``Watch`` that shows nothing."""
    return items


def write_results(
    place: Path,
    records: Records,
    inspector: Inspector,
    detector: Mapping[str, Any],
    given: Thresholds,
    options: Options,
    watch: Watch = unwatched,
) -> Summary:
    """Decides on every picture of a run, and writes all files but run.json.

    Args:
        place: an empty folder for the files.
        records: of the run.
        inspector: makes results of scores.
        detector: ``Inspector.describe()`` of what scored.
        given: thresholds that the user gave; what they leave open is settled by the batch rule.
        options: what to write.
        watch: shows progress.
    """
    scores, peaks = _scores(records)
    thresholds = decide(scores[~np.isnan(scores)], peaks[~np.isnan(peaks)], given, inspector.far_score)
    names = OutputNames(row["name"] for row in records.rows())
    ranking = np.argsort(-scores, kind="stable")  # worst first; NaN, the errors, last
    shown = set(ranking[: options.limit_report].tolist())
    draw = Drawer(place, records, inspector, thresholds, options)
    jobs = ((row, names(row["name"]), index in shown) for index, row in enumerate(records.rows()))
    drawn = ahead(jobs, lambda job: draw(*job), inspector.workers, 2 * inspector.workers)
    summary = Summary(thresholds)
    with ExitStack() as stack:
        thumbs = stack.enter_context((place / "thumbs").open("w+b"))
        lines, where = _write_rows(place, watch(drawn, "drawing", len(scores)), summary, thumbs)
        summary.order = [lines[index] for index in ranking]
        rows = zip(ranking.tolist(), rows_at(place / "predictions.jsonl", summary.order), strict=True)
        write_report(
            place / "report.html",
            (Shown(row, *_thumbs_at(thumbs, where.get(index))) for index, row in rows),
            counts=summary.counts,
            thresholds=thresholds,
            detector=detector,
            scores=scores,
            limit=options.limit_report,
        )
    (place / "thumbs").unlink()
    return summary


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes run.json."""
    path.write_text(_json(facts, indent=1) + "\n", encoding="utf-8", errors="backslashreplace")


def write_tables(place: Path, rows: Iterable[Mapping[str, Any]], *, append: bool = False) -> None:
    """Writes predictions.jsonl and predictions.csv of finished rows, or puts the rows at their ends."""
    mode = "a" if append else "w"
    with (place / "predictions.jsonl").open(f"{mode}b") as jsonl, _text(place / "predictions.csv", mode) as table:
        sheet = csv.writer(table, lineterminator="\n")
        if not append:
            sheet.writerow(COLUMNS)
        for row in rows:
            jsonl.write(_json(row).encode("utf-8", "backslashreplace") + b"\n")
            sheet.writerow([_cell(row[column]) for column in COLUMNS])


def _scores(records: Records) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and the maps' peaks, NaN where there is none."""
    found = np.full((2, len(records.order)), np.nan)
    for index, row in enumerate(records.rows()):
        if "score" in row:
            found[:, index] = row["score"], row["peak"]
    return found[0], found[1]


def _write_rows(
    place: Path, drawn: Iterable[Drawn], summary: Summary, thumbs: IO[bytes]
) -> tuple[array[int], dict[int, tuple[int, int, int]]]:
    """Writes both tables; returns the rows' places in the jsonl, and by row the thumbnails' place and lengths."""
    lines = array("q")
    where: dict[int, tuple[int, int, int]] = {}
    with (place / "predictions.jsonl").open("wb") as jsonl, _text(place / "predictions.csv") as table:
        sheet = csv.writer(table, lineterminator="\n")
        sheet.writerow(COLUMNS)
        for index, one in enumerate(drawn):
            lines.append(jsonl.tell())
            jsonl.write(_json(one.row).encode("utf-8", "backslashreplace") + b"\n")
            sheet.writerow([_cell(one.row[column]) for column in COLUMNS])
            summary.counts[label_of(one.row)] += 1
            if one.thumbs:
                where[index] = (thumbs.tell(), len(one.thumbs[0]), len(one.thumbs[1]))
                thumbs.write(b"".join(one.thumbs))
    return lines, where


def _thumbs_at(file: IO[bytes], where: tuple[int, int, int] | None) -> tuple[bytes, bytes]:
    if where is None:
        return b"", b""
    file.seek(where[0])
    return file.read(where[1]), file.read(where[2])


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _text(path: Path, mode: str = "w") -> IO[str]:
    return path.open(mode, encoding="utf-8", errors="backslashreplace", newline="")


def _cell(value: Any) -> Any:
    """A CSV cell: lists of regions as "x0 y0 x1 y1" each, prompts as counts."""
    if isinstance(value, list):
        return "; ".join(" ".join(map(str, one["box"])) if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"  # a spreadsheet would run it as a formula
    if isinstance(value, dict):
        return "; ".join(f"{count} {kind}" for kind, count in value["count"].items())
    return value
