"""Decodes run-length encoded masks: COCO's strings and counts, CVAT's rows, and the bit stream of Label Studio's brush."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from zsad.errors import MaskError

__all__ = ["coco_counts", "decode_brush", "fill_runs"]


def coco_counts(text: bytes) -> list[int]:
    """The run lengths of COCO's compressed string, which starts with a run of background.

    Each length is a signed number in groups of 5 bits, the lowest first, as the characters from "0" on; the 6th bit states
    that another group follows. From the fourth length on, the string has the difference to the length two before.

    Raises:
        MaskError: the string holds other characters, or ends inside a number.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text:
        group = code - 48
        if not 0 <= group < 64:
            raise MaskError(f"its RLE string holds {chr(code)!r}, which is no character of COCO's code")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise MaskError("its RLE string is cut off")
    return counts


def fill_runs(counts: Iterable[int], width: int, height: int, *, columns: bool) -> NDArray[np.bool_]:
    """(height, width) bool from alternating run lengths, background first; down the columns (COCO) or along the rows (CVAT).

    Raises:
        MaskError: a length is negative, or they do not add up to width x height.
    """
    runs = np.asarray(list(counts), np.int64)
    if len(runs) and (runs.min() < 0 or runs.max() > width * height):
        raise MaskError("its RLE holds a negative length, or one beyond the picture")
    if int(runs.sum()) != width * height:
        raise MaskError(f"its RLE covers {int(runs.sum())} pixels, not {width} x {height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T) if columns else flat.reshape(height, width)


def decode_brush(data: bytes, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width) bool from the bytes of a brush of Label Studio: the alpha channel of an RGBA picture, above 0.

    The stream of bits: the number of values (32 bits), their size - 1 (5), four sizes of run lengths - 1 (4 each); then runs
    of a flag (1: one value repeated, 0: values as they are), the index of a size (2), the length - 1, and the values.

    Raises:
        MaskError: the stream is of another picture, or cut off.
    """
    total = width * height * 4
    if len(data) < 7 or int.from_bytes(data[:4], "big") != total:
        raise MaskError(f"its brush is no RGBA picture of {width} x {height} pixels")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    text = (bits + 48).tobytes().decode("ascii")  # "0" and "1": int(..., 2) reads any part
    word = int(text[32:37], 2) + 1
    sizes = [int(text[start : start + 4], 2) + 1 for start in (37, 41, 45, 49)]
    values, at, done = np.zeros(total, np.uint32), 53, 0
    weights = 1 << np.arange(word - 1, -1, -1, dtype=np.uint32)
    while done < total:
        size = sizes[int(text[at + 1 : at + 3] or "0", 2)]
        run = int(text[at + 3 : at + 3 + size] or "0", 2) + 1
        start, count = at + 3 + size, 1 if text[at : at + 1] == "1" else run
        at = start + count * word
        if at > len(text) or done + run > total:
            raise MaskError("its brush is cut off, or holds more values than pixels")
        values[done : done + run] = bits[start:at].reshape(count, word) @ weights
        done += run
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)
