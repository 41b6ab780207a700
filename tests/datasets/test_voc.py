"""Pascal VOC: boxes, polygons and mask files; broken and hostile XML."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from annotation_trees import AREA, CORNERS, VOC_BOX, has_problem, voc_xml
from trees import HEIGHT, WIDTH, picture, write

from zsad.datasets import Dataset, load_mask, open_dataset
from zsad.datasets.annotations.xml_files import parse_xml
from zsad.errors import SourceNotFound, UsageError


def voc_set(root: Path, **files: str) -> Dataset:
    """Pictures beside their XML files, as LabelImg writes them."""
    for name, text in files.items():
        picture(root / f"{name}.jpg")
        write(root / f"{name}.xml", text)
    return open_dataset(root)


def test_names_that_do_not_fit_any_more(tmp_path: Path) -> None:
    data = voc_set(
        tmp_path,
        a=voc_xml("a", VOC_BOX),
        b=voc_xml("before it was renamed.jpg", VOC_BOX),
        c=voc_xml("c.bmp", VOC_BOX),
        d=voc_xml("", VOC_BOX),
    )
    assert [data.name_of(one) for one in data] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert data.problems == ()


def test_all_kinds_of_areas(tmp_path: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in CORNERS)
    turned = f"<robndbox><cx>3.5</cx><cy>2</cy><w>2</w><h>3</h><angle>{math.pi / 2}</angle></robndbox>"
    data = voc_set(
        tmp_path,
        a=voc_xml("a.jpg", f"<polygon>{points}</polygon>"),
        b=voc_xml("b.jpg", turned),
        c=voc_xml("c.jpg", f"{VOC_BOX}<polygon><x1>1</x1></polygon>"),
        d=voc_xml("d.jpg", VOC_BOX, "<bndbox><xmin>x</xmin></bndbox>"),
        e=voc_xml("e.jpg", "<bndbox><xmin>5</xmin><ymin>2</ymin><xmax>2</xmax><ymax>3</ymax></bndbox>"),
    )
    assert [one.boxes for one in data] == [False, True, True, True, False]
    for one in data.samples[:4]:
        np.testing.assert_array_equal(load_mask(one), AREA)
    assert has_problem(data, "d.jpg: 1 of its 2 annotations have no area")
    assert has_problem(data, "e.jpg: is anomalous and has no mask")


def test_a_size_of_zero_is_unknown(tmp_path: Path) -> None:
    data = voc_set(tmp_path, a=voc_xml("a.jpg", VOC_BOX, size=(0, 0)))
    assert load_mask(data.samples[0]).shape == (HEIGHT, WIDTH)


def test_files_without_pictures_and_pictures_without_files(tmp_path: Path) -> None:
    picture(tmp_path / "other.jpg")
    write(tmp_path / "gone.xml", voc_xml("gone.jpg", VOC_BOX))
    data = voc_set(tmp_path, a=voc_xml("a.jpg"))
    assert [(one.label, one.kind) for one in data] == [(0, "good")]
    assert has_problem(data, "gone.xml: there is no such picture", "'gone.jpg'")
    assert has_problem(data, "other.jpg: 1 picture(s) are in no annotation file")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "has a DOCTYPE, which no annotation tool writes"),
        (OUTSIDE.encode(), "has a DOCTYPE"),
        (BOMB.encode("utf-16"), "has a DOCTYPE"),
        (b"<annotation><filename>b.jpg", "is no XML"),
        (b"<annotation>&e;</annotation>", "is no XML: undefined entity"),
        (b"<?xml version='1.0' encoding='none'?><annotation/>", "is no XML"),
        (b"", "is no XML"),
        (b"<project/>", "it holds <project>, not <annotation>"),
    ],
)
def test_files_that_are_no_annotation(content: bytes, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "b.jpg")
    (tmp_path / "b.xml").write_bytes(content)
    data = voc_set(tmp_path, a=voc_xml("a.jpg", VOC_BOX))
    assert [data.name_of(one) for one in data] == ["a.jpg"]
    assert has_problem(data, "b.xml: left out: ", message)


def test_deep_xml_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.xml", "<a>" * 100_000 + "</a>" * 100_000)
    assert parse_xml(tmp_path / "a.xml").tag == "a"


def test_a_set_of_nothing_but_broken_files(tmp_path: Path) -> None:
    write(tmp_path / "a.xml", "<annotation>")
    with pytest.raises(SourceNotFound, match=r"lists no picture that can be used\. a\.xml: left out: 'a\.xml' is no XML"):
        open_dataset(tmp_path)
    write(tmp_path / "a.xml", "<other/>")
    with pytest.raises(UsageError, match="of no known layout"):
        open_dataset(tmp_path)
