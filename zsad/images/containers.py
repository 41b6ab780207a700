"""Pictures inside one file, which have paths as if that file were a folder: ``photos.zip/a.png``."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["container_of", "stat_of"]


def container_of(path: str | Path) -> tuple[str, str] | None:
    """The file that a path leads into, and the posix path inside it; None where it leads into none."""
    path = Path(path)
    for parent in path.parents:
        try:
            if parent.is_file():
                return str(parent), path.relative_to(parent).as_posix()
            if parent.is_dir():
                return None
        except (OSError, ValueError):
            continue
    return None


def stat_of(path: str | Path) -> os.stat_result:
    """``os.stat`` of a file, or of the file that holds it.

    Raises:
        OSError: there is neither.
    """
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        inside = container_of(path)
        if inside is None:
            raise
        return os.stat(inside[0])  # noqa: PTH116
