"""What annotation tools export: the right areas in every format, in evaluation and training; odd and hostile entries.

That each tree is recognised and gives the right rows is tested in test_layouts.py.
"""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from annotation_trees import ANNOTATED, AREA, FLAT_CORNERS, coco_mark, coco_table, has_problem
from brightness import registered_methods  # noqa: F401
from tiny_training import tiny
from trees import WIDTH, picture, write
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.datasets import Dataset, Shapes, load_mask, open_dataset
from zsad.errors import SourceNotFound, UsageError
from zsad.training.data import ExampleLoader, find_examples, load_examples, open_datasets


# ---------------------------------------------------------------- every format
@pytest.mark.parametrize("name", ANNOTATED)
def test_the_areas_are_those_that_were_annotated(name: str, tmp_path: Path) -> None:
    rows = ANNOTATED[name][1](tmp_path / "the_set")
    masked = [sample for sample in open_dataset(tmp_path / "the_set", split=None) if sample.mask is not None]
    assert len(masked) == sum(row[2] is not None for row in rows)
    for sample in masked:
        np.testing.assert_array_equal(load_mask(sample), AREA, err_msg=sample.path.name)
    files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {".png", ".jpg", ".json", ".txt", ".yaml", ".xml", ".csv", ".jsonl", ".data", ".names"}


@pytest.mark.parametrize("name", ANNOTATED)
def test_evaluate_reads_it_and_states_boxes(name: str, tmp_path: Path) -> None:
    rows = [row for row in ANNOTATED[name][1](tmp_path / "the_set") if row[4] == "test"]
    found = zsad.evaluate("brightness", tmp_path / "the_set", ["image_auroc", "pixel_auroc"], out=tmp_path / "out")
    row = found.rows[0]
    assert (found.categories, found.errors) == (("the_set",), ())
    masks, boxes = sum(one[2] is not None for one in rows), sum(one[2] == "boxes" for one in rows)
    assert (row.anomalous, row.masks, row.boxes) == (sum(one[1] == 1 for one in rows), masks, boxes)
    assert row.values["pixel_auroc"] > 0.95 or not masks
    cell = f"{masks} (boxes)" if boxes == masks else f"{masks} ({boxes} boxes)"
    assert (found.table()[0]["masks"] == cell) == (boxes > 0)
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert kept["rows"][0]["boxes"] == boxes
    assert any(line.startswith(f"Boxes: {boxes} of {masks} masks are") for line in kept["notes"] + found.remarks()) == (
        boxes > 0
    )
    assert ("boxes" in (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0]) == (boxes > 0)


@pytest.mark.parametrize("name", ANNOTATED)
def test_training_reads_it(name: str, tmp_path: Path) -> None:
    rows = [row for row in ANNOTATED[name][1](tmp_path / "the_set") if row[4] == "test"]
    examples, errors = find_examples(open_datasets(tmp_path / "the_set"))
    loaded = list(load_examples(examples, ExampleLoader(zsad.load_backbone("tiny")), errors))
    assert [one["error"] for one in errors] == ["has no label, so it cannot be trained on."] * sum(
        row[1] is None for row in rows
    )
    assert len(loaded) == sum(row[1] is not None for row in rows)
    for example, _, mask, kind in loaded:
        assert kind == (example.sample.kind if example.label else "")
        assert mask is None or bool(mask.any()) == bool(example.label)
    assert sum(mask is not None and bool(mask.any()) for _, _, mask, _ in loaded) == sum(row[2] is not None for row in rows)


