"""Regions and outlines on shapes worked by hand; overlays on the fixed scale; output names."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from zsad.common.file_names import OutputNames, many, printable
from zsad.errors import UsageError
from zsad.images.heatmap import colours, overlay, thumbnail
from zsad.inference.outlines import _follow, outline
from zsad.inference.result import Result, find_regions, shortest


def grid(*rows: str) -> np.ndarray:
    """ "#" is 1."""
    return np.array([[cell == "#" for cell in row] for row in rows])


def area(points: list[tuple[int, int]]) -> float:
    """Signed area of a polygon, positive where it runs clockwise on the screen (y down)."""
    x, y = np.array(points).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        (grid("#"), [(0, 0), (1, 0), (1, 1), (0, 1)]),
        (grid("##", "##"), [(0, 0), (2, 0), (2, 2), (0, 2)]),
        (grid("#.", "##"), [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)]),
        (grid("#.", ".#"), [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (1, 2), (1, 1), (0, 1)]),
        (grid(".#", "#."), [(1, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2), (0, 1), (1, 1)]),
        (grid("###", "#.#", "###"), [(0, 0), (3, 0), (3, 3), (0, 3)]),
        (
            grid(".#.", "###", ".#."),
            [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)],
        ),
    ],
)
def test_outline_by_hand(shape: np.ndarray, corners: list[tuple[int, int]]) -> None:
    assert outline(shape) == corners


def test_outlines_enclose_the_filled_component() -> None:
    """The exact outline's area is the component's pixels with its holes filled, whatever the shape."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        labels, _ = ndimage.label(rng.random((9, 9)) < 0.45, structure=np.ones((3, 3)))
        for label, place in enumerate(ndimage.find_objects(labels), start=1):
            inside = labels[place] == label
            assert area(_follow(np.pad(inside, 1))) == ndimage.binary_fill_holes(inside).sum()


def test_simplified_outline_stays_near() -> None:
    ys, xs = np.mgrid[-34:35, -34:35]
    disc = ys**2 + xs**2 < 35**2
    corners = outline(disc)
    assert len(corners) < 60
    assert area(corners) == pytest.approx(disc.sum(), rel=0.02)
    line = np.eye(20, dtype=bool)  # a diagonal line would collapse: it stays exact
    assert area(outline(line)) == 20


def test_regions_by_hand() -> None:
    values = np.zeros((8, 10), np.float32)
    values[1:3, 1:4] = 0.5
    values[2, 2] = 0.6
    values[5, 7], values[6, 8] = 0.9, 0.7  # joined by a corner
    values[0, 9] = 0.49
    regions, mask = find_regions(values, 0.5)
    assert [(region.box, region.area, region.peak) for region in regions] == [((7, 5, 9, 7), 2, 0.9), ((1, 1, 4, 3), 6, 0.6)]
    assert regions[1].contour == ((1, 1), (4, 1), (4, 3), (1, 3))
    assert mask.sum() == 8
    assert not mask[0, 9]


def test_specks_are_neither_region_nor_mask() -> None:
    values = np.zeros((200, 200), np.float32)
    values[5, 5:8] = 1  # 3 of 40,000 pixels
    values[50, 50:54] = 1  # 4: as many as 0.01 %
    regions, mask = find_regions(values, 0.5)
    assert [region.area for region in regions] == [4]
    assert mask.sum() == 4


def test_nothing_above_the_threshold() -> None:
    regions, mask = find_regions(np.zeros((4, 4), np.float32), 0.5)
    assert regions == ()
    assert not mask.any()


def test_words_by_hand() -> None:
    """2 x 2 places on a 4 x 4 map: the region's six pixels lie 2:4 in the upper two places."""
    values = np.zeros((4, 4), np.float32)
    values[0:2, 1:4] = 1
    words = np.zeros((2, 2, 2), np.float32)
    words[0, 0] = 0.3, 0.9
    words[1, 0] = 0.6, 0.0
    (region,), _ = find_regions(values, 0.5, ("crack", "hole"), words, 0.1)
    assert region.suggested_word == "crack"
    assert region.margin == pytest.approx((2 * 0.3 + 4 * 0.9 - 2 * 0.6) / 6)
    (region,), _ = find_regions(values, 0.5, ("crack", "hole"), words, 0.6)
    assert (region.suggested_word, region.margin) == (None, None)
    (region,), _ = find_regions(values, 0.5, ("crack", "hole"), words, None)
    assert region.suggested_word is None


