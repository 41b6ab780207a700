"""Features of the frozen backbone, cached on disk: training encodes each picture once, not once per epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zsad.detector import Detector
from zsad.inference.feature_store import load_features, save_features
from zsad.types import ImageFeatures, Tap
from zsad.weights.learned import facts_of

__all__ = ["FeatureCache", "stacked"]

LAYOUT = 1  # of the files; raised when their keys change


class FeatureCache:
    """One safetensors file per picture, named after a digest of the preprocessed pixels.

    Args:
        folder: of all caches; each combination of method, arguments, weights and precision has its own subfolder.
        detector: whose ``encode_for_loss`` is cached; must be ``cacheable``.
        precision: of ``encode``.
    """

    def __init__(self, folder: Path, detector: Detector, precision: str = "fp32") -> None:
        facts, built = facts_of(detector), detector.frozen_encoders()
        for key, one in {**facts.get("encoders", {}), "backbone": facts["backbone"]}.items():
            one["weights_sha256"] = one["weights_sha256"] or _digest_of_weights(built[key])
        settings = [LAYOUT, detector.name, detector.arguments(), facts.pop("backbone") | facts, precision]
        self.folder = folder / hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:20]

    def key(self, image: Tensor) -> str:
        """Digest of one preprocessed picture (3, H, W)."""
        return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:32]

    def path(self, key: str) -> Path:
        """The file of a picture."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether a picture's features are cached and the file is complete."""
        try:
            with safe_open(self.path(key), framework="pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def write(self, key: str, features: ImageFeatures) -> int:
        """Writes the features of one picture; returns the file's size in bytes."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_features(path, features)
        return path.stat().st_size

    def read(self, key: str) -> ImageFeatures:
        """The features of one picture, B = 1."""
        return load_features(self.path(key))


def stacked(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """Features of several pictures as one batch; all have the same layers and grids."""
    first = parts[0]
    return ImageFeatures(
        torch.cat([part.image for part in parts]),
        _stacked_taps([part.taps for part in parts]),
        {name: _stacked_taps([part.streams[name] for part in parts]) for name in first.streams},
    )


def _stacked_taps(parts: Sequence[Mapping[int, Tap]]) -> dict[int, Tap]:
    found = {}
    for layer, tap in parts[0].items():
        rows = [part[layer] for part in parts]
        cls = [one.cls for one in rows if one.cls is not None]
        found[layer] = Tap(torch.cat([one.patches for one in rows]), tap.grid, torch.cat(cls) if cls else None)
    return found


def _digest_of_weights(backbone: Any) -> str:
    """SHA-256 of weights that come from no file (random ones), so that two seeds never share features."""
    digest = hashlib.sha256()
    for key, tensor in sorted(backbone.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()
