"""LabelMe: all its shapes, what is no area, and broken files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotation_trees import AREA, CORNERS, has_problem, labelme_file, png_of
from PIL import Image
from trees import HEIGHT, WIDTH, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.shapes import Shapes, ellipse
from zsad.errors import UsageError


def labelme_set(root: Path, **files: str) -> Dataset:
    for name, text in files.items():
        picture(root / f"{name}.jpg")
        write(root / f"{name}.json", text)
    return open_dataset(root)


def test_all_kinds_of_shapes(tmp_path: Path) -> None:
    data = labelme_set(
        tmp_path,
        a=labelme_file("a.jpg", ("circle", [[3.5, 3], [3.5, 1]])),
        b=labelme_file("b.jpg", ("rectangle", [[2, 1], [5, 1], [5, 3], [2, 3]])),
        c=labelme_file("c.jpg", ("oriented_rectangle", [[2, 0], [4, 2], [3, 3], [1, 1]])),
        d=labelme_file("d.jpg", ("polygon", [[2, 1], [5, 1], [5, 9], [2, 9]]), (None, CORNERS)),  # type: ignore[arg-type]
    )
    round_one = ellipse(3.5, 3, 2, 2)
    assert round_one is not None
    np.testing.assert_array_equal(load_mask(data.samples[0]), Shapes((round_one,)).draw(WIDTH, HEIGHT))
    np.testing.assert_array_equal(load_mask(data.samples[1]), AREA)
    assert [one.boxes for one in data] == [False, True, True, True]
    assert load_mask(data.samples[3])[1:, 2:5].all()
    assert load_mask(data.samples[3]).sum() == 15
    assert data.problems == ()


def test_a_mask_that_reaches_beyond_the_edge(tmp_path: Path) -> None:
    shape = {"label": "dent", "points": [[-1, 4], [1, 7]], "shape_type": "mask", "mask": png_of(np.ones((4, 3), bool))}
    data = labelme_set(tmp_path, a=labelme_file("a.jpg", shapes=[shape]))
    mask = load_mask(data.samples[0])
    assert mask[4:, :2].all()
    assert mask.sum() == 4


def test_lines_points_and_broken_shapes_are_no_areas(tmp_path: Path) -> None:
    rows: list[object] = [
        {"label": "a", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        {"label": "b", "points": [[1, 1]], "shape_type": "point"},
        {"label": "c", "points": [[1, 1], ["x", 2], [3, 3]], "shape_type": "polygon"},
        {"label": "d", "points": None},
        {"label": "e", "points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": "?"},
        {"label": None, "points": [[1e400, 1], [2, 2]], "shape_type": "mask", "mask": "AAAA"},
        7,
    ]
    data = labelme_set(tmp_path, a=labelme_file("a.jpg", shapes=rows), b=labelme_file("b.jpg", ("polygon", CORNERS)))
    assert (data.samples[0].label, data.samples[0].mask, data.samples[0].kind) == (1, None, "a+b+c+d+defect+e")
    assert has_problem(data, "a.jpg: is anomalous and has no mask")


def test_pictures_without_a_file_are_normal_and_named(tmp_path: Path) -> None:
    picture(tmp_path / "x.jpg")
    picture(tmp_path / "y.jpg")
    data = labelme_set(tmp_path, a=labelme_file("a.jpg", ("polygon", CORNERS)))
    assert [(one.path.name, one.label) for one in data] == [("a.jpg", 1), ("x.jpg", 0), ("y.jpg", 0)]
    assert has_problem(data, "x.jpg: 2 picture(s) have no JSON file", "taken as normal. Move away what nobody looked at")


def test_files_apart_from_the_pictures_and_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "images" / "a.png")
        write(tmp_path / split / "json" / "a.json", labelme_file("..\\images\\a.png", ("polygon", CORNERS)))
    data = open_dataset(tmp_path, split=None)
    assert [(data.name_of(one), one.split) for one in data] == [("test/images/a.png", "test"), ("train/images/a.png", "train")]


def test_broken_files(tmp_path: Path) -> None:
    write(tmp_path / "gone.json", labelme_file("/home/somebody/gone.jpg"))
    files = {"a": labelme_file("a.jpg", ("polygon", CORNERS)), "b": "{", "c": json.dumps({"x": 1})}
    data = labelme_set(tmp_path, **files, d=labelme_file("../../etc/passwd"))
    labels = {one.path.name: one.label for one in data}
    assert labels == {"a.jpg": 1, "d.jpg": 0, "b.jpg": None, "c.jpg": None}
    assert has_problem(data, "b.json: left out.", "is no JSON")
    assert has_problem(data, "c.json: left out: it has no list 'shapes'")
    assert has_problem(data, "gone.json: there is no such picture", "'/home/somebody/gone.jpg'")


def test_a_picture_that_exif_turns_was_annotated_as_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = labelme_set(tmp_path, a=labelme_file("a.jpg", ("polygon", CORNERS), imageHeight=WIDTH, imageWidth=HEIGHT))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", exif=exif)
    mask = load_mask(data.samples[0])
    assert mask.shape == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(mask[:HEIGHT], AREA[:, :HEIGHT])


def test_beside_folders_that_label_the_pictures_it_is_asked_for(tmp_path: Path) -> None:
    for name in ("good/a", "dent/a"):
        picture(tmp_path / f"{name}.jpg")
    write(tmp_path / "dent" / "a.json", labelme_file("a.jpg", ("polygon", CORNERS)))
    with pytest.raises(UsageError, match="fits the layouts 'labelme' and 'good_bad'. Choose one: layout='labelme'"):
        open_dataset(tmp_path)
    assert [one.kind for one in open_dataset(tmp_path, "good_bad")] == ["dent", "good"]
    assert [one.kind for one in open_dataset(tmp_path, "labelme")] == ["dent"]
    write(tmp_path / "manifest.csv", "path,label\ngood/a.jpg,0\n")
    assert open_dataset(tmp_path).layout == "manifest"
