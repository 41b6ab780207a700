"""Lists the pictures of any source, each as an ``ImageRef`` with a unique, printable name; nothing is decoded."""

# os.path answers False where Path raises (no permission, name too long), and is faster on millions of names.
# ruff: noqa: PTH110, PTH112, PTH119, PTH120, PTH122, PTH207
from __future__ import annotations

import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from zsad.errors import ImageError, SourceNotFound
from zsad.images.in_memory import is_in_memory, pictures_in

__all__ = ["SUFFIXES", "ImageRef", "encodable", "list_images"]

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""File endings (lower case) that are taken from folders and patterns; a file that is given by name may have any."""

_TAKEN = "Give a picture file, a folder, a glob pattern, a PIL image, an array, bytes, a file object, or a list of these"
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class ImageRef:
    """A picture that is listed and not decoded yet.

    Attributes:
        name: Posix path below the folder that was given, the file's own name, or the position in the listing
            ("0000012") of a picture in memory. Unique within a listing, safe to print and to write as JSON.
        path: The file, or None.
        data: PIL image, array, tensor or the bytes of a file when there is no path; an exception when there is nothing to load.
    """

    name: str
    path: Path | None
    data: Any = field(default=None, compare=False, repr=False)


def list_images(source: Any, *, channels_first: bool = False) -> Iterator[ImageRef]:
    """Lists the pictures of any source.

    Folders are walked in natural order (2 before 10) without hidden entries; links are followed, but no folder is
    entered twice. A list is checked as a whole before its first picture. Iterators stay lazy: what is wrong with one
    of their items becomes an ``ImageRef`` whose loading fails, as does a path of a list that does not exist, and a
    sub-folder that cannot be opened.

    Args:
        source: Path of a file or folder, glob pattern, a picture or a stack of pictures in memory (see ``pictures_in``),
            or a list or iterator of these (nested one level).
        channels_first: numpy arrays are (3, H, W) or (B, 3, H, W), as tensors are.

    Raises:
        SourceNotFound: Unknown type, nothing at that path, or no picture in it.
    """
    refs = _refs(source, _Names(channels_first), 0)
    return refs if _is_lazy(source) else chain(list(islice(refs, 1)), refs)


class _Names:
    """Makes ``ImageRef`` with unique names."""

    def __init__(self, channels_first: bool = False) -> None:
        self.taken: set[str] = set()
        self.given = 0
        self.channels_first = channels_first

    def file(self, name: str, path: str | Path, origin: str | Path, data: Any = None) -> ImageRef:
        """Of a file; ``origin`` is the folder whose own name distinguishes equal names."""
        label, name = encodable(os.path.basename(os.path.realpath(origin))), encodable(name)
        free = chain([name, f"{label}/{name}"], (f"{label}~{k}/{name}" for k in count(2)))
        # A bare number of seven digits and more is kept for pictures in memory.
        name = next(n for n in free if n not in self.taken and not re.fullmatch(r"\d{7,}", n))
        self.taken.add(name)
        self.given += 1
        return ImageRef(name, Path(path), data)

    def memory(self, data: Any) -> ImageRef:
        """Of a picture in memory, or of an error: named by its position."""
        self.given += 1
        return ImageRef(f"{self.given - 1:07d}", None, data)

    def missing(self, text: str, error: SourceNotFound) -> ImageRef:
        """Of a path in a list that gives no picture."""
        reason = f"has no picture: {error}"
        if not text or not (os.path.lexists(text) or _MAGIC.search(text)):
            near = [os.path.basename(path) for path in _near(text)]
            reason = f"does not exist{f' (did you mean {_either(near)}?)' if near else ''}. Check the path"
        name = os.path.basename(text.rstrip("/"))
        if not name or "\0" in text or len(os.fsencode(name)) > 255:
            return self.memory(ImageError(reason))
        return self.file(name, text, os.path.dirname(text), ImageError(reason))


def encodable(text: str) -> str:
    """The text with undecodable bytes as "%E9"; in Python they are lone surrogates, which neither print nor encode."""
    return re.sub("[\ud800-\udfff]", lambda m: f"%{ord(m[0]) & 0xFF:02X}", text)


def _is_lazy(source: Any) -> bool:
    known = (str, os.PathLike, list, tuple, bytes, bytearray, Mapping, AbstractSet)
    return isinstance(source, Iterable) and not isinstance(source, known) and not is_in_memory(source)


def _refs(source: Any, names: _Names, depth: int) -> Iterator[ImageRef]:
    if isinstance(source, (str, os.PathLike)):
        yield from _from_path(os.fsdecode(source), names)
    elif is_in_memory(source):
        yield from map(names.memory, pictures_in(source, names.channels_first))
    elif depth < 2 and _is_lazy(source):
        for item in source:
            try:
                yield from _refs(item, names, depth + 1)
            except SourceNotFound as error:
                yield names.memory(ImageError(f"has no picture: {error}"))
    elif depth < 2 and source and isinstance(source, (list, tuple)):
        for item in source:  # what is wrong with the last item should not come up after hours of work
            if not _is_lazy(item) and not is_in_memory(item) and not isinstance(item, (str, os.PathLike)):
                next(_refs(item, _Names(), depth + 1), None)
        for item in source:
            try:
                yield from _refs(item, names, depth + 1)
            except SourceNotFound as error:
                if not isinstance(item, (str, os.PathLike)):
                    raise
                yield names.missing(os.fsdecode(item), error)
    else:
        kind = "an empty list" if isinstance(source, (list, tuple)) and not source else f"a {type(source).__name__}"
        raise SourceNotFound(f"No pictures can come from {kind}{' at the third level' * (depth > 1)}. {_TAKEN}.")


def _from_path(text: str, names: _Names) -> Iterator[ImageRef]:
    if text and os.path.isdir(text):
        yield from _from_folder(text, names)
    elif text and os.path.exists(text):
        yield names.file(os.path.basename(text), text, os.path.dirname(text))
    elif _MAGIC.search(text):
        yield from _from_pattern(text, names)
    else:
        raise _missing(text)


def _missing(text: str) -> SourceNotFound:
    near = _near(text)
    return SourceNotFound(f"There is nothing at {text!r}.{f' Did you mean {_either(near)}?' if near else ''} {_TAKEN}.")


def _either(names: list[str]) -> str:
    return " or ".join(map(repr, names))


def _near(text: str) -> list[str]:
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


def _from_folder(root: str, names: _Names) -> Iterator[ImageRef]:
    visited: set[str] = set()
    others: Counter[str] = Counter()
    before = names.given
    pending = [("", root, True)]  # a stack, for folders can be nested deeper than Python's calls
    while pending:
        name, path, is_folder = pending.pop()
        ending = os.path.splitext(path)[1].lower()
        if is_folder and (real := os.path.realpath(path)) not in visited:
            visited.add(real)
            try:
                pending += reversed(_entries(name, path))
            except OSError as error:
                if not name:
                    raise SourceNotFound(f"The folder {root!r} cannot be opened: {error.strerror}.") from error
                failure = ImageError(f"is a folder that cannot be opened: {error.strerror}. Check its permissions")
                yield names.file(name, path, root, failure)
        elif not is_folder and ending in SUFFIXES:
            yield names.file(name, path, root)
        elif not is_folder:
            others[encodable(ending) or "without ending"] += 1
    if names.given == before:
        kinds = ", ".join(f"{n} {ending}" for ending, n in others.most_common(5)) or "none"
        saw = f"files seen: {sum(others.values())} ({kinds}); endings taken: {' '.join(sorted(SUFFIXES))}"
        raise SourceNotFound(f"The folder {root!r} holds no picture; {saw}.")


def _entries(name: str, path: str) -> list[tuple[str, str, bool]]:
    with os.scandir(path) as entries:
        shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: _natural(e.name))
    return [(f"{name}/{e.name}" if name else e.name, e.path, _is_folder(e)) for e in shown]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(part) if k % 2 else -1, part.casefold()) for k, part in enumerate(parts)], name


def _from_pattern(pattern: str, names: _Names) -> Iterator[ImageRef]:
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if _MAGIC.search(part))
    base, rest = Path(*parts[:fixed]), str(Path(*parts[fixed:]))
    if not base.is_dir():
        raise _missing(str(base))
    found = sorted(glob.glob(rest, root_dir=base, recursive=True), key=_natural)
    files = [f for f in found if os.path.splitext(f)[1].lower() in SUFFIXES and not os.path.isdir(base / f)]
    if not files:
        endings = " ".join(sorted(SUFFIXES))
        raise SourceNotFound(f"{pattern!r} matches {len(found)} entries and no picture; endings taken: {endings}.")
    yield from (names.file(Path(f).as_posix(), base / f, base) for f in files)
