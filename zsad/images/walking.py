"""Files of folders and patterns in natural order (2 before 10), and names like that of a path that does not exist."""

# os.path answers False where Path raises (no permission, name too long), and is faster on millions of names.
# ruff: noqa: PTH112, PTH117, PTH118, PTH120, PTH207
from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

__all__ = ["MAGIC", "either", "is_output", "matches", "name_of_path", "natural", "near", "walk"]

MAGIC = re.compile(r"[*?[]")
_OF_A_RUN = ".zsad"  # a folder in the output folder of every command


def walk(root: str) -> Iterator[tuple[str, str, OSError | None]]:
    """The files below a folder without hidden ones; links are followed, but no folder is entered twice.

    Yields:
        (posix path below the folder, path, None), or of a sub-folder that cannot be opened the error.

    Raises:
        OSError: the folder itself cannot be opened.
    """
    visited: set[str] = set()
    pending = [("", root, True)]  # a stack, for folders can be nested deeper than Python's calls
    while pending:
        name, path, is_folder = pending.pop()
        if not is_folder:
            yield name, path, None
        elif (real := os.path.realpath(path)) not in visited:
            visited.add(real)
            try:
                pending += reversed(_entries(name, path))
            except OSError as error:
                if not name:
                    raise
                yield name, path, error


def is_output(path: str, root: str) -> bool:
    """Whether a file below ``root`` is part of the output folder of a run."""
    folder = os.path.dirname(path)
    while len(folder) >= len(root) and folder:
        if os.path.isdir(os.path.join(folder, _OF_A_RUN)):
            return True
        folder = os.path.dirname(folder)
    return False


def matches(pattern: str) -> tuple[str, list[str] | None]:
    """The folder before a pattern's first wildcard, and what matches, as paths below it; None where it does not exist.

    A folder that exists wins over the reading of its name as a pattern: "line 3 [2024]/*.png".
    """
    base, *parts = Path(pattern).parts if os.path.isabs(pattern) else ("", *Path(pattern).parts)
    while not MAGIC.search(parts[0]) or os.path.isdir(os.path.join(base, parts[0])):
        base = os.path.join(base, parts.pop(0))
    if base and not os.path.isdir(base):
        return base, None
    rest, within = os.path.join(*parts), base or "."
    found = glob.glob(rest, root_dir=within, recursive=True) or glob.glob(
        rest.replace("[", "[[]"), root_dir=within, recursive=True
    )
    return base, sorted(found, key=natural)


def name_of_path(text: str) -> str:
    """A relative path as a name, with "/" between its parts; "" where it leads nowhere or to a place above."""
    plain = os.path.normpath(text).replace(os.sep, "/")
    return "" if os.path.isabs(text) or plain.startswith("..") or plain == "." else plain


def either(names: Iterable[str]) -> str:
    """ "'a' or 'b'"; "" of no names."""
    return " or ".join(map(repr, names))


def near(text: str) -> list[str]:
    """Entries with names like that of a path at which there is nothing, or of its folder."""
    path = Path(text)
    while path.parent != path and not os.path.isdir(path.parent):
        path = path.parent
    try:
        with os.scandir(path.parent) as entries:  # enough of them for a hint
            beside = sorted(e.name for e in islice(entries, 10_000) if e.name != path.name)
    except (OSError, ValueError):
        return []
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)]


def _entries(name: str, path: str) -> list[tuple[str, str, bool]]:
    with os.scandir(path) as entries:
        shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: natural(e.name))
    return [(f"{name}/{e.name}" if name else e.name, e.path, _is_folder(e)) for e in shown]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key by which names are in natural order."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part) if k % 2 else -1, part.casefold()) for k, part in enumerate(parts)], name
