"""CVAT for images 1.1: every shape, subsets, videos, broken values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotation_trees import AREA, CVAT_BOX, CVAT_SHAPE, cvat_xml, has_problem
from trees import HEIGHT, WIDTH, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.shapes import Shapes, ellipse
from zsad.errors import SourceNotFound, UsageError

SHAPE = CVAT_SHAPE.format(0)


def cvat_set(root: Path, *insides: str, attributes: str = "") -> Dataset:
    names = [f"{letter}.png" for letter in "abcdefg"[: len(insides)]]
    for name in names:
        picture(root / "images" / name)
    write(root / "annotations.xml", cvat_xml(*zip(names, insides, strict=True), attributes=attributes))
    return open_dataset(root, split=None)


def test_ellipses_and_masks(tmp_path: Path) -> None:
    data = cvat_set(
        tmp_path,
        f'<ellipse {SHAPE} cx="4" cy="3" rx="3" ry="2" rotation="30"></ellipse>',
        f'<mask {SHAPE} rle="0, 1, 1, 1" left="7" top="5" width="3" height="1"></mask>',
        f'<mask {SHAPE} rle="0, 6" left="2.0" top="1" width="3" height="2"></mask>',
    )
    turned = ellipse(4, 3, 3, 2, turn=30)
    assert turned is not None
    np.testing.assert_array_equal(load_mask(data.samples[0]), Shapes((turned,)).draw(WIDTH, HEIGHT))
    np.testing.assert_array_equal(load_mask(data.samples[2]), AREA)
    assert not any(one.boxes for one in data)
    assert data.problems == ()


def test_a_mask_is_cut_at_the_edge(tmp_path: Path) -> None:
    data = cvat_set(tmp_path, f'<mask {SHAPE} rle="0, 4" left="7" top="5" width="2" height="2"></mask>')
    mask = load_mask(data.samples[0])
    assert mask[5, 7]
    assert mask.sum() == 1


def test_the_order_of_overlapping_shapes_changes_nothing(tmp_path: Path) -> None:
    small = f'<box {CVAT_SHAPE.format(5)} xtl="2" ytl="1" xbr="3" ybr="2"></box>'
    data = cvat_set(tmp_path, CVAT_BOX + small, small + CVAT_BOX)
    for one in data:
        np.testing.assert_array_equal(load_mask(one), AREA)


def test_tags_lines_and_points_have_no_area(tmp_path: Path) -> None:
    data = cvat_set(
        tmp_path,
        '<tag label="dent" source="manual"></tag>',
        '<tag label="OK" source="manual"></tag>',
        f'<polyline {SHAPE} points="1,1;2,2;3,3"></polyline>',
        f'{CVAT_BOX}<points {SHAPE} points="1,1"></points>',
    )
    assert [(one.label, one.mask is not None) for one in data] == [(1, False), (0, False), (1, False), (1, True)]
    assert has_problem(data, f"{tmp_path.name}: 1 annotation(s) called 'OK' are taken as normal")
    assert has_problem(data, "images/d.png: 1 of its 2 annotations have no area")


@pytest.mark.parametrize(
    "shape",
    [
        f'<box {SHAPE} xtl="x" ytl="1" xbr="5" ybr="3"/>',
        f"<box {SHAPE}/>",
        f'<polygon {SHAPE} points="1,1;2;3,3"/>',
        f'<polygon {SHAPE} points=""/>',
        f'<ellipse {SHAPE} cx="1" cy="1" rx="0" ry="0"/>',
        f'<mask {SHAPE} rle="" left="0" top="0" width="1" height="1"/>',
        f'<mask {SHAPE} rle="-1, 2" left="0" top="0" width="1" height="1"/>',
        f'<mask {SHAPE} rle="1" left="1e300" top="0" width="1" height="1"/>',
        f'<mask {SHAPE} rle="1" left="0" top="0" width="inf" height="1"/>',
    ],
)
def test_shapes_with_broken_values_have_no_area(shape: str, tmp_path: Path) -> None:
    data = cvat_set(tmp_path, shape, CVAT_BOX)
    assert [(one.label, one.mask is not None) for one in data] == [(1, False), (1, True)]
    assert has_problem(data, "images/a.png: is anomalous and has no mask")


def test_subsets_of_a_project(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "Validation" / "a.png")
    write(tmp_path / "annotations.xml", cvat_xml(("a.png", ""), attributes='subset="Validation"'))
    data = open_dataset(tmp_path, split=None)
    assert [(data.name_of(one), one.split) for one in data] == [("images/Validation/a.png", "validation")]
    assert open_dataset(tmp_path / "annotations.xml", split=None).samples == data.samples


def test_pictures_that_are_not_there_and_videos(tmp_path: Path) -> None:
    write(tmp_path / "annotations.xml", cvat_xml(("frame_0.png", CVAT_BOX)).replace("</meta>", "</meta><track id='0'/>"))
    with pytest.raises(SourceNotFound, match="annotations.xml image 0: there is no such picture"):
        open_dataset(tmp_path)
    picture(tmp_path / "images" / "frame_0.png")
    data = open_dataset(tmp_path)
    assert len(data) == 1
    assert has_problem(data, "annotations.xml: 1 track(s) of a video are not read. Export the task as 'CVAT for images 1.1'.")


def test_a_file_with_a_doctype_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "annotations.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><annotations>&a;</annotations>")
    with pytest.raises(UsageError, match="'annotations.xml' has a DOCTYPE, which no annotation tool writes"):
        open_dataset(tmp_path)
