"""Loads pictures of any source as 8-bit RGB arrays, one at a time: ``list_images`` (``sources.py``), then ``load_image``.

``decoding.py`` decodes; ``intensity.py`` has the rules by which intensities and transparency become 8-bit RGB.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ImageError
from zsad.images.decoding import decode
from zsad.images.intensity import Raw, check_range, to_rgb
from zsad.images.sources import SUFFIXES, ImageRef, encodable, list_images

__all__ = ["SUFFIXES", "ImageRef", "Picture", "digest_of", "list_images", "load_image", "load_raw"]

_PILLOW = re.compile(r"PIL\.|pydicom\.|pillow_heif\.")
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Picture:
    """A decoded picture: ``rgb`` is (H, W, 3) uint8; ``notes`` state how it was converted, if at all."""

    ref: ImageRef
    rgb: NDArray[np.uint8] = field(compare=False, repr=False)
    notes: tuple[str, ...]


def load_image(ref: ImageRef, *, value_range: tuple[float, float] | None = None, max_pixels: int = 300_000_000) -> Picture:
    """Loads one picture as 8-bit RGB, by the rules of ``intensity.py``. May be called from many threads.

    Args:
        ref: From ``list_images``.
        value_range: The values that become 0 and 255, for data deeper than 8 bits (8-bit data is never touched).
            What lies outside is cut, and a note states how much; nan and inf become the low end.
        max_pixels: Larger pictures are refused from their header, before anything is decoded.

    Raises:
        ImageError: The picture cannot be read, for whatever reason; one sentence.
        UsageError: ``value_range`` is no range.
    """
    value_range = check_range(value_range)

    def load() -> Picture:
        raw = decode(ref, max_pixels)
        rgb = to_rgb(raw, value_range)
        return Picture(ref, rgb, tuple(raw.notes))

    return _guarded(ref, load)


def load_raw(ref: ImageRef, *, max_pixels: int = 300_000_000) -> Raw:
    """Loads the values of one file as they are, before any rule on intensities or transparency: for masks.

    Raises:
        ImageError: as ``load_image``.
    """
    return _guarded(ref, lambda: decode(ref, max_pixels))


def digest_of(rgb: NDArray[np.uint8]) -> str:
    """Hex digest of a decoded picture, (H, W, 3): the same for the same pixels, whatever the file is called."""
    digest = hashlib.sha256(f"{rgb.shape}".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


def _guarded(ref: ImageRef, load: Callable[[], _Loaded]) -> _Loaded:
    """Calls ``load``; whatever goes wrong in it leaves as an ``ImageError`` of one sentence."""
    _silence_pillow()
    try:
        return load()
    except ImageError as error:
        text = str(error)
    except MemoryError:
        text = "does not fit into memory. Cut it into tiles, or lower max_pixels"
    except Exception as error:  # on broken files decoders fail with whatever they trip over
        text = _reason(error)
    if ref.path is not None and ref.path.is_absolute():
        text = text.replace(str(ref.path), ref.name)
    raise ImageError(encodable(f"{ref.name!r} {' '.join(text.split())[:500].rstrip('.')}."))


def _reason(error: Exception) -> str:
    if "imagecodecs" in str(error):
        return f"is compressed in a way that needs one more package: pip install imagecodecs ({error})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}. Check that it is there and that you may read it"
    return f"cannot be decoded: {error or type(error).__name__}. Copy it again, or save it anew as PNG"


def _silence_pillow() -> None:
    """Keeps warnings of Pillow and the other decoders (unusual metadata) from printing, or from failing a run.

    ``catch_warnings`` swaps the filters of the whole process and is unsafe in threads. One lasting entry that is about
    decoders alone is safe; it is only added when it does not come first already.
    """
    entry = ("ignore", None, Warning, _PILLOW, 0)
    if entry not in warnings.filters[:1]:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
