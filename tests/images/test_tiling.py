"""Tiles and padding: cutting and joining lose nothing, and what is found lies where it is in the picture."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from brightness import SIDE, Brightness, BrightnessBackbone, picture, registered_methods  # noqa: F401
from PIL import Image

from zsad.errors import ImageError, UsageError
from zsad.images import stitching
from zsad.images.reading import list_images
from zsad.images.roi import Window
from zsad.images.stitching import Canvas, join
from zsad.images.tiling import Geometry, Place, _starts, piece, read_geometry
from zsad.inference.inspector import Inspector


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cut(geometry: Geometry, values: np.ndarray, side: int | None = None) -> tuple[list[np.ndarray], list[Place], Window]:
    """Pieces, their places, and the window that they come from."""
    pieces, places = zip(*geometry.cut(values, side), strict=True)
    return list(pieces), list(places), geometry.window((values.shape[0], values.shape[1]))


GEOMETRIES: list[dict[str, Any]] = [
    {"tile": 64},
    {"tile": "100x50", "overlap": 0.0},
    {"tile": (40, 90), "overlap": 0.5},
    {"tile": 48, "overlap": 0.9},
    {"tile": 77, "overlap": 0.1, "roi": "20,10,130,100"},
    {"keep_aspect": True},
    {"tile": "64x128", "overlap": 0.3, "keep_aspect": True},
]


# ------------------------------------------------------------------ cutting and joining
@pytest.mark.parametrize("size", [(120, 140), (101, 333), (260, 133)])
@pytest.mark.parametrize("given", GEOMETRIES, ids=str)
def test_joining_the_cut_gives_it_back(given: dict[str, Any], size: tuple[int, int]) -> None:
    values = noise(*size)
    pieces, places, view = cut(read_geometry(**given), values)
    maps = [one[..., 0].astype(np.float32) / 255 for one in pieces]
    x0, y0, x1, y1 = view.box
    joined = join(maps, places, view)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, values[y0:y1, x0:x1, 0] / 255, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("given", GEOMETRIES, ids=str)
@pytest.mark.parametrize("cells", [(8, 8), (37, 5), (200, 300)])
def test_a_constant_stays_constant(given: dict[str, Any], cells: tuple[int, int]) -> None:
    _, places, view = cut(read_geometry(**given), noise(150, 190))
    joined = join([np.full((2, *cells), 0.7, np.float32)] * len(places), places, view)
    np.testing.assert_allclose(joined, 0.7, rtol=1e-6)


def test_blending_by_hand() -> None:
    """Tiles of 4 that share 2 of 6 pixels: in the shared part the second tile's share rises linearly, 1/4 and 3/4."""
    places = [Place((0, 0, 4, 1), ramp=(2, 0)), Place((2, 0, 6, 1), ramp=(2, 0))]
    maps = [np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)]
    joined = join(maps, places, Window((1, 6), (0, 0, 6, 1)))
    np.testing.assert_allclose(joined, [[0, 0, 0.25, 0.75, 1, 1]], atol=1e-7)


def test_padding_is_cut_off_by_hand() -> None:
    """A 4 x 2 picture in the middle of a 4 x 4 square: of the square's map the middle rows remain."""
    place = Place((0, 0, 4, 2), padding=(0, 1, 0, 1))
    values = np.repeat(np.array([[9], [1], [2], [9]], np.float32), 4, axis=1)
    assert join([values], [place], Window((2, 4), (0, 0, 4, 2))).tolist() == [[1] * 4, [2] * 4]


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_tiles_cover_with_the_overlap_and_are_few(overlap: float) -> None:
    for tile in (32, 50, 101):
        for length in range(tile, 5 * tile, 7):
            starts = _starts(length, tile, overlap)
            steps = np.diff(starts)
            assert (starts[0], starts[-1] + tile) == (0, length)
            assert all(0 < step <= max(1, tile * (1 - overlap) + 1e-9) for step in steps)
            fewer = len(starts) - 1  # tiles at the largest step do not reach the end with one less
            assert fewer == 0 or tile + (fewer - 1) * int(tile * (1 - overlap) + 1e-9) < length


