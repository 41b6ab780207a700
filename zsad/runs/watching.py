"""A hot folder: pictures are scored as they arrive, once each, and the results grow; the loop of ``zsad watch``.

``.zsad/watched.jsonl`` has one line per row that was written, in the order of arrival, and ``.zsad/thumbs`` the pictures of
the report. A picture is put on record (``records.py``), then drawn and journalled, then handed on; a process that is stopped at
any moment goes on with the step that is missing. The tables are written anew from the journal at every start.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zsad.common.atomic_files import write_atomically
from zsad.common.file_names import OutputNames
from zsad.common.output_folder import HIDDEN
from zsad.errors import SourceNotFound
from zsad.images.reading import ImageRef, list_images
from zsad.inference.inspector import Inspector
from zsad.runs.drawing import Drawer, Drawn, Options
from zsad.runs.folder import RunFolder, shows_output
from zsad.runs.records import rows_at, state_of
from zsad.runs.report import Shown, write_report
from zsad.runs.summary import Summary, label_of
from zsad.runs.writers import write_tables

__all__ = ["HotFolder", "Journal", "Watcher"]

_LOOKS, _LOOKS_IF_EMPTY = 2, 10  # that a file has to stand still for; a file is often made empty and filled later
_NO_FILE = 1  # parts of a state that has no size and time


class HotFolder:
    """Looks for pictures in a folder that have stopped growing.

    Args:
        folder: the folder, with its sub-folders.

    Raises:
        SourceNotFound: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SourceNotFound(f"There is no folder at {str(folder)!r}. Give the folder that pictures arrive in.")
        self._seen: dict[str, tuple[list[Any], int]] = {}  # name -> size and time, looks that found them so
        self._outputs: dict[Path, bool] = {}

    def look(self, known: Mapping[str, tuple[int, list[Any]]]) -> tuple[list[tuple[ImageRef, list[Any]]], int]:
        """One look: the pictures that stood still and are not known as they are, with their states; and how many wait.

        Args:
            known: as ``Records.known``. A picture whose size and time are others than there is taken as a new one.
        """
        found, waiting, seen = [], 0, dict[str, tuple[list[Any], int]]()
        for ref in self._listed():
            state = state_of(ref)
            now = state[1:3]
            if len(state) == _NO_FILE or now == known.get(ref.name, (0, []))[1][1:3]:
                continue
            before, looks = self._seen.get(ref.name, (now, 0))
            seen[ref.name] = (now, looks + 1 if before == now else 1)
            if seen[ref.name][1] >= (_LOOKS if now[0] else _LOOKS_IF_EMPTY):
                found.append((ref, state))
            else:
                waiting += 1
        self._seen = seen
        return found, waiting

    def _listed(self) -> Iterator[ImageRef]:
        try:
            for ref in list_images(self.folder):
                if not isinstance(ref.data, Exception) and not shows_output(ref, self._outputs):
                    yield ref
        except SourceNotFound:  # no picture yet, or the folder is away for a moment
            return


class Journal:
    """The rows that were written, on disk in the order of arrival; of a name the last one counts.

    Args:
        folder: the ``.zsad`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.thumbs, self._handled = folder / "watched.jsonl", folder / "thumbs", folder / "handled"
        self.places = array("q")  # of all lines
        self.last: dict[str, int] = {}  # name -> number of its last line
        self.records: dict[str, int] = {}  # name -> place of the record that its last line was drawn from
        self.scores: list[float] = []  # of each line, NaN where there is none
        self._read()

    def _read(self) -> None:
        """Reads the lines up to the first that is torn, and cuts that off with all behind it."""
        self.file.touch()
        self.thumbs.touch()
        with self.file.open("rb+") as file:
            place = 0
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else {}
                    self._take(entry["row"], entry["record"], place)
                except (ValueError, KeyError, TypeError):
                    file.truncate(place)
                    return
                place += len(line)

    def _take(self, row: Mapping[str, Any], record: int, place: int) -> None:
        self.places.append(place)
        self.scores.append(np.nan if row["pred_score"] is None else row["pred_score"])
        self.last[row["name"]], self.records[row["name"]] = len(self.places) - 1, record

    @property
    def handled(self) -> int:
        """How many lines were handed on."""
        return min(int(self._handled.read_text()), len(self.places)) if self._handled.is_file() else 0

    @handled.setter
    def handled(self, count: int) -> None:
        write_atomically(self._handled, lambda file: file.write(str(count).encode()))

    def add(self, drawn: Drawn, record: int) -> None:
        """Puts a row and its thumbnails at the end; ``record`` is the place of the record that it was drawn from."""
        with self.thumbs.open("ab") as file:
            lengths = [file.tell(), *map(len, drawn.thumbs or ())]
            file.write(b"".join(drawn.thumbs or ()))
        with self.file.open("ab") as file:
            place = file.tell()
            file.write(json.dumps({"row": drawn.row, "thumbs": lengths, "record": record}).encode() + b"\n")
        self._take(drawn.row, record, place)

    def rows(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Rows by the numbers of their lines."""
        return (line["row"] for line in rows_at(self.file, (self.places[number] for number in numbers)))

    def shown(self, numbers: Iterable[int], limit: int) -> Iterator[Shown]:
        """Rows of the report; the first ``limit`` with their thumbnails."""
        with self.thumbs.open("rb") as file:
            for index, line in enumerate(rows_at(self.file, (self.places[number] for number in numbers))):
                place, *lengths = line["thumbs"]
                file.seek(place)
                yield Shown(line["row"], *(file.read(length) for length in lengths if index < limit))


