"""What ``evaluate`` keeps on disk, so that a run that was killed goes on where it was and ends in the same numbers.

Below ``.zsad/``: ``evaluation.json`` has the settings of the run, and every category (of every seed) has a folder with
``scores.jsonl``, one line per picture in order, ``maps/``, float32 at the size of the metrics, and ``features/`` of a method
that scores the pictures as a set; the last two go when its row is finished: ``row.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.atomic_files import write_atomically
from zsad.common.folder_lock import FolderLock
from zsad.common.output_folder import EVALUATION, HIDDEN, begin_settings, claim, resume_settings

__all__ = ["FILES", "Kept", "Store"]

FILES = ("metrics.csv", "metrics.json", "metrics.md")
MAPS = "maps"


class Store:
    """The output folder of an evaluation.

    Args:
        out: where; made if it is not there.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.hidden = self.out / HIDDEN
        self.settings = self.hidden / EVALUATION.settings
        self._lock: FolderLock | None = None

    def claim(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Makes the folder this run's own until ``release``; see ``output_folder.claim``."""
        self._lock = claim(
            self.out, EVALUATION, (*FILES, MAPS), begun=self.settings.is_file(), resume=resume, overwrite=overwrite
        )

    def release(self) -> None:
        """Leaves the folder to other runs."""
        if self._lock is not None:
            self._lock.release()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keeps the settings of a new run, or compares them with those of the one that is there; see ``resume_settings``."""
        if self.settings.is_file():
            resume_settings(self.settings, settings, what=EVALUATION.work)
        else:
            begin_settings(self.settings, settings)

    def kept(self, category: str, seed: int | None) -> Kept:
        """The kept predictions of a category and seed."""
        digits = hashlib.blake2b(f"{seed}\0{category}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
        return Kept(self.hidden / "rows" / digits)


class Kept:
    """Predictions for the pictures of one category, in order.

    Args:
        folder: of this category and seed alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores = folder / "scores.jsonl"
        self.features = folder / "features"  # of a method that scores a set
        self._row = folder / "row.json"
        self.answers: list[dict[str, Any]] = []

    def row(self) -> dict[str, Any] | None:
        """The finished row, or None."""
        return json.loads(self._row.read_text(encoding="utf-8")) if self._row.is_file() else None

    def begin(self, total: int, group: int) -> int:
        """How many pictures need not be scored again.

        They are the first ones, because predictions come in order. Of ``total`` all count, otherwise whole groups alone: a
        score's last digits depend on the pictures that pass the model with it.

        Args:
            total: pictures of the category.
            group: pictures that are scored together: a batch, or ``total`` for a method that scores them as a set.
        """
        (self.folder / MAPS).mkdir(parents=True, exist_ok=True)
        self.answers = list(self._read())
        if len(self.answers) != total:
            del self.answers[len(self.answers) // group * group :]
        lines = "".join(json.dumps(one) + "\n" for one in self.answers)
        write_atomically(self.scores, lines.encode())
        return len(self.answers)

    def _read(self) -> list[dict[str, Any]]:
        """Predictions up to the first line that is torn."""
        found: list[dict[str, Any]] = []
        for line in self.scores.read_bytes().splitlines(keepends=True) if self.scores.is_file() else []:
            try:
                answer = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                answer = None
            if not isinstance(answer, dict) or (answer["map"] and not self._map(len(found)).is_file()):
                break
            found.append(answer)
        return found

    def add(self, answer: dict[str, Any], anomaly_map: NDArray[np.float32] | None) -> None:
        """Keeps the next picture's prediction; its map is on disk before its line is."""
        if anomaly_map is not None:
            write_atomically(self._map(len(self.answers)), partial(np.save, arr=anomaly_map))
        self.answers.append(answer | {"map": anomaly_map is not None})
        with self.scores.open("ab") as file:
            file.write(json.dumps(self.answers[-1]).encode() + b"\n")

    def map(self, position: int) -> NDArray[np.float32]:
        """The anomaly map of a picture that has one, as it was given."""
        found: NDArray[np.float32] = np.load(self._map(position))
        return found

    def finish(self, row: Mapping[str, Any]) -> None:
        """Keeps the finished row; deletes the maps and features."""
        write_atomically(self._row, json.dumps(row).encode())
        for path in (self.folder / MAPS, self.features):
            shutil.rmtree(path, ignore_errors=True)

    def _map(self, position: int) -> Path:
        return self.folder / MAPS / f"{position:07d}.npy"
