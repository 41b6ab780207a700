"""Reads single frames of a video by their time, through PyAV (the extra ``video``).

A frame's path is the video's path, a slash, and its time from the first frame on: ``clip.mp4/00h01m02s500``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from zsad.errors import ImageError, SourceNotFound
from zsad.images.intensity import Raw

__all__ = ["VIDEOS", "frame_names", "is_video", "read_frame"]

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".flv", ".3gp")
"""Endings (lower case) of the files that are read as videos."""

_NAME = re.compile(r"(\d{2,})h(\d\d)m(\d\d)s(\d{3})")


def is_video(path: str) -> bool:
    """Whether a file's ending is a video's."""
    return path.lower().endswith(VIDEOS)


def frame_names(path: str, every: float) -> Iterator[str]:
    """Names of the frames that are taken: of each step the first frame at or after it.

    Args:
        path: the video.
        every: seconds of a step; 0 takes every frame.

    Raises:
        SourceNotFound: it is no video, holds no frame, or PyAV is not installed.
    """
    step = 0
    for milliseconds in _index(_key(path)):
        if milliseconds >= step * every * 1000:
            yield _name(milliseconds)
            step = int(milliseconds // (every * 1000)) + 1 if every else 0


def read_frame(path: str, name: str, check_size: Callable[[int, int], None]) -> Raw:
    """One frame as RGB, turned upright; may be called from many threads.

    Args:
        path: the video.
        name: from ``frame_names``.
        check_size: refuses pictures of too many pixels, given (width, height).

    Raises:
        ImageError: there is no such frame, or it cannot be decoded.
    """
    import av

    found = _NAME.fullmatch(name)
    hours, minutes, seconds, rest = map(int, found.groups()) if found else (0, 0, 0, -1)
    place = _index(_key(path)).get(((hours * 60 + minutes) * 60 + seconds) * 1000 + rest)
    if place is None:
        raise ImageError("is no frame of the video. Check whether the video was changed")
    for backwards in (True, False):  # some files have no index to seek by
        with av.open(path) as container:
            stream = container.streams.video[0]
            check_size(stream.codec_context.width, stream.codec_context.height)
            if backwards:
                container.seek(place, stream=stream, backward=True)
            frame = next((one for one in container.decode(stream) if one.pts is not None and one.pts >= place), None)
            if frame is not None and frame.pts == place:
                return _upright(frame)
    raise ImageError("cannot be decoded: the video is damaged at this place. Copy it again, or record it anew")


def _upright(frame: Any) -> Raw:
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counterclockwise
    rgb = np.rot90(frame.to_ndarray(format="rgb24"), turns)
    return Raw(np.ascontiguousarray(rgb), ["turned upright (the video's rotation)"] if turns else [])


def _name(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}h{seconds // 60 % 60:02d}m{seconds % 60:02d}s{rest:03d}"


def _key(path: str) -> tuple[str, int, int]:
    info = os.stat(path)  # noqa: PTH116
    return path, info.st_size, info.st_mtime_ns


@lru_cache(maxsize=4)
def _index(key: tuple[str, int, int]) -> dict[int, int]:
    """Time of every frame in milliseconds from the first on -> its time in the video's own units."""
    try:
        import av
    except ImportError as error:
        raise SourceNotFound(
            f"{key[0]!r} is a video, which an extra reads. Install it with: pip install 'zsad[video]'"
        ) from error
    try:
        with av.open(key[0]) as container:
            stream = next(iter(container.streams.video), None)
            places = [] if stream is None else sorted(one.pts for one in container.demux(stream) if one.pts is not None)
            unit = 0.0 if stream is None or stream.time_base is None else stream.time_base
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceNotFound(
            f"The video {key[0]!r} cannot be read: {reason}. Copy it again, or save it anew as MP4."
        ) from error
    if not places:
        raise SourceNotFound(f"The video {key[0]!r} holds no frames. Give a video with a picture track.")
    found: dict[int, int] = {}
    for place in places:
        found.setdefault(round((place - places[0]) * unit * 1000), place)
    return found
