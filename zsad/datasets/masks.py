"""Loads masks from any file as (H, W) bool, and resizes them as published pixel metrics do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import entries, pictures
from zsad.datasets.shapes import Shapes
from zsad.errors import ImageError, MaskError
from zsad.images.intensity import upright
from zsad.images.reading import load_image, load_raw
from zsad.images.sources import ImageRef

__all__ = ["load_mask", "read_mask", "resize_mask"]

Mask = NDArray[np.bool_]
MANY = 4  # values up to which a mask's are counted in its note: class numbers; more are soft edges or a lossy format


def load_mask(
    sample: Sample, size: int | None = None, *, picture: tuple[int, int] | None = None, notes: list[str] | None = None
) -> Mask:
    """Loads the mask of one sample: True where the file's value is above 0; all False for normal pictures without a file.

    That one rule holds for class numbers (VisA), 0/1, 0/255 and 16 bits, as in the field's code (AnomalyCLIP and its
    family). Colour and palettes: not black. Transparent pixels are no defect; where all colour is black, the opaque ones
    are. A folder is the union of its files. A mask is turned by its EXIF orientation, as its picture is.

    Args:
        sample: of a ``Dataset``; annotated areas (``Shapes``) are drawn.
        size: side of the model's input; the mask is brought to it by ``resize_mask``. None: as large as the picture.
        picture: (height, width) of the picture, where it is at hand; otherwise a mask's size is not compared, and for a
            normal picture the file is read.
        notes: a list to which remarks are added (unusual values, an empty mask of an anomalous picture).

    Returns:
        (H, W) or (size, size) bool.

    Raises:
        MaskError: there is no mask, it cannot be read, or it has another size than the picture; one sentence.
        ImageError: the picture of a normal sample cannot be read, and its size was not given.
    """
    remarks: list[str] = []
    if isinstance(sample.mask, Shapes):
        mask = _drawn(sample, sample.mask, picture or _size(sample))
    elif sample.mask is not None:
        mask = read_mask(sample.mask, remarks)
    elif sample.label == 0:
        mask = np.zeros(picture or _size(sample), np.bool_)
    else:
        what = "anomalous picture has no mask" if sample.label else "picture has neither label nor mask"
        raise MaskError(f"{sample.path.name!r}: the {what}. Leave it out of pixel metrics, or add the mask.")
    if picture is not None and mask.shape != tuple(picture):
        raise MaskError(
            f"The mask of {sample.path.name!r} is {mask.shape[1]} x {mask.shape[0]} pixels, the picture {picture[1]} x "
            f"{picture[0]}. Save the mask at the picture's size, or check that it belongs to it."
        )
    if mask.all():
        raise MaskError(
            f"The mask of {sample.path.name!r} marks every pixel as a defect, so it is no annotation: it may be inverted, or "
            "its ground may be a colour instead of black. Save it with 0 for what is normal."
        )
    if sample.label is not None and bool(mask.any()) != bool(sample.label):
        remarks.append(
            "the mask of an anomalous picture is empty" if sample.label else "a normal picture has a mask with a defect"
        )
    if notes is not None:
        notes += remarks
    return mask if size is None else resize_mask(mask, size)


def _size(sample: Sample) -> tuple[int, int]:
    height, width = load_image(ImageRef(sample.path.name, sample.path)).rgb.shape[:2]
    return height, width


def _drawn(sample: Sample, shapes: Shapes, picture: tuple[int, int]) -> Mask:
    """Draws annotated areas at the size of the upright picture (height, width).

    Where width and height of the annotation are those of the picture as it is stored, and EXIF turns it by a quarter, it was
    annotated unturned: its mask is turned with it.
    """
    height, width = picture
    name = repr(sample.path.name)
    try:
        if shapes.size in (None, (width, height)):
            return shapes.draw(width, height)
        if shapes.size == (height, width):
            raw = load_raw(ImageRef(sample.path.name, sample.path))
            if raw.orientation in (5, 6, 7, 8):  # those that turn by a quarter
                return np.ascontiguousarray(upright(raw, shapes.draw(height, width)))
    except MaskError as error:
        raise MaskError(f"The annotation of {name} cannot be drawn: {error}.") from error
    except ImageError as error:
        raise MaskError(f"The annotation of {name} cannot be drawn: {error}") from error
    wide, high = shapes.size or (0, 0)
    raise MaskError(
        f"{name} was annotated at {wide} x {high} pixels, and is {width} x {height}. Annotate this file, or bring back the one "
        "that was annotated."
    )


def resize_mask(mask: Mask, size: int) -> Mask:
    """Resizes (H, W) bool to (size, size) bool as published code does: 0/255, Pillow's antialiased bilinear, above 0.5.

    A defect that covers less than half of a target pixel disappears there; published numbers include that.
    """
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR)) > 127  # v / 255 > 0.5


def read_mask(path: Path, notes: list[str]) -> Mask:
    """Reads a mask file, or the union of a folder's files, at its own size; see ``load_mask``.

    Raises:
        MaskError: it cannot be read, holds values that are no mask, or a folder's files differ in size or are none.
    """
    if not path.is_dir():
        return _read_file(path, notes)
    files = pictures(path)
    if not files:
        raise MaskError(f"The folder of masks {path.name!r} holds {len(entries(path))} entries and no picture file.")
    parts = [_read_file(file, notes) for file in files]
    sizes = {part.shape for part in parts}
    if len(sizes) > 1:
        raise MaskError(f"The masks in the folder {path.name!r} differ in size: {sorted(sizes)} (height, width).")
    return np.logical_or.reduce(parts)


def _read_file(path: Path, notes: list[str]) -> Mask:
    try:
        raw = load_raw(ImageRef(path.name, path))
    except ImageError as error:
        raise MaskError(f"A mask cannot be read: {error}") from error
    pixels = upright(raw, raw.pixels if raw.pixels.ndim == 3 else raw.pixels[..., None])
    notes += raw.notes
    if pixels.dtype.kind in "if" and not (np.isfinite(pixels) & (pixels >= 0)).all():
        raise MaskError(f"The mask {path.name!r} holds negative or not finite values. Save it with 0 for what is normal.")
    if raw.white_is_zero:
        raise MaskError(f"The mask {path.name!r} is a TIFF in which 0 means white, deeper than 8 bits. Save it anew as PNG.")
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    colour = pixels[..., :colours]
    mask: Mask = np.asarray((colour > 0).any(axis=2))
    opaque: Mask = np.asarray(pixels[..., -1] > 0)
    if colours < pixels.shape[2] and not opaque.all():
        notes.append("transparent pixels are no defect" if mask.any() else "all colour is black: opaque pixels are the defect")
        mask = mask & opaque if mask.any() else opaque
    _note_values(path, colour, mask, notes)
    return mask


def _note_values(path: Path, colour: NDArray[np.generic], mask: Mask, notes: list[str]) -> None:
    values = np.unique(colour)
    if colour.dtype != np.uint8 or not set(values.tolist()) <= {0, 255}:
        kind = f"{colour.dtype.itemsize * 8}-bit values" if colour.dtype != np.uint8 else "values"
        many = len(values) if len(values) <= MANY else f"more than {MANY}"  # a note per count would be one per picture
        notes.append(f"mask with {many} {kind} from {values[0]} to {values[-1]}: all above 0 are the defect")
    if path.suffix.lower() in (".jpg", ".jpeg") and len(values) > 2:
        notes.append("a JPEG mask: its compression widens the defect by some pixels")
    if mask.mean() > 0.9:
        notes.append(f"the mask covers {mask.mean():.0%} of the picture: is it inverted?")
