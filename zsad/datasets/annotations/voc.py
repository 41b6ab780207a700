"""Reader of Pascal VOC: an XML file per picture, as LabelImg, Roboflow and CVAT write them.

Facts of the format: the development kit of the PASCAL VOC challenge. Coordinates of a box are pixels, counted from 1, the last
one included. A picture with a file in ``SegmentationClass/`` or ``SegmentationObject/`` has that as its mask.
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element

from zsad.datasets.annotations.annotated import SPLITS, AnnotatedSet, Mark, split_folders, split_of
from zsad.datasets.annotations.json_files import numbers, size_of
from zsad.datasets.annotations.xml_files import parse_xml, root_tag
from zsad.datasets.layout import Found, Layout, entries
from zsad.datasets.parsing import text_of
from zsad.datasets.shapes import Polygon, box, polygon
from zsad.errors import UsageError

__all__ = ["VOC"]

MASKS = ("SegmentationClass", "SegmentationObject")


def _folders(root: Path) -> list[Path]:
    """Annotations/ (or annotations/, or that of each split), else the folders in which XML lies beside the pictures."""
    places = [root, *split_folders(root)]
    named = [folder for base in places for folder in entries(base) if folder.name.casefold() == "annotations"]
    return [folder for folder in (*named, *places) if folder.is_dir() and _is_one(folder)]


def _files(folder: Path) -> list[Path]:
    return [file for file in entries(folder) if file.suffix.lower() == ".xml"]


def _is_one(folder: Path) -> bool:
    first = next(iter(_files(folder)), None)
    return first is not None and root_tag(first) == "annotation"


def _read(path: Path, found: Found) -> None:
    data = AnnotatedSet(found, path)
    listed = _listed_splits(data.root)
    for folder in _folders(path):
        base = folder.parent if folder.name.casefold() == "annotations" else folder
        split = split_of(base.name) if base != path else "test"
        for file in _files(folder):
            _read_file(file, base, listed.get(file.stem, split), data)
    data.finish()


def _listed_splits(root: Path) -> dict[str, str]:
    """Stem -> split, of ImageSets/Main/train.txt and the like; lists of single classes are passed over."""
    found: dict[str, str] = {}
    for name in ("Main", "Segmentation"):
        for file in entries(root / "ImageSets" / name):
            if file.suffix == ".txt" and file.stem in SPLITS and file.stem != "trainval":
                words = (line.split() for line in text_of(file).splitlines())
                found |= {Path(one[0]).name: SPLITS[file.stem] for one in words if one}
    return found


def _read_file(file: Path, base: Path, split: str, data: AnnotatedSet) -> None:
    where = file.relative_to(data.root).as_posix()
    try:
        root = parse_xml(file)
    except UsageError as error:
        data.found.problem(where, f"left out: {error}")
        return
    if root.tag != "annotation":
        data.found.problem(where, f"left out: it holds <{root.tag[:80]}>, not <annotation>.")
        return
    bases = (file.parent, base, base / "JPEGImages", base / "images")
    place = data.find(root.findtext("filename") or file.stem, where, bases, any_ending=True, other=file.stem)
    if place is None:
        return
    marks: list[Mark] = [(_text(one, "name") or "defect", _area(one)) for one in root.iter("object")]
    masks = (data.root / folder / f"{place.stem}.png" for folder in MASKS)
    mask = next((one for one in masks if data.found.inside(data.root, str(one.relative_to(data.root)), absolute=False)), None)
    size = size_of(root.findtext("size/width"), root.findtext("size/height"))
    data.add(place, marks, split, size=size, mask=mask if mask is not None and mask.is_file() else None)


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _area(one: Element) -> Polygon | None:
    """A polygon where there is one, else the box, else the turned box of roLabelImg (its angle is in radians)."""
    ring = one.find("polygon")
    if ring is not None:
        pairs = zip(*([node.text for node in ring.iter() if node.tag[:1] == axis] for axis in "xy"), strict=False)
        corners = [numbers(pair, 2) for pair in pairs]
        found = polygon([corner for corner in corners if corner])
        if found is not None:
            return found
    edges = numbers([_text(one, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")], 4)
    if edges:
        return box(edges[0] - 1, edges[1] - 1, edges[2], edges[3])
    turned = numbers([_text(one, f"robndbox/{name}") for name in ("cx", "cy", "w", "h", "angle")], 5)
    if not turned:
        return None
    x, y, width, height, angle = turned
    return box(x - width / 2, y - height / 2, x + width / 2, y + height / 2, turn=math.degrees(angle))


VOC = Layout(
    "voc",
    "Pascal VOC: Annotations/x.xml and JPEGImages/x.jpg, or x.xml beside x.jpg, perhaps in train/, valid/, test/ (Roboflow)",
    lambda path: path.is_dir() and bool(_folders(path)),
    _read,
)
