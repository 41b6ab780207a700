"""The tiny CLIP of a fixture as a state dict on disk, so that it takes the way of any weights of a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zsad.errors import UsageError
from zsad.registry import load_backbone
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint, tiny_clip_state_dict

__all__ = ["TAPS", "tiny_backbone", "write_clip", "write_tower"]

TAPS = (6, 12, 18, 24)  # layers that the papers with ViT-L tap


def write_tower(reference: Reference, folder: Path, **shape: int) -> Path:
    """Writes the weights and returns their path.

    Args:
        reference: its settings hold the seed and the weights' fingerprint.
        folder: where to.
        **shape: as ``tiny_clip_state_dict``.

    Raises:
        UsageError: the regenerated weights are not those that the authors' code ran on.
    """
    return write_clip(reference, reference.settings["clip"]["fingerprint"], folder / "tiny.pt", **shape)


def write_clip(reference: Reference, stored: str, path: Path, **shape: int) -> Path:
    """As ``write_tower``, with the fingerprint and the path of the file."""
    state = tiny_clip_state_dict(reference.settings["seed"], **shape)
    if (found := fingerprint(state)) != stored:
        raise UsageError(
            f"The weights of {reference.name!r} that were generated here have the fingerprint {found[:12]}, the stored outputs "
            f"belong to {stored[:12]}. Please report this, with the version of numpy."
        )
    torch.save(state, path)
    return path


def tiny_backbone(reference: Reference, folder: Path, shape: dict[str, int] | None = None, **settings: Any) -> Any:
    """The backbone ``file:tiny.pt``; ``settings`` as in ``load_backbone``."""
    return load_backbone(f"file:{write_tower(reference, folder, **(shape or {}))}", **settings)
