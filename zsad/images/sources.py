"""Lists the pictures of any source, each as an ``ImageRef`` with a unique, printable name; nothing is decoded."""

# os.path answers False where Path raises (no permission, name too long), and is faster on millions of names.
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH119, PTH120, PTH122
from __future__ import annotations

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
from zsad.images.archives import is_archive, members
from zsad.images.formats import extra_suffixes, extras_for
from zsad.images.in_memory import is_in_memory, pictures_in
from zsad.images.urls import enlist_url, is_url
from zsad.images.video import frame_names, is_video
from zsad.images.walking import MAGIC, either, is_output, matches, name_of_path, near, walk

__all__ = ["SUFFIXES", "ImageRef", "encodable", "list_images"]

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""Endings (lower case) of files that are taken from folders and patterns, besides those of ``extra_suffixes``.

A file that is given by name may have any.
"""

_TAKEN = "Give a picture file, a folder, a glob pattern, a PIL image, an array, bytes, a file object, or a list of these"


@dataclass(frozen=True)
class ImageRef:
    """A picture that is listed and not decoded yet.

    Attributes:
        name: Posix path below the folder that was given, the file's own name, or the position in the listing
            ("0000012") of a picture in memory. Unique within a listing, safe to print and to write as JSON.
        path: The file, or None; of a picture inside another file as if that were a folder, ``photos.zip/a.png``.
        data: PIL image, array, tensor or the bytes of a file when there is no path; an exception when there is nothing to load.
    """

    name: str
    path: Path | None
    data: Any = field(default=None, compare=False, repr=False)


def list_images(
    source: Any,
    *,
    channels_first: bool = False,
    whole_names: bool = False,
    every: float = 1.0,
    allow_urls: bool = False,
    passed_over: Counter[str] | None = None,
) -> Iterator[ImageRef]:
    """Lists the pictures of any source.

    Folders are walked in natural order (2 before 10) without hidden entries; links are followed, but no folder is
    entered twice. A list is checked as a whole before its first picture. Iterators stay lazy: what is wrong with one
    of their items becomes an ``ImageRef`` whose loading fails, as does a path of a list that does not exist, and a
    sub-folder that cannot be opened.

    Args:
        source: Path of a file, folder, archive or video, glob pattern, a picture or a stack of pictures in memory (see
            ``pictures_in``), or a list or iterator of these (nested one level).
        channels_first: numpy arrays are (3, H, W) or (B, 3, H, W), as tensors are.
        whole_names: files that are given by a relative path are named by it, and not by its last part.
        every: seconds from one frame of a video to the next; 0 takes every frame.
        allow_urls: http and https addresses are fetched, one picture each.
        passed_over: takes the number of files in folders and archives that are no pictures, by ending (lower case).

    Raises:
        SourceNotFound: Unknown type, nothing at that path, or no picture in it.
    """
    counts = Counter[str]() if passed_over is None else passed_over
    refs = _refs(source, _Names(channels_first, whole_names, every, allow_urls, counts), 0)
    return refs if _is_lazy(source) else chain(list(islice(refs, 1)), refs)


@dataclass
class _Names:
    """Makes ``ImageRef`` with unique names, and keeps the arguments of ``list_images``."""

    channels_first: bool = False
    whole_names: bool = False
    every: float = 1.0
    allow_urls: bool = False
    passed_over: Counter[str] = field(default_factory=Counter)
    endings: frozenset[str] = field(default_factory=lambda: SUFFIXES | extra_suffixes())
    taken: set[str] = field(default_factory=set)
    given: int = 0

    def file(self, name: str, path: str | Path, origin: str | Path, data: Any = None) -> ImageRef:
        """Of a file; ``origin`` is the folder whose own name distinguishes equal names."""
        label, name = encodable(os.path.basename(os.path.realpath(origin))), encodable(name)
        free = chain([name, f"{label}/{name}"], (f"{label}~{k}/{name}" for k in count(2)))
        # A bare number of seven digits and more is kept for pictures in memory.
        name = next(n for n in free if n not in self.taken and not re.fullmatch(r"\d{7,}", n))
        self.taken.add(name)
        self.given += 1
        return ImageRef(name, Path(path), data)

    def of(self, text: str) -> str:
        """The name that a file's path gives."""
        return (self.whole_names and name_of_path(text)) or os.path.basename(text.rstrip("/"))

    def above(self, root: str) -> str:
        """What comes before the names of a folder's files."""
        whole = self.whole_names and name_of_path(root)
        return f"{whole}/" if whole else ""

    def memory(self, data: Any) -> ImageRef:
        """Of a picture in memory, or of an error: named by its position."""
        self.given += 1
        return ImageRef(f"{self.given - 1:07d}", None, data)

    def missing(self, text: str, error: SourceNotFound) -> ImageRef:
        """Of a path in a list that gives no picture."""
        reason = f"has no picture: {error}"
        if not text or not (os.path.lexists(text) or MAGIC.search(text) or is_url(text)):
            beside = either(map(os.path.basename, near(text)))
            reason = f"does not exist{f' (did you mean {beside}?)' if beside else ''}. Check the path"
        name = self.of(text)
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
    elif text and is_archive(text) and os.path.isfile(text):
        yield from _from_archive(text, names)
    elif text and is_video(text) and os.path.isfile(text):
        for frame in frame_names(text, names.every):
            yield names.file(f"{names.of(text)}/{frame}", os.path.join(text, frame), os.path.dirname(text))
    elif text and os.path.exists(text):
        yield names.file(names.of(text), text, os.path.dirname(text))
    elif is_url(text):
        if not names.allow_urls:
            raise SourceNotFound(f"{encodable(text)!r} is a URL. Give --allow-urls (allow_urls=True) to have it fetched.")
        name, path = enlist_url(text)
        yield names.file(name, path, os.path.dirname(path))
    elif MAGIC.search(text):
        yield from _from_pattern(text, names)
    else:
        raise _missing(text)


