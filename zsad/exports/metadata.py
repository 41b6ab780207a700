"""``metadata.json`` of an exported folder: what the model takes and gives, what it was made of, and which levels decide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zsad.common.atomic_files import write_atomically
from zsad.decision.calibration import SPLIT, Calibration
from zsad.decision.thresholds import Thresholds
from zsad.errors import UsageError

__all__ = ["FILE", "FORMAT", "Metadata", "is_folder", "sha256_of_files"]

FILE, FORMAT, VERSION = "metadata.json", "zsad export", 1


@dataclass(frozen=True)
class Metadata:
    """What is in an exported folder, as JSON.

    Attributes:
        model: "files" (name -> sha256, the first one is opened), "runtime", "precision", "kind" (``graph.SCORES`` or
            ``FEATURES``), "outputs" and "grids".
        input: "size" (height, width), "colour", "layout", "type", the "resize" rule, and "mean" and "deviation" of the
            network, which are taken off inside the model.
        detector: ``Inspector.describe()`` of what was exported.
        target: the object's name.
        words: defect words, in the order of the output "words".
        sentences: what the text features are made of, by class of text; with "sentences_sha256", their digest.
        map_range: ends of the fixed colour scale.
        word_margin: lead from which on a word is suggested; None: never.
        far_score: a score that normal pictures do not reach; None: not known.
        smallest_set: fewest pictures that are compared with each other.
        batch: whether the pictures of a folder are compared with each other.
        thresholds: levels; None where none are known.
        calibration: scores and peaks of normal pictures; None where there are none.
        references: names of the normal pictures that are inside.
        weights: licence and training data, by part of the model.
        versions: of the packages that made it.
    """

    model: dict[str, Any]
    input: dict[str, Any]
    detector: dict[str, Any]
    target: str
    words: list[str]
    sentences: dict[str, list[str]]
    sentences_sha256: str
    map_range: list[float]
    word_margin: float | None
    far_score: float | None
    smallest_set: int
    batch: bool
    thresholds: dict[str, Any] | None
    calibration: dict[str, Any] | None
    references: list[str]
    weights: dict[str, dict[str, str]]
    versions: dict[str, str | None]

    def save(self, folder: Path) -> None:
        """Writes the file."""
        row = {"format": FORMAT, "schema_version": VERSION} | asdict(self)
        write_atomically(folder / FILE, (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Metadata:
        """Reads the file.

        Raises:
            UsageError: the folder is no export, of a later version, or its file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            raise UsageError(f"{str(folder)!r} is no exported model: it has no {FILE}. Make one with zsad export.")
        try:
            row = json.loads(path.read_bytes())
            named, version = row.pop("format"), row.pop("schema_version")
            if named != FORMAT:
                raise ValueError(f"its format is {named!r}")
            if type(version) is not int or version < 1:
                raise ValueError(f"its schema_version is {version!r}")
        except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{str(path)!r} was not written by zsad export, or is damaged ({error}). Export again.") from error
        if version > VERSION:
            raise UsageError(
                f"{str(folder)!r} was exported by a later zsad (schema version {version}; this one reads {VERSION}). "
                "Update zsad."
            )
        if wrong := sorted({one.name for one in fields(cls)} ^ row.keys()):
            raise UsageError(f"{str(path)!r} is damaged: missing or unknown are {', '.join(wrong)}. Export again.")
        return cls(**row)

    def file(self, folder: Path) -> Path:
        """The file that the runtime opens.

        Raises:
            UsageError: a file of the model is missing, is not the one that was exported, or lies outside the folder.
        """
        files: Mapping[str, str] = self.model["files"]
        for name, digest in files.items():
            if Path(name).name != name:
                raise UsageError(
                    f"{str(folder / FILE)!r} names the model {name!r}, which is no file of its folder. Export again."
                )
            if not (folder / name).is_file():
                raise UsageError(f"{str(folder)!r} lacks {name}, which {FILE} names. Copy the whole folder, or export again.")
            if (found := sha256_of_files([folder / name])[name]) != digest:
                raise UsageError(
                    f"{str(folder / name)!r} is not the model that was exported: its sha256 begins with {found[:12]}, and "
                    f"{FILE} says {digest[:12]}. Copy the whole folder again, or export again."
                )
        return folder / next(iter(files))

    def levels(self) -> Thresholds | None:
        """The thresholds, where there are any."""
        return None if self.thresholds is None else Thresholds(**self.thresholds)

    def calibrated(self) -> Calibration | None:
        """The calibration, where there is one; it fits no other detector than the exported one."""
        if (row := self.calibration) is None:
            return None
        rates = {key: row[key] for key in ("max_false_alarms", "review_false_alarms")}
        return Calibration.from_scores(row["scores"], row["peaks"], exact=row["kind"] == SPLIT, **rates)


def is_folder(name: str) -> bool:
    """Whether a method's name means a folder: it exists, or is written as a path."""
    return "/" in name or "\\" in name or Path(name).is_dir()


def sha256_of_files(paths: list[Path]) -> dict[str, str]:
    """Hex digests by name."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
