"""Hugging Face's imagefolder: labels in every form, boxes in cells, masks, broken rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_trees import AREA, has_problem
from trees import mask, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.errors import SourceNotFound, UsageError

OBJECTS = {"bbox": [[2, 1, 3, 2]], "categories": [4]}


def folder(root: Path, *rows: dict[str, Any]) -> Dataset:
    """A row per picture a.png, b.png ...; its file_name is added."""
    for letter, row in zip("abcdefgh", rows, strict=False):
        row.setdefault("file_name", f"{letter}.png")
        picture(root / row["file_name"])
    write(root / "metadata.jsonl", "\n\n".join(map(json.dumps, rows)))
    return open_dataset(root, split=None)


@pytest.mark.parametrize(
    ("row", "label", "kind"),
    [
        ({"label": 0}, 0, "good"),
        ({"label": True}, 1, "defect"),
        ({"label": "OK"}, 0, "good"),
        ({"label": "scratch"}, 1, "scratch"),
        ({"label": 1.0}, 1, "defect"),
        ({"label": None}, None, ""),
        ({"label": ""}, None, ""),
        ({"label": {"a": 1}}, None, ""),
        ({"caption": "scratch"}, None, ""),
        ({"file_name": "Good/x.png"}, 0, "good"),
        ({"file_name": "bad/x.png"}, 1, "defect"),
        ({"file_name": "bad/x.png", "label": "ok"}, 0, "good"),
        ({"file_name": "photos/x.png"}, None, ""),
        ({"objects": OBJECTS}, 1, "class 4"),
        ({"objects": {"bbox": [], "categories": []}}, 0, "good"),
        ({"objects": None, "label": "dent"}, 1, "dent"),
        ({"objects": OBJECTS, "label": 0}, 1, "class 4"),
    ],
)
def test_labels(row: dict[str, Any], label: int | None, kind: str, tmp_path: Path) -> None:
    data = folder(tmp_path, row)
    assert [(one.label, one.kind) for one in data] == [(label, kind)]


def test_masks_go_before_boxes_and_may_be_the_label(tmp_path: Path) -> None:
    mask(tmp_path / "masks" / "a.png")
    mask(tmp_path / "masks" / "b.png", 0)
    mask(tmp_path / "masks" / "c.png")
    data = folder(
        tmp_path,
        {"mask": "masks/a.png"},
        {"mask": "masks/b.png"},
        {"mask_file_name": "masks/c.png", "objects": OBJECTS},
        {"mask": "masks/gone.png", "label": "dent"},
        {"mask": "../secret.png", "label": "dent"},
    )
    masks = [(one.label, one.mask if one.mask is None else Path(str(one.mask)).name) for one in data]
    assert masks == [(1, "a.png"), (0, None), (1, "c.png"), (1, None), (1, None)]
    assert has_problem(data, "metadata.jsonl line 7: there is no file 'masks/gone.png'")
    assert has_problem(data, "metadata.jsonl line 9: '../secret.png' leads out of")


def test_boxes_in_the_cells_of_a_table(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    cells = json.dumps(OBJECTS).replace('"', '""')
    write(tmp_path / "metadata.csv", f'file_name,objects\na.png,"{cells}"\nb.png,\nc.png,{{\n')
    data = open_dataset(tmp_path)
    assert [(one.label, one.boxes) for one in data] == [(1, True), (0, False), (1, False)]
    np.testing.assert_array_equal(load_mask(data.samples[0]), AREA)
    assert has_problem(data, "metadata.csv line 4: 'objects' is no JSON: '{'")


@pytest.mark.parametrize("objects", [{"bbox": 7}, {"bbox": None}, {"bbox": [], "categories": [1]}, [], "[]"])
def test_odd_objects_are_no_boxes(objects: Any, tmp_path: Path) -> None:
    assert [one.label for one in folder(tmp_path, {"objects": objects})] == [0]


def test_boxes_without_an_area_or_names(tmp_path: Path) -> None:
    data = folder(
        tmp_path, {"objects": {"bbox": [[1, 1, 0, 0], [1]]}}, {"objects": {"bboxes": [[2, 1, 3, 2]], "category": ["a"]}}
    )
    assert [(one.label, one.mask is not None, one.kind) for one in data] == [(1, False, "defect"), (1, True, "a")]


def test_splits_by_folder_and_below_data(tmp_path: Path) -> None:
    for place in ("data/train", "data/validation", "data/test"):
        picture(tmp_path / place / "0001.png")
        write(tmp_path / place / "metadata.csv", "file_name,label\n0001.png,good\n")
    assert sorted(one.split for one in open_dataset(tmp_path, split=None)) == ["test", "train", "validation"]
    assert open_dataset(tmp_path).samples[0].path == tmp_path / "data" / "test" / "0001.png"


def test_rows_that_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "left.png")
    data = folder(tmp_path, {"label": 0})
    file = tmp_path / "metadata.jsonl"
    file.write_text(file.read_text() + '\n{"file_name": "gone.png"}\n7\n{"label": 1}\n')
    data = open_dataset(tmp_path)
    assert [one.path.name for one in data] == ["a.png"]
    assert has_problem(data, "metadata.jsonl line 2: there is no such picture", "'gone.png'")
    assert has_problem(data, "metadata.jsonl line 3: None is no name of a picture")
    assert has_problem(data, "metadata.jsonl line 4: None is no name of a picture")
    assert has_problem(data, "left.png: 1 picture(s) are in no annotation file")
    file.write_text('{"file_name": "a.png"}\n{')
    with pytest.raises(UsageError, match="metadata.jsonl line 2 is no JSON"):
        open_dataset(tmp_path)
    file.write_text('{"file_name": "gone.png"}')
    with pytest.raises(SourceNotFound, match="metadata.jsonl line 1: there is no such picture"):
        open_dataset(file)


def test_a_manifest_of_that_name_is_still_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "metadata.csv", "path,label\na.png,1\n")
    assert open_dataset(tmp_path / "metadata.csv").layout == "manifest"
