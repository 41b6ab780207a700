"""Reads pictures inside .zip and .tar archives in place: nothing is unpacked to disk, and a member's size is limited.

A member's path is the archive's path, a slash, and the member's own path: ``photos.zip/line 3/001.png``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zsad.errors import ImageError, SourceNotFound
from zsad.images.walking import natural

__all__ = ["ARCHIVES", "is_archive", "members", "read_member"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings (lower case) of the files that are read as archives."""

_LARGEST = 512 * 1024**2  # bytes of a member, which is held in memory
_SMALL, _RATIO = 100 * 1000**2, 200  # what unpacks to more bytes than the first, and to so many times its size, is a bomb
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, NotImplementedError)
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_Key = tuple[str, int, int, int]  # path, size, time of change, process: a file's place is not shared with a forked process


@dataclass(frozen=True)
class _Member:
    """Where a member's bytes are: a ``ZipInfo``, or the place in the unpacked tar; or why it is not read."""

    size: int
    place: Any = None
    problem: str | None = None


@dataclass(frozen=True)
class _Index:
    """The files of an archive in the order in which they are read, and the open zip, whose reading is safe in threads."""

    files: dict[str, _Member]
    archive: zipfile.ZipFile | None = None
    opener: Any = open


def is_archive(path: str) -> bool:
    """Whether a file's ending is an archive's."""
    return path.lower().endswith(ARCHIVES)


def members(path: str) -> Iterator[tuple[str, str | None]]:
    """The files in an archive: (posix path in it, None), or the path and why it is not read; hidden ones are left out.

    Zip and uncompressed tar: in natural order. Compressed tar: in the archive's own, since it can only be read forwards.
    A path of "" stands for the rest of an archive that is damaged.

    Raises:
        SourceNotFound: it is no such archive, or unpacks to absurdly much.
    """
    yield from ((name, one.problem) for name, one in _index(_key(path)).files.items())


def read_member(path: str, name: str) -> bytes:
    """The bytes of one member; may be called from many threads.

    Raises:
        ImageError: it is not there, or not read; says why.
        Exception: what the archive's decoder says of damaged data.
    """
    key = _key(path)
    index = _index(key)
    member = index.files.get(name)
    if member is None:
        raise ImageError("is not in the archive any more. Check whether the archive was changed")
    if member.problem:
        raise ImageError(member.problem)
    if index.archive is not None:
        with index.archive.open(member.place) as file:
            data = file.read(member.size + 1)
    elif index.opener is open:
        with open(path, "rb") as file:
            file.seek(member.place)
            data = file.read(member.size)
    else:
        data = _stream(key, index.opener).read(member.place, member.size)
    if len(data) != member.size:
        raise ImageError(f"is cut off: {len(data)} bytes of {member.size}. Copy the archive again")
    return data


def _key(path: str) -> _Key:
    info = os.stat(path)  # noqa: PTH116
    return path, info.st_size, info.st_mtime_ns, os.getpid()


@lru_cache(maxsize=4)
def _index(key: _Key) -> _Index:
    path, size = key[0], key[1]
    try:
        return _of_zip(path) if path.lower().endswith(".zip") else _of_tar(path, size)
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error or type(error).__name__
        raise SourceNotFound(f"The archive {path!r} cannot be read: {reason}. Copy or make it again.") from error


def _add(files: dict[str, _Member], name: str, member: _Member) -> None:
    """Takes up a file of an archive under its plain path, unless it is hidden."""
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts):
        return
    problem = member.problem
    if text.startswith("/") or ".." in parts or re.match("[A-Za-z]:", text):
        problem = "has a name that leads out of its archive, and is not read. Make the archive again with relative names"
        parts = [part for part in parts if part != ".."]
    plain = "/".join(parts)
    if plain in files:
        problem = problem or "is in its archive twice under one name. Make the archive again"
    if not problem and member.size > _LARGEST:
        problem = f"is too large: it unpacks to {member.size / 1e6:.0f} MB, the limit is {_LARGEST / 1e6:.0f}. Unpack it first"
    if plain:
        files[plain] = _Member(member.size, member.place, problem)


def _sorted(files: dict[str, _Member]) -> dict[str, _Member]:
    return {name: files[name] for name in sorted(files, key=lambda name: [natural(part) for part in name.split("/")])}


def _bomb(packed: int, unpacked: int) -> str:
    return f"unpacks from {packed / 1e6:.3g} to {unpacked / 1e6:.0f} MB, as no pictures do. It is not read any further"


# ------------------------------------------------------------------ zip
def _of_zip(path: str) -> _Index:
    archive, files = zipfile.ZipFile(path), dict[str, _Member]()
    for info in archive.infolist():
        if not info.is_dir():
            _add(files, info.filename, _Member(info.file_size, info, _problem_in_zip(info)))
    return _Index(_sorted(files), archive)


def _problem_in_zip(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 1:
        return "is encrypted. Unpack the archive with its password and give the folder"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link in its archive, which is not followed"
    if info.file_size > max(_SMALL, _RATIO * info.compress_size):
        return _bomb(info.compress_size, info.file_size)
    return None


# ------------------------------------------------------------------ tar
def _of_tar(path: str, size: int) -> _Index:
    with open(path, "rb") as file:
        head = file.read(6)
    opener = next((opener for mark, opener in _OPENERS.items() if head.startswith(mark)), open)
    files: dict[str, _Member] = {}
    with opener(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        try:
            for info in archive:
                unpacked = info.offset_data + info.size
                if unpacked > max(_SMALL, _RATIO * size):  # before it is unpacked
                    files[""] = _Member(0, None, _bomb(size, unpacked))
                    break
                if info.isreg():
                    problem = "is a sparse file, which is not read. Make the archive again" if info.issparse() else None
                    _add(files, info.name, _Member(info.size, info.offset_data, problem))
                elif info.issym() or info.islnk():
                    _add(files, info.name, _Member(0, None, "is a link in its archive, which is not followed"))
        except _BROKEN as error:
            if not files:
                raise
            files[""] = _Member(0, None, f"is damaged after {len(files)} files: {error or type(error).__name__}. Copy it again")
    return _Index(_sorted(files) if opener is open else files, opener=opener)


class _Unpacked:
    """An unpacked stream of one thread, which stays open because only reading on from its place is fast."""

    def __init__(self, path: str, opener: Any) -> None:
        self.file: Any = opener(path, "rb")

    def read(self, place: int, size: int) -> bytes:
        self.file.seek(place)
        return bytes(self.file.read(size))

    def __del__(self) -> None:
        self.file.close()


_own = threading.local()


def _stream(key: _Key, opener: Any) -> _Unpacked:
    if getattr(_own, "key", None) != key:
        _own.stream, _own.key = _Unpacked(key[0], opener), key
    stream: _Unpacked = _own.stream
    return stream
