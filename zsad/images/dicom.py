"""Reads DICOM files: the first frame's values and nothing else; no field that names a person or a place is read.

**Values.** Stored values times ``RescaleSlope`` plus ``RescaleIntercept``, where they are given. What becomes black and white
is ``value_range`` if given, else the file's first window (``WindowCenter``, ``WindowWidth``; PS3.3 C.11.2.1.2: from
c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2, with LINEAR_EXACT from c - w / 2 to c + w / 2), else all values that
``BitsStored`` bits hold. ``MONOCHROME1`` (white is zero) is inverted. A SIGMOID window is read as a linear one, and look-up
tables for values (Modality, VOI) are not applied; a note states either. Colour is read as RGB, palettes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from zsad.errors import ImageError
from zsad.images.intensity import Raw

__all__ = ["is_dicom", "read_dicom"]

# the fields that are read: of the pixels and of their meaning
_FIELDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("ModalityLUTSequence", "VOILUTSequence", "SegmentedRedPaletteColorLookupTableData"),
    *(f"{c}PaletteColorLookupTable{what}" for c in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")),
)


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file has DICOM's mark, behind 128 bytes of any kind."""
    file.seek(128)
    return file.read(4) == b"DICM"


def read_dicom(file: BinaryIO, check_size: Callable[[int, int], None]) -> Raw:
    """The values of a DICOM file's first frame, with the range that the file states.

    Args:
        file: the file.
        check_size: refuses pictures of too many pixels, given (width, height).

    Raises:
        ImageError: pydicom is not installed, or the file holds no picture that is read here.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImageError("is a DICOM file, which an extra reads. Install it with: pip install 'zsad[dicom]'") from error
    try:
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_FIELDS))
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    except Exception as error:  # whose text could quote the file
        raise ImageError(f"is a DICOM file whose header cannot be read ({type(error).__name__}). Export it again") from None
    if not rows or not columns:
        raise ImageError("is a DICOM file without pixels (a report, a structure or a waveform). Leave it out")
    check_size(columns, rows)
    notes = ["DICOM: first frame"] if int(header.get("NumberOfFrames") or 1) > 1 else ["DICOM"]
    pixels = _pixels(file, header)
    if pixels.ndim == 3:
        return Raw(pixels, notes, range=(0.0, 2.0 ** (8 * pixels.dtype.itemsize) - 1, "colour"))
    return _grey(pixels, header, notes)


def _pixels(file: BinaryIO, header: Any) -> Any:
    """(H, W) stored values, or (H, W, 3) RGB."""
    from pydicom.pixels import apply_color_lut, pixel_array

    file.seek(0)
    try:
        pixels = pixel_array(file, index=0)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, header)
    except AttributeError:
        raise ImageError("is a DICOM file without pixels, or its pixels are not described. Export it again") from None
    except (RuntimeError, NotImplementedError):
        packages = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        raise ImageError(f"is a DICOM file whose compression needs more packages: pip install {packages}") from None
    except Exception as error:
        raise ImageError(f"is a DICOM file whose pixels cannot be decoded ({type(error).__name__}). Export it again") from None
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3):
        return pixels
    raise ImageError(f"is a DICOM file of shape {pixels.shape}: only grey and RGB are read. Export it as PNG")


def _grey(pixels: Any, header: Any, notes: list[str]) -> Raw:
    slope, shift = _number(header.get("RescaleSlope"), 1.0), _number(header.get("RescaleIntercept"), 0.0)
    if not slope:
        raise ImageError("is a DICOM file whose RescaleSlope is 0. Export it again")
    bits = int(header.get("BitsStored") or 8 * pixels.dtype.itemsize)
    signed = int(header.get("PixelRepresentation") or 0) == 1
    least, most = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if (slope, shift) != (1.0, 0.0):
        pixels = pixels.astype(np.float64) * slope + shift
    ends = sorted((least * slope + shift, most * slope + shift))
    stated = _window(header, notes) or (ends[0], ends[1], f"DICOM, {bits} bits stored")
    notes += [f"DICOM: {name} is not applied" for name in ("ModalityLUTSequence", "VOILUTSequence") if name in header]
    return Raw(pixels, notes, white_is_zero=header.PhotometricInterpretation == "MONOCHROME1", range=stated)


def _window(header: Any, notes: list[str]) -> tuple[float, float, str] | None:
    centre, width = _number(header.get("WindowCenter"), math.nan), _number(header.get("WindowWidth"), math.nan)
    if math.isnan(centre) or math.isnan(width) or width <= 0:
        return None
    kind = header.get("VOILUTFunction") or "LINEAR"
    if kind == "SIGMOID":
        notes.append("DICOM: SIGMOID window read as a linear one")
    exact = kind == "LINEAR_EXACT"
    low = centre - width / 2 if exact else centre - 0.5 - (width - 1) / 2
    return low, low + (width if exact else max(width - 1, 1.0)), "DICOM window"


def _number(value: Any, otherwise: float) -> float:
    """The first of a field's values as a finite number."""
    if value is not None and not isinstance(value, (str, float, int)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return otherwise
    return number if math.isfinite(number) else otherwise
