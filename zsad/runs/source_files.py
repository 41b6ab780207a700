"""Which files a finished run's pictures are read from again.

A results folder may come from somebody else, and the paths in it are text that anyone can write. So a path alone opens nothing.
The record of a picture has its file's size and times (``records.state_of``), among them that of the last change in nanoseconds,
which nobody can know who has not seen the file on this machine: only the very file that was scored is read. Before a picture is
sent somewhere it must also lie in the run's source, links resolved. A person who names folders vouches for these instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad.errors import ImageError, UsageError, ZsadError
from zsad.images.reading import ImageRef, list_images
from zsad.images.urls import without_keys
from zsad.images.walking import MAGIC
from zsad.runs.drawing import folder_of_source
from zsad.runs.records import state_of

__all__ = ["SourceFiles", "facts_of_references", "reference_of_run"]

CHANGED = "is not the file that was scored, or was changed since. Run zsad predict again, or name its folder with --source"


class SourceFiles:
    """Finds the files of records.

    Args:
        run: run.json of the results.
        folders: that a person named; files are taken from there alone, and may have been copied since they were scored.
        leaves: whether pictures are sent somewhere, so that files have to lie in the run's source.

    Attributes:
        places: folders and files, links resolved, in which files have to lie; empty: anywhere.

    Raises:
        UsageError: a folder that is none, or pictures are to be sent and the run does not say where they come from.
    """

    def __init__(self, run: Mapping[str, Any], folders: Sequence[str | Path] = (), *, leaves: bool) -> None:
        self._named = bool(folders)
        for folder in folders:
            if not Path(folder).is_dir():
                raise UsageError(f"--source {str(folder)!r} is no folder. Give the folder that the run's pictures lie in.")
        self.places: tuple[Path, ...] = tuple(map(_real, folders))
        if leaves and not folders:
            place = _place_of(run.get("source"))
            if place is None:
                raise UsageError(
                    f"The run's pictures came from {_said(run.get('source'))}, so it is not known which pictures may be sent. "
                    "Name their folder with --source."
                )
            self.places = (place,)

    def find(self, record: Mapping[str, Any]) -> Path:
        """The file of a picture.

        Args:
            record: with "name", "path" and "file".

        Raises:
            ImageError: it lies elsewhere, or is not the one that was scored.
        """
        name, state = record["name"], record["file"]
        if not isinstance(record["path"], str) or not isinstance(state, list):
            raise ImageError(f"{name!r} was scored from memory, and there is no file of it.")
        path = Path(record["path"])
        if self._named:
            tries = [path, *(place / name for place in self.places)]
            path = next((one for one in tries if self._inside(one) and state_of(ImageRef(name, one))[1:]), path)
        if not self._inside(path):
            where = " or ".join(repr(str(place)) for place in self.places)
            raise ImageError(
                f"{name!r} does not lie in {where}, links resolved. Name its folder with --source, if it may be read."
            )
        now = state_of(ImageRef(name, path))
        if now[1:2] != state[1:2] if self._named else now != state or len(now) < 2:
            raise ImageError(f"{name!r} {CHANGED}.")
        return path

    def _inside(self, path: Path) -> bool:
        return not self.places or any(_real(path).is_relative_to(place) for place in self.places)


def facts_of_references(references: str | None) -> dict[str, Any]:
    """What run.json keeps of a run's references: where they came from, and the state of the first one's file, if it has one."""
    first = None
    if references is not None:
        try:
            found = state_of(next(iter(list_images(references))))
            first = found if len(found) > 1 else None
        except ZsadError:  # no pictures: a file of features, or an address
            first = None
    return {"references_from": None if references is None else without_keys(references), "first_reference": first}


def reference_of_run(run: Mapping[str, Any]) -> Path | None:
    """The file of the run's first reference; None where it has none.

    Raises:
        ImageError: it lies elsewhere than in the run's references, or was changed since.
    """
    state = run.get("first_reference")
    if not isinstance(state, list) or not state or not isinstance(state[0], str):
        return None
    path, place = Path(state[0]), _place_of(run.get("references_from"))
    if place is None or not _real(path).is_relative_to(place) or state_of(ImageRef(path.name, path)) != state:
        raise ImageError(f"the run's first reference, {path.name!r}, is gone, was changed, or lies elsewhere than the run says")
    return path


def _place_of(source: Any) -> Path | None:
    """The folder, archive or file that a source is, of a pattern the folder before it; None of lists and addresses."""
    if not isinstance(source, str) or not source or "\0" in source:
        return None
    if Path(source).exists():
        return _real(source)
    return _real(folder_of_source(source)) if MAGIC.search(source) and not source.startswith("@") else None


def _said(source: Any) -> str:
    return "an unnamed source" if not isinstance(source, str) else "a list" if source == "-" else repr(source)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))
