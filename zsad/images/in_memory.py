"""Pictures that are given in memory: PIL pictures, arrays, tensors, stacks of them, bytes and file objects."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from zsad.errors import ImageError

__all__ = ["is_in_memory", "pictures_in"]

_CHANNELS = (1, 3, 4)
_NARROWEST = 8  # a stack's pictures are at most so many times as high as wide; else the last axis holds channels


def is_in_memory(source: Any) -> bool:
    """Whether ``pictures_in`` takes the source: a PIL picture, array, tensor, bytes, or an object that bytes are read from."""
    is_tensor = hasattr(source, "detach") and hasattr(source, "numpy")
    return is_tensor or isinstance(source, (Image.Image, np.ndarray, bytes, bytearray, memoryview)) or _is_file(source)


def pictures_in(source: Any, channels_first: bool = False) -> Iterator[Any]:
    """The pictures of one source in memory.

    Args:
        source: PIL picture; array (H, W), (H, W, 1|3|4), or a stack (B, H, W), (B, H, W, 1|3|4); tensor (H, W), (1|3|4, H, W),
            (B, H, W), (B, 1|3|4, H, W); the bytes of one picture file; a file object, an upload or a response with such bytes.
        channels_first: arrays are laid out as tensors are.

    Yields:
        PIL picture, array (H, W) or (H, W, C), tensor (H, W) or (C, H, W), bytes, or an ``ImageError`` where there is none.
    """
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield bytes(source)
    elif _is_file(source):
        yield _read(source)
    elif isinstance(source, np.ndarray) and not channels_first:
        yield from _of_array(source)
    elif isinstance(source, np.ndarray):
        yield from (np.moveaxis(one, 0, -1) if getattr(one, "ndim", 0) == 3 else one for one in _of_tensor(source))
    else:
        yield from _of_tensor(source)


def _of_array(array: Any) -> Iterator[Any]:
    """Pictures of an array whose channels come last."""
    shape = tuple(array.shape)
    if len(shape) == 4 and shape[3] in _CHANNELS and shape[0]:
        yield from array
    elif len(shape) == 3 and shape[2] in _CHANNELS:
        yield array
    elif (len(shape) == 4 and shape[1] in _CHANNELS) or (len(shape) == 3 and shape[0] in _CHANNELS[1:]):
        advice = "Give channels_first=True, a tensor, or np.moveaxis(array, -3, -1)"
        yield ImageError(f"has shape {shape}, which looks like channels first. {advice}")
    elif _is_grey_stack(shape):
        yield from array
    else:
        yield array


def _of_tensor(tensor: Any) -> Iterator[Any]:
    """Pictures of a tensor, or of an array with channels first."""
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[1] in _CHANNELS and shape[0]:
        yield from tensor
    elif len(shape) == 3 and shape[0] in _CHANNELS:
        yield tensor
    elif len(shape) in (3, 4) and shape[-1] in _CHANNELS:
        what = "np.moveaxis(array, -1, -3)" if isinstance(tensor, np.ndarray) else "tensor.movedim(-1, -3)"
        yield ImageError(f"has shape {shape}, which looks like channels last. Give {what}")
    elif _is_grey_stack(shape):
        yield from tensor
    else:
        yield tensor


def _is_grey_stack(shape: tuple[int, ...]) -> bool:
    """Whether (B, H, W) holds B pictures, and not one picture (H, W, C) of many channels."""
    return len(shape) == 3 and min(shape) > 0 and shape[2] > max(_CHANNELS) and shape[2] * _NARROWEST >= shape[1]


# ------------------------------------------------------------------ bytes
def _is_file(source: Any) -> bool:
    """Whether it is an open file, an upload (``.file``) or a response (``.content``)."""
    if isinstance(source, type) or hasattr(source, "__fspath__"):
        return False
    if hasattr(type(source), "iter_content"):
        return True
    # a camera may have read() too, and is a source of many pictures
    of_a_file = isinstance(source, io.IOBase) or any(hasattr(source, name) for name in ("seek", "readline", "iter_bytes"))
    return of_a_file and callable(getattr(source, "read", None))


def _read(source: Any) -> bytes | ImageError:
    """The bytes of a file object from its beginning."""
    try:
        if hasattr(type(source), "iter_content"):  # a response of requests
            return bytes(source.content)
        if inspect.iscoroutinefunction(source.read):  # an upload whose own methods have to be awaited
            source = source.file
        if callable(getattr(source, "seek", None)) and getattr(source, "seekable", lambda: True)():
            source.seek(0)  # whoever wrote or checked it may have left it at its end
        data = source.read()
    except Exception as error:  # closed files, broken connections, text that is no text
        return ImageError(f"is a {type(source).__name__} that cannot be read: {error or type(error).__name__}")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        advice = "Open files with mode 'rb'"
        return ImageError(f"is a {type(source).__name__} that gives {type(data).__name__}, not bytes. {advice}")
    return bytes(data)
