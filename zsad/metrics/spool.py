"""Temporary file with the pixels of each picture of a set, as integers in the order of their scores."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spool", "keys_of", "scores_of"]

Keys = NDArray[np.uint32]
SIGN = np.uint32(1 << 31)
IN_MEMORY = 1 << 26  # bytes; small sets never touch the disk


def keys_of(scores: NDArray[np.float32]) -> Keys:
    """Integers in the order of the scores; equal scores, 0 and -0 among them, have equal keys."""
    bits = (np.ascontiguousarray(scores) + np.float32(0)).view(np.uint32)  # -0 + 0 = 0
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def scores_of(keys: Keys) -> NDArray[np.float32]:
    """The scores of these keys; the inverse of ``keys_of``."""
    return np.where(keys & SIGN, keys ^ SIGN, ~keys).astype(np.uint32).view(np.float32)


class Spool:
    """Rows of uint32 of any length in a temporary file, which is deleted with the object: append in order, read any part.

    Args:
        folder: of the file; None is the system's folder for temporary files.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115 (closed by the finalizer)
        self._starts = [0]  # in bytes, one more than rows
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, row: Keys) -> None:
        """Writes a row behind the others."""
        self._file.seek(self._starts[-1])
        self._file.write(np.ascontiguousarray(row, np.uint32).data)
        self._starts.append(self._starts[-1] + 4 * row.size)

    def read(self, row: int, start: int = 0, stop: int | None = None) -> Keys:
        """Reads the entries ``start`` to ``stop`` of a row."""
        length = (self._starts[row + 1] - self._starts[row]) // 4
        stop = length if stop is None else stop
        self._file.seek(self._starts[row] + 4 * start)
        return np.frombuffer(self._file.read(4 * (stop - start)), np.uint32)