class Watcher:
    """Scores the pictures that arrive, and keeps the results of a run up to date.

    Args:
        run: the run's folder, opened to be resumed.
        inspector: scores every picture by itself.
        options: what to write.
        hand_on: is called with every new row once it is written; a row is handed on again only if the process was ended
            meanwhile.
    """

    def __init__(
        self, run: RunFolder, inspector: Inspector, options: Options, hand_on: Callable[[dict[str, Any]], None]
    ) -> None:
        self.run, self.inspector, self.options, self._hand_on = run, inspector, options, hand_on
        self.thresholds = inspector.known_thresholds()
        self.journal = Journal(run.out / HIDDEN)
        self._draw = Drawer(run.out, run.records, inspector, self.thresholds, options)
        self._outputs: dict[str, str] = {}  # name of output files, without case -> name of the picture
        for name in self.journal.last:
            self._output(name)
        for name, (place, _) in run.records.known.items():
            if self.journal.records.get(name) != place:  # the process was ended in between
                self._journal(place)
        self._write_tables()
        for row in list(self.journal.rows(range(self.journal.handled, len(self.journal.places)))):
            self._hand(row)

    def take(self, ref: ImageRef, state: list[Any]) -> None:
        """Scores one picture, and appends its row."""
        for scored in self.inspector.scored([ref]):
            again = ref.name in self.journal.last
            row = self._journal(self.run.records.add(scored, state))
            if again:
                self._write_tables()  # without the row of the file that was there before
            else:
                write_tables(self.run.out, [row], append=True)
            self._hand(row)

    def _journal(self, place: int) -> dict[str, Any]:
        """Draws a picture from its record; returns its row."""
        record = next(rows_at(self.run.records.file, [place]))
        drawn = self._draw(record, self._output(record["name"]), True)
        self.journal.add(drawn, place)
        return drawn.row

    def _output(self, name: str) -> str:
        """Name of a picture's output files, which no other picture has."""
        output = OutputNames([name])(name)
        if self._outputs.setdefault(output.casefold(), name) != name:
            output = OutputNames([name, name])(name)
            self._outputs[output.casefold()] = name
        return output

    def _write_tables(self) -> None:
        write_tables(self.run.out, self.journal.rows(sorted(self.journal.last.values())))

    def _hand(self, row: dict[str, Any]) -> None:
        self._hand_on(row)
        self.journal.handled += 1

    def report(self) -> Summary:
        """Writes report.html anew, and counts the rows."""
        numbers = np.array(sorted(self.journal.last.values()), np.int64)
        scores = np.array([self.journal.scores[number] for number in numbers], np.float64)
        summary = Summary(self.thresholds)
        for row in self.journal.rows(numbers.tolist()):
            summary.counts[label_of(row)] += 1
        worst = numbers[np.argsort(-scores, kind="stable")].tolist()
        fresh = self.run.out / HIDDEN / "report.html"
        write_report(
            fresh,
            self.journal.shown(worst, self.options.limit_report),
            counts=summary.counts,
            thresholds=self.thresholds,
            detector=self.run.detector,
            scores=scores,
            limit=self.options.limit_report,
        )
        fresh.replace(self.run.out / "report.html")
        return summary
