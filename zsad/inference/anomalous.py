"""Anomalous references: pictures of defects, with masks of where in them the defect is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.datasets.masks import read_mask
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.images.side_masks import picture_stem
from zsad.images.tiling import Geometry, piece
from zsad.types import ImageFeatures

__all__ = ["MaskOf", "mask_reader", "rows_of", "seen_mask"]

MaskOf = Callable[[ImageRef, tuple[int, int]], "NDArray[np.uint8] | None"]  # of a picture of a size; None: all of it counts


def mask_reader(masks: Any, refs: Sequence[ImageRef]) -> MaskOf:
    """Where the masks of some pictures are looked up.

    Args:
        masks: a folder, whose files are named like the pictures (``a.png``, ``a_mask.png``); arrays (H, W), above 0 where the
            defect is, one per picture or by name; None: all of every picture is an example.
        refs: the pictures.

    Raises:
        UsageError: the folder has no mask of a picture, or there is another number of arrays than of pictures.
    """
    if masks is None:
        return lambda ref, size: None
    if isinstance(masks, (str, Path)):
        files = {picture_stem(path.name): path for path in sorted(Path(masks).iterdir())} if Path(masks).is_dir() else {}
        if missing := [ref.name for ref in refs if Path(ref.name).stem not in files]:
            raise UsageError(
                f"{str(masks)!r} has no mask of {missing[0]!r} ({len(missing)} of {len(refs)} pictures have none). Name masks "
                "like their pictures (a.png or a_mask.png), or leave the masks out: then all of each picture is an example."
            )
        return lambda ref, size: _checked(ref, read_mask(files[Path(ref.name).stem], []), size)
    if len(masks) != len(refs):
        raise UsageError(f"{len(masks)} masks were given for {len(refs)} anomalous references. Give one for each, or none.")
    given = masks if isinstance(masks, Mapping) else dict(zip((ref.name for ref in refs), masks, strict=True))
    return lambda ref, size: _checked(ref, np.asarray(given[ref.name]), size)


def _checked(ref: ImageRef, mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    if mask.shape != size:
        raise UsageError(f"The mask of {ref.name!r} is {mask.shape[::-1]}, the picture {size[::-1]}. Give one of that size.")
    if not (mask > 0).any():
        raise UsageError(f"The mask of {ref.name!r} marks nothing. Leave the picture out, or mark its defect.")
    return (mask > 0).astype(np.uint8)


def seen_mask(mask: NDArray[np.uint8], geometry: Geometry, index: int, side: int) -> Tensor:
    """A mask (H, W) of 0 and 1 as the method sees it in one piece of the picture: (h, w), above 0 where it is marked.

    Args:
        mask: at the picture's own size.
        geometry: by which the picture is cut.
        index: of the piece.
        side: of the model's input.
    """
    size = (mask.shape[0], mask.shape[1])
    view, place = geometry.window(size), geometry.places(size)[index]
    white = view.crop(np.repeat(mask[..., None], 3, axis=2)) * np.uint8(255)  # so that what is shrunk stays above 0
    return torch.from_numpy(piece(white, view.corner, place, side)[..., 0].copy())


def rows_of(detector: Detector, features: ImageFeatures, view: int = 0, seen: Tensor | None = None) -> dict[str, Tensor]:
    """What one piece (B = 1) of a view leaves in the banks, (M, C) by key; with a mask the rows under it, which may be none."""
    rows = {key: found[0].cpu() for key, found in detector.view_rows(features, view).items()}
    if seen is None:
        return rows
    if not bool((seen > 0).any()):
        return {key: one[:0] for key, one in rows.items()}
    grids = {str(layer): tap.grid for layer, tap in detector.reference_taps(features).items()}
    kept = {key: grids.get(key.rpartition(".")[2]) for key in rows}
    return {
        key: one if (grid := kept[key]) is None else one[detector.marked_rows(seen[None], grid)[0]] for key, one in rows.items()
    }