def test_result_as_json_and_overlay() -> None:
    values = np.zeros((6, 5), np.float32)
    values[2:4, 1:3] = 1
    regions, mask = find_regions(values, 0.5)
    image = np.full((6, 5, 3), 100, np.uint8)
    result = Result("a.png", pred_score=0.5, anomaly_map=values, pred_mask=mask, regions=regions, image=image)
    row = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert row["regions"][0]["box"] == [1, 2, 3, 4]
    assert {"path", "name", "pred_score", "p_value", "pred_label", "threshold", "threshold_source"} < row.keys()
    assert {"regions", "prompts", "method", "error"} < row.keys()
    assert result.overlay().size == (5, 6)


def test_overlay_of_an_error_says_why() -> None:
    with pytest.raises(UsageError, match=r"a\.png has no map to draw: it is empty"):
        Result("a.png", error="it is empty").overlay()


def test_overlay_is_on_one_fixed_scale() -> None:
    """A picture at the scale's lower end stays as it is, wherever its own largest value lies; the same value looks the same."""
    image = np.full((4, 4, 3), 120, np.uint8)
    low = np.asarray(overlay(image, np.full((4, 4), 0.02, np.float32), (0.0, 1.0)))
    assert np.abs(low.astype(int) - 120).max() <= 1
    high = np.full((4, 4), 0.02, np.float32)
    high[0, 0] = 1
    mixed = np.asarray(overlay(image, high, (0.0, 1.0)))
    assert (mixed[1:] == low[1:]).all()
    assert np.abs(mixed[0, 0].astype(int) - 120).max() > 30
    beyond = np.asarray(overlay(image, np.full((4, 4), 7, np.float32), (0.0, 1.0)))
    assert (beyond == mixed[0, 0]).all()


def test_colours_darken_evenly() -> None:
    def lightness(colour: str) -> float:
        linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    steps = -np.diff([lightness(colour) for colour in colours(9)])
    assert steps.min() > 3
    assert steps.max() < 10


def test_thumbnail_never_enlarges() -> None:
    from PIL import Image

    assert thumbnail(Image.new("RGB", (1000, 10)), 320).size == (320, 3)
    assert thumbnail(Image.new("RGB", (5, 3)), 320).size == (5, 3)
    assert thumbnail(Image.new("RGB", (5000, 1)), 320).size == (320, 1)


def test_shortest() -> None:
    assert shortest(np.float32(0.1)) == 0.1


# ------------------------------------------------------------------ output names
def test_names_mirror_folders() -> None:
    names = OutputNames(["a/1.png", "b/1.png", "2.tar.png"])
    assert [names(name) for name in ("a/1.png", "b/1.png", "2.tar.png")] == ["a/1", "b/1", "2.tar"]


def test_names_that_would_collide_differ() -> None:
    given = ["a.png", "a.jpg", "A.png", "caf\u00e9.png", "cafe\u0301.png", "x.png/1.png", "x.jpg"]
    names = OutputNames(given)
    chosen = [names(name) for name in given]
    assert len({name.casefold() for name in chosen}) == len(given)
    assert chosen[0].startswith("a-")
    assert chosen[5] == "x.png/1"
    assert chosen[6].startswith("x-")  # masks/x.png would be a folder and a file
    assert [OutputNames(reversed(given))(name) for name in given] == chosen  # the order does not matter


def test_names_stay_inside_and_short() -> None:
    given = ["../../etc/passwd.png", "/abs/x.png", "n" * 246 + ".png", "\u00e4" * 120 + ".png", "new\nline.png", ".png"]
    names = OutputNames(given)
    chosen = [names(name) for name in given]
    assert chosen[:2] == ["etc/passwd", "abs/x"]
    assert all(len(part.encode()) <= 200 for name in chosen for part in name.split("/"))
    assert chosen[4].startswith("new\\nline-")
    assert chosen[5] == ".png"


