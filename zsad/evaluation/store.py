"""What ``evaluate`` keeps on disk, so that a run that was killed goes on where it was and ends in the same numbers.

Below ``.zsad/``: ``evaluation.json`` is the fingerprint of the run, and every category (of every seed) has a folder with
``scores.jsonl``, one line per picture in order, ``maps/``, float32 at the size of the metrics, and ``features/`` of a method
that judges a set; the last two go when its row is finished: ``row.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.atomic_files import HIDDEN, check_out, differences, write_aside
from zsad.errors import UsageError

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
        self.settings = self.hidden / "evaluation.json"

    def claim(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Makes the folder this run's own.

        Raises:
            UsageError: it is a file, holds another run, or holds files of the same names that are no evaluation's.
        """
        check_out(self.out, self.settings.name, resume=resume, overwrite=overwrite)
        foreign = [name for name in (*FILES, MAPS, HIDDEN) if (self.out / name).exists()]
        if foreign and not self.settings.is_file():
            raise UsageError(
                f"{str(self.out)!r} holds {', '.join(foreign)}, but no evaluation, so nothing was overwritten. Give another "
                "--out."
            )
        if overwrite and self.settings.is_file():
            for path in [self.hidden, self.out / MAPS]:
                shutil.rmtree(path, ignore_errors=True)
            for name in FILES:
                (self.out / name).unlink(missing_ok=True)
        elif not resume and self.settings.is_file():
            raise UsageError(
                f"{str(self.out)!r} holds an evaluation already. Give --resume to go on with it (nothing is scored twice), "
                "--overwrite to start anew, or another --out."
            )
        self.hidden.mkdir(parents=True, exist_ok=True)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keeps the fingerprint of a new run, or compares it with that of the one that is there.

        Raises:
            UsageError: the one that is there was made with other settings; says which.
        """
        if not self.settings.is_file():
            write_aside(self.settings, json.dumps(settings, indent=1).encode())
            return
        try:
            then = json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{str(self.settings)!r} is damaged ({error}). Give --overwrite to start anew.") from error
        if said := differences(then, settings):
            raise UsageError(
                f"The output folder holds an evaluation with other settings: {'; '.join(said)}. Give the same settings to "
                "resume it, --overwrite to start anew, or another --out."
            )

    def kept(self, category: str, seed: int | None) -> Kept:
        """Where the answers for a category and seed are."""
        digits = hashlib.blake2b(f"{seed}\0{category}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
        return Kept(self.hidden / "rows" / digits)


class Kept:
    """The model's answers for the pictures of one category, in order.

    Args:
        folder: of this category and seed alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores = folder / "scores.jsonl"
        self.features = folder / "features"  # of a method that judges a set
        self._row = folder / "row.json"
        self.answers: list[dict[str, Any]] = []

    def row(self) -> dict[str, Any] | None:
        """The finished row, or None."""
        return json.loads(self._row.read_text(encoding="utf-8")) if self._row.is_file() else None

    def begin(self, total: int, group: int) -> int:
        """How many pictures need not be scored again.

        They are the first ones, because answers come in order. Of ``total`` all count, otherwise whole groups alone: a
        score's last digits depend on the pictures that pass the model with it.

        Args:
            total: pictures of the category.
            group: pictures that are scored together: a batch, or ``total`` for a method that judges them as a set.
        """
        (self.folder / MAPS).mkdir(parents=True, exist_ok=True)
        self.answers = list(self._read())
        if len(self.answers) != total:
            del self.answers[len(self.answers) // group * group :]
        lines = "".join(json.dumps(one) + "\n" for one in self.answers)
        write_aside(self.scores, lines.encode())
        return len(self.answers)

    def _read(self) -> list[dict[str, Any]]:
        """Answers up to the first line that is torn."""
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
        """Takes the next picture's answer; its map is on disk before its line is."""
        path = self._map(len(self.answers))
        if anomaly_map is not None:
            aside = path.with_suffix(".partial")
            with aside.open("wb") as file:
                np.save(file, anomaly_map)
            aside.replace(path)
        self.answers.append(answer | {"map": anomaly_map is not None})
        with self.scores.open("ab") as file:
            file.write(json.dumps(self.answers[-1]).encode() + b"\n")

    def map(self, position: int) -> NDArray[np.float32]:
        """The map of a picture that has one, as it was given."""
        found: NDArray[np.float32] = np.load(self._map(position))
        return found

    def finish(self, row: Mapping[str, Any]) -> None:
        """Keeps the row; maps and features go."""
        write_aside(self._row, json.dumps(row).encode())
        for path in (self.folder / MAPS, self.features):
            shutil.rmtree(path, ignore_errors=True)

    def _map(self, position: int) -> Path:
        return self.folder / MAPS / f"{position:07d}.npy"
