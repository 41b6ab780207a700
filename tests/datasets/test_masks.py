"""Masks of every kind become the same bool array; the resize is torchvision's; what is no mask is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from trees import mask, mvtec, picture, write

from zsad.datasets import Sample, load_mask, open_dataset, resize_mask
from zsad.errors import ImageError, MaskError

TRUE = np.zeros((6, 8), bool)
TRUE[1:3, 2:5] = True


def sample(path: Path | None, label: int | None = 1) -> Sample:
    return Sample(Path("photo.png"), label, path, "part")


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def grey(values: object, kind: type[np.generic] = np.uint8) -> NDArray[np.generic]:
    return (TRUE * np.asarray(values)).astype(kind)


def in_colour(alpha: int | None, red: int) -> Image.Image:
    pixels = np.zeros((6, 8, 3 if alpha is None else 4), np.uint8)
    pixels[TRUE, 0] = red
    if alpha is not None:
        pixels[TRUE, 3] = alpha
    return Image.fromarray(pixels)


def palette(first: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(grey(1)).convert("P")
    image.putdata(list(grey(1).ravel().tolist()))
    image.putpalette([*first, 0, 0, 1])
    return image


def test_soft_masks_share_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    for count in (6, 7, 40):
        pixels = np.zeros((8, 8), np.uint8)
        pixels.ravel()[-count:] = np.linspace(255 - count, 255, count)
        save(Image.fromarray(pixels), tmp_path / f"{count}.png")
        load_mask(sample(tmp_path / f"{count}.png"), notes=notes)
    assert notes == ["mask with more than 4 values from 0 to 255: all above 0 are the defect"] * 3


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("255.png", lambda p: save(Image.fromarray(grey(255)), p), None),
        ("one.png", lambda p: save(Image.fromarray(grey(1)), p), "mask with 2 values from 0 to 1: all above 0"),
        ("class.bmp", lambda p: save(Image.fromarray(grey(7)), p), "mask with 2 values from 0 to 7"),
        ("bits.png", lambda p: save(Image.fromarray(TRUE), p), None),
        ("deep.png", lambda p: save(Image.fromarray(grey(300, np.uint16)), p), "2 16-bit values from 0 to 300"),
        ("deep1.png", lambda p: save(Image.fromarray(grey(1, np.uint16)), p), "2 16-bit values from 0 to 1"),
        ("deep.tif", lambda p: (tifffile.imwrite(p, grey(65535, np.uint16)), p)[1], "16-bit values from 0 to 65535"),
        ("float.tif", lambda p: (tifffile.imwrite(p, grey(0.25, np.float32)), p)[1], "32-bit values from 0.0 to 0.25"),
        ("blue.png", lambda p: save(palette((0, 0, 0)), p), "values from 0 to 1"),  # L of (0, 0, 1) would be 0
        ("red.png", lambda p: save(in_colour(None, 200), p), "values from 0 to 200"),
        ("rgba.png", lambda p: save(in_colour(255, 255), p), "transparent pixels are no defect"),
        ("alpha.png", lambda p: save(in_colour(255, 0), p), "all colour is black: opaque pixels are the defect"),
    ],
)
def test_every_kind_of_mask(name: str, make: object, message: str | None, tmp_path: Path) -> None:
    assert callable(make)
    notes: list[str] = []
    found = load_mask(sample(make(tmp_path / name)), picture=(6, 8), notes=notes)
    assert found.dtype == np.bool_
    assert np.array_equal(found, TRUE)
    assert [message in note for note in notes] == [True] if message else not notes


def test_a_jpeg_mask_is_noted(tmp_path: Path) -> None:
    values = np.zeros((32, 32), np.uint8)
    values[9:20, 11:22] = 255
    notes: list[str] = []
    Image.fromarray(values).save(tmp_path / "m.jpg", quality=75)
    found = load_mask(sample(tmp_path / "m.jpg"), notes=notes)
    assert (found >= (values > 0)).all()
    assert any("a JPEG mask: its compression widens the defect" in note for note in notes)


def test_a_folder_is_the_union(tmp_path: Path) -> None:
    for name, rows in (("000.png", slice(0, 2)), ("001.png", slice(2, 6))):
        part = TRUE.copy()
        part[rows] = False
        Image.fromarray(part).save(tmp_path / name)
    assert np.array_equal(load_mask(sample(tmp_path)), TRUE)
    mask(tmp_path / "002.png", size=(4, 4))
    with pytest.raises(MaskError, match=r"differ in size: \[\(4, 4\), \(6, 8\)\]"):
        load_mask(sample(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskError, match="The folder of masks 'empty' holds 0 entries and no picture file"):
        load_mask(sample(tmp_path / "empty"))


def test_pictures_without_a_mask(tmp_path: Path) -> None:
    assert not load_mask(sample(None, 0), picture=(6, 8)).any()
    picture(tmp_path / "normal.png")
    normal = replace(sample(None, 0), path=tmp_path / "normal.png")
    assert load_mask(normal).shape == (6, 8)
    assert load_mask(normal, 4).shape == (4, 4)
    write(tmp_path / "normal.png", "broken")
    with pytest.raises(ImageError, match="'normal.png'"):
        load_mask(normal)
    with pytest.raises(MaskError, match="'photo.png': the anomalous picture has no mask. Leave it out of pixel metrics"):
        load_mask(sample(None))
    with pytest.raises(MaskError, match="'photo.png': the picture has neither label nor mask"):
        load_mask(sample(None, None))


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    mask(tmp_path / "m.png", size=(8, 6))
    with pytest.raises(MaskError, match="The mask of 'photo.png' is 8 x 6 pixels, the picture 6 x 8. Save the mask at"):
        load_mask(sample(tmp_path / "m.png"), picture=(8, 6))


def test_masks_that_contradict_the_label(tmp_path: Path) -> None:
    for value, label, message in ((0, 1, "of an anomalous picture is empty"), (255, 0, "a normal picture has a mask")):
        notes: list[str] = []
        mask(tmp_path / "m.png", value)
        load_mask(sample(tmp_path / "m.png", label), notes=notes)
        assert len(notes) == 1
        assert message in notes[0]


def test_an_inverted_mask_is_suspected(tmp_path: Path) -> None:
    notes: list[str] = []
    values = np.full((20, 20), 255, np.uint8)
    values[0, 0] = 0
    Image.fromarray(values).save(tmp_path / "m.png")
    load_mask(sample(tmp_path / "m.png"), notes=notes)
    assert notes == ["the mask covers 100% of the picture: is it inverted?"]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_are_no_mask(value: float, tmp_path: Path) -> None:
    values = TRUE.astype(np.float32)
    values[0, 0] = value
    tifffile.imwrite(tmp_path / "m.tif", values)
    with pytest.raises(MaskError, match="The mask 'm.tif' holds negative or not finite values"):
        load_mask(sample(tmp_path / "m.tif"))


def test_a_deep_tiff_in_which_white_is_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", grey(65535, np.uint16), photometric="miniswhite")
    with pytest.raises(MaskError, match="'m.tif' is a TIFF in which 0 means white"):
        load_mask(sample(tmp_path / "m.tif"))


def test_the_rest_of_a_set_is_read_beside_broken_masks(tmp_path: Path) -> None:
    mvtec(tmp_path)
    write(tmp_path / "bottle/ground_truth/crack/000_mask.png", "no mask")
    mask(tmp_path / "metal_nut/ground_truth/crack/001_mask.png", size=(3, 3))
    errors, areas = [], []
    for one in open_dataset(tmp_path):
        try:
            areas.append(int(load_mask(one, picture=(6, 8)).sum()))
        except MaskError as error:
            errors.append(str(error))
    assert areas == [0, 6, 0, 6]
    assert len(errors) == 2
    assert "A mask cannot be read: '000_mask.png' cannot be decoded" in errors[0] or "is no picture" in errors[0]
    assert "The mask of '001.png' is 3 x 3 pixels, the picture 8 x 6" in errors[1]


@pytest.mark.parametrize("shape", [(6, 8), (40, 31), (100, 64), (64, 64), (1, 1), (333, 517)])
@pytest.mark.parametrize("size", [1, 16, 64, 240])
def test_resize_equals_torchvision(shape: tuple[int, int], size: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    field = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    rng = np.random.default_rng(size)
    for share in (0.05, 0.5):
        truth = np.kron(rng.random((shape[0] // 3 + 1, shape[1] // 3 + 1)) < share, np.ones((3, 3)))[: shape[0], : shape[1]] > 0
        expected = field(Image.fromarray(truth.astype(np.uint8) * 255))[0].numpy() > 0.5
        assert np.array_equal(resize_mask(truth, size), expected)
    assert not resize_mask(np.zeros(shape, bool), size).any()
    assert resize_mask(np.ones(shape, bool), size).all()


@pytest.mark.parametrize(("turn", "back"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)])
def test_a_mask_is_turned_as_its_picture_is(turn: int, back: Image.Transpose, tmp_path: Path) -> None:
    upright, exif = np.zeros((24, 32), np.uint8), Image.Exif()
    upright[4:8, 23:27], exif[274] = 255, turn
    file = tmp_path / "m.png"
    Image.fromarray(upright).transpose(back).save(file, exif=exif)
    assert (load_mask(sample(file), picture=(24, 32)) == (upright > 0)).all()


def test_a_mask_without_a_normal_pixel_is_refused(tmp_path: Path) -> None:
    save(Image.fromarray(np.full((6, 8), 255, np.uint8)), tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"'m.png' marks every pixel as a defect, so it is no annotation"):
        load_mask(sample(tmp_path / "m.png"))
