"""Saved references: a folder with the rows of every picture, and an index.

The uncompressed rows of a picture are in a safetensors file that is named by the digest of its pixels; ``references.json`` has
the pictures' names, and the detector that encoded them. Another detector refuses the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from zsad.common.atomic_files import write_atomically
from zsad.common.output_folder import current_names
from zsad.errors import UsageError

__all__ = ["Reference", "copy_rows", "is_saved", "read_saved", "rows_file", "write_saved"]

FORMATS = {False: "zsad references 1", True: "zsad references 2"}  # by whether there are anomalous pictures
INDEX = "references.json"


@dataclass(frozen=True)
class Reference:
    """One picture of a set."""

    name: str
    digest: str  # of the pixels
    anomalous: bool = False  # an example of a defect; its rows are those of the defect


def is_saved(source: Any) -> bool:
    """True for a folder of saved references."""
    return isinstance(source, (str, Path)) and (Path(source) / INDEX).is_file()


def rows_file(folder: Path, digest: str) -> Path:
    """The file with a picture's rows."""
    return folder / f"{digest}.safetensors"


def write_saved(place: Path, detector: Mapping[str, Any], members: Iterable[Reference], rows: Path) -> None:
    """Writes a set to a folder; rows of pictures that are no members any more go.

    Args:
        place: the folder.
        detector: what encoded them.
        members: the pictures.
        rows: folder with their rows.

    Raises:
        UsageError: the folder holds something else.
    """
    if place.exists() and not (place / INDEX).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{str(place)!r} holds something that is no set of references. Give another folder.")
    place.mkdir(parents=True, exist_ok=True)
    kept = {one.digest: one for one in members}
    for digest in kept:
        if not (target := rows_file(place, digest)).exists():
            write_atomically(target, rows_file(rows, digest).read_bytes())
    listed = [
        {"name": one.name, "sha256": one.digest} | ({"anomalous": True} if one.anomalous else {}) for one in kept.values()
    ]
    index = {"format": FORMATS[any(one.anomalous for one in kept.values())], "detector": dict(detector), "references": listed}
    write_atomically(place / INDEX, json.dumps(index, indent=1).encode())
    for stale in place.glob("*.safetensors"):
        if stale.stem not in kept:
            stale.unlink()


def read_saved(place: Path) -> tuple[dict[str, Any], list[Reference]]:
    """The detector and the pictures of a saved set.

    Raises:
        UsageError: it is no such folder, or its index is damaged.
    """
    try:
        index = current_names(json.loads((place / INDEX).read_text(encoding="utf-8")))
        detector, known = current_names(index["detector"]), index["format"] in FORMATS.values()
        rows = index["references"]
        members = [Reference(str(row["name"]), str(row["sha256"]), row.get("anomalous") is True) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{str(place)!r} is no folder of saved references ({error}). Give pictures instead.") from error
    if not known or not all(len(one.digest) == 64 and one.digest.isalnum() for one in members):
        raise UsageError(f"{str(place)!r} was saved by another version, or is damaged. Make it again from the pictures.")
    return detector, members


def copy_rows(source: Path, digests: Iterable[str], target: Path) -> None:
    """Copies the rows of pictures from one folder to another.

    Raises:
        UsageError: a file is missing or damaged.
    """
    for digest in digests:
        path = rows_file(source, digest)
        try:
            with safe_open(path, framework="pt") as file:
                next(iter(file.keys()))
            shutil.copyfile(path, rows_file(target, digest))
        except (OSError, SafetensorError, StopIteration) as error:
            raise UsageError(f"{path.name}, a saved reference, is missing or damaged ({error}). Make it again.") from error
