"""Decoders: one picture file, PIL picture, array or tensor as the values that it holds.

Files are decoded by Pillow and tifffile. Whatever goes wrong leaves as the decoder's own exception, which ``reading.py`` turns
into one sentence.
"""

# ruff: noqa: PTH116  (os.stat is patched and read by itself)
from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageError
from zsad.images.intensity import Raw
from zsad.images.sources import ImageRef

__all__ = ["decode"]

_KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(ref: ImageRef, max_pixels: int) -> Raw:
    """The decoded values of one picture, before any rule on intensities or transparency.

    A fourth channel that is zero everywhere is no transparency but an unused byte (32-bit cameras), and is left out.

    Args:
        ref: from ``list_images``.
        max_pixels: larger pictures are refused from their header, before anything is decoded.

    Raises:
        ImageError: the picture is refused: too large, no regular file, empty, of an unknown kind.
        Exception: the decoder failed; of any type.
    """
    raw = _decode(ref, max_pixels)
    if raw.pixels.ndim == 3 and raw.pixels.shape[2] == 4 and not raw.pixels[..., 3].any():
        raw.pixels, raw.premultiplied = raw.pixels[..., :3], False
        raw.notes.append("a fourth channel that is zero everywhere was left out")
    return raw


def _decode(ref: ImageRef, max_pixels: int) -> Raw:
    if isinstance(ref.data, Exception):
        raise ref.data
    if isinstance(ref.data, Image.Image):
        _check_size(*ref.data.size, max_pixels)
        return _from_pillow(ref.data, [])
    if ref.path is None:
        return _from_array(ref.data, max_pixels)
    info = os.stat(ref.path)
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for its other end for ever
        raise ImageError("is no regular file but a folder, pipe, socket or device. Give a picture file")
    if info.st_size == 0:
        raise ImageError("is empty (0 bytes). Copy or record it again")
    with open(ref.path, "rb") as file:
        return _from_file(file, info.st_size, max_pixels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"has no pixels: it is {width} x {height}")
    if width * height > max_pixels:
        size = f"{width} x {height} = {width * height / 1e6:.6g} megapixels"
        raise ImageError(f"is too large: {size}, the limit is {max_pixels / 1e6:g}. Cut it, or raise max_pixels")


def _from_array(data: Any, max_pixels: int) -> Raw:
    array = data
    if not isinstance(data, np.ndarray):
        tensor = data.detach().cpu()
        array = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        wanted = "(H, W) or (H, W, 1|3|4), for a tensor (H, W) or (1|3|4, H, W)"
        raise ImageError(f"has shape {tuple(data.shape)}, not {wanted}. Pass a stack of pictures as list(stack)")
    _check_size(array.shape[1], array.shape[0], max_pixels)
    return Raw(array)


def _from_file(file: BinaryIO, size: int, max_pixels: int) -> Raw:
    head = file.read(32)
    is_tiff = head.startswith(_TIFF_HEADS)
    try:
        image = _identify(file, head)
    except Exception:
        if not is_tiff:
            raise
        return _from_tiff(file, size, max_pixels)  # Pillow knows no float colour, float64, grey with alpha ...
    _check_size(*image.size, max_pixels)
    notes = _frames(image)
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    wide = re.fullmatch(r"(RGB|RGBA|RGBX|LA);16[BLN]", _rawmode(image)) and tags.get(284, 1) == 1
    if is_tiff and max(tags.get(258, (1,))) > 8:
        try:
            return _from_tiff(file, size, max_pixels, notes)
        except ValueError as error:  # Pillow's libtiff undoes most of what tifffile leaves to imagecodecs
            if "imagecodecs" not in str(error) or not (wide or image.mode.startswith(("I;16", "F"))):
                raise
    raw = Raw(_wide(file, head, image), notes) if wide else _from_pillow(image, notes)
    raw.white_is_zero = raw.pixels.dtype != np.uint8 and tags.get(262) == 0
    return raw


