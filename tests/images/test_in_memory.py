"""Pictures in memory: bytes, file objects, stacks; and paths of a list that do not exist."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zsad.errors import ImageError, SourceNotFound
from zsad.images.reading import list_images, load_image

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (5, 8, 3), dtype=np.uint8)
STACK = RNG.integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)


def png(pixels: np.ndarray = RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(source: Any, **options: Any) -> list[np.ndarray]:
    return [load_image(ref).rgb for ref in list_images(source, **options)]


def failures(source: Any, **options: Any) -> list[str]:
    found = []
    for ref in list_images(source, **options):
        with pytest.raises(ImageError) as caught:
            load_image(ref)
        found.append(str(caught.value))
    return found


class Upload:
    """An upload as web frameworks give it: its own ``read`` has to be awaited."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    async def read(self) -> bytes:
        raise AssertionError

    async def seek(self, place: int) -> None:
        raise AssertionError

    def __iter__(self) -> Any:
        raise AssertionError


class Response:
    """A response of requests: iterating over it gives pieces of 128 bytes."""

    content = png()

    def iter_content(self) -> Any:
        raise AssertionError

    def __iter__(self) -> Any:
        raise AssertionError


class Pipe(io.RawIOBase):
    """A stream that cannot be rewound."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        given, self.left = self.left, b""
        return given


def at_its_end() -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    return buffer


@pytest.mark.parametrize(
    "make",
    [
        png,
        lambda: bytearray(png()),
        lambda: memoryview(png()),
        at_its_end,
        lambda: Upload(png()),
        Response,
        lambda: Pipe(png()),
    ],
)
def test_bytes_and_file_objects_are_one_picture(make: Any) -> None:
    (one,) = pixels(make())
    assert np.array_equal(one, RGB)
    first, second = pixels([make(), RGB])
    assert np.array_equal(first, second)


def test_an_open_file_is_one_picture_and_a_text_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    with (tmp_path / "x.png").open("rb") as file:
        assert np.array_equal(pixels(file)[0], RGB)
    assert "cannot be read" in failures(file)[0]
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    with (tmp_path / "list.txt").open() as text:
        assert failures(text) == ["'0000000' is a TextIOWrapper that gives str, not bytes. Open files with mode 'rb'."]


@pytest.mark.parametrize("data", [b"", b"abc", png()[:60]])
def test_bytes_that_are_no_picture_are_one_sentence(data: bytes) -> None:
    for source in (data, io.BytesIO(data)):
        (text,) = failures(source)
        assert text.startswith("'0000000' ")


def test_stacks_are_as_many_pictures() -> None:
    grey = STACK[..., 0].repeat(3, axis=0)  # (12, 12, 16)
    cases: list[tuple[Any, Any]] = [
        (STACK, STACK),
        (STACK[..., :1], STACK[..., :1].repeat(3, axis=3)),
        (grey, grey[..., None].repeat(3, axis=3)),
        (torch.from_numpy(STACK).permute(0, 3, 1, 2), STACK),
        (torch.from_numpy(grey), grey[..., None].repeat(3, axis=3)),
    ]
    for source, wanted in cases:
        found = list(list_images(source))
        assert [ref.name for ref in found] == [f"{i:07d}" for i in range(len(wanted))]
        assert all(np.array_equal(a, b) for a, b in zip(pixels(source), wanted, strict=True))
    assert len(pixels([STACK, RGB])) == 5
    assert len(pixels(iter([STACK, RGB]))) == 5


@pytest.mark.parametrize("source", [RGB.transpose(2, 0, 1), STACK.transpose(0, 3, 1, 2)])
def test_channels_first_is_said_or_taken(source: np.ndarray) -> None:
    (text,) = failures(source)
    assert f"has shape {source.shape}, which looks like channels first. Give channels_first=True" in text
    wanted = np.moveaxis(source.reshape(-1, *source.shape[-3:]), 1, -1)
    assert np.array_equal(pixels(source, channels_first=True), wanted)
    assert np.array_equal(pixels([source], channels_first=True), wanted)
    assert np.array_equal(pixels(torch.from_numpy(source.copy())), wanted)


def test_channels_last_where_first_are_taken() -> None:
    for source, options in ((torch.from_numpy(STACK), {}), (torch.from_numpy(RGB), {}), (STACK, {"channels_first": True})):
        (text,) = failures(source, **options)
        assert "looks like channels last" in text


@pytest.mark.parametrize("shape", [(480, 640, 5), (480, 640, 31), (0, 5, 5), (0, 5, 5, 3), (5, 6, 2), (2, 2, 2, 2, 3)])
def test_many_channels_and_empty_stacks_are_no_stacks(shape: tuple[int, ...]) -> None:
    (text,) = failures(np.zeros(shape, np.uint8))
    assert "has shape" in text or "has no pixels" in text


def test_a_missing_path_of_a_list_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "screw_01.png").write_bytes(png())
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.bmp").symlink_to(tmp_path / "nothing")
    given = ["screw_01.png", "screw_1.png", "x[1].png", "empty", "link.bmp", "no/such/folder"]
    refs = list(list_images([*(tmp_path / name for name in given), "", "a\0b", "x" * 300]))
    assert [ref.name for ref in refs] == [*given[:5], "folder", "0000006", "0000007", "0000008"]
    load_image(refs[0])
    reasons = []
    for ref in refs[1:]:
        with pytest.raises(ImageError) as caught:
            load_image(ref)
        reasons.append(str(caught.value))
    assert reasons[0] == "'screw_1.png' does not exist (did you mean 'screw_01.png'?). Check the path."
    assert all("has no picture" in reason for reason in reasons[1:4])
    assert all("does not exist" in reason for reason in reasons[4:])
    with pytest.raises(SourceNotFound, match="Did you mean"):
        list_images(tmp_path / "screw_1.png")


def test_a_camera_with_a_read_of_its_own_stays_an_iterator() -> None:
    class Camera:
        def read(self) -> tuple[bool, np.ndarray]:
            raise AssertionError

        def __iter__(self) -> Any:
            return iter([RGB, RGB])

    assert len(pixels(Camera())) == 2
