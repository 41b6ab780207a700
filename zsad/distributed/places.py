"""Folders on disk or in a store (s3, gs, hdfs, whatever pyarrow or fsspec opens): whole files, and listings of pictures."""

# ruff: noqa: PTH100, PTH113, PTH119 (paths of stores are no local paths)
from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from zsad.errors import SourceNotFound, UsageError
from zsad.images.formats import extra_suffixes
from zsad.images.sources import SUFFIXES, encodable
from zsad.images.walking import is_output, natural, walk
from zsad.runs.tables import load_pyarrow

__all__ = ["Place", "is_store", "normal_path", "place_of", "shown", "store_of"]

ATTEMPTS, PAUSE = 5, 0.5  # of reads and writes in a store, and the seconds before the second one; doubled each time
LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EISDIR, errno.ENOTDIR, errno.EROFS)
ROOTED = ("hdfs", "viewfs")  # stores whose host is no part of the paths in them
PARTIAL = ".partial"  # ending of a local file that is not whole yet
_Answer = TypeVar("_Answer")


def is_store(text: str) -> bool:
    """Whether a place is written as an address: ``s3://bucket/folder``; ``file://`` is a local folder."""
    return bool(re.match(r"[A-Za-z][\w+.-]*://", text)) and not text.lower().startswith("file://")


def shown(text: str) -> str:
    """An address without its user, password and query, which may hold keys."""
    return re.sub(r"^([\w+.-]+://)[^/]*@", r"\1", text).partition("?")[0] if is_store(text) else text


def store_of(url: str) -> tuple[Any, str, str]:
    """The file system of a place, the path in it, and what stands before such a path in a table ("" for local files).

    Raises:
        MissingExtra: pyarrow is not installed.
        UsageError: no file system here opens such an address.
    """
    load_pyarrow()
    import pyarrow
    from pyarrow import fs

    if not is_store(url):
        return fs.LocalFileSystem(), os.path.abspath(re.sub(r"(?i)^file://", "", url)), ""
    scheme = url.partition("://")[0].lower()
    try:
        system, path = fs.FileSystem.from_uri(url)
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return system, path.rstrip("/"), f"{scheme}://{host}/" if scheme in ROOTED else f"{scheme}://"
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        pass  # not one of pyarrow's own
    except OSError as error:
        raise UsageError(f"{shown(url)!r} cannot be opened: {error}. Check the address and the credentials.") from error
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)  # else it takes an unknown scheme for a local folder
        system, path = fsspec.core.url_to_fs(url)
        return fs.PyFileSystem(fs.FSSpecHandler(system)), path.rstrip("/"), f"{scheme}://"
    except (ImportError, ValueError) as error:
        raise UsageError(f"No file system here opens {shown(url)!r}: {error}.") from error


def normal_path(path: str, before: str) -> str:
    """The one spelling of a picture's path in tables: absolute for local files, with the scheme for those in a store.

    Args:
        path: as a file system lists it, with or without the scheme.
        before: the third value of ``store_of``.
    """
    return path if not before or path.startswith(before) else before + path.lstrip("/")


