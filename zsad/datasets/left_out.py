"""Pictures in the folders of a data set that its reader did not use: counted by folder, so that nothing vanishes unseen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from zsad.datasets.dataset import display_path
from zsad.datasets.layout import MASK_ENDING, Found, Layout, pictures
from zsad.datasets.words import plain, role_of

__all__ = ["left_out"]


def left_out(found: Found, layout: Layout) -> list[str]:
    """One line per folder with pictures that are neither a sample nor a mask.

    A file that lists the pictures need not list all, and may lie in any folder: there the folders of listed pictures are
    looked at, elsewhere all below the root. Folders of masks are left to the matching of masks, and what the user ignores
    is not counted.
    """
    samples = {sample.path for sample in found.samples}
    used = samples | {sample.mask for sample in found.samples if sample.mask is not None}
    by_folder: dict[Path, set[str]] = {}
    for path in samples:
        by_folder.setdefault(path.parent, set()).add(path.stem)
    lines = []
    for folder in sorted(by_folder) if layout.index else _folders(found.root, found, used):
        stems = by_folder.get(folder, set())
        rest = [one for one in pictures(folder) if one not in used and MASK_ENDING.sub("", one.stem) not in stems]
        if rest:
            why = "are not listed" if layout.index else _why(folder, layout)
            lines.append(f"{display_path(folder, found.root)}: {len(rest)} pictures {why}, the first is {rest[0].name}.")
    return lines


def _folders(root: Path, found: Found, used: set[Path]) -> Iterator[Path]:
    """All below the root but hidden ones, those of masks, and those that are to be ignored."""
    for name, inside, _ in os.walk(root):
        folder = Path(name)
        inside[:] = sorted(
            one
            for one in inside
            if not one.startswith(".")
            and role_of(one) != "mask"
            and found.roles.get(plain(one)) not in ("mask", "ignore")
            and folder / one not in used
        )
        yield folder


def _why(folder: Path, layout: Layout) -> str:
    if role_of(folder.name) == "unlabelled":
        return "have no label and are left out"
    return f"are not part of the layout {layout.name!r} and are left out"
