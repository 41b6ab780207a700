"""What is left to score, cut into units: a list on disk, so that the driver's memory does not grow with the pictures.

A unit is a row group of the list, and its rows become one file of the table, named after its pictures. A unit that is scored
twice, because a worker died before it could say that it was done, writes the same file twice.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zsad.distributed.places import Place, place_of
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.table import Digests, arrow_table, lacking, write_part
from zsad.runs.tables import load_pyarrow

__all__ = ["WORK", "Done", "Unit", "UnitScorer", "list_work"]

WORK = "work"  # the folder of the list
CHUNK = 8192  # paths that are compared with the table at once
SMALLEST, LARGEST, SHARE = 16, 1024, 64  # pictures of a unit: a 64th of those before it, within these bounds
GROUPS = 64  # units of one file of the list


@dataclass(frozen=True)
class Unit:
    """Some pictures that are scored by one worker: a row group of a file of the list."""

    file: str
    group: int
    pictures: int


@dataclass(frozen=True)
class Done:
    """A unit that is in the table."""

    pictures: int
    errors: int
    worker: str


def list_work(place: Place, pictures: Iterable[tuple[str, str]], known: Digests) -> Iterator[Unit]:
    """Writes the list of the pictures that the table lacks, and gives its units.

    Units grow with the number of pictures before them. Taken from the last to the first, the small ones come at the end, so
    that no worker waits long for another.

    Args:
        place: of the results; an earlier list is deleted.
        pictures: path and name of each.
        known: digests of those that are in the table.
    """
    place.delete_folder(WORK)
    waiting, before, number = list[str](), 0, 0
    units: list[list[str]] = []
    for path in _missing(pictures, known):
        waiting.append(path)
        if len(waiting) >= size_of_unit(before):
            units.append(waiting)
            before, waiting = before + len(waiting), []
            if len(units) == GROUPS:
                yield from _write(place, number, units)
                number, units = number + 1, []
    if waiting:
        units.append(waiting)
    if units:
        yield from _write(place, number, units)


def size_of_unit(before: int) -> int:
    """Pictures of a unit with so many before it: a multiple of 16."""
    return max(SMALLEST, min(LARGEST, before // SHARE // SMALLEST * SMALLEST))


def _missing(pictures: Iterable[tuple[str, str]], known: Digests) -> Iterator[str]:
    paths = (path for path, _ in pictures)
    while chunk := list(islice(paths, CHUNK)):
        yield from (path for path, own in zip(chunk, lacking(chunk, known), strict=True) if own)


def _write(place: Place, number: int, units: list[list[str]]) -> list[Unit]:
    """One file of the list; paths are bytes, for those of local files need not be text."""
    arrow, memory = load_pyarrow(), io.BytesIO()
    import pyarrow.parquet

    schema = arrow.schema([("path", arrow.binary())])
    with pyarrow.parquet.ParquetWriter(memory, schema, compression="zstd") as writer:
        for unit in units:
            writer.write_table(arrow.table({"path": [os.fsencode(path) for path in unit]}, schema=schema))
    name = f"{WORK}/{number:06d}.parquet"
    place.write(name, memory.getvalue())
    return [Unit(name, group, len(unit)) for group, unit in enumerate(units)]


def paths_of(place: Place, unit: Unit) -> list[str]:
    """The paths of a unit's pictures."""
    import pyarrow.parquet

    with place.open(unit.file) as file:
        found: list[Any] = pyarrow.parquet.ParquetFile(file).read_row_group(unit.group).column("path").to_pylist()
    return [os.fsdecode(path) for path in found]


class UnitScorer:
    """Scores units into the table of a place; may be pickled, as ``BatchScorer``.

    Args:
        scorer: of the pictures.
        place: address of the results.
    """

    def __init__(self, scorer: BatchScorer, place: str) -> None:
        self.scorer, self.place = scorer, place

    def __call__(self, unit: Unit) -> Done:
        """Scores a unit and writes its file, in place of one from an attempt before."""
        place = place_of(self.place)
        paths = paths_of(place, unit)
        name = f"part-{hashlib.blake2b(chr(0).join(paths).encode('utf-8', 'surrogatepass'), digest_size=10).hexdigest()}"
        rows = self.scorer.rows(paths)
        write_part(place, f"{name}.parquet", arrow_table(rows))
        return Done(len(rows), sum(row["error"] is not None for row in rows), self.scorer.worker)
