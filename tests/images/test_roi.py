"""Regions of interest: what lies outside is neither scored nor shown as scored, and places stay those of the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import picture, registered_methods  # noqa: F401
from PIL import Image

from zsad.errors import ImageError, UsageError
from zsad.images.roi import Roi, read_roi, window
from zsad.inference.inspector import Inspector
from zsad.inference.result import Result

SPOT, ELSEWHERE = (150, 20, 170, 40), (20, 100, 60, 140)
ROIS: list[Any] = ["100,10,190,70", "50%,5%,95%,45%", "polygon:100,10 190,10 190,70 100,90", "polygon:100,5 198,30 100,80"]


def inside_by_angles(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """Odd winding number of the polygon around a place, from the sum of the angles under which its edges are seen."""
    place, corners = complex(x, y), [complex(*point) for point in points]
    seen = [(b - place) / (a - place) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    return round(sum(np.angle(turn) for turn in seen) / (2 * np.pi)) % 2 == 1


def full(roi: Any, size: tuple[int, int]) -> np.ndarray:
    inside = window(read_roi(roi), size).roi_mask()
    return np.ones(size, bool) if inside is None else inside


# ------------------------------------------------------------------ which pixels
@pytest.mark.parametrize("seed", range(6))
def test_polygons_by_the_angles(seed: int) -> None:
    """At random, also crossing itself: a pixel is inside where the polygon winds around its centre an odd number of times."""
    points = [(float(x), float(y)) for x, y in np.random.default_rng(seed).uniform(0, [31, 23], (3 + seed, 2))]
    found = full(points, (23, 31))
    expected = [[inside_by_angles(points, x + 0.5, y + 0.5) for x in range(31)] for y in range(23)]
    assert np.array_equal(found, expected)


def test_a_box_is_its_polygon_and_its_mask(tmp_path: Path) -> None:
    box = full("3,5,20,11", (23, 31))
    assert np.array_equal(box, full("polygon:3,5 20,5 20,11 3,11", (23, 31)))
    expected = np.zeros((23, 31), np.uint8)
    expected[5:11, 3:20] = 1
    assert np.array_equal(box, expected == 1)
    for levels in (expected, expected * 255):
        Image.fromarray(levels).save(tmp_path / "mask.png")
        view = window(read_roi(str(tmp_path / "mask.png")), (23, 31))
        assert (view.box, view.inside) == ((3, 5, 20, 11), None)
    assert read_roi("3,5,20,11") == read_roi((3, 5, 20, 11)) == read_roi(" 3 , 5 , 20 , 11 ")
    assert window(read_roi("10%,20%,90%,50%"), (100, 200)).box == (20, 20, 180, 50)


def test_masks_differ_by_content(tmp_path: Path) -> None:
    one, other = np.zeros((2, 8, 8))
    one[2, 2] = other[2, 3] = 1
    assert read_roi(one) == read_roi(one * 255)
    assert read_roi(one) != read_roi(other)
    assert read_roi(one).describe() != read_roi(other).describe()
    assert read_roi(one).describe().startswith("mask of 8 x 8 pixels, sha256 ")


def test_outside_a_polygon_the_method_sees_the_mean_colour() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    view = window(read_roi("polygon:5,5 45,10 20,38"), (40, 50))
    assert view.inside is not None
    x0, y0, x1, y1 = view.box
    cut, seen = rgb[y0:y1, x0:x1], view.crop(rgb)
    assert np.array_equal(seen[view.inside], cut[view.inside])
    assert (seen[~view.inside] == np.rint(cut[view.inside].mean(0))).all()


# ------------------------------------------------------------------ in front of a detector
@pytest.mark.parametrize("tile", [None, 40])
@pytest.mark.parametrize("roi", [*ROIS, "mask"])
def test_a_defect_outside_changes_nothing(roi: Any, tile: int | None) -> None:
    if roi == "mask":
        roi = np.zeros((150, 200), bool)
        roi[5:90, 110:195] = roi[90:95, 130:140] = True
    clean, spoiled = picture(0.2, SPOT, (200, 150)), np.array(picture(0.2, SPOT, (200, 150)))
    x0, y0, x1, y1 = ELSEWHERE
    spoiled[y0:y1, x0:x1] = 255
    inspector = Inspector("brightness", roi=roi, tile=tile, pixel_threshold=0.6)
    one, other = inspector([clean, spoiled])
    assert one.pred_score == other.pred_score == 1.0
    assert np.array_equal(one.anomaly_map, other.anomaly_map, equal_nan=True)
    (region,), (same,) = one.regions, other.regions
    assert region == same
    assert np.abs(np.subtract(region.box, SPOT)).max() <= 3, "in pixels of the whole picture"
    assert min(x for x, _ in region.contour) == region.box[0]
    assert one.pred_mask.shape == one.roi_mask.shape == one.anomaly_map.shape == (150, 200)
    assert one.pred_mask.sum() == region.area
    assert np.isnan(one.anomaly_map[~one.roi_mask]).all()
    assert np.isfinite(one.anomaly_map[one.roi_mask]).all()


def test_outside_the_roi_is_no_region_at_any_threshold() -> None:
    (result,) = Inspector("brightness", roi=ROIS[2], pixel_threshold=-5)(picture(0.2, size=(200, 150)))
    assert np.array_equal(result.pred_mask, result.roi_mask)


def test_words_are_read_at_their_place_in_the_crop() -> None:
    """Of the crop the spot lies at the left, of the picture at the right."""
    inspector = Inspector("brightness", roi="145,0,200,100", pixel_threshold=0.6)
    (region,) = next(inspector(picture(0.2, SPOT, (200, 150)))).regions
    assert region.suggested_word == "left"


def test_the_overlay_is_dark_outside() -> None:
    (result,) = Inspector("brightness", roi="50,0,100,100")(picture(0.6, size=(100, 100)))
    drawn = np.asarray(result.overlay())
    assert (drawn[:, :50] == 153 // 3).all()
    whole = Result("a", anomaly_map=result.anomaly_map, image=result.image).overlay()
    assert np.array_equal(drawn[:, 50:], np.asarray(whole)[:, 50:])


def test_pictures_that_it_does_not_fit_are_errors() -> None:
    inspector = Inspector("brightness", roi="60,0,90,50", batch_size=2)
    good, bad, last = inspector([picture(0.2, size=(100, 60)), picture(0.2, size=(80, 60)), picture(0.2, size=(100, 60))])
    assert (good.error, last.error) == (None, None)
    assert bad.error == (
        "The picture has 80 x 60 pixels, and the region of interest box:60,0 90,50 lies outside it. "
        "Give it with %, or score pictures of one size at a time."
    )
    assert (bad.pred_score, bad.regions) == (None, ())


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.ones((5, 9)), "80 x 60 pixels, and the region of interest is a mask of 9 x 5. Give a mask of its size."),
        ("polygon:0,0 90,0 50,50", "polygon:0,0 90,0 50,50 lies outside it"),
        ("polygon:1,1 5,1 9,1", "polygon:1,1 5,1 9,1 holds no pixel of it"),
        ("10%,0,8,60", "box:10%,0 8,60 holds no pixel of it"),
    ],
)
def test_what_does_not_lie_in_a_picture(roi: Any, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        window(read_roi(roi), (60, 80))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        ("1,2,3", "'1,2,3' has 3 numbers, and a box has four. Give a box 'x0,y0,x1,y1' in pixels"),
        ("", "'' has 1 numbers"),
        ("5,5,5,9", "'5,5,5,9' is empty: 5 to 5."),
        ("90%,0,10%,9", "is empty: 90% to 10%."),
        ("-1,0,5,5", "has '-1', which is no place in a picture"),
        ("0,0,101%,5", "has '101%', which is no place"),
        ("0,0,,5", "has '', which is no place"),
        ("polygon:1,1 5,5", "is no polygon: that takes three or more corners x,y"),
        ("polygon:1,1 5,5 3", "is no polygon"),
        ("polygon:1,1 5,5 a,b", "has 'a', which is no place"),
        ([(1, 2), (3, 4)], "is no polygon"),
        ("nowhere.png", "The region of interest 'nowhere.png' is no file."),
        (3, "The region of interest is 3. Give a box"),
        (np.zeros((4, 4)), "The mask of the region of interest is black: nothing would be scored"),
    ],
)
def test_refusals(roi: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Inspector("brightness", roi=roi)
    assert message in str(caught.value)


def test_a_mask_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(
        UsageError, match="The mask of the region of interest is no picture: 'mask.png' is no picture of a kind"
    ):
        read_roi(tmp_path / "mask.png")


def test_a_roi_passes_through() -> None:
    assert read_roi(roi := Roi("box", (((0.0, False), (0.0, False)), ((4.0, False), (4.0, False))))) is roi
