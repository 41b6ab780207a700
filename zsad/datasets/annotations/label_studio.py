"""Reader of Label Studio's JSON export: a list of tasks with rectangles, ellipses, polygons, brushes and choices.

Facts of the format: labelstud.io/guide/task_format and the pages of the tags. Coordinates are percent of the picture's width
and height; a rectangle is turned clockwise about its upper left corner. Pictures are not in the export: they are looked for
below the folder of the file, by the names that they had before they were uploaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_of
from zsad.datasets.annotations.json_files import json_files, json_kind, load_json, numbers, objects, size_of
from zsad.datasets.layout import Found, Layout
from zsad.datasets.shapes import Encoded, Polygon, box, ellipse, polygon
from zsad.errors import UsageError
from zsad.images.sources import SUFFIXES

__all__ = ["LABEL_STUDIO"]

AREAS = ("rectangle", "ellipse", "polygon", "brush")
OTHERS = ("keypoint", "vector", "bitmask", "cuboid")  # regions that are not read


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() and path.suffix.lower() == ".json" else json_files(path)
    return [file for file in files if json_kind(file) == "label_studio"]


def _read(path: Path, found: Found) -> None:
    data = AnnotatedSet(found, path if path.is_dir() else path.parent)
    for file in _files(path):
        _read_file(file, data)
    data.finish()


def _read_file(file: Path, data: AnnotatedSet) -> None:
    tasks = objects(load_json(file, _shorten))
    if tasks and not any("data" in task for task in tasks):
        raise UsageError(f"{file.name!r} is Label Studio's JSON-MIN, which lacks what is needed. Export the project as 'JSON'.")
    split, bare, several = split_of(file.stem), 0, 0
    for number, task in enumerate(tasks):
        where = f"{file.name} task {task.get('id', number)}"
        place = data.find(_picture(task.get("data")), where, (file.parent,))
        if place is None:
            continue
        made = task.get("annotations", task.get("completions"))
        finished = [one for one in objects(made) if not (one.get("was_cancelled") or one.get("skipped"))]
        several += len(finished) > 1
        if not finished:
            bare += 1
            data.add_unlabelled(place, split)
            continue
        chosen = next((one for one in finished if one.get("ground_truth")), finished[-1])
        _add(place, objects(chosen.get("result")), split, data)
    if bare:
        data.found.problem(file.name, f"{bare} task(s) have no finished annotation: unlabelled.")
    if several:
        what = f"{several} task(s) have several annotations: of each, the ground truth is used, or else the last"
        data.found.problem(file.name, f"{what}.")


def _picture(row: object) -> str:
    """The name of the picture among a task's data: under "image", or the first word that ends like a picture."""
    words = {key: word for key, word in row.items() if isinstance(word, str)} if isinstance(row, dict) else {}
    ends = tuple(SUFFIXES)
    like = (word for word in words.values() if unquote(word).partition("&")[0].lower().endswith(ends))
    return words.get("image") or next(like, "") or next(iter(words.values()), "")


def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """A brush's list of bytes as bytes, as soon as it is read."""
    runs = row.get("rle")
    if isinstance(runs, list):
        sound = all(isinstance(one, int) and 0 <= one < 256 for one in runs)
        row["rle"] = bytes(runs) if sound else None
    return row


def _add(place: Path, results: list[dict[str, Any]], split: str, data: AnnotatedSet) -> None:
    """Adds a picture with one annotation's results. Choices count only where no region is drawn."""
    sizes = (size_of(one.get("original_width"), one.get("original_height")) for one in results)
    size = next((one for one in sizes if one is not None), None)
    named = {str(one.get("id")): names for one in results if (names := _names(one))}
    marks: list[Mark] = []
    choices: list[Mark] = []
    seen: set[str] = set()
    for one in results:
        value, kind, key = one.get("value"), str(one.get("type")), str(one.get("id") or "")
        if not isinstance(value, dict):
            continue
        if kind == "choices":
            choices += [(name, None) for name in _names(one)]
            continue
        shape = _shape_of(value, kind)
        if not shape or key in seen:  # "rectangle" and "labels" of one region come separately
            continue
        seen |= {key} - {""}
        part = _area(value, shape, size)
        marks += [(name, part) for name in _names(one) or named.get(key) or ["defect"]]
    data.add(place, marks or choices, split, size=size, relative=size is None)


def _names(one: dict[str, Any]) -> list[str]:
    """The words of a result: under "rectanglelabels", "labels", "choices" ..."""
    value = one.get("value")
    lists = [words for key, words in value.items() if key.endswith(("labels", "choices"))] if isinstance(value, dict) else []
    return [str(word) for words in lists if isinstance(words, list) for word in words]


def _shape_of(value: dict[str, Any], kind: str) -> str:
    """One of ``AREAS`` or ``OTHERS``; "" for what is no region (text, ratings)."""
    named = next((one for one in (*AREAS, *OTHERS) if kind.startswith(one)), "")
    if named or kind != "labels":
        return named
    keys = {"points": "polygon", "rle": "brush", "radiusX": "ellipse", "width": "rectangle"}
    return next((shape for key, shape in keys.items() if key in value), "")


def _area(value: dict[str, Any], shape: str, size: tuple[int, int] | None) -> Polygon | Encoded | None:
    """In pixels where the size is known; else as fractions, and then turned ones have none."""
    wide, high = size or (1, 1)
    turn = numbers([value.get("rotation") or 0], 1)
    if shape == "brush":
        return Encoded("brush", value["rle"], wide, high) if size and isinstance(value.get("rle"), bytes) else None
    if shape == "polygon":
        rows = value.get("points")
        points = [numbers(row, 2) for row in rows] if isinstance(rows, list) else []
        corners = [(x * wide / 100, y * high / 100) for x, y in (one for one in points if one is not None)]
        return polygon(corners) if len(corners) == len(points) else None
    sides = ("radiusX", "radiusY") if shape == "ellipse" else ("width", "height")
    found = numbers([value.get(key) for key in ("x", "y", *sides)], 4)
    if shape not in ("ellipse", "rectangle") or not found or not turn or (turn[0] and size is None):
        return None
    x, y, across, down = (number * side / 100 for number, side in zip(found, (wide, high) * 2, strict=True))
    if shape == "ellipse":
        return ellipse(x, y, across, down, turn=turn[0])
    return box(x, y, x + across, y + down, turn=turn[0], about=(x, y))


LABEL_STUDIO = Layout(
    "label_studio",
    "Label Studio: x.json of its JSON export, with the pictures in the same folder or below; or that file",
    lambda path: bool(_files(path)),
    _read,
    index=True,
)