def test_places_and_pieces() -> None:
    geometry = read_geometry(100, 0.25, "50,20,300,120", keep_aspect=False)
    boxes = [place.box for place in geometry.places((200, 400))]
    assert boxes == [(50, 20, 150, 120), (125, 20, 225, 120), (200, 20, 300, 120)]
    assert read_geometry("512x256").tile == (512, 256)
    assert [place.box for place in read_geometry(512).places((60, 700))] == [(0, 0, 512, 60), (188, 0, 700, 60)]
    seen = piece(noise(3, 5), (0, 0), read_geometry(keep_aspect=True).places((3, 5))[0])
    assert seen.shape == (5, 5, 3)
    assert (seen[0] == seen[1]).all(), "mirrored with the border row repeated"


def test_large_maps_are_joined_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stitching, "MAP_CELLS", 1000)
    values = np.zeros((400, 900, 3), np.uint8)
    values[300:340, 700:760] = 255
    pieces, places, view = cut(read_geometry(128), values)
    joined = join([one[..., 0].astype(np.float32) for one in pieces], places, view)
    assert 900 <= joined.size <= 1050
    peak = np.unravel_index(joined.argmax(), joined.shape)
    assert 300 <= (peak[0] + 0.5) * 400 / joined.shape[0] <= 340
    assert 700 <= (peak[1] + 0.5) * 900 / joined.shape[1] <= 760
    np.testing.assert_allclose(joined.mean(), values.mean(), rtol=0.02)


def test_outside_a_polygon_the_map_repeats_the_inside() -> None:
    geometry = read_geometry(roi="polygon:0,0 64,0 0,64")
    view, (place,) = geometry.window((64, 64)), geometry.places((64, 64))
    values = np.full((32, 32), 9, np.float32)
    y, x = np.mgrid[:32, :32]
    values[y + x <= 31] = (y + x)[y + x <= 31] / 100
    joined = join([values], [place], view)
    assert joined.max() == np.float32(0.31)
    assert (joined[y + x <= 30] == values[y + x <= 30]).all()


def test_tiles_outside_a_polygon_are_left_out() -> None:
    geometry = read_geometry(64, 0.0, "polygon:0,0 256,0 256,64 64,64 64,256 0,256")
    places = geometry.places((256, 256))
    assert [place.box[:2] for place in places] == [(0, 0), (64, 0), (128, 0), (192, 0), (0, 64), (0, 128), (0, 192)]
    joined = join([np.full((16, 16), 0.5, np.float32)] * 7, places, geometry.window((256, 256)))
    assert joined.shape == (64, 64)
    np.testing.assert_allclose(joined, 0.5)


# ------------------------------------------------------------------ in front of a detector
def same(one: Any, other: Any) -> None:
    """Bit for bit the same answer."""
    assert one.error is None
    assert one.score == other.score
    assert np.array_equal(one.model_map, other.model_map)
    assert np.array_equal(one.word_maps, other.word_maps)


def scored(source: Any, **settings: Any) -> list[Any]:
    return list(Inspector("brightness", **settings).scored(list_images(source)))


@pytest.mark.parametrize(
    "settings",
    [
        {"tile": 90},
        {"tile": (90, 70), "overlap": 0.5},
        {"tile": 4000},
        {"roi": (0, 0, 90, 70)},
        {"roi": "0,0,100%,100%"},
        {"roi": "polygon:0,0 100%,0 100%,100% 0,100%"},
        {"roi": np.ones((70, 90))},
    ],
    ids=str,
)
def test_one_tile_and_a_whole_roi_change_nothing(settings: dict[str, Any]) -> None:
    pictures = [noise(70, 90, seed) for seed in range(5)]
    for one, other in zip(scored(pictures, **settings), scored(pictures), strict=True):
        same(one, other)
    (result,), (plain,) = Inspector("brightness", **settings)(pictures[0]), Inspector("brightness")(pictures[0])
    assert np.array_equal(result.anomaly_map, plain.anomaly_map)
    assert result.roi_mask is None


def test_a_square_picture_keeps_its_aspect_anyway() -> None:
    same(scored(noise(70, 70), keep_aspect=True)[0], scored(noise(70, 70))[0])


def test_a_small_defect_in_a_huge_picture_is_found_at_its_place() -> None:
    large = picture(0.2, (1203, 405, 1215, 417), (2000, 900))
    (whole,) = Inspector("brightness", pixel_threshold=0.7)(large)
    assert (whole.pred_score < 0.5, whole.regions) == (True, ())
    (tiled,) = Inspector("brightness", tile=64, pixel_threshold=0.7)(large)
    assert tiled.pred_score == 1.0
    (region,) = tiled.regions
    assert np.abs(np.subtract(region.box, (1203, 405, 1215, 417))).max() <= 1
    assert tiled.anomaly_map.shape == (900, 2000)
    assert tiled.anomaly_map[380, 1203] == pytest.approx(51 / 255)


