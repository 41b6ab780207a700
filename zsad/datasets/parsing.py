"""Parses files that list a data set: JSON and CSV, labels in words, and paths that are not trusted.

No path that such a file names is followed out of the data set's folder, except the absolute ones of a manifest, which
its user has written.
"""

# ruff: noqa: PTH113
from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zsad.datasets import words
from zsad.datasets.layout import Found
from zsad.errors import UsageError

__all__ = ["csv_rows", "json_of", "label_of", "mask_of", "phases_of", "place_of", "text_of"]

IS_NORMAL = words.NORMAL | {"0", "0.0", "no", "false", "pass", "passed", "negative"}
IS_ANOMALOUS = words.ANOMALOUS | {"1", "1.0", "yes", "true", "fail", "failed", "positive"}
UNKNOWN = frozenset({"", "none", "nan", "null"})


def text_of(path: Path) -> str:
    """Reads a file as UTF-8 text, with or without a byte order mark. Raises ``UsageError`` where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error


def json_of(path: Path) -> dict[str, Any]:
    """Reads a file with one JSON object. Raises ``UsageError`` where it is none."""
    try:
        found = json.loads(text_of(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{str(path)!r} holds a {type(found).__name__}, not an object with the keys 'train' and 'test'.")
    return found


def csv_rows(path: Path, needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a CSV file as ("line 2", row); the delimiter (comma, semicolon or tab) is the one of its header."""
    text = text_of(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip().casefold() for name in rows.fieldnames or ()]
    if needed not in columns:
        raise UsageError(f"{path.name!r} needs a header with the column {needed!r}; it has {', '.join(columns) or 'none'}.")
    rows.fieldnames = columns
    try:
        for row in rows:
            yield f"{path.name} line {rows.line_num}", {key: (row[key] or "").strip() for key in columns}
    except csv.Error as error:
        raise UsageError(f"{path.name!r} cannot be read as CSV at line {rows.line_num}: {error}.") from error


def label_of(value: object, where: str, found: Found) -> int | None:
    """Parses a label: 0, 1, or None where it is unknown; other values are a problem and unknown."""
    word = str(value).strip().casefold()
    if word not in IS_NORMAL | IS_ANOMALOUS | UNKNOWN:
        found.problem(where, f"the label {value!r} is neither 0 (normal) nor 1 (anomalous): taken as unlabelled.")
    return 0 if word in IS_NORMAL else 1 if word in IS_ANOMALOUS else None


def place_of(text: object, where: str, found: Found, root: Path, *, absolute: bool = False) -> Path | None:
    """Resolves the path of a picture or mask in a row; None, with a problem, where it may not be followed."""
    if not isinstance(text, str):
        found.problem(where, f"{text!r} is no path.")
        return None
    path = found.inside(root, text, absolute=absolute)
    if path is None:
        found.problem(where, f"{text[:200]!r} leads out of {root.name!r}: refused. Give absolute paths in a manifest instead.")
    elif not os.path.isfile(path):  # unlike Path.is_file it answers for names that are too long, too
        found.problem(where, f"there is no file {text[:200]!r}.")
    return path


def mask_of(text: object, where: str, found: Found, root: Path, *, absolute: bool = False) -> Path | None:
    """Resolves the path of a mask as ``place_of``; none at all ('' or null) is no problem, a missing file gives None."""
    path = place_of(text, where, found, root, absolute=absolute) if text not in ("", None) else None
    return path if path is not None and os.path.isfile(path) else None


def phases_of(table: Mapping[str, Any], kind: type, path: Path) -> list[tuple[str, Any]]:
    """The entries of a list by split, whatever their spelling (DAGM's list has "Test"); others of that kind count as splits."""
    found = [(words.split_of(str(key)), value) for key, value in table.items()]
    known = [value for split, value in found if split in ("train", "test")]
    if not known or not all(isinstance(value, kind) for value in known):
        wanted = {"dict": "objects of lists by category", "list": "lists"}[kind.__name__]
        raise UsageError(f"{path.name!r} needs the keys 'train' and 'test' with {wanted}; it has {', '.join(table) or 'none'}.")
    return [(split, value) for split, value in found if isinstance(value, kind)]
