"""YOLO: the few keys of data.yaml as tools write them, places of pictures, and lines that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotation_trees import AREA, YOLO_BOX, YOLO_SEGMENT, has_problem
from trees import picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.annotations.yaml_keys import keys_of
from zsad.errors import SourceNotFound, UsageError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, 'b c', \"d\"]", ["a", "b c", "d"]),
        ("names: ['a', 'b, c']  # two", ["a", "b, c"]),
        ("names: [a,\n  b,\n  c]\nnc: 3", ["a", "b", "c"]),
        ("names:\n- a\n- 'b: c'\nnc: 2", ["a", "b: c"]),
        ('names:\n  - a\n  # none\n\n  - "it\'s"', ["a", "it's"]),
        ("names:\n  0: a\n  1: b", {"0": "a", "1": "b"}),
        ("names: {0: a, 1: 'b'}", {"0": "a", "1": "b"}),
        ("names: {0:a, 1:b}", {"0": "a", "1": "b"}),
        ("'names': []", []),
        ("names: &anchor x", ""),
        ("names:", ""),
    ],
)
def test_names_of_data_yaml(text: str, names: object) -> None:
    assert keys_of(f"# made by a tool\n---\npath: ../x # root\n{text}\n")["names"] == names


def test_keys_of_data_yaml() -> None:
    text = "path: C:\\data\\x\ntrain: images/train  # 128 images\nval: ['a', b/c]\ntest:\nroboflow:\n  url: https://a.b/c#d\n"
    assert keys_of(text) == {
        "path": "C:\\data\\x",
        "train": "images/train",
        "val": ["a", "b/c"],
        "test": "",
        "roboflow": {"url": "https://a.b/c#d"},
    }


def test_a_long_line_takes_no_time() -> None:
    assert (
        keys_of("names: [" + "a, " * 100_000 + "]\n" + "x" * 100_000 + " " * 100_000 + "\n" + "[" * 100_000)["names"][-1] == "a"
    )


def yolo_set(root: Path, labels: dict[str, str], settings: str = "names: [scratch, dent]\ntest: images\n") -> Dataset:
    write(root / "data.yaml", settings)
    for name, text in labels.items():
        picture(root / "images" / f"{name}.png")
        write(root / "labels" / f"{name}.txt", text)
    return open_dataset(root, split=None)


def test_boxes_and_segments_per_line(tmp_path: Path) -> None:
    data = yolo_set(
        tmp_path, {"a": YOLO_SEGMENT.join(["0 ", ""]), "b": f"0 {YOLO_BOX} 0.9", "c": f"1 {YOLO_BOX}\n\n0 {YOLO_SEGMENT}"}
    )
    assert [(one.kind, one.boxes) for one in data] == [("scratch", False), ("scratch", True), ("dent+scratch", True)]
    for one in data:
        np.testing.assert_array_equal(load_mask(one), AREA)


def test_key_points_after_a_box_are_no_segment(tmp_path: Path) -> None:
    settings = "names: [a]\ntest: images\nkpt_shape: [2, 3]\n"
    data = yolo_set(tmp_path, {"a": f"0 {YOLO_BOX} 0.1 0.1 2 0.9 0.9 2"}, settings)
    np.testing.assert_array_equal(load_mask(data.samples[0]), AREA)


def test_lines_that_are_none(tmp_path: Path) -> None:
    labels = {"a": f"0 1 2 3\nx {YOLO_BOX}\n0 {YOLO_BOX}\n", "b": "0 100 80 30 20", "c": "0 nan 1 1 1", "d": f"7 {YOLO_BOX}"}
    data = yolo_set(tmp_path, labels)
    assert [(one.label, one.mask is not None, one.kind) for one in data] == [
        (1, True, "scratch"),
        (1, False, "defect"),
        (1, False, "scratch"),
        (1, True, "class 7"),
    ]
    assert has_problem(data, "labels/a.txt: 2 line(s) are neither box nor segment in fractions: '0 1 2 3'")
    assert has_problem(data, "labels/b.txt: 1 line(s)", "'0 100 80 30 20'")
    assert has_problem(data, "images/b.png: is anomalous and has no mask")
    assert has_problem(data, "images/c.png: is anomalous and has no mask")


def test_labels_beyond_the_edge_are_cut(tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"a": "0 0 0 0.5 1"})
    mask = load_mask(data.samples[0])
    assert mask[:3, :2].all()
    assert mask.sum() == 6


def test_labels_without_pictures_and_pictures_without_any_label(tmp_path: Path) -> None:
    write(tmp_path / "labels" / "gone.txt", f"0 {YOLO_BOX}")
    data = yolo_set(tmp_path, {"a": ""})
    assert has_problem(data, "labels/gone.txt: 1 label file(s) are of no picture")
    picture(tmp_path / "other" / "images" / "a.png")
    write(tmp_path / "other" / "data.yaml", "names: [a]\ntest: images")
    bare = open_dataset(tmp_path / "other")
    assert [one.label for one in bare] == [None]
    assert has_problem(bare, "images: none of its 1 pictures has a label file: taken as unlabelled.")


def test_a_label_file_that_is_no_text(tmp_path: Path) -> None:
    yolo_set(tmp_path, {"a": "", "b": ""})
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    data = open_dataset(tmp_path)
    assert [one.label for one in data] == [None, 0]
    assert has_problem(data, "images/a.png: taken as unlabelled.", "cannot be read as UTF-8 text")


@pytest.mark.parametrize("place", ["images", "./images/", "/content/datasets/parts/images", "../parts/images", "C:\\x\\images"])
@pytest.mark.parametrize("path", ["", "path: .\n", "path: /content/datasets/parts\n", "path: ../datasets/parts\n"])
def test_places_of_another_machine(place: str, path: str, tmp_path: Path) -> None:
    data = yolo_set(tmp_path, {"a": ""}, f"{path}names: [a]\nval: {place}\n")
    assert [(data.name_of(one), one.split) for one in data] == [("images/a.png", "validation")]
    assert data.problems == ()


def test_lists_of_pictures(tmp_path: Path) -> None:
    write(tmp_path / "test.txt", "./images/a.png\n\n/somewhere/images/b.png\nimages/gone.png\n../../secret.png\n")
    data = yolo_set(tmp_path, {"a": f"0 {YOLO_BOX}", "b": "", "c": ""}, "names: [a]\ntest: test.txt\n")
    assert [(data.name_of(one), one.label) for one in data] == [("images/a.png", 1), ("images/b.png", 0)]
    assert has_problem(data, "test.txt line 4: there is no such picture")
    assert has_problem(data, "test.txt line 5: there is no such picture", "../../secret.png")
    assert has_problem(data, "images/c.png: 1 picture(s) are in no annotation file")


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    data = yolo_set(tmp_path / "s", {"a": ""}, "names: [a]\ntrain: gone\nval: ../../..\ntest: [images, more]\n")
    assert has_problem(data, "data.yaml: train: there is no folder or list 'gone' in 's'.")
    assert has_problem(data, "data.yaml: test: there is no folder or list 'more' in 's'.")
    with pytest.raises(SourceNotFound, match="lists no picture that can be used. data.yaml: test: there is no folder"):
        yolo_set(tmp_path / "t", {}, "names: [a]\ntest: gone\n")


def test_the_settings_file_by_its_path_and_other_yaml(tmp_path: Path) -> None:
    yolo_set(tmp_path, {"a": ""})
    assert open_dataset(tmp_path / "data.yaml").root == tmp_path
    write(tmp_path / "other" / "environment.yaml", "names: [x]\nchannels: [y]\n")
    with pytest.raises(UsageError, match="of no known layout"):
        open_dataset(tmp_path / "other")
