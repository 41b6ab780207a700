"""Masks and a ``manifest.csv`` from LabelMe annotations: polygons, rectangles and circles in a JSON file per picture.

A picture with a JSON file is anomalous where the file holds a shape, and normal where it holds none. A picture without one is
normal only where a pattern of --normal fits its path, since a set may hold pictures that were not annotated; the others are
left out. The manifest is what ``zsad evaluate --data`` and ``zsad finetune --data`` take.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from zsad.images.sources import SUFFIXES

COLUMNS = ("path", "label", "mask", "category", "kind")


def draw(shapes: Iterable[dict[str, Any]], width: int, height: int) -> Image.Image:
    """The union of LabelMe shapes as an 8-bit picture, 255 = defect.

    Raises:
        ValueError: a shape that is no area (a point, a line), or one without enough points.
    """
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    for shape in shapes:
        kind, points = shape.get("shape_type", "polygon"), [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "polygon" and len(points) > 2:
            pen.polygon(points, fill=255)
        elif kind == "rectangle" and len(points) in (2, 4):
            xs, ys = zip(*points, strict=True)
            pen.rectangle((min(xs), min(ys), max(xs), max(ys)), fill=255)
        elif kind == "circle" and len(points) == 2:
            (x, y), rim = points[0], points[1]
            radius = float(np.hypot(rim[0] - x, rim[1] - y))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        else:
            raise ValueError(f"a {kind} of {len(points)} points is no area")
    return mask


def named(name: str, rules: Sequence[str], default: str) -> str:
    """The category of a picture: that of the first rule PATTERN=NAME that fits, else the default."""
    for rule in rules:
        pattern, _, category = rule.partition("=")
        if fnmatch(name, pattern):
            return category
    return default


def convert(root: Path, pictures: Path, labels: Path, normal: Sequence[str], rules: Sequence[str]) -> tuple[int, int, int]:
    """Writes ``root/masks/`` and ``root/manifest.csv``.

    Args:
        root: what the manifest's paths are relative to.
        pictures: their folder, below the root.
        labels: folder of the JSON files; each has its picture's name (and folder, where there are any below).
        normal: patterns of pictures that are normal without a file.
        rules: PATTERN=NAME of categories; the root's name where none fits.

    Returns:
        Counts of normal and of anomalous pictures, and of those that were left out.
    """
    rows, left, found = [], 0, sorted(path for path in pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
    for picture in (path for path in found if root / "masks" not in path.parents):
        below = picture.relative_to(pictures)
        name, file, mask = below.as_posix(), labels / below.with_suffix(".json"), root / "masks" / below.with_suffix(".png")
        try:
            if not file.is_file() and not any(fnmatch(name, pattern) for pattern in normal):
                raise LookupError
            kind = write_mask(picture, file, mask) if file.is_file() else ""
        except (LookupError, ValueError, TypeError, OSError) as error:
            if file.is_file():
                print(f"{name}: left out. {error!r}", file=sys.stderr)
            left += 1
            continue
        shown = mask.relative_to(root).as_posix() if kind else ""
        category = named(name, rules, root.resolve().name)
        rows.append((picture.relative_to(root).as_posix(), int(bool(kind)), shown, category, kind or "good"))
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows([COLUMNS, *rows])
    anomalous = sum(row[1] for row in rows)
    return len(rows) - anomalous, anomalous, left


def write_mask(picture: Path, file: Path, mask: Path) -> str:
    """Writes the mask of a picture, and returns its kind of defect; nothing and "" where the file holds no shape.

    Raises:
        ValueError: the file is no JSON, a shape is no area, or none lies inside the picture.
        KeyError: the file is not LabelMe's.
        OSError: a file cannot be read or written.
    """
    shapes = json.loads(file.read_text(encoding="utf-8"))["shapes"]
    if not shapes:
        return ""
    with Image.open(picture) as image:
        width, height = ImageOps.exif_transpose(image).size  # LabelMe and zsad both turn pictures upright
    drawn = draw(shapes, width, height)
    if drawn.getbbox() is None:
        raise ValueError("no shape lies inside the picture")
    mask.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(mask)
    return "+".join(sorted({str(shape.get("label") or "defect") for shape in shapes}))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the data set; masks/ and manifest.csv are written into it")
    parser.add_argument("--pictures", default=".", help="their folder, below the root (default: the root)")
    parser.add_argument("--labels", help="folder of the JSON files, below the root (default: beside the pictures)")
    parser.add_argument("--normal", action="append", default=[], metavar="PATTERN", help="normal without a file; repeat")
    parser.add_argument("--category", action="append", default=[], metavar="PATTERN=NAME", help="of pictures; repeat")
    args = parser.parse_args(given)
    if wrong := [rule for rule in args.category if "=" not in rule]:
        parser.error(f"--category {wrong[0]!r} has to be PATTERN=NAME, such as 'front_*=front'")
    pictures, labels = args.root / args.pictures, args.root / (args.labels or args.pictures)
    if missing := [str(folder) for folder in (pictures, labels) if not folder.is_dir()]:
        parser.error(f"there is no folder {missing[0]!r}")
    normal, anomalous, left = convert(args.root, pictures, labels, args.normal, args.category)
    print(f"{args.root / 'manifest.csv'}: {normal} normal, {anomalous} anomalous pictures; {left} left out.")


if __name__ == "__main__":
    main()
