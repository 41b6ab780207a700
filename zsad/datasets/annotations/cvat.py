"""Reader of CVAT for images 1.1: one ``annotations.xml`` beside a folder ``images/``.

Facts of the format: docs.cvat.ai, "XML annotation format". Boxes and ellipses are turned clockwise about their centre, by
degrees; a mask is run lengths along the rows of its own rectangle, background first. ``z_order`` states what lies over what; as
the mask is the union of all, it changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_of
from zsad.datasets.annotations.json_files import numbers, size_of
from zsad.datasets.annotations.xml_files import parse_xml, root_tag
from zsad.datasets.layout import Found, Layout, entries
from zsad.datasets.shapes import Encoded, box, ellipse, polygon

__all__ = ["CVAT"]

MANY = 50  # XML files of a folder that are looked at: where there are more, each belongs to one picture
NO_MARKS = frozenset({"attribute"})


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else [file for file in entries(path) if file.suffix.lower() == ".xml"]
    return [file for file in files if len(files) <= MANY and file.suffix.lower() == ".xml" and root_tag(file) == "annotations"]


def _read(path: Path, found: Found) -> None:
    data = AnnotatedSet(found, path if path.is_dir() else path.parent)
    for file in _files(path):
        _read_file(file, data)
    data.finish()


def _read_file(file: Path, data: AnnotatedSet) -> None:
    split = split_of(file.stem)

    def use(image: Element) -> None:
        where = f"{file.name} image {image.get('id', '?')}"
        subset = image.get("subset") or ""
        bases = [base / name for base in (file.parent / "images", file.parent) for name in (subset, "")]
        place = data.find(image.get("name"), where, bases)
        if place is not None:
            marks = [_mark(one) for one in image if one.tag not in NO_MARKS]
            size = size_of(image.get("width"), image.get("height"))
            data.add(place, marks, split_of(subset) if subset else split, size=size)

    root = parse_xml(file, "image", use)
    if tracks := len(root.findall("track")):
        what = f"{tracks} track(s) of a video are not read. Export the task as 'CVAT for images 1.1'"
        data.found.problem(file.name, f"{what}.")


def _mark(one: Element) -> Mark:
    name = one.get("label") or "defect"
    if one.tag == "box":
        edges, turn = _values(one, "xtl", "ytl", "xbr", "ybr"), _turn(one)
        return name, box(*edges, turn=turn) if edges else None
    if one.tag == "ellipse":
        axes = _values(one, "cx", "cy", "rx", "ry")
        return name, ellipse(*axes, turn=_turn(one)) if axes else None
    if one.tag == "polygon":
        corners = [numbers(pair, 2) for pair in (one.get("points") or "").split(";")]
        return name, polygon([corner for corner in corners if corner]) if all(corners) else None
    return name, _mask(one) if one.tag == "mask" else None  # a tag, a line, points, a cuboid, a skeleton


def _values(one: Element, *names: str) -> tuple[float, float, float, float] | None:
    found = numbers([one.get(name, "") for name in names], 4)
    return (found[0], found[1], found[2], found[3]) if found else None


def _turn(one: Element) -> float:
    found = numbers(one.get("rotation") or "0", 1)
    return found[0] if found else 0.0


def _mask(one: Element) -> Encoded | None:
    size, corner = size_of(one.get("width"), one.get("height")), numbers([one.get("left", ""), one.get("top", "")], 2)
    runs = numbers(one.get("rle") or "")
    if size is None or corner is None or not runs or not all(0 <= run < 1e15 for run in runs):
        return None
    if not all(abs(value) < 1e9 for value in corner):
        return None
    return Encoded("rows", np.asarray(runs, np.int64).tobytes(), *size, int(corner[0]), int(corner[1]))


CVAT = Layout(
    "cvat",
    "CVAT for images 1.1: annotations.xml and images/, or that file",
    lambda path: bool(_files(path)),
    _read,
    index=True,
)
