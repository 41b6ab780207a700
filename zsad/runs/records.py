"""Scores and maps, kept on disk picture by picture: the first stage of ``zsad predict``, and what ``--resume`` reads.

``.zsad/records.jsonl`` has one line per picture, in the order of scoring, and ``.zsad/maps/`` has the maps at model size, in 16
bits between each map's own least and largest value.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from zsad.common.atomic_files import write_atomically
from zsad.errors import UsageError
from zsad.images.containers import stat_of
from zsad.images.reading import ImageRef
from zsad.inference.result import shortest
from zsad.inference.scorer import Scored

__all__ = ["Records", "Score", "rows_at", "state_of"]

_LEVELS = 65535
_NOT_YET = -1
Score = Callable[[Iterable[ImageRef]], Iterator[Scored]]


class Records:
    """The records of one output folder.

    Args:
        folder: the ``.zsad`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "records.jsonl"
        self.order = array("q")  # places in the file of the pictures that were scored, or known, in the order of the source
        self._known: dict[str, tuple[int, list[Any]]] = {}  # name -> (place in the file, what the picture's file was)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def begun(self) -> bool:
        """Whether there is a record of any picture."""
        return self.file.is_file() and self.file.stat().st_size > 0

    def clear(self) -> None:
        """Begins without any record."""
        (self.folder / "maps").mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)

    def read(self) -> None:
        """Goes on with the records that are there."""
        self._known = dict(self._read_known())

    def _read_known(self) -> Iterator[tuple[str, tuple[int, list[Any]]]]:
        """Reads the file's lines up to the first that is torn or damaged, and cuts that off with all behind it."""
        with self.file.open("rb+") as file:
            place = 0
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else {}
                    known = row["name"], (place, row["file"])
                except (ValueError, KeyError, TypeError):
                    file.truncate(place)
                    return
                yield known
                place += len(line)

    def score(self, refs: Iterable[ImageRef], score: Score, batch_size: int) -> Iterator[int]:
        """Scores whatever is not on record, and yields every picture's place in the file, in the order of ``refs``.

        In the end they are ``order``. Batches are cut by position. One with a picture that is not on record is scored as a
        whole, because a score's last digits depend on the batch; so a resumed run equals an uninterrupted one.
        """
        waiting: deque[tuple[ImageRef, int, list[Any]]] = deque()
        order = self.order = array("q")

        def missing() -> Iterator[ImageRef]:
            for batch in _batches(refs, batch_size):
                found = [self._find(ref) for ref in batch]
                complete = all(place != _NOT_YET for place, _ in found)
                for ref, (place, state) in zip(batch, found, strict=True):
                    order.append(place)
                    if not complete:
                        waiting.append((ref, len(order) - 1, state))
                        yield ref

        given = 0
        with self.file.open("ab") as file:
            for scored in score(missing()):
                _, position, state = waiting.popleft()
                if order[position] == _NOT_YET:
                    order[position] = self._append(file, scored, state)
                while given < len(order) and order[given] != _NOT_YET:
                    yield order[given]
                    given += 1
        yield from order[given:]

    @property
    def known(self) -> dict[str, tuple[int, list[Any]]]:
        """By a picture's name: place of its record in the file, and what ``state_of`` gave then."""
        return dict(self._known)

    def add(self, scored: Scored, state: list[Any]) -> int:
        """Puts one picture on record, in the place of an earlier one of its name; returns the record's place in the file."""
        with self.file.open("ab") as file:
            place = self._append(file, scored, state)
        self._known[scored.name] = (place, state)
        return place

    def _find(self, ref: ImageRef) -> tuple[int, list[Any]]:
        """Place of a picture's record, if its file is what it was, and what it is now."""
        state = state_of(ref)
        place, then = self._known.get(ref.name, (_NOT_YET, []))
        return (place if then == state and len(state) > 1 else _NOT_YET), state

    def _append(self, file: Any, scored: Scored, state: list[Any]) -> int:
        row: dict[str, Any] = {"name": scored.name, "path": None if scored.path is None else str(scored.path), "file": state}
        if scored.model_map is not None:
            least, most = shortest(scored.model_map.min()), shortest(scored.model_map.max())
            self._write_maps(scored, least, most)
            row |= {"size": scored.size, "score": scored.score, "least": least, "peak": most}
        row |= {"notes": scored.notes, "error": scored.error}
        place = int(file.seek(0, os.SEEK_END))
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        return place

    def _write_maps(self, scored: Scored, least: float, most: float) -> None:
        path = self._map_path(scored.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert scored.model_map is not None
        share = (scored.model_map.astype(np.float64) - least) / ((most - least) or 1.0)
        levels = np.rint(np.clip(share, 0, 1) * _LEVELS).astype(np.uint16)
        parts = {"map": levels} if scored.word_maps is None else {"map": levels, "words": scored.word_maps.astype(np.float16)}
        write_atomically(path, lambda file: np.savez(file, **parts))

    def _map_path(self, name: str) -> Path:
        digits = hashlib.blake2b(os.fsencode(name), digest_size=10).hexdigest()
        return self.folder / "maps" / digits[:2] / f"{digits[2:]}.npz"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The records in the order of the source, without their maps."""
        return rows_at(self.file, self.order)

    def recall(self, row: dict[str, Any]) -> Scored:
        """The scored picture of a record, with its maps.

        Raises:
            UsageError: a map was deleted or damaged.
        """
        path = None if row["path"] is None else Path(row["path"])
        bare = Scored(row["name"], path, notes=tuple(row["notes"]), error=row["error"])
        if "score" not in row:
            return bare
        where = self._map_path(row["name"])
        try:
            with np.load(where) as stored:
                share = stored["map"] / _LEVELS
                words = stored["words"].astype(np.float32) if "words" in stored else None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UsageError(
                f"The stored map of {row['name']!r} cannot be read ({error}). Run again with --overwrite."
            ) from error
        model_map: NDArray[np.float32] = (row["least"] + share * (row["peak"] - row["least"])).astype(np.float32)
        size = (row["size"][0], row["size"][1])
        return Scored(row["name"], path, size, row["score"], model_map, words, bare.notes, bare.error)


def rows_at(path: Path, places: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Rows of a jsonl file by their places in bytes, one at a time."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            yield json.loads(file.readline())


def state_of(ref: ImageRef) -> list[Any]:
    """By what a picture's file is known to be the same: path, size, times of change; only the path where it is gone.

    Of a picture inside an archive they are the archive's, and the path ends in the member's.
    """
    if ref.path is None:
        return [None]
    try:
        stat = stat_of(ref.path)
    except (OSError, ValueError):
        return [str(ref.path)]
    return [str(ref.path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _batches(refs: Iterable[ImageRef], size: int) -> Iterator[list[ImageRef]]:
    batch: list[ImageRef] = []
    for ref in refs:
        batch.append(ref)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
