"""Datumaro's JSON: names of pictures, every area, broken items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_trees import FLAT_CORNERS, datumaro_mark, datumaro_table, has_problem
from trees import HEIGHT, WIDTH, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.shapes import Shapes, ellipse
from zsad.errors import SourceNotFound, UsageError


def items_set(root: Path, *items: dict[str, Any]) -> Dataset:
    """Pictures a.jpg, b.jpg ...; the id and media of the items are added."""
    table = json.loads(datumaro_table())
    for letter, item in zip("abcdefgh", items, strict=False):
        picture(root / "images" / f"{letter}.jpg")
        table["items"].append({"id": letter, "annotations": []} | item)
    write(root / "annotations" / "default.json", json.dumps(table))
    return open_dataset(root)


def test_ways_to_name_a_picture(tmp_path: Path) -> None:
    data = items_set(
        tmp_path,
        {},
        {"media": {"path": "default/b.jpg"}},
        {"image": {"path": "/home/somebody/c.jpg", "size": [HEIGHT, WIDTH]}},
        {"media": {"path": ""}, "id": "images/d"},
        {"media": 7, "image": None},
    )
    assert [one.path.name for one in data] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert data.problems == ()


def test_ellipses_labels_and_captions(tmp_path: Path) -> None:
    round_one = datumaro_mark("ellipse", points=[1, 1, 7, 5])
    data = items_set(
        tmp_path,
        {"annotations": [round_one]},
        {"annotations": [datumaro_mark("label")]},
        {"annotations": [datumaro_mark("label", label_id=1), datumaro_mark("caption", caption="x")]},
        {
            "annotations": [
                datumaro_mark("polyline", points=[1, 1, 2, 2]),
                datumaro_mark("polygon", points=FLAT_CORNERS, label_id=9),
            ]
        },
    )
    whole = ellipse(4, 3, 3, 2)
    assert whole is not None
    np.testing.assert_array_equal(load_mask(data.samples[0]), Shapes((whole,)).draw(WIDTH, HEIGHT))
    assert [(one.label, one.kind) for one in data] == [(1, "dent"), (1, "dent"), (0, "good"), (1, "defect+dent")]
    assert has_problem(data, "images/b.jpg: is anomalous and has no mask")
    assert has_problem(data, "images/d.jpg: 1 of its 2 annotations have no area")


@pytest.mark.parametrize(
    "mark",
    [
        {"type": "bbox", "bbox": [1, 2, 3]},
        {"type": "bbox", "bbox": [1, 2, 0, 3], "attributes": []},
        {"type": "polygon", "points": [1, 2, 3]},
        {"type": "polygon", "points": "x"},
        {"type": "mask", "rle": {"counts": 7, "size": [6, 8]}},
        {"type": "mask", "rle": {"counts": [1], "size": [0, 8]}},
        {"type": "mask"},
        {"type": {}},
        {},
    ],
)
def test_annotations_without_an_area(mark: dict[str, Any], tmp_path: Path) -> None:
    data = items_set(tmp_path, {"annotations": [mark, 7]})
    assert [(one.label, one.mask, one.kind) for one in data] == [(1, None, "defect")]


def test_items_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "default.json", datumaro_table(("gone", [])).replace("}]}", "}, 5]}"))
    with pytest.raises(SourceNotFound, match="default.json item 0: there is no such picture"):
        open_dataset(tmp_path / "annotations" / "default.json")
    write(tmp_path / "annotations" / "default.json", '{"dm_format_version": "1.0", "items": {}}')
    with pytest.raises(UsageError, match="'default.json' is no file of Datumaro: it has no list 'items'"):
        open_dataset(tmp_path)
