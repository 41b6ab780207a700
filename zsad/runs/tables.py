"""Predictions as tables: CSV, CSV that Excel opens as it is, and Parquet; a row is added at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import MissingExtra

__all__ = ["COLUMNS", "CsvTable", "ParquetTable", "encodable", "load_pyarrow", "region_type"]

COLUMNS = (
    *("path", "name", "pred_score", "p_value", "pred_label", "threshold", "threshold_source", "regions", "prompts"),
    *("method", "error", "notes", "overlay", "mask", "map", "relative_path"),
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet runs a cell that begins so
GROUP = 2048  # rows of Parquet that are written at once


class CsvTable:
    """A CSV file in UTF-8; cells that a spreadsheet would run as formulas begin with a quote.

    Args:
        path: the file.
        excel: with a byte-order mark, by which Excel reads UTF-8, and with lines that end in CR LF.
        append: rows are put at the end of the file that is there.
        more: columns behind the usual ones.
    """

    def __init__(self, path: Path, *, excel: bool = False, append: bool = False, more: tuple[str, ...] = ()) -> None:
        self._columns = (*COLUMNS, *more)
        encoding = "utf-8-sig" if excel else "utf-8"
        self._file = path.open("a" if append else "w", encoding=encoding, errors="backslashreplace", newline="")
        self._sheet = csv.writer(self._file, lineterminator="\r\n" if excel else "\n")
        if not append:
            self._sheet.writerow(self._columns)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row of predictions.jsonl."""
        self._sheet.writerow([_cell(row[column]) for column in self._columns])

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


class ParquetTable:
    """A Parquet file: numbers as numbers, regions as lists of records, prompts and other objects as JSON text.

    Args:
        path: the file.
        more: columns of text behind the usual ones.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, path: Path, *, more: tuple[str, ...] = ()) -> None:
        self._arrow = load_pyarrow()
        import pyarrow.parquet

        self._columns, self._schema = (*COLUMNS, *more), _schema(self._arrow, more)
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes up a row of predictions.jsonl."""
        self._rows.append({key: encodable(_as_text(row[key])) for key in self._columns})
        if len(self._rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Writes what is left, and ends the file."""
        if self._rows:
            self._flush()
        self._file.close()


def load_pyarrow() -> Any:
    """The package pyarrow.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("--format parquet", "parquet") from error
    return pyarrow


def _as_text(value: Any) -> Any:
    """An object as JSON text; other values as they are."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _schema(arrow: Any, more: tuple[str, ...] = ()) -> Any:
    """Types by column; all may be null."""
    text, number = arrow.string(), arrow.float64()
    kinds = {"pred_score": number, "p_value": number, "threshold": number, "notes": arrow.list_(text)}
    kinds["regions"] = arrow.list_(region_type(arrow))
    return arrow.schema([(column, kinds.get(column, text)) for column in (*COLUMNS, *more)])


def region_type(arrow: Any) -> Any:
    """The type of a region, as ``Region.as_dict`` gives it."""
    text, number = arrow.string(), arrow.float64()
    corners = arrow.list_(arrow.list_(arrow.int32()))
    region = {
        **{"box": arrow.list_(arrow.int32()), "area": arrow.int64(), "peak": number, "contour": corners},
        **{"suggested_word": text, "margin": number},
    }
    return arrow.struct(list(region.items()))


def encodable(value: Any) -> Any:
    """Text that UTF-8 can hold; of undecodable file names the bytes become escapes, as in predictions.jsonl."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _cell(value: Any) -> Any:
    """A CSV cell: lists of regions as "x0 y0 x1 y1" each, prompts as counts, other objects as JSON; no formulas."""
    if isinstance(value, list):
        value = "; ".join(" ".join(map(str, one["box"])) if isinstance(one, dict) else str(one) for one in value)
    elif isinstance(value, dict) and "count" not in value:
        value = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        value = "; ".join(f"{count} {kind}" for kind, count in value["count"].items())
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