class Place:
    """A folder on disk or in a store. Files are written whole: what is there is complete.

    Args:
        url: a local path, or an address.

    Attributes:
        local: the path where it is on disk, else None.
        root: the place as paths in a table begin.
    """

    def __init__(self, url: str) -> None:
        self.url = url if is_store(url) else os.path.abspath(re.sub(r"(?i)^file://", "", url))
        self._fs, self.base, self.before = store_of(self.url)
        self.local = Path(self.base) if not self.before else None
        self.root = normal_path(self.base, self.before)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.url,)

    def __str__(self) -> str:
        return shown(self.url)

    def path(self, name: str) -> str:
        """Where a file lies, as rows of a table state it."""
        return f"{self.root}/{name}"

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder below, sorted; none where it is not there."""
        from pyarrow import fs

        found = _again(lambda: self._fs.get_file_info(fs.FileSelector(f"{self.base}/{folder}", allow_not_found=True)), self)
        return sorted(one.base_name for one in found if one.type == fs.FileType.File and not one.base_name.endswith(PARTIAL))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        from pyarrow import fs

        found = _again(lambda: self._fs.get_file_info(f"{self.base}/{name}"), self)
        return bool(found.type == fs.FileType.File)

    def open(self, name: str) -> Any:
        """A file of pyarrow, for reading at any place of it."""
        return _again(lambda: self._fs.open_input_file(f"{self.base}/{name}"), self)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self._read(f"{self.base}/{name}")

    def _read(self, path: str) -> bytes:
        def read() -> bytes:
            with self._fs.open_input_stream(path) as file:
                return bytes(file.read())

        return _again(read, self)

    def write(self, name: str, content: bytes | Any) -> None:
        """Writes a file in one piece, in place of one that is there."""
        target = f"{self.base}/{name}"

        def write() -> None:
            self._fs.create_dir(target.rpartition("/")[0], recursive=True)
            aside = target if self.before else f"{target}.{os.getpid()}{PARTIAL}"
            try:
                with self._fs.open_output_stream(aside) as file:
                    file.write(content)
                if aside != target:
                    Path(aside).replace(target)
            finally:
                if aside != target:
                    Path(aside).unlink(missing_ok=True)

        _again(write, self)

    def delete(self, name: str) -> None:
        """Deletes a file."""
        _again(lambda: self._fs.delete_file(f"{self.base}/{name}"), self)

    def delete_folder(self, name: str) -> None:
        """Deletes a folder below, if it is there."""
        from pyarrow import fs

        if self._fs.get_file_info(f"{self.base}/{name}").type == fs.FileType.Directory:
            _again(lambda: self._fs.delete_dir(f"{self.base}/{name}"), self)

    # ------------------------------------------------------------------ pictures
    def pictures(self) -> Iterator[tuple[str, str]]:
        """Path and name of every picture below, folder by folder; the output of runs and what is hidden are left out.

        In memory at once is one folder's listing, so millions of pictures should lie in several.

        Raises:
            SourceNotFound: there is no such folder, or no picture in it.
        """
        endings = tuple(SUFFIXES | extra_suffixes())
        found = False
        for path, name in self._local_files() if self.local else self._stored_files():
            if name.lower().endswith(endings):
                found = True
                yield path, encodable(name)
        if not found:
            raise SourceNotFound(f"{str(self)!r} holds no picture. Endings taken: {' '.join(sorted(endings))}.")

    def _local_files(self) -> Iterator[tuple[str, str]]:
        if os.path.isfile(self.base):
            yield self.base, os.path.basename(self.base)
            return
        known: dict[str, bool] = {}
        try:
            for name, path, _ in walk(self.base):  # of a sub-folder that cannot be opened the name has no ending
                folder = path.rpartition("/")[0]
                if folder not in known:
                    known = {folder: is_output(path, self.base)}
                if not known[folder]:
                    yield path, name
        except OSError as error:
            raise SourceNotFound(f"The folder {str(self)!r} cannot be opened: {error.strerror}. Check the path.") from error

    def _stored_files(self) -> Iterator[tuple[str, str]]:
        from pyarrow import fs

        pending = [self.base]
        while pending:
            try:
                entries = self._listed(fs.FileSelector(pending.pop()))
            except FileNotFoundError as error:
                raise SourceNotFound(f"There is nothing at {str(self)!r}. Check the address and the credentials.") from error
            visible = sorted((e for e in entries if not e.base_name.startswith(".")), key=lambda e: natural(e.base_name))
            for one in visible:
                if one.type == fs.FileType.File:
                    yield normal_path(one.path, self.before), one.path.removeprefix(self.base).lstrip("/")
            pending += [one.path for one in reversed(visible) if one.type == fs.FileType.Directory]

    def _listed(self, selector: Any) -> Any:
        return _again(lambda: self._fs.get_file_info(selector), self)

    def picture(self, path: str) -> bytes:
        """The bytes of a picture of a store, by its path in a table."""
        return self._read(("/" if self.base.startswith("/") else "") + path.removeprefix(self.before))


@lru_cache(maxsize=16)
def place_of(url: str) -> Place:
    """The place of an address, opened once per process."""
    return Place(url)


def _again(act: Callable[[], _Answer], place: Place) -> _Answer:
    """What ``act`` gives; in a store it is tried again where the failure may pass."""
    pause = PAUSE
    for left in range(ATTEMPTS - 1, -1, -1):
        try:
            return act()
        except OSError as error:
            if place.local is not None or not left or error.errno in LASTING or isinstance(error, FileNotFoundError):
                raise
        time.sleep(pause)
        pause *= 2
    raise AssertionError("the last attempt returns or raises")
