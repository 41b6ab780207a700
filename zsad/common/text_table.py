"""Formats tables of numbers as text: Markdown, CSV, and numbers with their spread."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["csv_text", "markdown", "number"]


def number(mean: float, std: float = math.nan) -> str:
    """A number as text: 0.912, with a spread 0.912 ± 0.013; "nan" where it is undefined."""
    return f"{mean:.3f}" + ("" if math.isnan(std) else f" ± {std:.3f}")


def markdown(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows of equal keys as the lines of a Markdown table; the first column to the left, the others to the right."""
    heads = list(rows[0])
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)], *[list(row.values()) for row in rows]]
    return ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV. Floats keep every digit, NaN is empty; a text that a spreadsheet would run gets a quote."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
