"""Converts decoded values to 8-bit RGB: rules for bit depth, transparency and orientation.

**Intensities.** 8-bit data stays as it is. Deeper data is mapped to 0..255 by a range that never follows a picture's
own darkest and brightest pixel, for that would hide what differs between pictures:

* integers: 0..2^b-1, with b the smallest of 8, 10, 12, 14, 16 that holds the maximum. A 12-bit camera writes 16-bit
  files: read over 0..65535 they are black, cut at 255 they are white. Limit: a dark picture whose maximum fits fewer
  bits is read brighter (12-bit with a maximum below 1024: as 10-bit).
* float: 0..1 if all values fit, else 0..255, else the integer rule on the rounded maximum. Limit: as above.
* negative or not finite values, or more than 16 bits: refused, since any guess may be wrong.

``value_range=(low, high)`` sets the range for a whole run; a DICOM file states its own (``dicom.py``). Every mapping is
stated in ``Picture.notes``.

**Transparency** is composited on white, the ground of cut-outs and of the pages that they are shown on; the colour
hidden below alpha 0 is arbitrary. CMYK, LAB, palettes and so on become RGB by Pillow's rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ImageError, UsageError

__all__ = ["Raw", "check_range", "to_rgb", "upright"]

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # EXIF orientation -> upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@dataclass
class Raw:
    """Decoded values before these rules: (H, W) or (H, W, 1..4) of any type; 2 and 4 channels end in alpha."""

    pixels: NDArray[Any]
    notes: list[str] = field(default_factory=list)
    orientation: int = 1
    white_is_zero: bool = False
    premultiplied: bool = False
    range: tuple[float, float, str] | None = None  # the values that the file says are black and white, and where it says so


def check_range(value_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Checks a range and returns it as a pair; None stays None.

    Raises:
        UsageError: not two finite numbers, the lower one first.
    """
    if value_range is None:
        return None
    pair = tuple(value_range)
    if len(pair) != 2 or not -math.inf < pair[0] < pair[1] < math.inf:
        raise UsageError(f"value_range must be two finite numbers, the lower one first; got {value_range!r}.")
    return pair[0], pair[1]


def to_rgb(raw: Raw, value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Converts decoded values to (H, W, 3) uint8 by the rules above; states each conversion in ``raw.notes``."""
    pixels = raw.pixels if raw.pixels.ndim == 3 else raw.pixels[..., None]
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    rgb = _eight_bits(pixels[..., :colours], value_range, raw.notes, raw.range)
    rgb = 255 - rgb if raw.white_is_zero else rgb
    rgb = rgb if colours == 3 else np.repeat(rgb, 3, axis=2)
    if colours < pixels.shape[2]:
        alpha = _eight_bits(pixels[..., colours:], None, [])
        if (hidden := np.count_nonzero(alpha < 255)) > 0:
            share = hidden / alpha.size
            raw.notes.append(f"alpha: composited on white ({share:.2%} of the pixels are not opaque)")
            rgb = _on_white(rgb, alpha, raw.premultiplied)
    return np.array(upright(raw, rgb), order="C")  # never a view of the caller's own array


def upright(raw: Raw, pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W, ...) turned as the file's EXIF orientation says, which is stated in ``raw.notes``; the same for masks."""
    if raw.orientation not in _TURNS:
        return pixels
    raw.notes.append(f"turned upright (EXIF orientation {raw.orientation})")
    return _TURNS[raw.orientation](pixels)


def _on_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], premultiplied: bool) -> NDArray[np.uint8]:
    cover = alpha.astype(np.uint16)
    own = np.minimum(rgb, cover) * 255 if premultiplied else rgb * cover
    return np.asarray((own + 255 * (255 - cover) + 127) // 255, np.uint8)


def _eight_bits(
    values: NDArray[Any],
    value_range: tuple[float, float] | None,
    notes: list[str],
    stated: tuple[float, float, str] | None = None,
) -> NDArray[np.uint8]:
    if values.dtype == np.uint8 and (stated is None or (value_range is None and stated[:2] == (0, 255))):
        return values
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise ImageError(f"holds {values.dtype} values. Give numbers: uint8, uint16 or float")
    low, high, why = (*value_range, "given") if value_range else stated or _natural_range(values)
    work = values.astype(np.result_type(values.dtype, np.float32))  # a copy; float32 is exact up to 24 bits
    name = f"{values.dtype.itemsize * 8}-bit" + " float" * (values.dtype.kind == "f")
    notes.append(f"{name}: range {low:g}..{high:g} ({why}) mapped to 0..255")
    with np.errstate(all="ignore"):
        invalid = ~np.isfinite(work)
        outside = np.count_nonzero((work < low) | (work > high)) / work.size
        work = (work - low) * (255 / (high - low))
    if invalid.any():
        notes.append(f"values that are not finite ({np.count_nonzero(invalid)}) are taken as {low:g}")
    elif outside:
        notes.append(f"{outside:.2%} of the values lie outside the range and were cut")
    work[invalid] = 0
    return np.clip(np.rint(work, out=work), 0, 255, out=work).astype(np.uint8)


def _natural_range(values: NDArray[Any]) -> tuple[float, float, str]:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or round(high) > 65535:
        what = f"holds values from {low:g} to {high:g}, for which there is no safe rule"
        raise ImageError(f"{what}. Give value_range=(low, high), the values that become black and white")
    if values.dtype.kind == "f" and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0, "by its values"
    bits = next(b for b in (8, 10, 12, 14, 16) if round(high) < 2**b)
    return 0.0, 2.0**bits - 1, f"{bits} bits used"
