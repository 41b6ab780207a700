"""Reader of Hugging Face's imagefolder: ``metadata.csv`` or ``metadata.jsonl`` beside the pictures, or one per split's folder.

Facts of the format: huggingface.co/docs/datasets, "Create an image dataset". Every row has ``file_name``; the label is in
``label``, boxes are (left, top, width, height) in ``objects``: {"bbox": [...], "categories": [...]}; a mask file is in
``mask_file_name`` or ``mask``. Where there is no label, that of a folder counts whose name is one of the usual words
(``good/``, ``bad/``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_folders, split_of
from zsad.datasets.annotations.json_files import numbers
from zsad.datasets.folders import add_labelled_by_mask
from zsad.datasets.layout import Found, Layout
from zsad.datasets.parsing import IS_ANOMALOUS, IS_NORMAL, UNKNOWN, csv_rows, mask_of, text_of
from zsad.datasets.shapes import Polygon, box
from zsad.errors import UsageError

__all__ = ["IMAGEFOLDER", "is_metadata"]

FILES = ("metadata.csv", "metadata.jsonl")
LABELS = ("label", "anomaly", "class")
MASKS = ("mask_file_name", "mask", "segmentation_file_name", "annotation_file_name")


def is_metadata(file: Path) -> bool:
    """Whether it is such a file: by its name, and by the key ``file_name`` in its first line."""
    if file.name not in FILES or not file.is_file():
        return False
    try:
        with file.open("rb") as opened:
            return b"file_name" in opened.readline(1 << 16)
    except OSError:
        return False


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if is_metadata(path) else []
    folders = [path, path / "data", *split_folders(path), *split_folders(path / "data")]
    return [folder / name for folder in folders for name in FILES if is_metadata(folder / name)]


def _read(path: Path, found: Found) -> None:
    data = AnnotatedSet(found, path if path.is_dir() else path.parent)
    for file in _files(path):
        for where, row in _rows(file, data.root):
            _read_row(row, where, file, data)
    data.finish()


def _rows(file: Path, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    below = file.parent.relative_to(root).as_posix() if file.parent.is_relative_to(root) else "."
    if file.suffix == ".csv":
        yield from ((where if below == "." else f"{below}/{where}", row) for where, row in csv_rows(file, "file_name"))
        return
    for number, line in enumerate(text_of(file).splitlines(), 1):
        where = f"{file.name} line {number}" if below == "." else f"{below}/{file.name} line {number}"
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is no JSON: {error}.") from error
        if row is not None:
            yield where, row if isinstance(row, dict) else {}


def _read_row(row: dict[str, Any], where: str, file: Path, data: AnnotatedSet) -> None:
    """Boxes go before the label, the label before the mask; a mask alone labels its picture by what it holds."""
    place = data.find(row.get("file_name"), where, (file.parent,))
    if place is None:
        return
    inside = place.relative_to(data.root).parts[:-1]
    split = split_of(str(row.get("split") or ""), *reversed(inside))
    named = next((row[key] for key in MASKS if isinstance(row.get(key), str) and row[key]), None)
    mask = mask_of(named, where, data.found, file.parent) if named else None
    data.used |= {mask} if mask is not None else set()
    marks, word = _boxes(row.get("objects"), where, data), _label(row, inside)
    if marks:
        data.add(place, marks, split, mask=mask)
    elif word.casefold() in IS_NORMAL or ("objects" in row and not word and mask is None):
        data.add(place, [], split)
    elif word:
        data.add(place, [("defect" if word.casefold() in IS_ANOMALOUS else word, None)], split, mask=mask)
    elif mask is not None:
        add_labelled_by_mask(data.found, place, mask, data.category, split)
    else:
        data.add_unlabelled(place, split)


def _label(row: dict[str, Any], inside: tuple[str, ...]) -> str:
    """The word of a column, or of the folder where that is one of the usual words (good, bad); "" where it is unknown."""
    values = (row[key] for key in LABELS if isinstance(row.get(key), (str, int, float)))
    word = next((str(int(one) if isinstance(one, bool) else one).strip() for one in values), "")
    folder = inside[-1] if inside and inside[-1].casefold() in IS_NORMAL | IS_ANOMALOUS else ""
    return (folder if not any(key in row for key in LABELS) else word) if word.casefold() in UNKNOWN else word


def _boxes(value: object, where: str, data: AnnotatedSet) -> list[Mark]:
    """The boxes of ``objects``; in CSV they are JSON in a cell."""
    try:
        found = json.loads(value) if isinstance(value, str) and value else value
    except (ValueError, RecursionError):
        data.found.problem(where, f"'objects' is no JSON: {str(value)[:80]!r}.")
        return [("defect", None)]
    if not isinstance(found, dict):
        return []
    sides, names = found.get("bbox", found.get("bboxes")), found.get("categories", found.get("category"))
    several = sides if isinstance(sides, list) else []
    words = names if isinstance(names, list) and len(names) == len(several) else ["defect"] * len(several)
    return [(_word(word), _box(one)) for one, word in zip(several, words, strict=True)]


def _word(value: object) -> str:
    return f"class {value}" if isinstance(value, int) else str(value or "defect")


def _box(value: object) -> Polygon | None:
    found = numbers(value, 4)
    return box(found[0], found[1], found[0] + found[2], found[1] + found[3]) if found else None


IMAGEFOLDER = Layout(
    "imagefolder",
    "Hugging Face imagefolder: metadata.csv or .jsonl with file_name and label, objects or mask_file_name; or train/, test/",
    lambda path: bool(_files(path)),
    _read,
    index=True,
)
