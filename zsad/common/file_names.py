"""Names of output files, which mirror the input's folders and never collide, grow too long or leave the output folder."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

__all__ = ["OutputNames", "many", "printable"]

LONGEST = 200  # bytes of a file name before its ending; file systems stop at 255 with it
ENDINGS = (".jpg", ".png", ".npy")


class OutputNames:
    """Chooses the output name, without an ending, of every picture of a run.

    ``parts/a.png`` becomes ``parts/a``. A name that another picture would share (``a.jpg`` beside ``a.png``, or ``A.png`` where
    letter case does not count), that is too long, or that is no plain text gets eight digits of its hash.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._taken: Counter[bytes] = Counter()
        self._folders: set[bytes] = set()
        for name in names:
            *folders, stem = _parts(name)
            self._taken[_key([*folders, stem])] += 1
            self._folders |= {_key(folders[: depth + 1]) for depth in range(len(folders))}

    def __call__(self, name: str) -> str:
        """The output name of one of the pictures, with forward slashes."""
        *folders, stem = _parts(name)
        clash = self._taken[_key([*folders, stem])] > 1
        clash |= any(_key([*folders, stem + ending]) in self._folders for ending in ENDINGS)
        plain = printable(stem) == stem
        if clash or not plain or len(os.fsencode(stem)) > LONGEST:
            digits = hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
            short = printable(stem).encode()[: LONGEST - 9].decode(errors="ignore")
            stem = f"{short}-{digits}"
        return "/".join([*folders, stem])


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes written as escapes, safe for a terminal and for UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def many(count: int, one: str, more: str = "") -> str:
    """A count with its noun: "1 picture", "0 pictures"; "3 categories" where the plural is given."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def _parts(name: str) -> list[str]:
    """Folders and stem; whatever would lead out of the output folder is left out, and folders are plain text."""
    path = PurePath(name)
    folders = [printable(part) for part in path.parts[:-1] if part not in ("", ".", "..", path.anchor)]
    return [*folders, path.stem or "picture"]


def _key(parts: list[str]) -> bytes:
    """Key by which names are equal on a file system that ignores letter case and Unicode form."""
    text = unicodedata.normalize("NFC", "/".join(parts).casefold())
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()
