"""A disk that is full, and a store that fails for a while: the table is whole afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
from brightness import folder_of, registered_methods  # noqa: F401
from fsspec.implementations.memory import MemoryFileSystem

from zsad.distributed import places
from zsad.distributed.job import Job, in_process
from zsad.distributed.specification import specify
from zsad.distributed.work import Done, Unit, UnitScorer
from zsad.inference.inspector import Inspector

resource = pytest.importorskip("resource")  # not on Windows
SETTINGS: dict[str, Any] = {"method": "brightness", "target": "lamp", "batch_size": 4, "workers": 1}


def unwatched(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
    return done


def job(source: Path | str, out: Path | str) -> Job:
    return Job(specify(Inspector(**SETTINGS, batch="off"), SETTINGS, source=str(source)), {}, str(out))


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((row | {"milliseconds": 0, "worker": "", "path": ""} for row in rows), key=lambda row: str(row["name"]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "in"
    folder_of(folder, 40, 4)
    return folder


@pytest.fixture(scope="module")
def expected(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("undisturbed")
    job(pictures, out).run(in_process, unwatched)
    return without_times(pyarrow.parquet.read_table(out / "table").to_pylist())


def test_no_room_ends_the_run_and_leaves_whole_files(pictures: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    """Files may not grow beyond 2 kB from the second unit on: a part is cut in the middle of its write."""

    def filling(scorer: UnitScorer, units: list[Unit]) -> Iterator[Done]:
        yield scorer(units[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
        yield from map(scorer, units[1:])

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="large|space|full"):
            job(pictures, tmp_path).run(filling, unwatched)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = list((tmp_path / "table").iterdir())
    assert [path.suffix for path in left] == [".parquet"]
    assert 0 < len(pyarrow.parquet.read_table(left[0])) < len(expected)
    job(pictures, tmp_path).run(in_process, unwatched)
    assert without_times(pyarrow.parquet.read_table(tmp_path / "table").to_pylist()) == expected


def refuses(monkeypatch: pytest.MonkeyPatch, when: Callable[[str, str], bool]) -> Any:
    """Files in memory cannot be opened where ``when`` (of path and mode) says so; gives back what opens all of them."""
    opened = MemoryFileSystem._open

    def refused(self: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> Any:
        if when(path, mode):
            raise OSError(5, "the store does not answer")
        return opened(self, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", refused)
    monkeypatch.setattr(places, "PAUSE", 0.0)
    return opened


def test_a_store_that_fails_for_a_while_loses_nothing(
    pictures: Path, expected: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file can be opened at the third attempt only."""
    store, tries = fsspec.filesystem("memory"), dict[tuple[str, str], int]()
    for path in pictures.iterdir():
        store.pipe(f"/unsteady/in/{path.name}", path.read_bytes())

    def unsteady(path: str, mode: str) -> bool:
        tries[path, mode] = tries.get((path, mode), 0) + 1
        return tries[path, mode] % 3 != 0

    opened = refuses(monkeypatch, unsteady)
    outcome = job("memory://unsteady/in", "memory://unsteady/out").run(in_process, unwatched)
    assert outcome.counts["error"] == 0
    monkeypatch.setattr(MemoryFileSystem, "_open", opened)
    rows = [row for name in store.ls("/unsteady/out/table", detail=False) for row in rows_in(store, name)]
    assert without_times(rows) == expected
    assert max(tries.values()) >= 3


def test_a_store_that_stays_away_is_an_error_row_of_each_picture(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    for path in sorted(pictures.iterdir())[:3]:
        store.pipe(f"/away/in/{path.name}", path.read_bytes())
    refuses(monkeypatch, lambda path, mode: "/in/" in path)
    outcome = job("memory://away/in", "memory://away/out").run(in_process, unwatched)
    assert outcome.counts["error"] == 3
    (name,) = store.ls("/away/out/table", detail=False)
    assert all("cannot be fetched" in row["error"] and "--retry-errors" in row["error"] for row in rows_in(store, name))


def rows_in(store: Any, name: str) -> list[dict[str, Any]]:
    with store.open(name) as file:
        return pyarrow.parquet.read_table(file).to_pylist()
