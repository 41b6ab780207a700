"""Lists of paths, as ``find`` prints them or a file holds them."""

# ruff: noqa: PTH112  (os.path.isdir answers False where Path raises)
from __future__ import annotations

import codecs
import os
from pathlib import PurePath

from zsad.errors import SourceNotFound

__all__ = ["read_paths"]

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_paths(data: bytes, where: str, *, null: bool = False) -> list[str]:
    """The paths of a list, each once, in its order; relative ones stay relative to the current folder.

    A folder is left out where the list names files below it too, as ``find folder`` prints them.

    Args:
        data: the list: a path a line; UTF-8, or UTF-16 with its mark.
        where: what the list is called in errors.
        null: paths end in NUL characters instead, as ``find -print0`` and ``git ls-files -z`` write them.

    Raises:
        SourceNotFound: no path in it, or it holds NUL characters where lines are expected.
    """
    if null:
        found = [os.fsdecode(one) for one in data.split(b"\0")]
    else:
        kind = next((kind for mark, kind in _MARKS.items() if data.startswith(mark)), None)
        text = os.fsdecode(data) if kind is None else data.decode(kind, "replace")
        if "\0" in text:
            raise SourceNotFound(f"{where} holds NUL characters. Give -0 if they end its paths; else it is no list of paths.")
        found = [line.removesuffix("\r") for line in text.split("\n")]
    paths = list(dict.fromkeys(path for path in found if path.strip()))
    if not paths:
        raise SourceNotFound(f"{where} holds no path. Give one path a line.")
    above = {str(parent) for path in paths for parent in PurePath(path).parents}
    return [path for path in paths if str(PurePath(path)) not in above or not os.path.isdir(path)]
