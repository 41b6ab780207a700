"""Reader of YOLO text files: one per picture, with a line per box or segment in fractions of the picture's width and height.

Facts of the format: docs.ultralytics.com/datasets/detect and /segment; darknet's ``obj.data``. A line is ``class x y width
height`` (x, y: the centre) or ``class x1 y1 x2 y2 x3 y3 ...``; a picture without a file has no object. The file of
``images/train/a.jpg`` is ``labels/train/a.txt``, or lies beside it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_folders, split_of
from zsad.datasets.annotations.json_files import numbers
from zsad.datasets.annotations.yaml_keys import keys_of
from zsad.datasets.layout import Found, Layout, entries, pictures
from zsad.datasets.parsing import text_of
from zsad.datasets.shapes import Polygon, box, polygon
from zsad.errors import UsageError

__all__ = ["YOLO"]

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}  # keys of data.yaml and obj.data
NAMES = ("classes.txt", "predefined_classes.txt")  # no labels of pictures
BEYOND = 2.0  # a fraction larger than this is a number of pixels


def _settings_file(path: Path) -> Path | None:
    """data.yaml (whatever its name), obj.data or classes.txt; None where there is none."""
    files = [path] if path.is_file() else entries(path)
    for file in files:
        if file.suffix.lower() in (".yaml", ".yml") and file.is_file():
            keys = _keys(file).keys()
            if "names" in keys and keys & {*SPLITS, "path", "nc"}:
                return file
    named = [file for file in files if file.name in ("obj.data", "classes.txt") and file.is_file()]
    return next((file for file in named if file.name == "obj.data" or _has_labels(file.parent)), None)


def _has_labels(root: Path) -> bool:
    """Whether text files lie in labels/, or beside the pictures with their names."""
    beside = {file.stem for file in entries(root) if file.suffix == ".txt"} & {one.stem for one in pictures(root)}
    return bool(beside) or (root / "labels").is_dir()


def _keys(file: Path) -> dict[str, Any]:
    try:
        return keys_of(text_of(file)) if file.stat().st_size < 1 << 20 else {}
    except (UsageError, OSError):
        return {}


def _read(path: Path, found: Found) -> None:
    file = _settings_file(path)
    assert file is not None
    data = AnnotatedSet(found, file.parent)
    keys = _keys(file) if file.suffix != ".data" else _data_keys(file)
    names, posed = _names(keys, file, data), "kpt_shape" in keys
    labels: set[Path] = set()
    for split, place in _places(keys, file, data):
        _read_split(_pictures(place, file.name, data), split, names, posed, labels, data)
    beside = (one for folder in sorted({label.parent for label in labels}) for one in entries(folder))
    lists = {file.name, *NAMES, "train.txt", "valid.txt", "val.txt", "test.txt"}
    texts = [one for one in beside if one.suffix == ".txt" and one not in labels]
    strays = [one for one in texts if one.name not in lists and not one.name.casefold().startswith("readme")]
    if strays:
        found.problem(strays[0], f"{len(strays)} label file(s) are of no picture; this is the first.")
    data.finish()


def _data_keys(file: Path) -> dict[str, Any]:
    """The keys of darknet's obj.data: ``train = data/train.txt``."""
    pairs = (line.partition("=") for line in text_of(file).splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _names(keys: dict[str, Any], file: Path, data: AnnotatedSet) -> dict[int, str]:
    names = keys.get("names")
    if file.name == "classes.txt":
        names = text_of(file).splitlines()
    elif isinstance(names, str):  # obj.data names a file
        listed = _place(names, file.parent, data)
        names = text_of(listed).splitlines() if listed is not None and listed.is_file() else []
    if isinstance(names, dict):
        return {int(key): name for key, name in names.items() if key.isdecimal()}
    return {number: name.strip() for number, name in enumerate(names or []) if name.strip()}


# ---------------------------------------------------------------- which pictures
def _places(keys: dict[str, Any], file: Path, data: AnnotatedSet) -> list[tuple[str, Path]]:
    """(split, a folder of pictures or a text file that lists them)."""
    start = _place(str(keys["path"]), data.root, data) if keys.get("path") else None
    places = []
    for key in (key for key in SPLITS if key in keys):
        several = keys[key] if isinstance(keys[key], list) else [keys[key]]
        for one in (str(value) for value in several if value):
            place = _place(one, start or data.root, data)
            if place is None:
                data.found.problem(file.name, f"{key}: there is no folder or list {one[:200]!r} in {data.category!r}.")
            else:
                places.append((SPLITS[key], place))
    if not places and file.name == "classes.txt":
        folder = data.root / "images" if (data.root / "images").is_dir() else data.root
        places = [(split_of(one.name), one) for one in split_folders(folder)] or [("test", folder)]
    return sorted(places, key=lambda one: list(SPLITS.values()).index(one[0]))


def _place(name: str, base: Path, data: AnnotatedSet) -> Path | None:
    """A folder or file below the root, by a name that may start with ../ (Roboflow) or be of another machine."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    relative = "" if not base.is_relative_to(data.root) else base.relative_to(data.root).as_posix()
    tails = ["/".join(parts[start:]) for start in range(len(parts))] or ["."]
    for tail in (f"{relative}/{tails[0]}".lstrip("/"), *tails):
        place = data.found.inside(data.root, tail, absolute=False) if tail != "." else data.root
        if place is not None and os.path.exists(place):  # noqa: PTH110 (answers for any name)
            return place
    return None


def _pictures(place: Path, where: str, data: AnnotatedSet) -> list[Path]:
    """Of a folder, those below it; of a list, those that are there."""
    if not place.is_dir():
        lines = [line.strip() for line in text_of(place).splitlines()]
        listed = [data.find(line, f"{place.name} line {n}", (place.parent,)) for n, line in enumerate(lines, 1) if line]
        return [path for path in listed if path is not None]
    found: list[Path] = []
    for folder, below, _ in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += pictures(Path(folder))
    if not found:
        data.found.problem(where, f"the folder {place.name!r} that it names has no picture.")
    data.used.update(found)
    return found


# ---------------------------------------------------------------- label files
def _label_file(path: Path) -> Path:
    """``labels`` for the last ``images`` of the path, or beside the picture."""
    parts = list(path.parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            file = Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            return file if file.is_file() else path.with_suffix(".txt")
    file = path.parent / "labels" / f"{path.stem}.txt"
    return file if file.is_file() else path.with_suffix(".txt")


def _read_split(
    paths: list[Path], split: str, names: dict[int, str], posed: bool, labels: set[Path], data: AnnotatedSet
) -> None:
    files = {path: file for path in paths if (file := _label_file(path)).is_file()}
    labels.update(files.values())
    if paths and not files:
        data.found.problem(paths[0].parent, f"none of its {len(paths)} pictures has a label file: taken as unlabelled.")
    for path in paths:
        if not files:
            data.add_unlabelled(path, split)
            continue
        try:
            lines = text_of(files[path]).splitlines() if path in files else []
        except UsageError as error:
            data.found.problem(path, f"taken as unlabelled. {error}")
            data.add_unlabelled(path, split)
            continue
        marks, bad = _marks(lines, names, posed)
        if bad:
            text, count = next(iter(bad)), sum(bad.values())
            data.found.problem(files[path], f"{count} line(s) are neither box nor segment in fractions: {text[:80]!r}.")
        data.add(path, [*marks, *[("defect", None)] * (bool(bad) and not marks)], split, relative=True)


def _marks(lines: list[str], names: dict[int, str], posed: bool) -> tuple[list[Mark], Counter[str]]:
    """The marks of a file, and the lines that are none. ``posed``: key points follow each box."""
    marks: list[Mark] = []
    bad: Counter[str] = Counter()
    for line in lines:
        values = numbers(line)
        if not line.strip():
            continue
        if values is None or len(values) < 5 or max(map(abs, values[1:])) > BEYOND or not 0 <= values[0] < 1e6:
            bad[line] += 1
            continue
        marks.append((names.get(int(values[0])) or f"class {int(values[0])}", _area(values[1:], posed)))
    return marks, bad


def _area(values: list[float], posed: bool) -> Polygon | None:
    if len(values) >= 6 and len(values) % 2 == 0 and not posed:
        return polygon(zip(values[::2], values[1::2], strict=True))
    x, y, width, height = values[:4]  # perhaps a confidence or key points after it
    return box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


YOLO = Layout(
    "yolo",
    "data.yaml with names, train, val, test (Ultralytics, Roboflow), obj.data (darknet, CVAT), or classes.txt with images/ and "
    "labels/",
    lambda path: _settings_file(path) is not None,
    _read,
    index=True,
)