def _missing(text: str) -> SourceNotFound:
    beside = either(near(text))
    return SourceNotFound(f"There is nothing at {text!r}.{f' Did you mean {beside}?' if beside else ''} {_TAKEN}.")


def _from_folder(root: str, names: _Names) -> Iterator[ImageRef]:
    others: Counter[str] = Counter()
    before, above = names.given, names.above(root)
    try:
        for name, path, error in walk(root):
            ending = os.path.splitext(path)[1].lower()
            if error is not None:
                failure = ImageError(f"is a folder that cannot be opened: {error.strerror}. Check its permissions")
                yield names.file(above + name, path, root, failure)
            elif ending in names.endings:
                yield names.file(above + name, path, root)
            elif not is_output(path, root):
                others[encodable(ending) or "without ending"] += 1
    except OSError as error:
        raise SourceNotFound(f"The folder {root!r} cannot be opened: {error.strerror}.") from error
    names.passed_over += others
    if names.given == before:
        raise _no_picture(f"The folder {root!r}", others)


def _from_archive(text: str, names: _Names) -> Iterator[ImageRef]:
    others: Counter[str] = Counter()
    before, above = names.given, names.of(text)
    for inner, problem in members(text):
        ending = os.path.splitext(inner)[1].lower()
        if ending in names.endings or not inner:
            failure = None if problem is None else ImageError(problem)
            yield names.file(f"{above}/{inner}".rstrip("/"), os.path.join(text, inner), os.path.dirname(text), failure)
        else:
            others[encodable(ending) or "without ending"] += 1
    names.passed_over += others
    if names.given == before:
        raise _no_picture(f"The archive {text!r}", others)


def _no_picture(where: str, others: Counter[str]) -> SourceNotFound:
    kinds = ", ".join(f"{n} {ending}" for ending, n in others.most_common(5)) or "none"
    saw = f"files seen: {sum(others.values())} ({kinds}); endings taken: {' '.join(sorted(SUFFIXES))}"
    return SourceNotFound(f"{where} holds no picture; {saw}{extras_for(others)}.")


def _from_pattern(pattern: str, names: _Names) -> Iterator[ImageRef]:
    base, found = matches(pattern)
    if found is None:
        raise _missing(base)
    paths = [(name, os.path.join(base, name)) for name in found if os.path.splitext(name)[1].lower() in names.endings]
    files = [(name, path) for name, path in paths if not os.path.isdir(path)]
    if not files:
        endings = " ".join(sorted(SUFFIXES))
        raise SourceNotFound(f"{pattern!r} matches {len(found)} entries and no picture; endings taken: {endings}.")
    yield from (names.file(Path(name).as_posix(), path, base) for name, path in files)
