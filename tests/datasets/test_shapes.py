"""Annotated areas as masks: every code against an encoder or a slow loop of the tests' own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from annotation_trees import AREA, COCO_STRING, COLUMN_RUNS, CORNERS, brush_bytes
from PIL import Image
from trees import HEIGHT, WIDTH, picture

from zsad.datasets import Sample, Shapes, load_mask
from zsad.datasets.run_lengths import coco_counts, decode_brush, fill_runs
from zsad.datasets.shapes import Encoded, Polygon, box, ellipse, polygon
from zsad.errors import MaskError


def drawn(part: Polygon | Encoded | None, width: int = WIDTH, height: int = HEIGHT, **others: object) -> np.ndarray:
    assert part is not None
    return Shapes((part,), **others).draw(width, height)  # type: ignore[arg-type]


def slow(points: list[tuple[float, float]], width: int, height: int) -> np.ndarray:
    """Even-odd rule by a ray to the left of every pixel's centre."""
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y, inside = column + 0.5, row + 0.5, False
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                    inside = not inside
            mask[row, column] = inside
    return mask


# ---------------------------------------------------------------- polygons
@pytest.mark.parametrize("seed", range(6))
def test_polygons_equal_a_ray_per_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [tuple(map(float, np.float32(one))) for one in rng.uniform(-8, 40, (rng.integers(3, 12), 2))]
    expected = slow(points, 31, 23)  # many cross themselves, most lie beyond the edge in part
    assert expected.any()
    np.testing.assert_array_equal(drawn(polygon(points), 31, 23), expected)


def test_a_box_covers_whole_pixels_and_is_cut_at_the_edge() -> None:
    np.testing.assert_array_equal(drawn(box(2, 1, 5, 3)), AREA)
    np.testing.assert_array_equal(drawn(polygon(CORNERS)), AREA)
    np.testing.assert_array_equal(drawn(box(0.25, 1 / 6, 0.625, 0.5), relative=True), AREA)
    corner = drawn(box(-5, -5, 1, 2))
    assert corner[:2, :1].all()
    assert corner.sum() == 2
    assert not drawn(box(20, 20, 30, 30)).any()


@pytest.mark.parametrize("side", [box(5, 1, 2, 3), box(2, 3, 5, 3), box(math.nan, 1, 5, 3), ellipse(1, 1, 0, 2)])
def test_an_empty_box_is_none(side: Polygon | None) -> None:
    assert side is None


def test_polygons_that_are_none() -> None:
    assert polygon([(0, 0), (1, 1)]) is None
    assert polygon([(0, 0), (1, math.inf), (2, 2)]) is None
    assert polygon([(0, 0), (1, math.nan), (2, 2)]) is None
    assert polygon([(0, 0), (1, 1e300), (2, 2)]) is None
    assert box(-1e300, 0, 1e308, 1) is None
    assert box(0, 0, 1, 1, turn=math.inf) is None
    assert ellipse(1e308, 0, 1e308, 1) is None
    assert polygon([]) is None


def test_upright_rectangles_are_boxes() -> None:
    rectangle = [(1, 1), (3, 1), (3, 2), (1, 2)]
    parts = [polygon(rectangle), polygon([*rectangle, (1, 1)]), polygon(CORNERS), polygon([(0, 0), (2, 1), (1, 3), (-1, 2)])]
    assert [one.is_box for one in parts if one] == [True, True, False, False]
    assert Shapes(tuple(one for one in parts if one)).boxes == 2


def test_a_thin_area_marks_the_pixels_of_its_outline() -> None:
    scratch = drawn(polygon([(0.1, 2.1), (7.9, 2.1), (7.9, 2.2)]))
    assert scratch[2].all()
    assert scratch.sum() == 8
    far = drawn(polygon([(-1e6, 2.1), (1e6, 2.1), (1e6, 2.2)]))
    np.testing.assert_array_equal(far, scratch)


def test_turned_boxes_and_ellipses() -> None:
    np.testing.assert_array_equal(drawn(box(2, 2, 6, 3, turn=90), 8, 8), drawn(box(3.5, 0.5, 4.5, 4.5), 8, 8))
    about_corner = box(4, 2, 6, 3, turn=90, about=(4, 2))  # clockwise: to the right becomes downwards
    np.testing.assert_array_equal(drawn(about_corner, 8, 8), drawn(box(3, 2, 4, 4), 8, 8))
    disc = drawn(ellipse(20, 20, 10, 10), 40, 40)
    assert abs(disc.sum() / (math.pi * 100) - 1) < 0.02
    flat, upright = drawn(ellipse(20, 20, 15, 5), 40, 40), drawn(ellipse(20, 20, 5, 15, turn=90), 40, 40)
    assert (flat != upright).sum() <= 8


def test_parts_are_united() -> None:
    one, two = box(0, 0, 2, 2), box(1, 1, 3, 3)
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(Shapes((one, two)).draw(8, 6), drawn(one) | drawn(two))


# ---------------------------------------------------------------- run lengths
def coco_string(counts: list[int]) -> bytes:
    out = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            out.append(group + 32 * more + 48)
            if not more:
                break
    return bytes(out)