def _identify(file: BinaryIO, head: bytes) -> Image.Image:
    """Opens a picture as ``Image.open`` does, without its size limit: that is a global of the process, ours an argument.

    Only the kinds of ``SUFFIXES`` are tried. Without a file name Pillow reads instead of mapping the file, which would
    kill the process if the file shrank.
    """
    for kind in _KINDS:
        if kind not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory and accept and (taken := accept(head[:16])):
            if isinstance(taken, str):
                raise ImageError(f"cannot be decoded by this Pillow: {taken}")
            file.seek(0)
            return factory(file, "")
    raise ImageError(f"is no picture of a kind that is read here: it starts with {head[:24]!r}")


def _frames(image: Image.Image) -> list[str]:
    frames = getattr(image, "n_frames", 1)
    paged = image.format in ("TIFF", "MPO")
    kind = ("multi-page", "pages") if paged else ("animated", "frames")
    return [f"{kind[0]}: first of {frames} {kind[1]}"] if frames > 1 else []


def _rawmode(image: Image.Image) -> str:
    tiles: list[Any] = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    mode = args if isinstance(args, str) else next(iter(args or ()), "")
    return mode if isinstance(mode, str) else ""


def _wide(file: BinaryIO, head: bytes, image: Image.Image) -> NDArray[np.uint16]:
    """(H, W, C) 16-bit colour, of which Pillow keeps the upper bytes: a second pass in swapped byte order has the lower."""
    mode = _rawmode(image)
    big = mode[-1] == "B" or (mode[-1] == "N" and sys.byteorder == "big")
    other = "RGBA" if mode.startswith("LA") else mode[:-1] + "BL"[big]  # "RGBA": both bytes of grey and alpha
    file.seek(0)
    again: Any = _identify(file, head)
    again.tile = [t._replace(args=other if isinstance(t.args, str) else (other, *t.args[1:])) for t in again.tile]
    again.load()
    if mode.startswith("LA"):
        return np.array(again).view(">u2").astype(np.uint16, copy=False)
    image.load()
    return np.asarray(np.array(image).astype(np.uint16) * 256 + np.array(again), np.uint16)


def _from_pillow(image: Image.Image, notes: list[str]) -> Raw:
    image.load()
    try:
        orientation = image.getexif().get(274, 1)
    except Exception:  # a broken label on a sound picture
        orientation = 1
        notes.append("EXIF data is broken: taken as stored, not turned")
    if image.mode.startswith(("I", "F")):
        return Raw(np.array(image), notes, orientation)
    if image.mode == "La":
        image = image.convert("LA")
    see_through = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return Raw(np.array(image.convert("RGBA" if see_through else "RGB")), notes, orientation)


def _from_tiff(file: BinaryIO, size: int, max_pixels: int, notes: list[str] | None = None) -> Raw:
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages.first
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
        if end > size:  # tifffile would fill up with zeros
            raise ImageError(f"is cut off: {size} bytes of {end}. Copy it again")
        extra, kind = tuple(page.extrasamples), page.photometric.name
        pixels = np.moveaxis(page.asarray(), 0, -1) if page.axes == "SYX" else page.asarray()
        turn = page.tags.valueof(274, 1)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    kinds = {1: ("MINISBLACK", "MINISWHITE"), 3: ("RGB",), 4: ("RGB",)}
    if pixels.ndim not in (2, 3) or len(extra) > 1 or kind not in kinds.get(channels - len(extra), ()):
        raise ImageError(f"is a TIFF of shape {page.shape}, {kind}: only grey and RGB are read. Save it anew as PNG")
    notes = notes or []
    if extra == (0,):
        notes.append("a channel that is neither colour nor alpha was left out")
        pixels = pixels[..., :-1]
    return Raw(pixels, notes, turn, kind == "MINISWHITE", premultiplied=extra == (1,))
