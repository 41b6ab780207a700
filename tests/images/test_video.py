"""Frames of a video, by their time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsad.errors import ImageError, SourceNotFound
from zsad.images import video
from zsad.images.reading import ImageRef, list_images, load_image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.5 s at 10 frames a second, frame i of grey 7 i; key frames 12 frames apart."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 8_000_000
        for i in range(35):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 7 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey(ref: ImageRef) -> int:
    return int(load_image(ref).rgb.mean().round())


@pytest.mark.parametrize(
    ("every", "frames"),
    [(1.0, [0, 10, 20, 30]), (0.25, [0, 3, 5, 8, 10, 13]), (0, list(range(35))), (60, [0]), (0.01, [0, 1, 2])],
)
def test_frames_are_taken_by_time(clip: Path, every: float, frames: list[int]) -> None:
    refs = list(list_images(clip, every=every))
    assert [ref.name for ref in refs][: len(frames)] == [f"clip.mp4/00h00m{i // 10:02d}s{i % 10}00" for i in frames]
    found = [grey(ref) for ref in refs[: len(frames)]]
    assert np.abs(np.array(found) - 7 * np.array(frames)).max() <= 3
    assert [grey(ImageRef("x", ref.path)) for ref in refs[: len(frames)]] == found


def test_a_frame_that_is_not_there(clip: Path) -> None:
    for name in ("00h00m09s000", "a.png"):
        with pytest.raises(ImageError, match="is no frame of the video"):
            load_image(ImageRef("x", clip / name))
    with pytest.raises(ImageError, match="is too large: 64 x 48"):
        load_image(next(list_images(clip)), max_pixels=100)


def test_a_damaged_place_is_one_row(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 100 : start + 1500] = bytes(1400)
    (tmp_path / "clip.mp4").write_bytes(data)
    found = []
    for ref in list_images(tmp_path / "clip.mp4"):
        try:
            found.append(load_image(ref).rgb.shape)
        except ImageError as error:
            found.append(str(error))
    assert len(found) == 4
    assert all(one == (48, 64, 3) or "decoded" in one for one in found)


@pytest.mark.parametrize("data", [b"", b"<html>no video</html>", None])
def test_a_video_without_frames_is_one_sentence(tmp_path: Path, clip: Path, data: bytes | None) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes()[:500] if data is None else data)
    with pytest.raises(SourceNotFound, match=r"The video '.*a\.mp4' (cannot be read|holds no frames)"):
        list_images(tmp_path / "a.mp4")
    (ref,) = list_images([tmp_path / "a.mp4"])
    with pytest.raises(ImageError, match="The video"):
        load_image(ref)


def test_a_video_of_sound_alone_holds_no_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceNotFound, match="holds no frames"):
        list_images(tmp_path / "a.mp4")


def test_a_missing_extra_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(SourceNotFound, match=r"which an extra reads. Install it with: pip install 'zsad\[video\]'"):
        list_images(tmp_path / "a.mp4")


def test_a_frame_is_turned_as_its_video_says() -> None:
    class Frame:
        rotation = 90

        def to_ndarray(self, format: str) -> Any:
            return np.arange(6, dtype=np.uint8).reshape(1, 2, 3)

    raw = video._upright(Frame())
    assert raw.pixels.tolist() == [[[3, 4, 5]], [[0, 1, 2]]]  # counterclockwise: the right end is up
    assert raw.notes == ["turned upright (the video's rotation)"]
