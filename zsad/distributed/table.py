"""The table of results: Parquet files of which each holds the rows of one unit of work, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.distributed.places import Place
from zsad.runs.tables import encodable, load_pyarrow, region_type

__all__ = [
    "COLUMNS",
    "TABLE",
    "Digests",
    "arrow_table",
    "digests_of",
    "lacking",
    "levels_of_part",
    "parts",
    "read_part",
    "recorded",
    "scanned",
    "schema",
    "stamp_of",
    "write_part",
]

log = logging.getLogger("zsad")
TABLE = "table"  # the folder of the parts
COLUMNS = (
    *("path", "name", "width", "height", "score", "peak", "label", "p_value", "threshold", "regions", "suggested_word"),
    *("method", "fingerprint", "notes", "blank", "error", "map", "milliseconds", "worker"),
)
LEVELS_KEY = b"zsad.levels"  # of a part's metadata: the levels that its labels rest on
Digests = NDArray[np.bytes_]  # (N,) of 16 bytes


@lru_cache(maxsize=1)
def schema() -> Any:
    """Types by column; all may be null but the path."""
    arrow = load_pyarrow()
    text, number, whole = arrow.string(), arrow.float64(), arrow.int32()
    kinds = {"width": whole, "height": whole, "milliseconds": arrow.float32(), "blank": arrow.bool_()}
    kinds |= dict.fromkeys(("score", "peak", "p_value", "threshold"), number)
    kinds |= {"regions": arrow.list_(region_type(arrow)), "notes": arrow.list_(text)}
    return arrow.schema([arrow.field(name, kinds.get(name, text), nullable=name != "path") for name in COLUMNS])


def arrow_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a table of pyarrow."""
    known = [{key: encodable(row[key]) for key in COLUMNS} for row in rows]
    return load_pyarrow().Table.from_pylist(known, schema=schema())


def write_part(place: Place, name: str, table: Any, levels: str = "") -> None:
    """Writes one file of the table, in place of one of that name.

    Args:
        place: of the results.
        name: of the file, without its folder.
        table: of pyarrow, with the columns of ``schema``.
        levels: what the labels rest on, see ``stamp_of``.
    """
    import pyarrow.parquet

    memory = io.BytesIO()
    marked = table.replace_schema_metadata({LEVELS_KEY: levels.encode()} if levels else None)
    pyarrow.parquet.write_table(marked, memory, compression="zstd")
    place.write(f"{TABLE}/{name}", memory.getvalue())


def parts(place: Place) -> list[str]:
    """Names of the files of the table."""
    return [name for name in place.names(TABLE) if name.endswith(".parquet")]


def read_part(place: Place, name: str, columns: Iterable[str] | None = None) -> Any:
    """One file of the table, or some of its columns, as a table of pyarrow."""
    import pyarrow.parquet

    with place.open(f"{TABLE}/{name}") as file:
        return pyarrow.parquet.read_table(file, columns=None if columns is None else list(columns))


def levels_of_part(table: Any) -> str:
    """What the labels of a part rest on; "" where none was set."""
    return str((table.schema.metadata or {}).get(LEVELS_KEY, b"").decode())


def stamp_of(levels: Mapping[str, Any]) -> str:
    """Digits that stand for levels, in the parts' metadata."""
    return hashlib.sha256(json.dumps(dict(levels), sort_keys=True).encode()).hexdigest()[:16]


# ------------------------------------------------------------------ which pictures are there
def digests_of(paths: Iterable[str]) -> Digests:
    """Sixteen bytes for each path: 1e8 of them take 1.6 GB, and two are alike once in 1e22 pairs of such tables."""
    found = b"".join(hashlib.blake2b(path.encode("utf-8", "backslashreplace"), digest_size=16).digest() for path in paths)
    return np.frombuffer(found, dtype="S16")


def scanned(place: Place, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name and some columns of every part. A damaged one is deleted: its pictures are scored again."""
    import pyarrow

    for name in parts(place):
        try:
            yield name, read_part(place, name, columns)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError, EOFError) as error:
            log.warning("%s of %s is damaged (%s) and was deleted: its pictures are scored again.", name, place, error)
            place.delete(f"{TABLE}/{name}")


def recorded(place: Place, *, retry_errors: bool = False) -> Digests:
    """Digests of the pictures that the table has, sorted; with ``retry_errors`` without those that are errors."""
    found = [np.empty(0, dtype="S16")]
    for _, table in scanned(place, ("path", "error")):
        paths = table.column("path")
        if retry_errors:
            paths = paths.filter(table.column("error").is_null())
        found.append(digests_of(paths.to_pylist()))
    whole = np.concatenate(found)
    whole.sort()
    return whole


def lacking(paths: Sequence[str], known: Digests) -> NDArray[np.bool_]:
    """Which of some paths are not among sorted digests."""
    own = digests_of(paths)
    if not len(known):
        return np.ones(len(own), bool)
    places = np.minimum(np.searchsorted(known, own), len(known) - 1)
    missing: NDArray[np.bool_] = known[places] != own
    return missing
