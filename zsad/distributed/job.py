"""A run over any number of pictures: what the table lacks is listed, scored by an engine, and the table is finished."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from zsad.common.folder_lock import FolderLock
from zsad.common.output_folder import HIDDEN, RUN
from zsad.distributed.levels import Outcome, finish
from zsad.distributed.manifest import MANIFEST, begin, manifest_of
from zsad.distributed.places import Place
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import Attachments, Specification
from zsad.distributed.table import TABLE, recorded
from zsad.distributed.work import WORK, Done, Unit, UnitScorer, list_work
from zsad.errors import UsageError

__all__ = ["SUMMARY", "Engine", "Job", "in_process"]

log = logging.getLogger("zsad")
SUMMARY = "summary.json"
Engine = Callable[[UnitScorer, list[Unit]], Iterator[Done]]  # scores units in any order, each at least once
Watch = Callable[[Iterator[Done], int, int], Iterable[Done]]  # shows progress: units done, pictures to score, pictures before


def in_process(scorer: UnitScorer, units: list[Unit]) -> Iterator[Done]:
    """The engine of one process."""
    return map(scorer, units)


@dataclass
class Job:
    """A run into a place.

    Args:
        specification: what scores.
        attachments: files that go with it.
        out: a folder, or an address.
        retry_errors: pictures that are errors in the table are scored again.
        overwrite: deletes the table that is there first.
        pictures: path and name of each; None: those of the specification's source.
    """

    specification: Specification
    attachments: Attachments
    out: str
    retry_errors: bool = False
    overwrite: bool = False
    pictures: Iterable[tuple[str, str]] | None = None

    def run(self, engine: Engine, watch: Watch, far: float | None = None) -> Outcome:
        """Scores what the table lacks, and finishes it.

        Args:
            engine: scores the units.
            watch: shows progress.
            far: see ``decide``.

        Raises:
            UsageError: another run is at work there, or the table was made with other settings.
        """
        place = Place(self.out)
        with ExitStack() as stack:
            if place.local is not None:
                stack.callback(_locked(place).release)
            self._open(place)
            known = recorded(place, retry_errors=self.retry_errors)
            pictures = Place(self.specification.source).pictures() if self.pictures is None else self.pictures
            units = list(list_work(place, pictures, known))
            left, before = sum(unit.pictures for unit in units), len(known)
            del known
            scorer = UnitScorer(BatchScorer(self.specification, self.attachments), self.out)
            for _ in watch(engine(scorer, units[::-1]) if units else iter(()), left, before):
                pass
            outcome = finish(place, self.specification.thresholds, far)
            place.write(SUMMARY, json.dumps(outcome.as_dict(), indent=1).encode())
            place.delete_folder(WORK)
        return outcome

    def _open(self, place: Place) -> None:
        if self.overwrite and place.exists(MANIFEST):
            for folder in (TABLE, WORK):
                place.delete_folder(folder)
            place.delete(MANIFEST)
        if place.exists(f"{HIDDEN}/{RUN.settings}"):
            raise UsageError(f"{place} holds a run of zsad predict without an engine. Give another --out.")
        if begin(place, manifest_of(self.specification)):
            log.info("%s holds a table of the same settings: what it lacks is scored.", place)


def _locked(place: Place) -> FolderLock:
    assert place.local is not None
    hidden = place.local / HIDDEN
    if place.local.is_file():
        raise UsageError(f"{str(place)!r} is a file; give --out a folder.")
    hidden.mkdir(parents=True, exist_ok=True)
    return FolderLock(hidden / "lock", "zsad predict --engine", place.local)
