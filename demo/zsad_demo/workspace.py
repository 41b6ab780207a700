"""One visitor's workspace: uploads, references, session and files to download. Only the models are shared."""

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
from collections.abc import Iterator, Sequence
from pathlib import Path

import zsad
from zsad.runs.kinds import CENTRES, RunKinds, find_kinds
from zsad.runs.kinds_report import contact_sheets
from zsad_demo.inspectors import InspectorCache, InspectorKey
from zsad_demo.uploads import NORMALS, PICTURES, REFERENCES, Refused, take


class Workspace:
    """What one visitor works on. Every method is called under ``lock``, by one event at a time.

    Attributes:
        token: part of the names of all files that are shown, so that they can be found and deleted.
        session: None before the first inspection.
        selected: number of the selected picture.
        refused: messages on uploads that were refused.
        stopped: time of the visitor's last click on Stop, ms by the page's clock; work requested before it ends at its next
            step.
    """

    def __init__(self, inspectors: InspectorCache) -> None:
        self.inspectors = inspectors
        self.token = secrets.token_hex(8)
        self.lock = threading.RLock()
        self.folder = Path(tempfile.mkdtemp(prefix="zsad-workspace-"))
        self.session: zsad.Session | None = None
        self.key = InspectorKey()
        self.selected = 0
        self.refused: list[str] = []
        self.stopped = 0.0
        self.thumbnails: dict[int, str] = {}
        self.thumbnails_of: object = None  # the scored pictures that the thumbnails show
        self._references: dict[str, Path] = {}  # upload -> copy
        self._files = self._inspections = 0

    def close(self) -> None:
        """Deletes everything."""
        with self.lock:
            self.session = None
            shutil.rmtree(self.folder, ignore_errors=True)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # of glibc: gives freed memory back to the system
            ctypes.CDLL(None).malloc_trim(0)

    def current(self) -> zsad.Session:
        """The session.

        Raises:
            Refused: nothing was inspected yet.
        """
        if self.session is None or not len(self.session):
            raise Refused("No pictures have been inspected yet. Upload some (or load an example) and press Inspect.")
        return self.session

    # ------------------------------------------------------------------ pictures and references
    def inspect(
        self, files: Sequence[str] | None, key: InspectorKey, references: Sequence[str] | None = None, *, final: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Encodes and scores pictures; yields (done, all). Earlier pictures and their corrections are discarded.

        ``final``: neither references nor corrections follow, so that what only they could need is not encoded.
        """
        self._inspections += 1
        folder = self._empty_folder(f"pictures-{self._inspections}")
        pictures, refused = take(files, folder, PICTURES)
        if not pictures:
            raise Refused(" ".join(refused))
        yield 0, len(pictures)
        session, kept, more = self._begun(key, references)
        if final:
            session.inspector = _settled(session.inspector.over(len(pictures)))
        for done in session.encode(pictures):  # in a new session and folder, so that a stopped inspection changes nothing
            yield done, len(pictures)
        session.rescore()
        with self.lock:
            self.session, self.key, self.refused = session, key, refused + more
            self._references, self.selected = kept, session.order[0]
            shutil.rmtree(self.folder / "kinds", ignore_errors=True)  # of the earlier pictures
        for old in self.folder.glob("pictures-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _begun(self, key: InspectorKey, references: Sequence[str] | None) -> tuple[zsad.Session, dict[str, Path], list[str]]:
        """A session without pictures; its references (upload -> copy), and the messages on refused ones."""
        session = zsad.Session(self.inspectors(key))
        return session, *self._synced(session, {}, references)

    def set_references(self, files: Sequence[str] | None) -> None:
        """Makes the references equal to the uploads; the pictures are rescored, not encoded again."""
        self._references, self.refused = self._synced(self.current(), self._references, files)

    def _synced(
        self, session: zsad.Session, known: dict[str, Path], files: Sequence[str] | None
    ) -> tuple[dict[str, Path], list[str]]:
        """The references after a change (upload -> copy), and the messages on refused ones."""
        wanted, refused = list(files or ()), list[str]()
        if len(wanted) > REFERENCES:
            raise Refused(f"{len(wanted)} reference images were given; at most {REFERENCES} are accepted. Give fewer.")
        kept = {upload: path for upload, path in known.items() if upload in wanted}
        own = set(session.inspector.references.names)
        if gone := [path.name for upload, path in known.items() if upload not in kept and path.name in own]:
            session.remove_references(*gone)
        added = []
        for upload in wanted:
            if upload not in kept:
                copies, messages = take([upload], self.folder / "references", REFERENCES, "reference images")
                refused += messages
                for path in copies:  # references are removed by name, so each name is unique
                    kept[upload] = path.rename(path.with_name(f"{path.parent.name}-{path.name}"))
                    added.append(kept[upload])
        if added:
            session.add_references(added)
            errors = session.inspector.references.errors
            refused += [errors[path.name] for path in added if path.name in errors]
        return kept, refused

    # ------------------------------------------------------------------ calibration
    def calibrate(self, files: Sequence[str] | None, max_false_alarms: float) -> zsad.Calibration:
        """Thresholds from uploaded normal pictures. A rate below what so few pictures can guarantee is raised to that."""
        session = self.current()
        copies, self.refused = take(files, self._empty_folder("normal"), NORMALS, "normal pictures")
        return _calibrated(session, copies, max_false_alarms)

    def calibrate_alone(
        self, files: Sequence[str] | None, key: InspectorKey, references: Sequence[str] | None, max_false_alarms: float
    ) -> zsad.Calibration:
        """As ``calibrate``, where no pictures were inspected and none will be."""
        copies, refused = take(files, self._empty_folder("normal"), PICTURES, "normal pictures")
        if not copies:
            raise Refused(" ".join(refused))
        session, _, more = self._begun(key, references)
        self.refused = refused + more
        session.inspector = _settled(session.inspector)
        return _calibrated(session, copies, max_false_alarms)

    def leave_one_out(self, max_false_alarms: float) -> zsad.Calibration:
        """Thresholds from the references, each scored without itself."""
        session, own = self.current(), list(self._references.values())
        if len(own) < 2:
            raise Refused("Leave-one-out calibration needs two reference images or more. Add reference images first.")
        return _calibrated(session, own, max_false_alarms, left_out=True)

    # ------------------------------------------------------------------ files for the page
    def new_file(self, suffix: str) -> Path:
        """Path of a new file that the page will show."""
        folder = self.folder / "shown"
        folder.mkdir(exist_ok=True)
        self._files += 1
        return folder / f"{self.token}-{self._files:05d}.{suffix}"

    # ------------------------------------------------------------------ kinds
    def group(self, number: int | None) -> tuple[str, list[str]]:
        """Groups the regions of flagged pictures; contact sheets as HTML, and the names of the kinds."""
        session, run = self.current(), self._empty_folder("kinds")
        session.write(run)
        return _sheets(find_kinds(run, number, device=str(session.inspector.device)))

    def rename(self, kind: str | None, name: str) -> tuple[str, list[str]]:
        """Gives a kind another name; kinds of one name become one."""
        run = self.folder / "kinds"
        if not kind or not (run / CENTRES).is_file():
            raise Refused("There are no kinds yet. Group the anomalous pictures into kinds first.")
        return _sheets(find_kinds(run, rename={kind: name}, device=str(self.current().inspector.device)))

    def results_zip(self) -> Path:
        """Everything that ``zsad predict`` writes, and the session's log, in one file."""
        session, run = self.current(), self._empty_folder("run")
        session.write(run)
        if (self.folder / "kinds" / CENTRES).is_file():
            with contextlib.suppress(zsad.ZsadError):  # no picture is flagged any more
                find_kinds(run, like=self.folder / "kinds", device=str(session.inspector.device))
        (run / "log.json").write_text(json.dumps(session.log, indent=1) + "\n", encoding="utf-8")
        target = self.new_file("zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(run.rglob("*")):
                inside = path.relative_to(run)
                if path.is_file() and inside.parts[0] != ".zsad":
                    archive.write(path, inside)
        return target

    def log_file(self) -> Path:
        """The session's log as JSON."""
        target = self.new_file("json")
        target.write_text(json.dumps(self.current().log, indent=1) + "\n", encoding="utf-8")
        return target

    def _empty_folder(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _sheets(found: RunKinds) -> tuple[str, list[str]]:
    sheets = contact_sheets(found.regions, found.region_kinds, list(found.pictures), found.counts)
    return f"<div class='details'>{sheets}</div>", list(dict.fromkeys(found.kinds.names))


def _settled(inspector: zsad.Inspector) -> zsad.Inspector:
    """The inspector where its references stay as they are: what they do not need is not encoded."""
    return inspector.with_detector(inspector.detector.for_context(inspector.context))


def _calibrated(session: zsad.Session, copies: Sequence[Path], rate: float, left_out: bool = False) -> zsad.Calibration:
    """Thresholds for a rate of false alarms, or for the lowest that so few pictures can guarantee."""
    return session.calibrate(copies, max(rate, 1 / (len(copies) + 1)), left_out=left_out)