def test_words_follow_the_tiles() -> None:
    """The detector calls a tile's left half "left": in a picture of two tiles the words alternate."""
    spots = picture(0.2, (8, 20, 24, 40), (128, 64))
    pixels = np.array(spots)
    pixels[20:40, 40:56] = pixels[20:40, 72:88] = 255
    (result,) = Inspector("brightness", tile=64, overlap=0.0, pixel_threshold=0.6)(pixels)
    assert [(region.box[0], region.suggested_word) for region in result.regions] == [(8, "left"), (40, "right"), (72, "left")]


class Recording(BrightnessBackbone):
    """Resizes as the real backbones do, and keeps the shapes of the pictures that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def preprocess(self, rgb: np.ndarray) -> torch.Tensor:
        self.seen.append(rgb.shape)
        small = Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("turned", [False, True])
def test_keep_aspect_shows_a_square_and_finds_the_place(turned: bool) -> None:
    backbone = Recording()
    inspector = Inspector(Brightness(backbone), keep_aspect=True, pixel_threshold=0.7)
    strip, box = picture(0.2, (160, 16, 192, 32), (256, 64)), (160, 16, 192, 32)
    if turned:
        strip, box = strip.transpose(Image.Transpose.TRANSPOSE), (16, 160, 32, 192)
    (result,) = inspector(strip)
    assert backbone.seen == [(32, 256, 3) if turned else (256, 32, 3)], "shrunk along the strip, padded across"
    assert result.anomaly_map.shape == ((256, 64) if turned else (64, 256))
    assert np.abs(np.subtract(result.regions[0].box, box)).max() <= 4
    assert len(result.regions) == 1, "the mirrored copies in the padding are cut off"


def test_keep_aspect_is_padding_by_hand() -> None:
    wide = noise(64, 192)
    padded = np.pad(wide, ((64, 64), (0, 0), (0, 0)), mode="symmetric")
    (one,) = Inspector(Brightness(Recording()), keep_aspect=True).scored(list_images([wide]))
    (square,) = Inspector(Brightness(Recording())).scored(list_images([padded]))
    assert one.score == square.score
    rows = square.model_map[10:22]  # cells 10.67 to 21.33 of 32 show the picture
    assert one.model_map.shape == (11, 32)
    centres = (np.arange(11) + 0.5) * 64 / 11 / 6 + 64 / 6 - 0.5
    expected = np.stack([np.interp(centres, np.arange(10, 22), column) for column in rows.T], 1)
    np.testing.assert_allclose(one.model_map, expected, atol=1e-6)


def padded_and_squashed(values: np.ndarray, side: int, first: int | None) -> np.ndarray:
    """A picture on its way to (side, side, 3): shrunk to ``first`` before it is padded, or padded as it is."""
    (seen,), _, _ = cut(read_geometry(keep_aspect=True), values, first)
    return np.asarray(Image.fromarray(seen).resize((side, side), Image.Resampling.BICUBIC), np.int16)


@pytest.mark.parametrize("size", [(50, 400), (120, 130), (33, 1000)])
def test_shrinking_before_padding_gives_the_same_pixels(size: tuple[int, int]) -> None:
    """Wide: the same bytes, since Pillow filters along the rows first. Tall: the axes' order is turned, and in between values
    are rounded to whole levels: at most two levels of 255, and a tenth on average."""
    values = noise(*size)
    assert np.array_equal(padded_and_squashed(values, 32, 32), padded_and_squashed(values, 32, None))
    tall = values.swapaxes(0, 1)
    away = np.abs(padded_and_squashed(tall, 32, 32) - padded_and_squashed(tall, 32, None))
    assert away.max() <= 2
    assert away.mean() < 0.2


def test_a_line_scan_takes_memory_by_its_length_not_its_square() -> None:
    """10 000 x 500 pixels, 15 MB: its square has 300 MB, the padded strip of 32 columns 1 MB."""
    strip = picture(0.2, (7000, 100, 7400, 400), (10_000, 500))
    backbone = Recording()
    inspector = Inspector(Brightness(backbone), keep_aspect=True, pixel_threshold=0.5)
    tracemalloc.start()
    (result,) = inspector(strip)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert backbone.seen == [(10_000, 32, 3)]
    assert peak < 150e6
    assert np.abs(np.subtract(result.regions[0].box, (7000, 100, 7400, 400))).max() <= 10_000 / 32


def test_pieces_fill_batches_and_are_made_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, ahead, made, lock = [], [], [0], threading.Lock()
    preprocess, encode = BrightnessBackbone.preprocess, Brightness.encode

    def counted(self: BrightnessBackbone, rgb: np.ndarray) -> torch.Tensor:
        with lock:
            made[0] += 1
        return preprocess(self, rgb)

    def watched(self: Brightness, images: torch.Tensor) -> Any:
        sizes.append(len(images))
        ahead.append(made[0] - sum(sizes))
        return encode(self, images)

    monkeypatch.setattr(BrightnessBackbone, "preprocess", counted)
    monkeypatch.setattr(Brightness, "encode", watched)
    pictures = [picture(0.2, size=(64 * n, 64)) for n in (1, 40, 3, 1, 2)]
    answers = scored(pictures, tile=64, overlap=0.0, batch_size=4)
    assert [one.score for one in answers] == [pytest.approx(0.2)] * 5
    assert sizes == [4] * 11 + [1, 2], "pieces of four pictures in a row, then those of the last"
    assert max(ahead) <= 4 + 2 + 1, "of forty tiles no more are at hand than the next pass takes"


def test_an_unreadable_picture_moves_no_group() -> None:
    pictures = [noise(64, 128, seed) for seed in range(7)]
    fine = scored(pictures, tile=64, batch_size=3)
    broken = scored([*pictures[:1], np.zeros((3, 3, 9)), *pictures[2:]], tile=64, batch_size=3)
    assert "has shape (3, 3, 9)" in broken[1].error
    for index in (0, 2, 3, 4, 5, 6):
        same(broken[index], fine[index])


def test_one_tile_that_is_not_finite_is_an_error() -> None:
    class Dark(Brightness):
        def score(self, features: Any, context: Any) -> Any:
            found = super().score(features, context)
            found.pred_score[found.pred_score < 0.1] = torch.nan
            return found

    pixels = np.array(picture(0.5, size=(256, 64)))
    pixels[:, 64:128] = 0
    inspector = Inspector(Dark(BrightnessBackbone()), tile=64, overlap=0.0)
    good, bad = inspector([picture(0.5, size=(256, 64)), Image.fromarray(pixels)])
    assert good.error is None
    assert bad.error == "the method gave a score or a map that is no finite number"
    assert (bad.pred_score, bad.anomaly_map) == (None, None)


# ------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 31}, "The tile is 31; its sides have to be at least 32 pixels"),
        ({"tile": "512x8"}, "The tile is '512x8'; its sides have to be at least 32 pixels"),
        ({"tile": "big"}, "The tile is 'big'. Give its side in pixels of the picture, such as 512, or 512x256"),
        ({"tile": "1x2x3"}, "The tile is '1x2x3'. Give its side"),
        ({"tile": 40.5}, "The tile is 40.5. Give its side"),
        ({"tile": True}, "The tile is True. Give its side"),
        ({"tile": 64, "overlap": 0.95}, "The overlap is 0.95; give a share of the tile from 0 to 0.9"),
        ({"tile": 64, "overlap": -0.1}, "The overlap is -0.1"),
        ({"tile": 64, "overlap": float("nan")}, "The overlap is nan"),
        ({"overlap": 0.5}, "An overlap of 0.5 was given without a tile size"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Inspector("brightness", **settings)
    assert message in str(caught.value)


def test_too_many_tiles_are_an_error_of_the_picture() -> None:
    with pytest.raises(ImageError, match=r"3000 x 3000 pixels and would be cut into \d+ tiles, more than 20000.*larger tile"):
        read_geometry(32, 0.9).places((3000, 3000))


def test_a_canvas_without_tiles_is_an_error() -> None:
    with pytest.raises(UsageError, match="A canvas without a tile has no map"):
        Canvas(Window((4, 4), (0, 0, 4, 4))).done()


def test_describe() -> None:
    assert Inspector("brightness").describe()["geometry"] is None
    assert read_geometry(64, roi="1,2,30%,40").describe() == {
        "tile": [64, 64],
        "overlap": 0.25,
        "roi": "box:1,2 30%,40",
        "keep_aspect": False,
    }
