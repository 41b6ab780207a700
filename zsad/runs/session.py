"""``Session``: pictures that are encoded once and scored again whenever a person changes what they are scored by.

References, corrections, thresholds and calibrations change verdicts at once, from what is stored; the encoder does not run
again. A session forks the inspector that it is given, so that any number of them share one model and nothing else.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zsad.common.arguments import checked
from zsad.decision.calibration import FALSE_ALARMS, Calibration
from zsad.decision.thresholds import Thresholds, decide, fixed
from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef, list_images, load_image
from zsad.inference.encoded import Encoded
from zsad.inference.inspector import Inspector
from zsad.inference.normal_pictures import NormalPictures, keep_normal_pictures
from zsad.inference.result import Region, Result
from zsad.inference.scorer import Scored
from zsad.inference.verdict import scores_and_peaks
from zsad.references.corrections import FALSE_ALARM, MISS, Mark
from zsad.runs.corrections import KINDS, Corrections
from zsad.runs.drawing import Options
from zsad.runs.folder import RunFolder
from zsad.runs.summary import Summary, levels_of

__all__ = ["Session"]


class Session:
    """Encoded pictures with references, corrections, thresholds and a calibration that may change.

    Args:
        inspector: the model; it is not changed. Tiles are not supported, for marks are places of whole pictures.

    Attributes:
        inspector: the session's own fork.
        scored: the current score and map of each picture, in the order of encoding.
        marks: the corrections in force, in the order in which they were made.
        log: what was done, one JSON object per step.

    Raises:
        UsageError: the inspector cuts pictures into tiles.
    """

    @checked
    def __init__(self, inspector: Inspector) -> None:
        if inspector.geometry.tile is not None:
            raise UsageError("A session scores whole pictures, and the inspector cuts tiles. Leave tile out.")
        self.inspector = inspector.fork()
        self.scored: list[Scored] = []
        self.corrections = Corrections(self.inspector)
        self.log: list[dict[str, Any]] = []
        self._given = Thresholds()
        self._pictures = self.inspector.encode_refs([])
        self._owners: list[Encoded] = []  # keep the features on disk
        self._normals: NormalPictures | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def _note(self, what: str, **facts: Any) -> None:
        self.log.append({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "what": what} | facts)

    # ------------------------------------------------------------------ pictures
    def encode(self, source: Any) -> Iterator[int]:
        """Encodes pictures batch by batch; yields how many are done. Call ``rescore`` after the last one."""
        waiting = iter(list_images(source))
        while group := list(islice(waiting, self.inspector.batch_size)):
            self._owners.append(self.inspector.encode_refs(group))
            self._pictures.entries += self._owners[-1].entries
            yield len(self)

    def rescore(self) -> None:
        """Scores all pictures anew by the references and marks of now, and the calibration's normal pictures too."""
        if not any(entry.files for entry in self._pictures):
            self.scored = [entry.scored for entry in self._pictures]
        else:
            self.scored = list(self.inspector.answers(self._pictures, self.marks))
        self._recalibrate()

    @property
    def marks(self) -> list[Mark]:
        """The corrections that act on scores as marks."""
        return self.corrections.marks

    @property
    def encoded(self) -> Encoded:
        """The pictures, as ``Inspector.answers`` takes them."""
        return self._pictures

    @property
    def order(self) -> list[int]:
        """Numbers of the pictures, worst first, errors last."""
        return sorted(range(len(self.scored)), key=lambda n: -math.inf if (s := self.scored[n].score) is None else s)[::-1]

    @property
    def peaks(self) -> list[float]:
        """The largest value of each scored picture's map."""
        return scores_and_peaks(self.scored)[1]

    # ------------------------------------------------------------------ verdicts
    @property
    def thresholds(self) -> Thresholds:
        """The user's levels, else the calibration's, else the batch rule's; see ``Thresholds.source``.

        Where no normal picture says which places are regions, they lie above the middle of the method's fixed scale.
        """
        found = self.inspector.known_thresholds()
        if self._given.anomalous is not None or found.anomalous is None:
            found = decide(*scores_and_peaks(self.scored), self._given, self.inspector.far_score)
        if found.pixel is not None:
            return found
        source = f"{found.source}; regions lie above the middle of the method's scale, for want of normal pictures"
        return replace(found, pixel=sum(self.inspector.detector.map_range) / 2, source=source)

    def set_threshold(self, anomalous: float | None, review: float | None = None) -> None:
        """Sets the user's levels; None goes back to the calibration or the batch rule. Nothing is scored."""
        self._given = fixed(anomalous, review)
        self._note("threshold", anomalous=anomalous, review=review)

    def result(self, number: int) -> Result:
        """A picture's verdict, map, regions and pixels, from what is stored."""
        scored = self.scored[number]
        if scored.score is not None:
            try:
                ref = self._pictures[number].ref
                scored = replace(scored, image=load_image(ref, value_range=self.inspector.value_range).rgb)
            except ImageError as error:
                scored = Scored(scored.name, scored.path, error=str(error))
        return self.inspector.result(scored, self.thresholds)

    # ------------------------------------------------------------------ references
    def add_references(self, source: Any) -> list[str]:
        """Adds normal pictures and rescores; returns the names of those that were new."""
        added = self.inspector.add_references(source)
        self._note("references added", names=added)
        self.rescore()
        return added

    def remove_references(self, *names: str) -> None:
        """Takes pictures out of the references, by name, and rescores."""
        self.inspector.remove_references(*names)
        self._note("references removed", names=list(names))
        self.rescore()

    # ------------------------------------------------------------------ corrections
    def false_alarm(self, number: int, region: Region) -> None:
        """Marks a region of a picture as normal: places that look like it count less, in every picture."""
        size = self._size(number)
        drawn = Image.new("L", (size[1], size[0]))
        ImageDraw.Draw(drawn).polygon(list(region.contour), fill=1)
        self._mark(number, np.asarray(drawn, dtype=np.uint8), FALSE_ALARM, box=list(region.box))

    def miss(self, number: int, place: NDArray[Any]) -> None:
        """Marks a place of a picture, (H, W) above 0 where it is drawn, as a defect: places that look like it count more.

        Where the method takes anomalous references, the place becomes one of them.
        """
        size = self._size(number)
        drawn = np.asarray(place)
        if drawn.shape != size:
            raise UsageError(f"The drawing is {drawn.shape[::-1]}, the picture {size[::-1]}. Draw at the picture's own size.")
        rows, columns = np.nonzero(drawn)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else []
        self._mark(number, (drawn > 0).astype(np.uint8), MISS, box=box)

    def undo(self) -> bool:
        """Takes the latest correction back; False where there is none."""
        if (undone := self.corrections.take_back()) is None:
            return False
        self._note("undone", picture=undone[0], kind=KINDS[undone[1]])
        self.rescore()
        return True

    def _size(self, number: int) -> tuple[int, int]:
        size: tuple[int, int] | None = self._pictures[number].scored.size
        if size is None:
            raise UsageError(f"{self._pictures[number].scored.name} could not be read, so no place of it can be marked.")
        return size

    def _mark(self, number: int, drawn: NDArray[np.uint8], sign: int, box: list[int]) -> None:
        entry = self._pictures[number]
        self.corrections.add(entry, drawn, sign)
        self._note("correction", picture=entry.scored.name, kind=KINDS[sign], box=box)
        self.rescore()

    # ------------------------------------------------------------------ calibration
    @checked
    def calibrate(self, source: Any, max_false_alarms: float = FALSE_ALARMS, *, left_out: bool = False) -> Calibration:
        """Levels from normal pictures; they follow every later change of references and corrections.

        Args:
            source: normal pictures: none of them a reference, or with ``left_out`` the references themselves.
            max_false_alarms: share of normal pictures that may be called anomalous.
            left_out: each picture is scored without itself; then the false-alarm rate is approximate, else guaranteed
                (split-conformal).

        Raises:
            UsageError: as ``keep_normal_pictures``; nothing is changed then.
        """
        normals = keep_normal_pictures(self.inspector, list(list_images(source)), left_out=left_out, share=max_false_alarms)
        made = normals.calibration(self.inspector, self.marks)
        self._normals, self._given = normals, Thresholds()
        self.inspector.thresholds, self.inspector.calibration = made.thresholds(), made
        self._note("calibrated", kind=made.kind, pictures=len(made), max_false_alarms=made.max_false_alarms)
        return made

    def _recalibrate(self) -> None:
        if self._normals is None:
            return
        made = None
        try:
            made = self._normals.calibration(self.inspector, self.marks)
        except UsageError as error:
            self._normals = None
            self._note("calibration dropped", why=str(error))
        self.inspector.thresholds = Thresholds() if made is None else made.thresholds()
        self.inspector.calibration = made

    # ------------------------------------------------------------------ on disk
    def write(self, folder: str | Path, options: Options | None = None) -> Summary:
        """Writes the files of ``zsad predict``, with the corrections and the log in run.json; scores nothing."""
        thresholds = self.thresholds
        with RunFolder(folder, self.inspector.describe(), overwrite=True) as run:
            run.fill((replace(entry.ref, name=entry.scored.name) for entry in self._pictures), self._stored, sys.maxsize)
            summary = run.write(self.inspector, thresholds, options or Options(maps="png", hide_folders=True))
            facts = {"detector": run.detector} | summary.as_dict() | {"thresholds": levels_of(thresholds)}
            run.finish(facts | {"corrections": len(self.corrections), "log": self.log})
        return summary

    def _stored(self, refs: Iterable[ImageRef]) -> Iterator[Scored]:
        """The scores that are known already, in place of a scorer."""
        for _, scored in zip(refs, self.scored, strict=True):
            yield scored
