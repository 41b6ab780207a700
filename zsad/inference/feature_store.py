"""Features on disk: what the encoder gave, one safetensors file per picture or tile, read back when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from zsad.common.atomic_files import write_atomically
from zsad.types import ImageFeatures, Tap

__all__ = ["FeatureFiles", "load_features", "packed", "save_features", "unpacked"]

_PLAIN = ""  # the name of ImageFeatures.taps among the streams


def packed(features: ImageFeatures) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """The tensors of features by name ("image", "vit/6/patches", "vit/6/cls"), and the grid of each tap ("vit/6")."""
    tensors, grids = {"image": features.image}, dict[str, tuple[int, int]]()
    for stream, taps in {_PLAIN: features.taps, **features.streams}.items():
        for layer, tap in taps.items():
            key = f"{stream}/{layer}"
            tensors[f"{key}/patches"], grids[key] = tap.patches, tap.grid
            if tap.cls is not None:
                tensors[f"{key}/cls"] = tap.cls
    return tensors, grids


def unpacked(tensors: Mapping[str, Tensor], grids: Mapping[str, Sequence[int]]) -> ImageFeatures:
    """What ``packed`` took apart."""
    streams: dict[str, dict[int, Tap]] = {}
    for key, (height, width) in grids.items():
        stream, _, layer = key.rpartition("/")
        tap = Tap(tensors[f"{key}/patches"], (height, width), tensors.get(f"{key}/cls"))
        streams.setdefault(stream, {})[int(layer)] = tap
    plain = streams.pop(_PLAIN, {})
    return ImageFeatures(tensors["image"], plain, streams)


def save_features(path: Path, features: ImageFeatures) -> None:
    """Writes features aside and then renames, so that a file that is there is whole."""
    tensors, grids = packed(features)
    content = save({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}, {"grids": json.dumps(grids)})
    write_atomically(path, content)


def load_features(path: Path) -> ImageFeatures:
    """Reads what ``save_features`` wrote."""
    with safe_open(path, framework="pt") as file:
        grids: Mapping[str, Sequence[int]] = json.loads((file.metadata() or {})["grids"])
        return unpacked({key: file.get_tensor(key) for key in file.keys()}, grids)  # noqa: SIM118 (not a mapping)


class FeatureFiles(Sequence[ImageFeatures]):
    """Features that live on disk, as ``Detector.score_set`` takes them; each is read anew whenever it is asked for.

    Args:
        paths: files of ``save_features``.
        device: where the features go.
    """

    def __init__(self, paths: Sequence[Path], device: str = "cpu") -> None:
        self.paths, self.device = paths, device

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> ImageFeatures: ...

    @overload
    def __getitem__(self, index: slice) -> FeatureFiles: ...

    def __getitem__(self, index: int | slice) -> ImageFeatures | FeatureFiles:
        if isinstance(index, slice):
            return FeatureFiles(self.paths[index], self.device)
        return load_features(self.paths[index]).to(self.device)