def test_the_commands_print_what_was_found(tmp_path: Path) -> None:
    ANNOTATED["coco"][1](tmp_path / "the_set")
    given = ["evaluate", "--method", "brightness", "--data", str(tmp_path / "the_set"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "the_set: layout coco, 5 pictures, 1 category." in done.output
    assert "4 (1 boxes)" in done.output
    again = CliRunner().invoke(app, [*given, "--resume"])
    assert again.exit_code == 0, again.output


def test_an_annotation_that_changed_is_noticed_on_resume(tmp_path: Path) -> None:
    ANNOTATED["coco"][1](tmp_path / "the_set")
    zsad.evaluate("brightness", tmp_path / "the_set", out=tmp_path / "out")
    file = tmp_path / "the_set" / "annotations" / "instances_default.json"
    file.write_text(file.read_text().replace("13", "12", 1).replace("21", "22", 1))
    with pytest.raises(UsageError, match="data"):
        zsad.evaluate("brightness", tmp_path / "the_set", out=tmp_path / "out", resume=True)


@pytest.mark.slow
def test_a_method_learns_from_areas(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    ANNOTATED["coco"][1](tmp_path / "the_set")
    zsad.train(tiny("april_gan"), tmp_path / "the_set", tmp_path / "out", epochs=1, batch_size=4)
    assert (tmp_path / "out" / "final.safetensors").is_file()
    assert "loss" in (tmp_path / "out" / "metrics.jsonl").read_text()


# ---------------------------------------------------------------- COCO
def coco_set(root: Path, names: list[str], annotations: list[dict[str, object]], **others: object) -> Dataset:
    """Pictures a.png, b.png ... in images/ with a COCO file of these names."""
    for letter in "abc":
        picture(root / "images" / f"{letter}.png")
    write(root / "annotations.json", json.dumps(coco_table(names, annotations) | others))
    return open_dataset(root)


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "images/a.png",
        "./images/a.png",
        "images\\a.png",
        "/home/somebody/project/images/a.png",
        "C:\\data\\images\\a.png",
        "https://storage.example/bucket/images/a.png?signature=1",
        "file:///home/somebody/images/a.png",
        "data/local-files/?d=project/images/a.png",
    ],
)
def test_names_of_another_machine_are_found(name: str, tmp_path: Path) -> None:
    data = coco_set(tmp_path / "the_set", [name, "b.png", "c.png"], [coco_mark(1, [FLAT_CORNERS])])
    assert [data.name_of(sample) for sample in data] == ["images/a.png", "images/b.png", "images/c.png"]
    assert data.problems == ()


def test_encoded_names_and_the_folder_that_fits_best(tmp_path: Path) -> None:
    picture(tmp_path / "left" / "my part #1.png")
    picture(tmp_path / "right" / "my part #1.png")
    names = ["/srv/left/my%20part%20%231.png", "http://x/right/my%20part%20%231.png", "my part #1.png"]
    write(tmp_path / "x.json", json.dumps(coco_table(names, [])))
    data = open_dataset(tmp_path)
    assert [data.name_of(sample) for sample in data] == ["left/my part #1.png", "right/my part #1.png"]
    assert has_problem(data, "x.json image 2: 2 pictures are called so", "'my part #1.png'")


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    root = tmp_path / "the_set"
    (root / "images").mkdir(parents=True)
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "images/../../secret.png", "link.png", "a\0.png", "x" * 5000, ""]
    data = coco_set(root, [*names, "a.png", "b.png", "c.png"], [])
    assert [data.name_of(sample) for sample in data] == ["images/a.png", "images/b.png", "images/c.png"]
    assert [line.partition(":")[0] for line in data.problems[:7]] == [f"annotations.json image {n}" for n in range(7)]
    assert has_problem(data, "image 0: there is no such picture in 'the_set': '../secret.png'")
    assert has_problem(data, "image 6: '' is no name of a picture")


def test_odd_entries_of_coco(tmp_path: Path) -> None:
    marks = [
        coco_mark(1, [FLAT_CORNERS], 1),
        coco_mark(1, [FLAT_CORNERS], 2),
        coco_mark(1, [], bbox=[0, 0, 0, 0]),
        coco_mark(2, [[1, 2, 3]], 7),
        coco_mark(9, []),
        {"image_id": [1], "segmentation": {"size": "x", "counts": None}},
    ]
    data = coco_set(tmp_path, ["a.png", "b.png", "gone.png"], marks)
    a, b = data
    assert (a.kind, b.kind, b.boxes, a.boxes) == ("dent+scratch", "defect", True, False)
    assert isinstance(a.mask, Shapes)
    assert len(a.mask.parts) == 2
    assert has_problem(data, "images/a.png: 1 of its 3 annotations have no area: not drawn.")
    assert has_problem(data, "annotations.json: 2 annotation(s) are of pictures that it does not list")
    assert has_problem(data, "annotations.json: 1 annotation(s) are of no category that it lists: called 'defect'.")
    assert has_problem(data, "image 2: there is no such picture", "'gone.png'")
    assert has_problem(data, "images/c.png: 1 picture(s) are in no annotation file: left out; this is the first.")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, 1e12, None, "x", [8]])