def test_printable() -> None:
    assert printable("a\x1b[31m\u00e9\udcff") == "a\\x1b[31m\u00e9\\udcff"


def test_counts_are_said_in_words() -> None:
    assert [many(count, "picture") for count in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert [many(count, "category", "categories") for count in (1, 3)] == ["1 category", "3 categories"]


# ------------------------------------------------------------------ shown and kept
def made(name: str = "sub/a.jpg", **more: object) -> Result:
    values = np.zeros((20, 30), np.float32)
    values[5:9, 5:11] = 0.9
    regions, mask = find_regions(values, 0.5)
    known = {"pred_score": 0.9, "pred_label": "anomalous", "threshold": 0.5, "regions": regions, "pred_mask": mask}
    image = np.full((20, 30, 3), 90, np.uint8)
    return Result(name, **({"image": image, "anomaly_map": values, "prompts": {"normal": ("a lamp",)}} | known | more))


def test_a_result_is_one_line() -> None:
    assert repr(made()) == "Result('sub/a.jpg', pred_score=0.9, pred_label='anomalous', regions=1)"
    assert repr(Result("a\nb.png", error="empty")) == "Result('a\\nb.png', error='empty')"
    assert repr(Result("a.png")) == "Result('a.png', pred_score=None, pred_label=None, regions=0)"


def test_a_notebook_shows_picture_score_and_verdict() -> None:
    result = made("<b>&'.png", notes=("1 < 2",), p_value=0.04)
    html = result._repr_html_()
    assert "&lt;b&gt;&amp;&#x27;.png</strong>: anomalous, score 0.9, threshold 0.5, p = 0.04, 1 region<br>1 &lt; 2" in html
    assert "<b>" not in html
    stored = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert stored == result._repr_png_()
    with Image.open(io.BytesIO(stored)) as picture:
        assert picture.size == (30, 20)
    large = made(image=np.zeros((2000, 1000, 3), np.uint8), anomaly_map=np.zeros((2000, 1000), np.float32))
    with Image.open(io.BytesIO(large._repr_png_() or b"")) as picture:
        assert picture.size == (320, 640)
    failed = Result("a.png", error="<empty>")
    assert failed._repr_png_() is None
    assert failed._repr_html_() == "<figure><figcaption><strong>a.png</strong>: error<br>&lt;empty&gt;</figcaption></figure>"


def test_saved_into_a_folder_or_under_a_path(tmp_path: Path) -> None:
    result = made()
    overlay, facts = result.save(tmp_path / "new")
    assert (overlay, facts) == (tmp_path / "new/sub/a.jpg.overlay.png", tmp_path / "new/sub/a.jpg.json")
    assert json.loads(facts.read_text(encoding="utf-8")) == result.as_dict()
    with Image.open(overlay) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(result.overlay()))
    assert made("sub/a.png").save(tmp_path / "new")[0] != overlay
    assert result.save(str(tmp_path / "b.png")) == (tmp_path / "b.png", tmp_path / "b.json")
    assert Result("../../x.png", error="empty").save(tmp_path) == (tmp_path / "x.png.json",)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png", ".json"}


def test_saving_never_replaces_the_picture(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(source)
    before = source.read_bytes()
    result = made("a.png", path=source)
    with pytest.raises(UsageError, match=r"is the picture that was scored\. Give another path"):
        result.save(source)
    assert result.save(tmp_path)[0] == tmp_path / "a.png.overlay.png"
    assert source.read_bytes() == before
    with pytest.raises(UsageError, match=r"is written as PNG; '.*' ends in \.jpg\. Give a \.png path, or a folder"):
        result.save(tmp_path / "a.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file without an ending"):
        result.save(tmp_path / "file")


def test_a_result_travels_between_processes() -> None:
    result = made(notes=("turned",), roi_mask=np.ones((20, 30), bool))
    again = pickle.loads(pickle.dumps(result))
    assert again.as_dict() == result.as_dict()
    assert np.array_equal(again.anomaly_map, result.anomaly_map)
    assert np.array_equal(np.asarray(again.overlay()), np.asarray(result.overlay()))
