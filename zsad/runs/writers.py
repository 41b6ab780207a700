"""From records and thresholds to the files that a person reads: the second stage of ``zsad predict``."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.file_names import OutputNames
from zsad.common.threads import ahead
from zsad.decision.thresholds import Thresholds, decide
from zsad.images.content import is_blank
from zsad.inference.inspector import Inspector
from zsad.runs.coco import CocoFiles
from zsad.runs.drawing import Drawer, Drawn, Options
from zsad.runs.records import Records, rows_at
from zsad.runs.report import Shown, write_report
from zsad.runs.summary import Summary
from zsad.runs.tables import CsvTable, ParquetTable

__all__ = ["Watch", "unwatched", "write_facts", "write_results", "write_tables"]

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
    scores, peaks, counted = _scores(records)
    thresholds = decide(scores[counted], peaks[counted], given, inspector.far_score)
    names = OutputNames(row["name"] for row in records.rows())
    ranking = np.argsort(-scores, kind="stable")  # worst first; NaN, the errors, last
    shown = set(ranking[: options.limit_report].tolist())
    draw = Drawer(place, records, inspector, thresholds, options)
    jobs = ((row, names(row["name"]), index in shown) for index, row in enumerate(records.rows()))
    drawn = ahead(jobs, lambda job: draw(*job), inspector.workers, 2 * inspector.workers)
    summary = Summary(thresholds)
    with ExitStack() as stack:
        thumbs = stack.enter_context((place / "thumbs").open("w+b"))
        add = _open_formats(place, options.formats, stack)
        lines, where = _write_rows(place, watch(drawn, "drawing", len(scores)), summary, thumbs, add)
        summary.order = [lines[index] for index in ranking]
        rows = zip(ranking.tolist(), rows_at(place / "predictions.jsonl", summary.order), strict=True)
        write_report(
            place / "report.html",
            (Shown(row, *_thumbs_at(thumbs, where.get(index))) for index, row in rows),
            counts=summary.counts,
            cautions=summary.notes.sentences(),
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


def write_tables(place: Path, rows: Iterable[Mapping[str, Any]], *, append: bool = False, more: tuple[str, ...] = ()) -> None:
    """Writes predictions.jsonl and predictions.csv of finished rows, or puts the rows at their ends; ``more``: columns."""
    jsonl = (place / "predictions.jsonl").open("ab" if append else "wb")
    with jsonl, closing(CsvTable(place / "predictions.csv", append=append, more=more)) as table:
        for row in rows:
            jsonl.write(_json(row).encode("utf-8", "backslashreplace") + b"\n")
            table.add(row)


def _scores(records: Records) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and the maps' peaks, NaN where there is none, and which of them count: not those of frames without content."""
    found = np.full((2, len(records.order)), np.nan)
    counted = np.zeros(len(records.order), bool)
    for index, row in enumerate(records.rows()):
        if "score" in row:
            found[:, index] = row["score"], row["peak"]
            counted[index] = not is_blank(row["notes"])
    return found[0], found[1], counted


def _open_formats(place: Path, formats: Iterable[str], stack: ExitStack) -> Callable[[Drawn], None]:
    """Opens the files of the formats besides jsonl; returns what writes a row into all of them."""
    tables: list[CsvTable | ParquetTable] = [stack.enter_context(closing(CsvTable(place / "predictions.csv")))]
    if "excel" in formats:
        tables.append(stack.enter_context(closing(CsvTable(place / "predictions.excel.csv", excel=True))))
    if "parquet" in formats:
        tables.append(stack.enter_context(closing(ParquetTable(place / "predictions.parquet"))))
    coco = stack.enter_context(closing(CocoFiles(place))) if "coco" in formats else None

    def add(one: Drawn) -> None:
        for table in tables:
            table.add(one.row)
        if coco is not None:
            coco.add(one.row, one.size, one.segments)

    return add


def _write_rows(
    place: Path, drawn: Iterable[Drawn], summary: Summary, thumbs: IO[bytes], add: Callable[[Drawn], None]
) -> tuple[array[int], dict[int, tuple[int, int, int]]]:
    """Writes the rows in all formats; returns the rows' places in the jsonl, and by row the thumbnails' place and lengths."""
    lines = array("q")
    where: dict[int, tuple[int, int, int]] = {}
    with (place / "predictions.jsonl").open("wb") as jsonl:
        for index, one in enumerate(drawn):
            lines.append(jsonl.tell())
            jsonl.write(_json(one.row).encode("utf-8", "backslashreplace") + b"\n")
            add(one)
            summary.add(one.row)
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
