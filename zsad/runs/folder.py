"""The ``results/`` folder of ``zsad predict``: opened, filled, finished and closed by one owner, ``RunFolder``.

A run has two stages. The first scores every picture and keeps scores and maps under ``.zsad/`` (``records.py``); beside them
``settings.json`` has what they depend on. The second (``writers.py``) is a function of these records and the thresholds: it
writes everything a person reads under ``.zsad/new``, and ``finish`` moves it into place at the end. Killed at any moment and
resumed, the files are the same, byte for byte; times are in ``run.json`` alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from zsad.common.output_folder import HIDDEN, RUN, begin_settings, claim, remove, resume_settings
from zsad.decision.thresholds import Thresholds
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.inference.inspector import Inspector
from zsad.runs.drawing import Options
from zsad.runs.records import Records, Score
from zsad.runs.summary import Summary
from zsad.runs.writers import Watch, unwatched, write_facts, write_results

__all__ = ["FORMATS", "RunFolder", "count_outside", "is_outside", "shows_output"]

FORMATS = ("predictions.excel.csv", "predictions.parquet", "predictions.coco.json", "predictions.coco_results.json")
FILES = ("predictions.jsonl", "predictions.csv", *FORMATS, "report.html", "run.json")
FOLDERS = ("overlays", "masks", "maps")


class RunFolder:
    """The output folder of one run, which is this run's own from its making to the end of the ``with`` block.

    with RunFolder("results", inspector.describe()) as run:
        run.fill(refs, inspector.scored, inspector.batch_size)
        summary = run.write(inspector, inspector.thresholds, Options())
        run.finish(summary.as_dict())

    Args:
        out: the folder; made if it is not there.
        detector: ``Inspector.describe()`` of what scores.
        resume: goes on with the run that is there.
        overwrite: deletes it first.
        **settings: what else a score's last digits depend on; a run that is resumed has to have the same.

    Attributes:
        lock: keeps other runs out.
        records: the model's scores and maps of each picture.
        features: a folder for what the encoder gives, until every picture is on record.
        skipped: pictures that ``outside`` left out.

    Raises:
        UsageError: the folder is in use, or cannot be this run's own (see ``output_folder.claim``), or the run that is to be
            resumed has other settings; names what differs.
    """

    def __init__(
        self, out: str | Path, detector: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False, **settings: Any
    ) -> None:
        self.out, self.detector, self.skipped = Path(out), detector, 0
        hidden = self.out / HIDDEN
        self.features, self._new = hidden / "features", hidden / "new"
        self.records = Records(hidden)
        self.lock = claim(self.out, RUN, (*FILES, *FOLDERS), begun=self.records.begun, resume=resume, overwrite=overwrite)
        kept, all_settings = hidden / RUN.settings, {**detector, **settings}
        with self.lock.released_on_error():
            if kept.is_file() and self.records.file.is_file():
                resume_settings(kept, all_settings, what=RUN.work)
                self.records.read()
            else:
                self.records.clear()
                begin_settings(kept, all_settings)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        remove(self._new)  # of a run that was stopped; the records stay
        self.lock.release()

    def outside(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """The pictures that are not the output of a run, this one or another.

        Raises:
            UsageError: there are no others.
        """
        kept, known = 0, dict[Path, bool]()
        for ref in refs:
            if shows_output(ref, known):
                self.skipped += 1
                continue
            kept += 1
            yield ref
        if not kept:
            raise UsageError("Every picture of the source is output of an earlier run. Give other pictures.")

    def fill(self, refs: Iterable[ImageRef], score: Score, group: int, *, watch: Watch = unwatched, total: int = 0) -> None:
        """Scores the pictures that are not on record.

        Args:
            refs: the pictures of the run.
            score: gives the model's scores and maps of pictures, in order.
            group: pictures that are scored together, because a score's last digits depend on the others.
            watch: shows progress.
            total: number of the pictures, for ``watch``; 0 where it is not known.
        """
        deque(watch(self.records.score(refs, score, group), "scoring", total), maxlen=0)
        remove(self.features)

    def write(self, inspector: Inspector, given: Thresholds, options: Options, *, watch: Watch = unwatched) -> Summary:
        """Decides, draws and writes all results but run.json, where ``finish`` finds them; see ``write_results``."""
        remove(self._new)
        self._new.mkdir(parents=True)
        return write_results(self._new, self.records, inspector, self.detector, given, options, watch)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Writes run.json and moves the results into place; what an earlier run left there goes."""
        write_facts(self._new / "run.json", facts)
        for name in (*FOLDERS, *FILES):
            fresh, place = self._new / name, self.out / name
            if place.is_dir() or not fresh.exists():
                remove(place)
            if fresh.exists():
                fresh.replace(place)


def count_outside(refs: Iterable[ImageRef], most: int) -> int:
    """How many pictures are not the output of a run; no more than ``most`` are looked for."""
    known = dict[Path, bool]()
    return sum(1 for _ in islice((ref for ref in refs if not shows_output(ref, known)), most))


def is_outside(refs: Iterable[ImageRef]) -> Iterator[tuple[ImageRef, bool]]:
    """Pictures, and whether they are not the output of a run."""
    known = dict[Path, bool]()
    return ((ref, not shows_output(ref, known)) for ref in refs)


def shows_output(ref: ImageRef, known: dict[Path, bool]) -> bool:
    """True for a picture that a run wrote; ``known`` as in ``_is_output``."""
    return ref.path is not None and _is_output(Path(os.path.realpath(ref.path.parent)), known)


def _is_output(folder: Path, known: dict[Path, bool]) -> bool:
    """True below the overlays, masks or maps of a folder that holds a run; ``known`` keeps what was found."""
    if folder not in known:
        own = folder.name == HIDDEN or (folder.name in FOLDERS and (folder.parent / HIDDEN).is_dir())
        known[folder] = own or (folder.parent != folder and _is_output(folder.parent, known))
    return known[folder]
