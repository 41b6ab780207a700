"""Kinds of files that an extra or a part of Pillow reads, and what is said of files that are passed over."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image

from zsad.errors import ImageError

__all__ = ["extra_suffixes", "extras_for", "is_heif", "open_heif", "passed_over_line"]

_EXTRAS = {
    ".heic": "heic",
    ".heif": "heic",
    ".hif": "heic",
    ".avif": "heic",
    ".dcm": "dicom",
    ".dicom": "dicom",
}  # ending -> extra of zsad that reads it
_PACKAGES = {"heic": "pillow_heif", "dicom": "pydicom"}
_AVIF = (b"avif", b"avis")
_ANY = (b"mif1", b"msf1", b"miaf")  # of either
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")


def extra_suffixes() -> frozenset[str]:
    """Endings (lower case) that are read here besides ``SUFFIXES``, because the package that reads them is installed."""
    found = {ending for ending, extra in _EXTRAS.items() if ending != ".avif" and _has(_PACKAGES[extra])}
    return frozenset(found | ({".avif"} if _pillow_reads_avif() else set()))


def passed_over_line(counts: Mapping[str, int]) -> str:
    """A line on the files of a folder that no reader takes, by ending, with the extras that would read some of them."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return f"passed over, by ending: {', '.join(f'{count} {ending}' for ending, count in ordered)}{extras_for(counts)}."


def extras_for(counts: Mapping[str, int]) -> str:
    """ "; .heic: pip install 'zsad[heic]'" for endings that an extra would read; "" where there are none."""
    extras = sorted({_EXTRAS[ending] for ending in counts if ending in _EXTRAS})
    return "".join(f"; {_endings_of(extra, counts)}: pip install 'zsad[{extra}]'" for extra in extras)


def is_heif(head: bytes) -> bool:
    """Whether a file with these first bytes is a HEIC, HEIF or AVIF picture; a video is none."""
    return head[4:8] == b"ftyp" and head[8:12] in (*_AVIF, *_ANY, *_HEIC)


def open_heif(file: BinaryIO, head: bytes) -> Image.Image:
    """Opens a HEIC, HEIF or AVIF picture, whose first bytes are ``head``; 10-bit HEIC is read as 8 bits.

    Raises:
        ImageError: what reads it is not installed.
    """
    file.seek(0)
    if head[8:12] in _AVIF or (head[8:12] in _ANY and b"avif" in head[16:]):
        if not _pillow_reads_avif():
            raise ImageError(
                "is an AVIF picture, which this Pillow does not read. Install one of 11.3 or later: pip install -U pillow"
            )
        factory: Any = Image.OPEN["AVIF"][0]
        picture: Image.Image = factory(file, "")
        return picture
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError("is a HEIC picture, which an extra reads. Install it with: pip install 'zsad[heic]'") from error
    opened: Image.Image = HeifImageFile(file, "")
    return opened


def _pillow_reads_avif() -> bool:
    from PIL import features

    if "AVIF" not in Image.OPEN:
        Image.init()
    return "AVIF" in Image.OPEN and "avif" in features.modules and features.check("avif") is True


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _endings_of(extra: str, counts: Mapping[str, int]) -> str:
    return ", ".join(sorted(ending for ending in counts if _EXTRAS.get(ending) == extra))
