"""Label Studio: every region, choices, several annotators, exports that lack what is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_trees import AREA, LS_BOX, brush_bytes, has_problem, region, task
from trees import HEIGHT, WIDTH, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.shapes import Shapes, ellipse
from zsad.errors import MaskError, SourceNotFound, UsageError

BOX = region("rectanglelabels", ["dent"], **LS_BOX)


def tasks_set(root: Path, *tasks: dict[str, Any]) -> Dataset:
    """Pictures a.png, b.png ... with the tasks in the same order."""
    for letter in "abcdefgh"[: len(tasks)]:
        picture(root / f"{letter}.png")
    write(root / "export.json", json.dumps(list(tasks)))
    return open_dataset(root)


def one(root: Path, *results: dict[str, Any]) -> Dataset:
    return tasks_set(root, task(1, "a.png", *results))


def test_ellipses_by_percent_of_each_side(tmp_path: Path) -> None:
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 100 / 3, "rotation": 30}
    data = one(tmp_path, region("ellipselabels", ["dent"], **value))
    whole = ellipse(WIDTH / 2, HEIGHT / 2, WIDTH / 4, HEIGHT / 3, turn=30)
    assert whole is not None
    np.testing.assert_array_equal(load_mask(data.samples[0]), Shapes((whole,)).draw(WIDTH, HEIGHT))


def test_a_region_and_its_label_may_come_separately(tmp_path: Path) -> None:
    plain = region("rectangle", [], **LS_BOX) | {"id": "x"}
    del plain["value"]["rotation"]
    label = region("labels", ["dent"], **LS_BOX) | {"id": "x"}
    data = one(tmp_path, plain, label)
    assert data.samples[0].kind == "dent"
    assert isinstance(data.samples[0].mask, Shapes)
    assert len(data.samples[0].mask.parts) == 1
    alone = one(tmp_path, plain)
    assert (alone.samples[0].kind, alone.samples[0].boxes) == ("defect", True)
    np.testing.assert_array_equal(load_mask(alone.samples[0]), AREA)


def test_without_a_size_percent_are_of_the_picture(tmp_path: Path) -> None:
    rows = [region("rectanglelabels", ["dent"], **LS_BOX | {"rotation": turn}) for turn in (0, 5)]
    brush = region("brushlabels", ["dent"], format="rle", rle=list(brush_bytes(AREA)))
    for row in (*rows, brush):
        del row["original_width"], row["original_height"]
    tasks = [task(1, "a.png", rows[0]), task(2, "b.png", rows[1]), task(3, "c.png", brush)]
    data = tasks_set(tmp_path, *tasks)
    np.testing.assert_array_equal(load_mask(data.samples[0]), AREA)
    assert [sample.mask is None for sample in data] == [False, True, True]


def test_choices_label_the_picture_where_nothing_is_drawn(tmp_path: Path) -> None:
    good, bad = region("choices", [], choices=["Good"]), region("choices", [], choices=["burnt"])
    text = region("textarea", [], text=["looks odd"])
    tasks = [task(1, "a.png", good), task(2, "b.png", bad), task(3, "c.png", bad, BOX), task(4, "d.png", text)]
    data = tasks_set(tmp_path, *tasks)
    assert [(sample.label, sample.kind) for sample in data] == [(0, "good"), (1, "burnt"), (1, "dent"), (0, "good")]
    assert has_problem(data, "b.png: is anomalous and has no mask")


def test_which_annotation_counts(tmp_path: Path) -> None:
    def made(*results: dict[str, Any], **others: Any) -> dict[str, Any]:
        return {"id": 1, "result": list(results), "was_cancelled": False} | others

    lists = [
        [made(BOX), made()],
        [made(BOX, ground_truth=True), made()],
        [made(BOX), made(was_cancelled=True)],
        [made(was_cancelled=True)],
        [],
    ]
    tasks = [task(n, f"{'abcde'[n]}.png", annotations=made_ones) for n, made_ones in enumerate(lists)]
    guessed = task(5, "f.png", annotations=[], predictions=[made(BOX)])
    old = task(6, "g.png")
    old["completions"] = old.pop("annotations")
    data = tasks_set(tmp_path, *tasks, guessed, old)
    assert [sample.label for sample in data] == [0, 1, 1, None, None, None, 0]
    assert has_problem(data, "export.json: 3 task(s) have no finished annotation: unlabelled.")
    assert has_problem(
        data, "export.json: 2 task(s) have several annotations: of each, the ground truth is used, or else the last."
    )


@pytest.mark.parametrize(
    "shape",
    [
        region("rectanglelabels", ["a"], x="?", y=1, width=1, height=1),
        region("rectanglelabels", ["a"], x=1, y=1, width=0, height=1),
        region("ellipselabels", ["a"], x=1, y=1),
        region("polygonlabels", ["a"], points=[[1, 1], [2, 2]]),
        region("polygonlabels", ["a"], points=[[1, 1], [2, 2], [3]]),
        region("keypointlabels", ["a"], x=1, y=1, width=1),
        region("brushlabels", ["a"], format="rle", rle=[1, 2, 999]),
        region("brushlabels", ["a"], format="rle"),
        region("rectanglelabels", ["a"]) | {"id": {}},
    ],
)
def test_regions_that_have_no_area(shape: dict[str, Any], tmp_path: Path) -> None:
    data = one(tmp_path, shape)
    assert [(sample.label, sample.mask, sample.kind) for sample in data] == [(1, None, "a")]


def test_a_brush_of_another_picture_is_a_sentence(tmp_path: Path) -> None:
    data = one(tmp_path, region("brushlabels", ["a"], format="rle", rle=list(brush_bytes(AREA[:3]))))
    with pytest.raises(MaskError, match="'a.png' cannot be drawn: its brush is no RGBA picture of 8 x 6 pixels"):
        load_mask(data.samples[0])


def test_the_picture_may_have_any_key(tmp_path: Path) -> None:
    data = tasks_set(tmp_path, task(1, "", data={"batch": "7", "photo": "/data/upload/0a0b0c0d-a.png", "n": 3}))
    assert [data.name_of(sample) for sample in data] == ["a.png"]
    with pytest.raises(SourceNotFound, match=r"export\.json task 9: there is no such picture in .*'gone\.png'"):
        tasks_set(tmp_path / "other", task(9, "gone.png"))
    with pytest.raises(SourceNotFound, match="task 9: '' is no name of a picture"):
        tasks_set(tmp_path / "third", task(9, "", data={"image": None}))


def test_two_exports_with_splits_and_by_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    write(tmp_path / "train.json", json.dumps([task(1, "a.png")]))
    write(tmp_path / "test.json", json.dumps([task(1, "b.png", BOX)]))
    data = open_dataset(tmp_path, split=None)
    assert [(sample.path.name, sample.split) for sample in data] == [("b.png", "test"), ("a.png", "train")]
    assert len(open_dataset(tmp_path / "test.json")) == 1


def test_json_min_is_refused(tmp_path: Path) -> None:
    rows = [{"image": "/data/upload/a.png", "id": 1, "label": [LS_BOX], "annotator": 1, "annotation_id": 1}]
    write(tmp_path / "x.json", json.dumps(rows))
    with pytest.raises(UsageError, match="'x.json' is Label Studio's JSON-MIN, .* Export the project as 'JSON'."):
        open_dataset(tmp_path)
