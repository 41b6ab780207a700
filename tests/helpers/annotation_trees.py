"""Small data sets as annotation tools export them, with the rows that their reader should find.

Each has pictures of 8 x 6 pixels and, in every format, the same area: columns 2 to 4 of rows 1 and 2, as ``AREA``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trees import HEIGHT, WIDTH, Row, picture, write

AREA = np.zeros((HEIGHT, WIDTH), bool)
AREA[1:3, 2:5] = True
LEFT, TOP, RIGHT, BOTTOM = 2, 1, 5, 3
CORNERS = [(LEFT, TOP), (RIGHT, TOP), (RIGHT, BOTTOM - 1), (RIGHT, BOTTOM), (LEFT, BOTTOM)]  # five: no box
FLAT_CORNERS = [float(value) for corner in CORNERS for value in corner]
COLUMN_RUNS = [13, 2, 4, 2, 4, 2, 21]  # of AREA, down the columns
COCO_STRING = "=24000a0"  # pycocotools' string of COLUMN_RUNS


def row(root: Path, path: str, mask: str | None, split: str = "test", kind: str = "") -> Row:
    """Makes the picture of a row; one without a kind is normal, others are white in ``AREA``."""
    picture(root / path)
    if kind:
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        pixels[AREA] = 255
        Image.fromarray(pixels).save(root / path)
    return path, int(bool(kind)), mask, root.name, split, kind or "good"


# ---------------------------------------------------------------- COCO
def coco_table(names: list[str], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A COCO file; pictures get the ids 1, 2 ..."""
    return {
        "info": {"description": "", "year": 2024},
        "licenses": [{"id": 0, "name": "", "url": ""}],
        "categories": [{"id": 1, "name": "scratch", "supercategory": ""}, {"id": 2, "name": "dent", "supercategory": ""}],
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, 1)],
        "annotations": [{"id": i, "iscrowd": 0, **one} for i, one in enumerate(annotations, 1)],
    }


def coco_mark(image: int, segmentation: Any, category: int = 1, **others: Any) -> dict[str, Any]:
    box = [LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP]
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "bbox": box, "area": 6.0, **others}


def coco(root: Path) -> list[Row]:
    """As CVAT exports it: annotations/instances_default.json and images/."""
    runs = {"size": [HEIGHT, WIDTH], "counts": COLUMN_RUNS}
    text = {"size": [HEIGHT, WIDTH], "counts": COCO_STRING}
    marks = [coco_mark(1, [FLAT_CORNERS]), coco_mark(2, runs, 2, iscrowd=1), coco_mark(3, text), coco_mark(4, [])]
    table = coco_table(["a.png", "b.png", "c.png", "d.png", "sub/e.png"], marks)
    write(root / "annotations" / "instances_default.json", json.dumps(table))
    return [
        row(root, "images/a.png", "areas", kind="scratch"),
        row(root, "images/b.png", "areas", kind="dent"),
        row(root, "images/c.png", "areas", kind="scratch"),
        row(root, "images/d.png", "boxes", kind="scratch"),
        row(root, "images/sub/e.png", None),
    ]


def roboflow_coco(root: Path) -> list[Row]:
    rows: list[Row] = []
    for folder, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        names = [f"{folder}_png.rf.0a1b.jpg", f"{folder}_normal.jpg"]
        write(root / folder / "_annotations.coco.json", json.dumps(coco_table(names, [coco_mark(1, [])])))
        rows.append(row(root, f"{folder}/{names[0]}", "boxes", split, "scratch"))
        rows.append(row(root, f"{folder}/{names[1]}", None, split))
    return rows


ANNOTATED: dict[str, tuple[str, Callable[[Path], list[Row]]]] = {
    "coco": ("coco", coco),
    "roboflow_coco": ("coco", roboflow_coco),
}
OVER_FOLDERS: set[str] = set()
