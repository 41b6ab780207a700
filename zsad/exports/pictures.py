"""The pictures that an exported model is compared on, and quantized with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from zsad.common.assets import asset
from zsad.datasets.words import role_of
from zsad.images.reading import ImageRef, list_images, load_image
from zsad.inference.scorer import Scored
from zsad.synthetic.defects import make_defect

__all__ = ["Pictures", "own_pictures", "pictures_of"]

EXAMPLES = "demo/examples/brick"
DEFECTS = 4  # of the own pictures get a synthetic one as well


@dataclass(frozen=True)
class Pictures:
    """Pictures, and where the folders' names say so 0 for normal and 1 for anomalous."""

    refs: list[ImageRef]
    labels: list[int]  # one each, or none
    source: str

    def digest(self, scored: Sequence[Scored]) -> str:
        """A digest of the pixels of pictures that were read, in their order."""
        return hashlib.sha256("".join(one.digest for one in scored).encode()).hexdigest()


def pictures_of(source: Any = None) -> Pictures:
    """The user's pictures, or those that come with the package.

    Labels: of a source with a folder called good, ok or normal, all that is in another folder is anomalous. Folders of masks
    are left out.

    Args:
        source: whatever ``list_images`` takes; None: ``own_pictures``.
    """
    if source is None:
        return own_pictures()
    refs = list(list_images(source))
    roles = [{role_of(part) for part in PurePosixPath(ref.name).parent.parts} for ref in refs]
    kept = [(ref, role) for ref, role in zip(refs, roles, strict=True) if "mask" not in role]
    labels = [0 if "normal" in role else 1 for _, role in kept]
    labelled = {0, 1} <= set(labels) and not any("unlabelled" in role for role in roles)
    named = str(source) if isinstance(source, str) else f"{type(source).__name__} of {len(refs)}"
    return Pictures([ref for ref, _ in kept], labels if labelled else [], named)


def own_pictures() -> Pictures:
    """The example pictures of bricks, and seeded synthetic defects on some of them."""
    plain = [load_image(ref).rgb for ref in list_images(str(asset(EXAMPLES)))]
    rng = np.random.default_rng(0)
    made = [make_defect(rgb, rng)[0] for rgb in plain[:DEFECTS]]
    return Pictures(list(list_images([*plain, *made])), [], "the example pictures and synthetic defects")