def runs_of(flat: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [2]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((7, 5)) > 0.6, np.ones((9, 41))).astype(bool)
    height, width = mask.shape
    down, along = runs_of(mask.T.ravel()), runs_of(mask.ravel())
    assert coco_counts(coco_string(down)) == down
    np.testing.assert_array_equal(Encoded("coco", coco_string(down), width, height).decode(), mask)
    np.testing.assert_array_equal(fill_runs(down, width, height, columns=True), mask)
    np.testing.assert_array_equal(fill_runs(along, width, height, columns=False), mask)
    np.testing.assert_array_equal(decode_brush(brush_bytes(mask), width, height), mask)


def test_the_string_of_the_trees() -> None:
    assert coco_string(COLUMN_RUNS).decode() == COCO_STRING
    np.testing.assert_array_equal(drawn(Encoded("coco", COCO_STRING.encode(), WIDTH, HEIGHT)), AREA)


def test_a_part_is_pasted_and_cut() -> None:
    runs = np.array([0, 6], np.int64).tobytes()  # 3 x 2, all of it
    np.testing.assert_array_equal(drawn(Encoded("rows", runs, 3, 2, 2, 1)), AREA)
    assert drawn(Encoded("rows", runs, 3, 2, 7, -1)).sum() == 1
    assert not drawn(Encoded("rows", runs, 3, 2, 70, 70)).any()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Encoded("coco", b"=2\x7f", 8, 6), "no character of COCO's code"),
        (Encoded("coco", b"=2a", 8, 6), "is cut off"),
        (Encoded("coco", b"=2", 8, 6), "covers 15 pixels, not 8 x 6"),
        (Encoded("columns", np.array([-1, 49], np.int64).tobytes(), 8, 6), "negative"),
        (Encoded("columns", np.array([1 << 62], np.int64).tobytes(), 8, 6), "beyond the picture"),
        (Encoded("columns", b"", 90000, 90000), "an annotated mask is 90000 x 90000 pixels, the picture 8 x 6"),
        (Encoded("brush", b"\0\0", 8, 6), "no RGBA picture of 8 x 6"),
        (Encoded("brush", brush_bytes(AREA)[:-6], 8, 6), "cut off"),
        (Encoded("png", b"no png", 0, 0), "its PNG cannot be decoded"),
    ],
)
def test_what_cannot_be_decoded_is_a_sentence(part: Encoded, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"^The annotation of 'a\.png' cannot be drawn: .*\.$") as caught:
        load_mask(Sample(tmp_path / "a.png", 1, Shapes((part,)), "x"))
    assert message in str(caught.value)


# ---------------------------------------------------------------- loading
def sample(path: Path, size: tuple[int, int] | None, orientation: int = 1, part: Polygon | None = None) -> Sample:
    """A picture that is stored as 8 x 6, with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    parts = (part or box(2, 1, 5, 3),)
    assert parts[0] is not None
    return Sample(path, 1, Shapes((parts[0],), size), "x")


def test_a_mask_is_as_large_as_the_picture_or_the_model(tmp_path: Path) -> None:
    one = sample(tmp_path / "a.jpg", (WIDTH, HEIGHT))
    np.testing.assert_array_equal(load_mask(one), AREA)
    np.testing.assert_array_equal(load_mask(one, picture=(HEIGHT, WIDTH)), AREA)
    assert load_mask(one, 16).shape == (16, 16)
    assert one.boxes


def test_exif_annotated_unturned_is_turned_with_the_picture(tmp_path: Path) -> None:
    one = sample(tmp_path / "a.jpg", (WIDTH, HEIGHT), orientation=6)  # shown as 6 x 8
    np.testing.assert_array_equal(load_mask(one), np.rot90(AREA, -1))
    eight = sample(tmp_path / "b.jpg", (WIDTH, HEIGHT), orientation=8)
    np.testing.assert_array_equal(load_mask(eight, picture=(WIDTH, HEIGHT)), np.rot90(AREA))


def test_exif_annotated_as_shown_stays(tmp_path: Path) -> None:
    one = sample(tmp_path / "a.jpg", (HEIGHT, WIDTH), orientation=6)
    assert load_mask(one).shape == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(load_mask(one), drawn(box(2, 1, 5, 3), HEIGHT, WIDTH))


@pytest.mark.parametrize(("size", "orientation"), [((HEIGHT, WIDTH), 1), ((16, 12), 1), ((WIDTH, HEIGHT + 1), 6)])
def test_an_annotation_of_another_size_is_refused(size: tuple[int, int], orientation: int, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=rf"'a\.jpg' was annotated at {size[0]} x {size[1]} pixels, and is"):
        load_mask(sample(tmp_path / "a.jpg", size, orientation))


def test_areas_over_what_is_drawn_already_take_no_time() -> None:
    rng = np.random.default_rng(0)
    whole = box(0, 0, 3000, 3000)
    parts = [whole, *(polygon(rng.uniform(0, 3000, (300, 2))) for _ in range(300))]
    mask = Shapes(tuple(one for one in parts if one)).draw(3000, 3000)  # a minute, if each were drawn
    assert mask.all()
