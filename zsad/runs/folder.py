"""The ``results/`` folder of ``zsad predict``: whose it is, what may be in it, and how finished files get there.

A run has two stages. The first scores every picture and keeps what the model said under ``.zsad/`` (``records.py``). The
second (``writers.py``) is a function of these records and the thresholds: it writes everything a person reads under
``.zsad/new``, and ``install`` moves it into place at the end. Killed at any moment and resumed, the files are the same, byte
for byte; times are in ``run.json`` alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from zsad.common.atomic_files import HIDDEN, check_out
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.runs.records import Records

__all__ = ["RunFolder"]

FILES = ("predictions.jsonl", "predictions.csv", "report.html", "run.json")
FOLDERS = ("overlays", "masks", "maps")


class RunFolder:
    """An output folder.

    Args:
        out: where; made if it is not there.

    Attributes:
        records: what the model said of each picture.
        new: where finished files wait for ``install``.
        skipped: pictures that were left out because they are output of a run.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.hidden = self.out / HIDDEN
        self.new = self.hidden / "new"
        self.records = Records(self.hidden)
        self.skipped = 0

    def claim(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Makes the folder this run's own.

        Raises:
            UsageError: it is a file, holds another run or an evaluation, or files of the same names that are no run's.
        """
        check_out(self.out, self.records.settings.name, resume=resume, overwrite=overwrite)
        foreign = [name for name in (*FILES, *FOLDERS) if (self.out / name).exists()]
        if foreign and not self.hidden.is_dir():
            raise UsageError(
                f"{str(self.out)!r} holds {', '.join(foreign)}, but no run of zsad, so nothing was overwritten. Give another "
                "--out."
            )
        if overwrite and self.hidden.is_dir():
            self._clear()
        elif not resume and self.records.file.is_file() and self.records.file.stat().st_size:
            raise UsageError(
                f"{str(self.out)!r} holds a run already. Give --resume to go on with it (pictures that are scored are not "
                "scored again), --overwrite to start anew, or another --out."
            )
        self.hidden.mkdir(parents=True, exist_ok=True)

    def _clear(self) -> None:
        for name in (*FILES, *FOLDERS):
            _remove(self.out / name)
        _remove(self.hidden)

    def outside(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """The pictures that are not the output of a run, this one or another.

        Raises:
            UsageError: there are no others.
        """
        kept, judged = 0, dict[Path, bool]()
        for ref in refs:
            if ref.path is not None and _is_output(Path(os.path.realpath(ref.path.parent)), judged):
                self.skipped += 1
                continue
            kept += 1
            yield ref
        if not kept:
            raise UsageError("Every picture of the source is output of an earlier run. Give other pictures.")

    def begin_new(self) -> None:
        """An empty place for finished files."""
        _remove(self.new)
        self.new.mkdir(parents=True)

    def install(self) -> None:
        """Moves the finished files into place; what an earlier run left there goes."""
        for name in (*FOLDERS, *FILES):
            fresh, place = self.new / name, self.out / name
            if place.is_dir() or not fresh.exists():
                _remove(place)
            if fresh.exists():
                fresh.replace(place)
        _remove(self.new)


def _is_output(folder: Path, judged: dict[Path, bool]) -> bool:
    """True below the overlays, masks or maps of a folder that holds a run; ``judged`` remembers."""
    if folder not in judged:
        own = folder.name == ".zsad" or (folder.name in FOLDERS and (folder.parent / ".zsad").is_dir())
        judged[folder] = own or (folder.parent != folder and _is_output(folder.parent, judged))
    return judged[folder]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
