"""Checkpoints that their authors publish as several files: read from the folder that they lie in, as if they were one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from zsad.errors import CheckpointMismatch
from zsad.weights.checkpoints import AuthorsFile, read_state_dict, sha256_of

__all__ = ["digest", "parts_of", "read"]


def parts_of(folder: Path, layout: AuthorsFile) -> dict[str, Path]:
    """The files of a folder by the entry of ``layout.parts`` that each becomes; {} where it has none of them.

    Raises:
        CheckpointMismatch: several files for one entry.
    """
    found = {entry: sorted(folder.glob(pattern)) for entry, pattern in layout.parts.items()}
    for entry, files in found.items():
        if len(files) > 1:
            raise CheckpointMismatch(
                f"The folder {str(folder)!r} has {len(files)} files {layout.parts[entry]!r}, {files[0].name} and "
                f"{files[1].name}; a checkpoint has one. Put the files that belong together into a folder of their own."
            )
    return {entry: files[0] for entry, files in found.items() if files}


def read(path: Path, layout: AuthorsFile) -> dict[str, Any]:
    """What a file holds, or the files of a folder; raises as ``read_state_dict`` and ``parts_of`` do."""
    if not path.is_dir():
        return read_state_dict(path)
    stored = {entry: read_state_dict(file) for entry, file in parts_of(path, layout).items()}
    return stored.pop("", {}) | stored


def digest(path: Path, layout: AuthorsFile) -> str:
    """Hex digest of a file, or of the digests of a folder's files."""
    if not path.is_dir():
        return sha256_of(path)
    digests = [sha256_of(file) for file in parts_of(path, layout).values()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
