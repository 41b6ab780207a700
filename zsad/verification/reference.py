"""Stored outputs of the authors' programs, whole or as evenly spaced samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.common.assets import asset
from zsad.errors import UsageError, WeightsUnavailable
from zsad.images.preprocessing import CLIP_MEAN, CLIP_STD

__all__ = ["PATCHES", "Part", "Reference", "normalised", "reference_folder"]

Part: TypeAlias = EllipsisType | int | slice | tuple[int | slice | EllipsisType, ...]


def reference_folder() -> Path:
    """Folder of the reference outputs that come with the package: ``tests/parity`` of a checkout.

    Raises:
        WeightsUnavailable: this installation has none.
    """
    for place in ("parity", "tests/parity"):  # of a wheel, of a checkout
        try:
            return asset(place)
        except WeightsUnavailable:
            continue
    raise WeightsUnavailable(
        "The reference outputs are not part of this installation. Install zsad from a wheel or a complete checkout, or give "
        "--references FOLDER."
    )


PATCHES: Part = (slice(None), slice(1, None))  # of (B, 1 + L, C) tokens: without the class token


class Reference:
    """The stored arrays and settings of one method.

    Args:
        folder: holds ``<name>.npz`` and ``<name>.json``.
        name: of the files.

    Attributes:
        settings: the JSON file: seeds, class names, sentences, gradient norms, fingerprints.

    Raises:
        UsageError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        try:
            self.settings: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            with np.load(folder / f"{name}.npz") as file:  # pickles are refused
                self._arrays: dict[str, NDArray[Any]] = {key: file[key] for key in file.files}
        except (OSError, ValueError) as error:
            raise UsageError(f"The reference outputs {name!r} in {str(folder)!r} cannot be read: {error}") from error
        # key -> [shape, every]: of these arrays the npz holds every n-th value of the flattened array
        self._sampled: dict[str, list[Any]] = self.settings.get("sampled", {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> NDArray[Any]:
        """A whole array. Raises ``UsageError`` where it is missing or only a sample of it is stored."""
        if key not in self._arrays or key in self._sampled:
            state = "only sampled" if key in self._sampled else "missing"
            raise UsageError(f"The reference outputs {self.name!r} in {str(self.folder)!r} are incomplete: {key} is {state}.")
        return self._arrays[key]

    def tensor(self, key: str) -> Tensor:
        """A whole array as a tensor."""
        return torch.from_numpy(self[key])

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the authors' array."""
        return tuple(self._sampled[key][0]) if key in self._sampled else self[key].shape

    def stored(self, key: str, part: Part = ...) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What is stored of ``array[part]``.

        Returns:
            Places in the flattened part, and the values there.
        """
        shape = self.shape(key)
        every = self._sampled[key][1] if key in self._sampled else 1
        numbers = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)[part].reshape(-1)
        places = np.flatnonzero(numbers % every == 0)
        return places, self._arrays[key].reshape(-1)[numbers[places] // every].astype(np.float64)

    def pixels(self, key: str = "input_uint8") -> Tensor:
        """(N, H, W, 3) resized pixels -> (N, 3, H, W) as CLIP's towers take them."""
        return normalised(self.tensor(key).permute(0, 3, 1, 2).float() / 255)


def normalised(images: Tensor) -> Tensor:
    """(N, 3, H, W) in 0 to 1 -> less CLIP's mean, by its deviation."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (images - mean[:, None, None]) / std[:, None, None]
