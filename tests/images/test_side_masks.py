"""Masks that lie beside their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.images import side_masks
from zsad.images.reading import list_images
from zsad.images.side_masks import SideMasks, find_masks

RNG = np.random.default_rng(2)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)


def mask(path: Path, high: int = 255, mode: str = "L") -> None:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[5:10, 5:20] = high
    Image.fromarray(pixels).convert(mode).save(path)


def found(folder: Path) -> SideMasks:
    return find_masks(lambda: list_images(folder))


@pytest.mark.parametrize(
    "ending", ["_mask.png", "-mask.PNG", "_GT.png", "_ground_truth.bmp", " label.jpg", "_seg.tif", "_masks1.png"]
)
def test_names_of_masks(tmp_path: Path, ending: str) -> None:
    for name in ("a/1", "a/2", "b/1"):
        photo(tmp_path / f"{name}.jpg")
        mask(tmp_path / f"{name}{ending}")
    assert found(tmp_path) == SideMasks(frozenset(f"{name}{ending}" for name in ("a/1", "a/2", "b/1")), frozenset(), True)


@pytest.mark.parametrize(
    ("high", "mode"), [(255, "L"), (1, "L"), (255, "1"), (255, "RGB"), (255, "P"), (255, "RGBA"), (0, "L")]
)
def test_kinds_of_masks(tmp_path: Path, high: int, mode: str) -> None:
    photo(tmp_path / "1.jpg")
    mask(tmp_path / "1_mask.png", high, mode)
    assert found(tmp_path).doubtful == frozenset()
    assert found(tmp_path).complete


def test_one_name_with_two_endings(tmp_path: Path) -> None:
    for name in ("1", "2"):
        photo(tmp_path / f"{name}.jpg")
        mask(tmp_path / f"{name}.png")
    assert found(tmp_path) == SideMasks(frozenset({"1.png", "2.png"}), frozenset(), True)
    photo(tmp_path / "3.jpg")
    assert not found(tmp_path).complete
    photo(tmp_path / "3.png")  # the same picture in two kinds of file
    assert found(tmp_path) == SideMasks(frozenset({"1.png", "2.png"}), frozenset(), False)


def test_pictures_of_such_names_are_doubtful(tmp_path: Path) -> None:
    photo(tmp_path / "face.png")
    photo(tmp_path / "face_mask.png")
    assert found(tmp_path) == SideMasks(frozenset({"face_mask.png"}), frozenset({"face_mask.png"}), True)
    (tmp_path / "face_mask.png").write_bytes(b"broken")
    assert found(tmp_path).doubtful == {"face_mask.png"}


def test_a_name_alone_is_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gas_mask.png", "a/1.png", "b/1_mask.png", "maskara.png"):
        photo(tmp_path / name)
    monkeypatch.setattr(side_masks, "load_raw", None)
    assert found(tmp_path) == SideMasks()
