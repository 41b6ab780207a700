"""Files that are never seen half written, and temporary folders that go with their owner."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["remove_partials", "scratch_folder", "write_atomically"]

PARTIAL = ".partial"  # ending of a file that is not whole yet


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Writes a file beside its place and renames it; several processes may write the same one at once.

    Args:
        path: the file; its folder has to be there.
        content: its bytes, or a function that writes them to an open file: ``lambda file: np.save(file, array)``.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with aside.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Deletes what a process that was killed in ``write_atomically`` has left in a folder or below it."""
    for path in folder.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)


def scratch_folder(owner: object) -> Path:
    """A temporary folder that goes when its owner does, or at the end of the program; never by a forked child's doing."""
    place = Path(tempfile.mkdtemp(prefix="zsad-"))
    weakref.finalize(owner, _remove_own, place, os.getpid())
    return place


def _remove_own(place: Path, maker: int) -> None:
    """Deletes a folder in the process that made it: a forked child has the same finalizers."""
    if os.getpid() == maker:
        shutil.rmtree(place, ignore_errors=True)
