"""Reading pictures: one test per rule of ``zsad.images.reading``."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps

from zsad.errors import ImageError, SourceNotFound, UsageError
from zsad.images import decoding
from zsad.images.reading import SUFFIXES, ImageRef, Picture, list_images, load_image

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 8, 3), dtype=np.uint8)
NOISE = RNG.integers(0, 256, (40, 72, 3), dtype=np.uint8)
DEEP_NOISE = RNG.integers(0, 65536, (40, 72, 4), dtype=np.uint16)
DEEP = RNG.integers(0, 65536, (6, 9, 4), dtype=np.uint16)


def load(source: Any, **options: Any) -> Picture:
    (ref,) = list_images(source)
    return load_image(ref, **options)


def names(source: Any) -> list[str]:
    return [ref.name for ref in list_images(source)]


def png(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RGB if pixels is None else pixels).save(path, "PNG")
    return path


def failure(source: Any, **options: Any) -> str:
    """The sentence of an ImageError, which must be one line that names no folder."""
    with pytest.raises(ImageError) as caught:
        load(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    if isinstance(source, Path):
        assert str(source.parent) not in text
    return text


def png_chunks(width: int, height: int, bits: int, kind: int, data: bytes, interlaced: int = 0) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(pixels: np.ndarray, interlaced: bool = False) -> bytes:
    """A 16-bit PNG of 2, 3 or 4 channels, which Pillow cannot write; rows with the "sub" filter."""
    channels = pixels.shape[2]
    steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for y, x, down, right in steps if interlaced else [(0, 0, 1, 1)]:
        for row in pixels[y::down, x::right]:
            if not row.size:
                continue
            flat = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
            before = np.concatenate([np.zeros(2 * channels, np.uint8), flat[: -2 * channels]])
            data += b"\1" + (flat - before).tobytes()
    kind = {2: 4, 3: 2, 4: 6}[channels]
    return png_chunks(pixels.shape[1], pixels.shape[0], 16, kind, data, int(interlaced))


# ---------------------------------------------------------------- listing


def test_a_folder_is_listed_in_natural_order_with_its_sub_folders(tmp_path: Path) -> None:
    for name in ("10.png", "2.PNG", "1.Png", "b/1.png", "a/1.png", "a/.hidden.png", ".secret/1.png", "notes.txt"):
        png(tmp_path / name)
    (tmp_path / "empty.png").mkdir()
    png(tmp_path / "folder.png" / "in.jpeg")
    wanted = ["1.Png", "2.PNG", "10.png", "a/1.png", "b/1.png", "folder.png/in.jpeg"]
    assert names(tmp_path) == wanted
    assert names(str(tmp_path)) == wanted
    assert [ref.path for ref in list_images(tmp_path)] == [tmp_path / name for name in wanted]
    assert len({load_image(ref).ref for ref in list_images(tmp_path)}) == 6


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    png(tmp_path / "out" / "real.png")
    inside = tmp_path / "in"
    png(inside / "sub" / "1.png")
    (inside / "link.png").symlink_to(tmp_path / "out" / "real.png")
    (inside / "sub" / "up").symlink_to(inside)
    (inside / "self").symlink_to(inside / "self")
    (inside / "self.png").symlink_to(inside / "self.png")
    (inside / "gone.png").symlink_to(tmp_path / "nothing.png")
    (inside / "there").symlink_to(tmp_path / "out")
    refs = {ref.name: ref for ref in list_images(inside)}
    assert sorted(refs) == ["gone.png", "link.png", "self.png", "sub/1.png", "there/real.png"]
    assert load_image(refs["link.png"]).rgb.shape == RGB.shape
    for broken in ("gone.png", "self.png"):
        with pytest.raises(ImageError, match="cannot be read"):
            load_image(refs[broken])


def test_names_may_be_unicode_long_or_undecodable(tmp_path: Path) -> None:
    wanted = ["é" * 100 + ".png", "x" * 246 + ".png", "部品 1.png", "new\nline.png"]
    for name in wanted:
        png(tmp_path / name)
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes((tmp_path / wanted[0]).read_bytes())
    (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"no picture")
    (tmp_path / "caf%E9.png").write_bytes(b"no picture")
    refs = list(list_images(tmp_path))
    assert {"caf%E9.png", f"{tmp_path.name}/caf%E9.png", "bad%FF.png", *wanted} == {ref.name for ref in refs}
    for ref in refs:
        json.dumps(ref.name, ensure_ascii=False).encode()
        assert ref.path is not None
        assert ref.path.exists()
        if ref.path.read_bytes() == b"no picture":
            with pytest.raises(ImageError, match="starts with") as caught:
                load_image(ref)
            str(caught.value).encode()
        else:
            load_image(ref)


def test_equal_names_of_two_sources_become_unique(tmp_path: Path) -> None:
    for folder in ("good", "bad", "more/bad"):
        png(tmp_path / folder / "1.png")
    found = names([tmp_path / "good", tmp_path / "bad", tmp_path / "more" / "bad", tmp_path / "bad" / "1.png"])
    assert found == ["1.png", "bad/1.png", "bad~2/1.png", "bad~3/1.png"]


def test_pictures_in_memory_are_named_by_position(tmp_path: Path) -> None:
    file = png(tmp_path / "0000001")
    found = list(list_images([RGB, file, Image.fromarray(RGB), torch.zeros(3, 4, 5)]))
    assert [ref.name for ref in found] == ["0000000", f"{tmp_path.name}/0000001", "0000002", "0000003"]
    assert [ref.path for ref in found] == [None, file, None, None]
    assert len(set(found)) == 4


def test_glob_patterns(tmp_path: Path) -> None:
    for name in ("a/2.png", "a/10.png", "b/1.png", "b/notes.txt", "b/deep/3.PNG"):
        png(tmp_path / name)
    (tmp_path / "b" / "folder.png").mkdir()
    assert names(f"{tmp_path}/*/*.png") == ["a/2.png", "a/10.png", "b/1.png"]
    assert names(tmp_path / "**" / "*") == ["a/2.png", "a/10.png", "b/1.png", "b/deep/3.PNG"]
    assert names(str(tmp_path / "b" / "[0-9].png")) == ["1.png"]
    odd = png(tmp_path / "lot[1]" / "1.png")
    assert names(tmp_path / "lot[1]") == ["1.png"]
    assert names(odd) == ["1.png"]
    with pytest.raises(SourceNotFound, match=r"matches 2 entries and no picture; endings taken: \.bmp"):
        names(f"{tmp_path}/b/[nd]*")
    with pytest.raises(SourceNotFound, match=r"There is nothing at .*c'"):
        names(f"{tmp_path}/c/*.png")


def test_lists_nest_once_and_iterators_stay_lazy(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    assert names([tmp_path / "a", [RGB, RGB], (x for x in [RGB])]) == ["1.png", "0000001", "0000002", "0000003"]
    taken: list[int] = []

    def camera() -> Iterator[Any]:
        for k in range(1000):
            taken.append(k)
            yield None if k == 2 else tmp_path / "gone" if k == 3 else RGB

    refs = list_images(camera())
    assert not taken
    got = [next(refs) for _ in range(5)]
    assert len(taken) == 5
    assert [ref.name for ref in got] == [f"000000{k}" for k in range(5)]
    for ref, reason in ((got[2], "a NoneType"), (got[3], "nothing at")):
        with pytest.raises(ImageError, match=reason):
            load_image(ref)
    assert load_image(got[4]).rgb.shape == RGB.shape
    assert list(list_images(iter([]))) == []


@pytest.mark.parametrize("source", [None, 3, b"abc", {"a": 1}, {"x.png"}, [], (), [[[RGB]]], [RGB, None]])
def test_unknown_sources_say_what_is_taken(source: Any) -> None:
    with pytest.raises(SourceNotFound, match=r"No pictures can come from .*Give a picture file, a folder"):
        list_images(source)


def test_a_missing_path_names_its_neighbours(tmp_path: Path) -> None:
    png(tmp_path / "photos" / "screw_01.png")
    for missing in ("photo/screw_01.png", "photo", "Photos/x/y"):
        with pytest.raises(SourceNotFound, match=r"Did you mean .*photos'"):
            list_images(tmp_path / missing)
    with pytest.raises(SourceNotFound, match=r"screw_01\.png"):
        list_images([tmp_path / "photos", tmp_path / "photos" / "screw_1.png"])
    for empty in ("", "a\0b", "x" * 5000):
        with pytest.raises(SourceNotFound, match="nothing at"):
            list_images(empty)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="files seen: 0"):
        list_images(tmp_path)
    for name in ("a.txt", "b.txt", "c.csv", "Makefile"):
        (tmp_path / name).write_text("x")
    with pytest.raises(SourceNotFound, match=r"files seen: 4 \(2 .txt, 1 .csv, 1 without ending\); endings taken: .bmp"):
        list_images(tmp_path)


def test_a_folder_that_cannot_be_opened_is_one_failing_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "1.png")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first, second = list_images(tmp_path)
    assert (first.name, second.name) == ("a", "b/1.png")
    with pytest.raises(ImageError, match=r"^'a' is a folder that cannot be opened: Permission denied\. Check its"):
        load_image(first)
    with pytest.raises(SourceNotFound, match="cannot be opened: Permission denied"):
        list_images(tmp_path / "a")


# ---------------------------------------------------------------- 8-bit files


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "TIFF", "ppm", "webp", "jp2"])
def test_lossless_files_round_trip(tmp_path: Path, ending: str) -> None:
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"x.{ending}", **options)
    picture = load(tmp_path)
    assert np.array_equal(picture.rgb, RGB)
    assert picture.notes == ()
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.flags.writeable
    assert picture.rgb.flags.c_contiguous


def test_every_ending_has_its_decoder() -> None:
    known = Image.registered_extensions()
    assert {known[ending] for ending in SUFFIXES} == set(decoding._KINDS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "RGB"])
def test_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (6, 4), (200, 100, 50)).convert(mode)
    wanted = np.array(image.convert("RGB")) if mode in ("1", "P") else np.full((4, 6, 3), (200, 100, 50))
    wanted = np.repeat(np.array(image)[..., None], 3, 2) if mode == "L" else wanted
    sources: list[Any] = [image]
    if mode not in ("HSV", "YCbCr"):  # which no file stores, or not with every Pillow
        image.save(tmp_path / "x.tif")
        sources.append(tmp_path)
    for source in sources:
        assert np.abs(load(source).rgb.astype(int) - wanted).max() <= (3 if mode in ("YCbCr", "HSV") else 0)


def test_lab_by_its_definition(tmp_path: Path) -> None:
    # CIELAB at D50: white is (100, 0, 0), the red of sRGB (54.3, 80.8, 69.9); L is stored as 255 L / 100, a and b + 128
    for stored, wanted in (((255, 128, 128), (255, 255, 255)), ((138, 209, 198), (255, 0, 0))):
        image = Image.new("LAB", (6, 4), stored)
        image.save(tmp_path / "x.tif")
        for source in (image, tmp_path):
            assert np.abs(load(source).rgb.astype(int) - wanted).max() <= 6


def test_inverted_adobe_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    assert np.abs(load(tmp_path).rgb.astype(int) - (255, 0, 0)).max() <= 4


def test_grey_is_repeated_and_one_pixel_is_enough(tmp_path: Path) -> None:
    assert load(png(tmp_path / "x.png", np.array([[77]], np.uint8))).rgb.tolist() == [[[77, 77, 77]]]


def test_alpha_is_composited_on_white_and_noted(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    wanted = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    for source in (png(tmp_path / "x.png", rgba), rgba, Image.fromarray(rgba)):
        picture = load(source)
        assert picture.rgb.tolist() == wanted
        assert picture.notes == ("alpha: composited on white (66.67% of the pixels are not opaque)",)
    rgba[..., 3] = 255
    assert load(rgba).notes == ()
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8))
    assert load(grey).rgb[..., 0].tolist() == load(grey.convert("La")).rgb[..., 0].tolist() == [[9, 255]]


def test_a_fourth_channel_that_is_zero_everywhere_is_no_cut_out(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 0], [40, 50, 60, 0]]], np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for source in (png(tmp_path / "x.png", rgba), tmp_path / "x.tif", rgba, Image.fromarray(rgba)):
        picture = load(source)
        assert picture.rgb.tolist() == rgba[..., :3].tolist()
        assert picture.notes == ("a fourth channel that is zero everywhere was left out",)


def test_palette_transparency_counts_as_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for transparency in (1, b"\xff\x00\xff"):
        image.save(tmp_path / "x.png", transparency=transparency)
        picture = load(tmp_path)
        assert picture.rgb.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
        assert "composited on white" in picture.notes[0]
    Image.fromarray(RGB).save(tmp_path / "x.png", transparency=tuple(RGB[0, 0].tolist()))
    assert load(tmp_path).rgb[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.kron(RGB, np.ones((16, 16, 1), np.uint8)))
    image.save(tmp_path / f"x.{ending}", exif=exif)
    with Image.open(tmp_path / f"x.{ending}") as stored:
        wanted = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
        in_memory = load(stored.copy() if ending == "tif" else stored).rgb
    picture = load(tmp_path)
    assert np.array_equal(picture.rgb, wanted)
    assert np.array_equal(in_memory, wanted)
    if ending != "tif":  # Pillow turns a TIFF while reading it
        assert bool(picture.notes) == (2 <= orientation <= 8)


def test_orientation_by_hand_and_in_deep_tiff(tmp_path: Path) -> None:
    corner = np.array([[4000, 0], [0, 0], [0, 0]], np.uint16)  # the stored first pixel
    upright = {1: (0, 0), 2: (0, 1), 3: (2, 1), 4: (2, 0), 5: (0, 0), 6: (0, 2), 7: (1, 2), 8: (1, 0)}
    for orientation, place in upright.items():
        tifffile.imwrite(tmp_path / "x.tif", corner, extratags=[(274, "H", 1, orientation, True)])
        rgb = load(tmp_path).rgb
        assert rgb.shape == ((3, 2, 3) if orientation < 5 else (2, 3, 3))
        assert tuple(np.argwhere(rgb[..., 0])[0]) == place


def test_broken_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert np.array_equal(load(tmp_path).rgb, RGB)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_of_many_frames_is_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], **options)
    picture = load(tmp_path)
    assert (picture.rgb == (255, 0, 0)).all()
    assert picture.notes[0] in ("animated: first of 3 frames", "multi-page: first of 3 pages")
    assert picture.notes[0].startswith("multi") == (ending == "tif")


# ---------------------------------------------------------------- deeper than 8 bits


def expected(values: np.ndarray, high: float) -> np.ndarray:
    """The rule in exact integers: round(255 v / high)."""
    return np.array([(2 * 255 * int(v) + int(high)) // (2 * int(high)) for v in values.ravel()]).reshape(values.shape)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("container", ["array", "png", "tif", "zip.tif", "lzw.tif", "big.tif", "pillow", "int32", "int64"])
def test_integers_by_the_bits_in_use(tmp_path: Path, bits: int, container: str) -> None:
    ramp = np.linspace(0, 2**bits - 1, 2 ** min(bits, 12)).round().astype(np.uint16).reshape(16, -1)
    source: Any = ramp
    if container == "png":
        source = png(tmp_path / "x.png", ramp)
    elif container == "lzw.tif":
        source = tmp_path / "x.tif"
        Image.fromarray(ramp).save(source, compression="tiff_lzw")
    elif container.endswith("tif"):
        source = tmp_path / "x.tif"
        tifffile.imwrite(
            source,
            ramp,
            compression="zlib" if "zip" in container else None,
            byteorder=">" if "big" in container else "<",
        )
    elif container == "pillow":
        source = Image.fromarray(ramp)
    elif container.startswith("int"):
        source = ramp.astype(container)
    picture = load(source)
    assert np.array_equal(picture.rgb[..., 0], expected(ramp, 2**bits - 1))
    assert picture.rgb.max() == 255
    size = container[3:] if container.startswith("int") else "16"
    assert picture.notes == (f"{size}-bit: range 0..{2**bits - 1} ({bits} bits used) mapped to 0..255",)


@pytest.mark.parametrize("seed", range(20))
def test_never_white_by_saturation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, rng.integers(300, 4096), (30, 30)).astype(np.uint16)
    rgb = load(values).rgb[..., 0].astype(int)
    order = np.argsort(values, axis=None)
    assert (np.diff(rgb.ravel()[order]) >= 0).all()
    top = {1: 255, 2: 1023, 3: 4095}[max(1, int(values.max() > 255) + int(values.max() > 1023) + 1)]
    assert (values[rgb == 255] > top * (1 - 0.51 / 255)).all()
    assert np.array_equal(rgb, expected(values, top))


def test_eight_bit_data_repeated_to_sixteen_bits_comes_back() -> None:
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(load(eight * 257).rgb[..., 0], eight)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["array", "png", "interlaced", "tif", "zip", "planar", "planar zip", "big", "tiles", "lzw"])
def test_sixteen_bit_colour_keeps_its_bits(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = (DEEP[..., :channels] >> 4).copy()
    pixels[0, 0] = 4095
    pixels[..., 3:] = 65535
    path: Any = tmp_path / "x.tif"
    planar = {"planarconfig": "separate"} if "planar" in kind else {}
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, **planar}
    if kind == "array":
        path = pixels
    elif kind in ("png", "interlaced"):
        path = tmp_path / "x.png"
        path.write_bytes(png16(pixels, kind == "interlaced"))
    elif kind == "lzw":
        tifffile.imwrite(path, pixels, compression="zlib", **options)  # as if tifffile could not undo it
        data = decoding._from_tiff
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "_from_tiff", refuse_compression)
            assert np.array_equal(load(path).rgb, expected(pixels[..., :3], 4095))
        assert decoding._from_tiff is data
        return
    else:
        options |= {"compression": "zlib"} if "zip" in kind else {}
        options |= {"byteorder": ">"} if kind == "big" else {"tile": (16, 16)} if kind == "tiles" else {}
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0) if planar else pixels, **options)
    picture = load(path)
    assert np.array_equal(picture.rgb, expected(pixels[..., :3], 4095))
    assert picture.notes == ("16-bit: range 0..4095 (12 bits used) mapped to 0..255",)


def refuse_compression(*_: Any) -> None:
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_grey_with_alpha(tmp_path: Path, interlaced: bool) -> None:
    pixels = DEEP[..., :2].copy()
    pixels[..., 1] = 65535
    pixels[0, 0, 1] = 0
    (tmp_path / "x.png").write_bytes(png16(pixels, interlaced))
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    wanted = expected(pixels[..., 0], 65535)
    wanted[0, 0] = 255
    for ref in list_images(tmp_path):
        assert np.array_equal(load_image(ref).rgb[..., 1], wanted)


def test_tiff_kinds_that_pillow_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    unit = (DEEP / 65535).astype(np.float32)
    for pixels in (unit[..., :3], unit[..., 0], unit[..., 0].astype(np.float64), unit[..., 0].astype(np.float16)):
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        got = load(path).rgb if pixels.ndim == 3 else load(path).rgb[..., 0]
        assert np.abs(got - 255.0 * pixels).max() <= 0.51
    tifffile.imwrite(path, DEEP[..., 0].astype(np.uint32))
    assert np.array_equal(load(path).rgb[..., 0], expected(DEEP[..., 0], 65535))
    tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite")
    assert np.array_equal(load(path).rgb[..., 0], 255 - expected(DEEP[..., 0], 65535))
    tifffile.imwrite(path, DEEP, photometric="rgb", extrasamples=["assocalpha"])
    premultiplied = load(path).rgb
    assert (premultiplied >= 254 - expected(DEEP[..., 3:], 65535)).all()
    tifffile.imwrite(path, DEEP, photometric="rgb", extrasamples=["unspecified"])
    assert "left out" in load(path).notes[0]
    tifffile.imwrite(path, np.concatenate([DEEP, DEEP], 2), photometric="minisblack", planarconfig="contig")
    assert "only grey and RGB are read" in failure(path)
    tifffile.imwrite(path, RNG.integers(0, 9, (3, 6, 9)).astype(np.uint16), photometric="minisblack")
    assert load(path).notes[0] == "multi-page: first of 3 pages"


def test_a_missing_codec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "x.tif", DEEP[..., :3].astype(np.float32), photometric="rgb")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse_compression)
    assert "pip install imagecodecs" in failure(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("values", "wanted", "words"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255], "range 0..1 (by its values)"),
        ([0.0, 2.0, 254.6], [0, 2, 255], "range 0..255 (by its values)"),
        ([0.0, 4095.0, 1.0], [0, 255, 0], "range 0..4095 (12 bits used)"),
        ([0.0, 65535.4, 257.0], [0, 255, 1], "range 0..65535 (16 bits used)"),
    ],
)
@pytest.mark.parametrize("kind", ["float32", "float64", "F", "tensor"])
def test_float_rule(values: list[float], wanted: list[int], words: str, kind: str) -> None:
    array = np.array([values])
    sources = {"F": lambda: Image.fromarray(array.astype(np.float32)), "tensor": lambda: torch.tensor(array)}
    picture = load(sources.get(kind, lambda: array.astype(kind))())
    assert picture.rgb[0, :, 2].tolist() == wanted
    assert words in picture.notes[0]
    assert "float" in picture.notes[0]


@pytest.mark.parametrize(
    "values", [[-1.0, 0.5], [np.nan, 0.5], [np.inf, 0.5], [-np.inf, 1], [0.0, 65536.0], [-0.001, 1.0], [0, 1e300]]
)
def test_values_without_a_safe_rule_ask_for_value_range(values: list[float]) -> None:
    array = np.array([values])
    assert "Give value_range=(low, high)" in failure(array)
    picture = load(array, value_range=(0, 1))
    finite = np.where(np.isfinite(array), array, 0)
    assert picture.rgb[0, :, 0].tolist() == np.rint(np.clip(finite[0], 0, 1) * 255).astype(int).tolist()
    assert len(picture.notes) == 2


def test_value_range_holds_for_deep_data_only() -> None:
    deep = np.array([[100, 500, 1100, 3000]], np.uint16)
    picture = load(deep, value_range=(100, 1100))
    assert picture.rgb[0, :, 0].tolist() == [0, 102, 255, 255]
    assert picture.notes == (
        "16-bit: range 100..1100 (given) mapped to 0..255",
        "25.00% of the values lie outside the range and were cut",
    )
    assert np.array_equal(load(RGB, value_range=(0, 4095)).rgb, RGB)
    assert load(np.full((2, 2), np.nan), value_range=(5, 6)).notes[1] == "values that are not finite (4) are taken as 5"
    for wrong in ((1, 1), (2, 1), (0, np.inf), (np.nan, 1)):
        with pytest.raises(UsageError, match="the lower one first"):
            load(deep, value_range=wrong)


# ---------------------------------------------------------------- arrays and tensors


def test_arrays_of_every_shape_and_kind() -> None:
    grey = RGB[..., 0]
    for source in (grey, grey[..., None], torch.tensor(grey), torch.tensor(grey)[None], np.asfortranarray(grey)):
        assert np.array_equal(load(source).rgb, np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(load(torch.tensor(RGB).permute(2, 0, 1)).rgb, RGB)
    assert np.array_equal(load(RGB > 99).rgb, (RGB > 99) * 255)
    unit = torch.tensor(RGB).permute(2, 0, 1) / 255
    assert np.array_equal(load(unit.requires_grad_()).rgb, RGB)
    assert load(torch.ones(3, 2, 2, dtype=torch.bfloat16)).rgb.min() == 255


def test_a_picture_never_shares_memory_with_its_source() -> None:
    for source in (RGB.copy(), np.repeat(RGB[..., :1], 3, 2), RGB[..., 0].copy()):
        assert not np.shares_memory(load(source).rgb, source)


@pytest.mark.parametrize("shape", [(3, 40, 50), (2, 3, 4, 5), (7,), (4, 4, 2), (4, 4, 5), ()])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    assert "has shape" in failure(np.zeros(shape, np.uint8))


def test_wrong_kinds_and_empty_arrays_are_refused() -> None:
    for dtype in (complex, object, "M8[s]", "U3"):
        assert "Give numbers" in failure(np.zeros((2, 2), dtype))
    for shape in ((0, 5), (5, 0, 3), (0, 0)):
        assert "has no pixels" in failure(np.zeros(shape, np.uint8))


# ---------------------------------------------------------------- what cannot be read


def test_text_empty_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("<html>not found</html>")
    assert failure(path) == "'x.png' is no picture of a kind that is read here: it starts with b'<html>not found</html>'."
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in failure(path)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert "is no picture of a kind that is read here" in failure(path)
    path.unlink()
    with pytest.raises(ImageError, match=r"^'x\.png' cannot be read: No such file or directory"):
        load_image(ImageRef("x.png", path))
    with pytest.raises(ImageError, match="is no regular file but a folder"):
        load_image(ImageRef("x.png", tmp_path))


WRITERS: dict[str, Callable[[Path], None]] = {
    "png": lambda p: Image.fromarray(NOISE).save(p),
    "jpg": lambda p: Image.fromarray(NOISE).save(p),
    "webp": lambda p: Image.fromarray(NOISE).save(p),
    "bmp": lambda p: Image.fromarray(NOISE).save(p),
    "ppm": lambda p: Image.fromarray(NOISE).save(p),
    "gif": lambda p: Image.fromarray(NOISE).save(p),
    "jp2": lambda p: Image.fromarray(NOISE).save(p),
    "tif": lambda p: Image.fromarray(NOISE).save(p),
    "lzw.tif": lambda p: Image.fromarray(NOISE).save(p, compression="tiff_lzw"),
    "deep.tif": lambda p: tifffile.imwrite(p, DEEP_NOISE[..., 0]),
    "wide.tif": lambda p: tifffile.imwrite(p, DEEP_NOISE[..., :3], photometric="rgb"),
    "zip.tif": lambda p: tifffile.imwrite(p, DEEP_NOISE[..., 0], compression="zlib"),
    "float.tif": lambda p: tifffile.imwrite(p, DEEP_NOISE[..., :3].astype(np.float32), photometric="rgb"),
    "deep.png": lambda p: Image.fromarray(DEEP_NOISE[..., 0]).save(p),
    "wide.png": lambda p: (p.write_bytes(png16(DEEP_NOISE[..., :3])), None)[1],
}


@pytest.mark.parametrize("kind", WRITERS)
def test_cut_off_files_fail_with_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path)
    whole = path.read_bytes()
    assert load(path).rgb.size > 0
    for share in (0.02, 0.3, 0.5, 0.8):
        path.write_bytes(whole[: int(len(whole) * share)])
        if not (kind == "jp2" and share > 0.02):  # a shorter JPEG 2000 stream is a coarser picture by design
            failure(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_never_raise_anything_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng, sentences = np.random.default_rng(3), set()
    for trial in range(60):
        damaged = whole.copy()
        reach = 200 if trial % 2 else len(whole)
        damaged[rng.integers(0, min(reach, len(whole)), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            load(path, max_pixels=1_000_000)
        except ImageError as error:
            sentences.add(str(error))
    assert all(text.startswith(f"'x.{kind}' ") and str(tmp_path) not in text for text in sentences)


def huge_headers() -> dict[str, bytes]:
    out = {"png": png_chunks(60_000, 60_000, 8, 2, b""), "ppm": b"P6 60000 60000 255\n"}
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "BMP")
    out["bmp"] = file.getvalue()[:18] + struct.pack("<ii", 60_000, 60_000) + file.getvalue()[26:]
    for name, pixels in (("tif", RGB), ("deep.tif", DEEP[..., 0]), ("float.tif", DEEP[..., :3].astype(np.float32))):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        data = bytearray(file.getvalue())
        (start,) = struct.unpack_from("<I", data, 4)
        for k in range(struct.unpack_from("<H", data, start)[0]):
            tag, kind = struct.unpack_from("<HH", data, start + 2 + 12 * k)
            if tag in (256, 257):
                struct.pack_into("<H" if kind == 3 else "<I", data, start + 2 + 12 * k + 8, 60_000)
        out[name] = bytes(data)
    return out


@pytest.mark.parametrize("kind", ["png", "ppm", "bmp", "tif", "deep.tif", "float.tif"])
def test_huge_headers_are_refused_before_decoding(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(huge_headers()[kind])
    load(RGB)
    start = time.perf_counter()
    assert "is too large: 60000 x 60000 = 3600 megapixels, the limit is 300" in failure(path)
    assert time.perf_counter() - start < 0.5


def test_max_pixels_is_exact_and_replaces_the_limit_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png(tmp_path / "x.png")
    for source in (path, RGB, Image.fromarray(RGB)):
        assert load(source, max_pixels=40).rgb.shape == (5, 8, 3)
        assert "8 x 5 = 4e-05 megapixels" in failure(source, max_pixels=39)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    assert load(path).rgb.shape == (5, 8, 3)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_pipes_and_sockets_never_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    os.mkfifo("a.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("b.png")
        for ref in list_images("."):
            with pytest.raises(ImageError, match="is no regular file"):
                load_image(ref)
    assert "no regular file" in failure("/dev/zero")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png(tmp_path / "x.png")
    path.chmod(0)
    if os.geteuid() == 0:  # root may read anything

        def refuse(name: Any, *_: Any) -> None:
            raise PermissionError(13, "Permission denied", str(name))

        monkeypatch.setattr(decoding, "open", refuse, raising=False)
    assert failure(path) == ("'x.png' cannot be read: Permission denied. Check that it is there and that you may read it.")


@pytest.mark.parametrize(
    "error",
    [
        *(struct.error("x"), SyntaxError("bad\nheader"), OSError("x"), ValueError(), MemoryError(), KeyError("R")),
        *(RecursionError("x"), tifffile.TiffFileError("x"), ZeroDivisionError(), DeprecationWarning("x")),
    ],
)
def test_whatever_a_decoder_raises_becomes_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(decoding, "_identify", broken)
    assert failure(png(tmp_path / "x.png")).startswith("'x.png' ")


def test_warnings_of_pillow_stay_inside(tmp_path: Path) -> None:
    png(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    body = b"acTL" + struct.pack(">II", 0, 0)  # an animation of no frames: Pillow warns
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.warns(UserWarning, match="Invalid APNG"), Image.open(tmp_path / "x.png"):
        pass
    for _ in range(2):
        assert np.array_equal(load(tmp_path).rgb, RGB)
    entries = len(warnings.filters)
    load(tmp_path)
    assert len(warnings.filters) == entries
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_a_pool_of_threads_reads_the_same(tmp_path: Path) -> None:
    for k in range(12):
        png(tmp_path / f"{k}.png", np.roll(RGB, k, 0))
        (tmp_path / f"{k}.deep.png").write_bytes(png16(np.roll(DEEP, k, 0)))
        (tmp_path / f"{k}.bad.png").write_bytes(b"nothing")

    def read(ref: ImageRef) -> Any:
        try:
            return load_image(ref).rgb.tobytes()
        except ImageError as error:
            return str(error)

    refs = list(list_images(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, refs * 5)) == [read(ref) for ref in refs] * 5


def test_files_are_closed(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / f"x.{kind}")
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("no list of open files on this system")
    before = len(list(open_files.iterdir()))
    for ref in list_images(tmp_path):
        load_image(ref)
    assert len(list(open_files.iterdir())) == before
