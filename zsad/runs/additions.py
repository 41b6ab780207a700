"""What commands add to a finished run: columns of its rows, and sections of its report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from zsad.common.atomic_files import write_atomically
from zsad.common.folder_lock import FolderLock
from zsad.common.output_folder import HIDDEN, LOCK, remove
from zsad.decision.thresholds import ANOMALOUS, REVIEW
from zsad.errors import UsageError
from zsad.runs.coco import WHOLE, add_to_images
from zsad.runs.tables import COLUMNS, CsvTable, ParquetTable
from zsad.runs.writers import write_tables

__all__ = ["finished_rows", "is_flagged", "locked", "put_section", "rewrite_rows", "why_none_flagged"]

TABLES: dict[str, Callable[..., CsvTable | ParquetTable]] = {  # besides predictions.jsonl and .csv, which every run has
    "predictions.excel.csv": partial(CsvTable, excel=True),
    "predictions.parquet": ParquetTable,
}


def finished_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run.

    Raises:
        UsageError: the folder holds none, or no maps.
    """
    path = folder / "predictions.jsonl"
    if not path.is_file() or not (folder / HIDDEN / "records.jsonl").is_file():
        raise UsageError(
            f"{str(folder)!r} holds no results with maps. Give the folder that zsad predict wrote, with its {HIDDEN}."
        )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def is_flagged(row: Mapping[str, Any]) -> bool:
    """Whether a row's verdict is anomalous or review."""
    return row["pred_label"] in (ANOMALOUS, REVIEW)


def why_none_flagged(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """The beginning of a sentence for a run without flagged pictures."""
    labels = any(row["pred_label"] for row in rows)
    why = "every picture is normal" if labels else "it has no verdicts; run zsad predict with --threshold"
    return f"No picture of {str(folder)!r} was flagged ({why})"


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Keeps other commands out of a run's folder."""
    lock = FolderLock(folder / HIDDEN / LOCK, command, folder)
    try:
        yield
    finally:
        lock.release()


def rewrite_rows(folder: Path, rows: Iterable[Mapping[str, Any]], column: str) -> None:
    """Writes the predictions again in each format that the run has, with a column; columns that other commands added stay.

    In COCO's format the pictures get "kind" alone; the list of results for ``loadRes`` has no place for more.

    Args:
        folder: of the run.
        rows: all of them, each with the column.
        column: its name.

    Raises:
        MissingExtra: the run has a Parquet file, and pyarrow is not installed; nothing is changed then.
    """
    known = list(rows)
    added = tuple(dict.fromkeys(key for row in known for key in row if key not in COLUMNS))
    scratch = folder / HIDDEN / column
    remove(scratch)
    scratch.mkdir()
    write_tables(scratch, known, more=added)
    for name, table in TABLES.items():
        if (folder / name).is_file():
            with closing(table(scratch / name, more=added)) as opened:
                for row in known:
                    opened.add(row)
    if "kind" in added and (folder / WHOLE).is_file():
        add_to_images(
            folder / WHOLE, scratch / WHOLE, ({"kind": row["kind"]} for row in known if row["pred_score"] is not None)
        )
    for path in sorted(scratch.iterdir()):
        path.replace(folder / path.name)
    scratch.rmdir()


def put_section(path: Path, name: str, html: str) -> None:
    """Puts a section at the end of a report, in the place of an earlier one; nothing where there is no report.

    Args:
        path: of the report.
        name: by which the section is found again, and its id.
        html: its content.
    """
    if not path.is_file():
        return
    begin, end = f"<!--{name}-->", f"<!--/{name}-->"
    earlier = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n?", re.DOTALL)
    before, mark, after = earlier.sub("", path.read_text(encoding="utf-8")).rpartition("</main>")
    section = f'{begin}<section id="{name}">{html}</section>{end}\n'
    write_atomically(path, (before + section + mark + after).encode("utf-8"))
