"""Finds masks that lie beside their pictures: ``0001_mask.png`` beside ``0001.png``, or ``0001.png`` beside ``0001.jpg``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsad.errors import ImageError
from zsad.images.reading import ImageRef, load_raw

__all__ = ["SideMasks", "find_masks", "is_black_and_white", "picture_stem"]

_ENDING = re.compile(r"(?i)[_\-. ](mask|gt|ground[_\- ]?truth|label|seg|segmentation|annotation|defect[_\- ]?mask)s?\d*$")
_NEAR = 0.1  # of a mask's range: values so near to its ends count as black or white, for those that JPEG blurs
_PURE = 0.98  # share of a mask's values that are black or white


@dataclass(frozen=True)
class SideMasks:
    """Masks beside pictures of one source.

    Attributes:
        names: of all files that a name and a picture beside them mark as masks.
        doubtful: those of them that are not black and white.
        complete: whether every other picture of the source has one.
    """

    names: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    complete: bool = False


def find_masks(listed: Callable[[], Iterable[ImageRef]]) -> SideMasks:
    """Finds the masks among the pictures of a source; decodes nothing where no name looks like a mask's.

    Two files of one name and different endings are a picture and its mask if one alone is black and white.

    Args:
        listed: lists the pictures; is called twice where some names end like masks.
    """
    total, by_stem, masks = 0, dict[str, list[ImageRef]](), dict[str, str]()  # masks: name -> the picture's
    before: ImageRef | None = None
    for ref in listed():
        total += 1
        stem = _stem(ref)
        if found := _ENDING.search(stem):
            by_stem.setdefault(stem[: found.start()], []).append(ref)
        elif before is not None and _stem(before) == stem and is_black_and_white(before) != is_black_and_white(ref):
            mask, picture = (ref, before) if is_black_and_white(ref) else (before, ref)
            masks[mask.name] = picture.name
        before = ref if ref.path is not None else None
    doubtful = set[str]()
    for ref in listed() if by_stem else ():
        for mask in by_stem.get(_stem(ref), ()):
            masks[mask.name] = ref.name
            if not is_black_and_white(mask):
                doubtful.add(mask.name)
    complete = bool(masks) and len(set(masks.values()) - masks.keys()) == total - len(masks)
    return SideMasks(frozenset(masks), frozenset(doubtful), complete)


def picture_stem(name: str) -> str:
    """Name of the picture that a mask's file belongs to, without endings: "a" for "a.png" and for "a_mask.png"."""
    return _ENDING.sub("", Path(name).stem)


def _stem(ref: ImageRef) -> str:
    """Folders and name without ending, without case."""
    return os.path.splitext(ref.name)[0].casefold()  # noqa: PTH122


def is_black_and_white(ref: ImageRef) -> bool:
    """Whether nearly all values of a picture are its darkest or its brightest, as those of a mask are."""
    try:
        pixels = load_raw(ref).pixels
    except ImageError:
        return False
    values = pixels.astype(np.float32)
    if values.ndim == 3:
        colours = values[..., :3] if values.shape[2] > 2 else values[..., :1]
        if np.abs(colours - colours[..., :1]).mean() > _NEAR * max(float(np.ptp(colours)), 1.0):
            return False
        values = colours[..., 0]
    low, high = float(values.min()), float(values.max())
    between = (values > low + _NEAR * (high - low)) & (values < high - _NEAR * (high - low))
    return bool(between.mean() <= 1 - _PURE)