def test_a_size_that_is_none_is_unknown(value: object, tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": value}]
    data = coco_set(tmp_path, [], [coco_mark(1, [FLAT_CORNERS])], images=images)
    np.testing.assert_array_equal(load_mask(data.samples[0]), AREA)


def test_areas_called_good_are_no_defects(tmp_path: Path) -> None:
    names = [{"id": 1, "name": "Good"}, {"id": 2, "name": "dent"}]
    data = coco_set(tmp_path / "s", ["a.png", "b.png", "c.png"], [coco_mark(1, []), coco_mark(2, [], 2)], categories=names)
    assert [(one.label, one.kind) for one in data] == [(0, "good"), (1, "dent"), (0, "good")]
    assert data.problems == ("s: 1 annotation(s) called 'Good' are taken as normal, not as defects.",)


def test_a_file_without_annotations_says_nothing_of_its_pictures(tmp_path: Path) -> None:
    table = coco_table(["a.png"], [])
    del table["annotations"]
    picture(tmp_path / "a.png")
    write(tmp_path / "image_info_test2017.json", json.dumps(table))
    data = open_dataset(tmp_path)
    assert [one.label for one in data] == [None]
    assert has_problem(data, "image_info_test2017.json: has no list 'annotations': its pictures are unlabelled.")


def test_captions_of_coco_are_passed_over(tmp_path: Path) -> None:
    for name, folder in (("instances_val2017", "val2017"), ("instances_train2017", "train2017")):
        picture(tmp_path / folder / "1.jpg")
        write(tmp_path / "annotations" / f"{name}.json", json.dumps(coco_table(["1.jpg"], [])))
    write(tmp_path / "annotations" / "captions_val2017.json", json.dumps({"images": [], "annotations": [{"caption": "x"}]}))
    data = open_dataset(tmp_path, split=None)
    assert [(data.name_of(one), one.split) for one in data] == [("train2017/1.jpg", "train"), ("val2017/1.jpg", "validation")]
    alone = open_dataset(tmp_path / "annotations" / "instances_val2017.json", split=None)
    assert (alone.layout, [alone.name_of(one) for one in alone]) == ("coco", ["val2017/1.jpg"])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"images": 5, "annotations": []}', UsageError, "has no list 'images'"),
        ('{"images": [', UsageError, "is no JSON"),
        ('{"images": [], "annotations": []}', SourceNotFound, "lists no picture"),
        (
            '{"images": [5, {"id": {}}, {"id": 1, "file_name": 7}], "annotations": [3]}',
            SourceNotFound,
            "image 0: is no object",
        ),
    ],
)
def test_broken_coco_files_are_sentences(text: str, error: type, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "x.json", text)
    with pytest.raises(error, match=message):
        open_dataset(tmp_path / "x.json")


@pytest.mark.slow
def test_a_large_coco_file_takes_little_memory(tmp_path: Path) -> None:
    corners = [round(2 + i * 0.001, 3) for i in range(4000)]
    marks = [coco_mark(1, [corners]) for _ in range(100)]
    picture(tmp_path / "a.png")
    write(tmp_path / "x.json", json.dumps(coco_table(["a.png"], marks)))
    size = (tmp_path / "x.json").stat().st_size
    tracemalloc.start()
    data = open_dataset(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.samples[0].mask, Shapes)
    assert len(data.samples[0].mask.parts) == 100
    assert peak < 4 * size, f"{peak / size:.1f} times the file"  # as Python's lists it would be over 4 times
