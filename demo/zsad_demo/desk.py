"""One visitor's desk: pictures, references, session. The models are shared, and nothing else is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import secrets
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zsad
from zsad_demo.uploads import NORMALS, PICTURES, REFERENCES, Refused, take
from zsad_demo.weights import Given

MODELS = 4  # that stay in memory
DEFAULT = "compact"
SETS: dict[str, dict[str, Any]] = {"musc": {"backbone": "compact"}}  # what a method is given here, so that it needs no download


@dataclass(frozen=True)
class Key:
    """What makes two judgements one model's."""

    method: str = DEFAULT
    target: str = "object"
    words: tuple[str, ...] = ()


class Models:
    """The latest inspectors, without references or thresholds; sessions fork them.

    Args:
        given: learned weights by method.
    """

    def __init__(self, given: Mapping[str, Given] | None = None) -> None:
        self._given = given or {}
        self._kept: OrderedDict[Key, zsad.Inspector] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Key) -> zsad.Inspector:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._built(key)
            self._kept.move_to_end(key)
            while len(self._kept) > MODELS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _built(self, key: Key) -> zsad.Inspector:
        words: dict[str, Any] = {"words": key.words} if key.words else {}
        if key.method in self._given:
            return self._given[key.method].inspector(key.target, words)
        return zsad.Inspector(key.method, key.target, **SETS.get(key.method, {}), **words)


class Desk:
    """What one visitor works on. Every method is called under ``lock``, by one event at a time.

    Attributes:
        token: in the names of all files that are shown, so that they can be found and deleted.
        session: None before the first inspection.
        selected: number of the picture that is looked at.
        refused: sentences on uploads that were not taken.
        stopped: when the visitor last said stop, by the clock of the page; what was asked for before ends at its next step.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self.token = secrets.token_hex(8)
        self.lock = threading.RLock()
        self.folder = Path(tempfile.mkdtemp(prefix="zsad-desk-"))
        self.session: zsad.Session | None = None
        self.key = Key()
        self.selected = 0
        self.refused: list[str] = []
        self.stopped = 0.0
        self.thumbs: dict[int, str] = {}
        self.drawn_for: object = None  # the scores that the thumbnails show
        self._references: dict[str, Path] = {}  # upload -> copy
        self._shown = self._inspections = 0

    def close(self) -> None:
        """Deletes everything."""
        with self.lock:
            self.session = None
            shutil.rmtree(self.folder, ignore_errors=True)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # of glibc: gives freed memory back to the system
            ctypes.CDLL(None).malloc_trim(0)

    def opened(self) -> zsad.Session:
        """The session.

        Raises:
            Refused: nothing was inspected yet.
        """
        if self.session is None or not len(self.session):
            raise Refused("Nothing is inspected yet. Drop pictures (or take an example) and press Inspect.")
        return self.session

    # ------------------------------------------------------------------ pictures and references
    def inspect(
        self, files: Sequence[str] | None, key: Key, references: Sequence[str] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Encodes and judges pictures; yields (done, all). Earlier pictures and their corrections go."""
        self._inspections += 1
        folder = self._fresh(f"pictures-{self._inspections}")
        pictures, refused = take(files, folder, PICTURES)
        if not pictures:
            raise Refused(" ".join(refused))
        yield 0, len(pictures)
        session = zsad.Session(self.models(key))
        kept, more = self._synced(session, {}, references)
        for done in session.encode(pictures):  # all of this is on new ground, so that a stopped inspection changes nothing
            yield done, len(pictures)
        session.rescore()
        with self.lock:
            self.session, self.key, self.refused = session, key, refused + more
            self._references, self.selected = kept, session.order[0]
        for old in self.folder.glob("pictures-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def set_references(self, files: Sequence[str] | None) -> None:
        """Makes the references equal to what was uploaded; the pictures are judged anew, not encoded."""
        self._references, self.refused = self._synced(self.opened(), self._references, files)

    def _synced(
        self, session: zsad.Session, known: dict[str, Path], files: Sequence[str] | None
    ) -> tuple[dict[str, Path], list[str]]:
        """The references after a change (upload -> copy), and what was refused."""
        wanted, refused = list(files or ()), list[str]()
        if len(wanted) > REFERENCES:
            raise Refused(f"{len(wanted)} references were given, and {REFERENCES} are taken. Give fewer.")
        kept = {upload: path for upload, path in known.items() if upload in wanted}
        own = set(session.inspector.references.names)
        if gone := [path.name for upload, path in known.items() if upload not in kept and path.name in own]:
            session.remove_references(*gone)
        copies = []
        for upload in wanted:
            if upload not in kept:
                taken, said = take([upload], self.folder / "references", REFERENCES, "references")
                refused += said
                for path in taken:  # references are removed by name, so each has one of its own
                    kept[upload] = path.rename(path.with_name(f"{path.parent.name}-{path.name}"))
                    copies.append(kept[upload])
        if copies:
            session.add_references(copies)
            errors = session.inspector.references.errors
            refused += [errors[path.name] for path in copies if path.name in errors]
        return kept, refused

    # ------------------------------------------------------------------ promises
    def calibrate(self, files: Sequence[str] | None, share: float) -> zsad.Calibration:
        """Levels from dropped normal pictures. A share that they cannot promise is raised to what they can."""
        session = self.opened()
        copies, self.refused = take(files, self._fresh("normal"), NORMALS, "normal pictures")
        return session.calibrate(copies, max(share, 1 / (len(copies) + 1)))

    def leave_one_out(self, share: float) -> zsad.Calibration:
        """Levels from the references."""
        session, own = self.opened(), list(self._references.values())
        if len(own) < 2:
            raise Refused("Leave-one-out needs two references or more. Add references first.")
        return session.calibrate(own, max(share, 1 / (len(own) + 1)), left_out=True)

    # ------------------------------------------------------------------ files that are shown
    def shown(self, ending: str) -> Path:
        """A new place for a file that the page will show."""
        place = self.folder / "shown"
        place.mkdir(exist_ok=True)
        self._shown += 1
        return place / f"{self.token}-{self._shown:05d}.{ending}"

    def zipped(self) -> Path:
        """Everything that ``zsad predict`` writes, and the log, in one file."""
        session, run = self.opened(), self._fresh("run")
        session.write(run)
        (run / "log.json").write_text(json.dumps(session.log, indent=1) + "\n", encoding="utf-8")
        target = self.shown("zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(run.rglob("*")):
                inside = path.relative_to(run)
                if path.is_file() and inside.parts[0] != ".zsad":
                    archive.write(path, inside)
        return target

    def log_file(self) -> Path:
        """The log as JSON."""
        target = self.shown("json")
        target.write_text(json.dumps(self.opened().log, indent=1) + "\n", encoding="utf-8")
        return target

    def _fresh(self, name: str) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place
