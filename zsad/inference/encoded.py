"""Pictures that were encoded once and can be scored many times: by other names, other references, or as a set.

``encode_pictures`` runs the encoder and keeps its features on disk; ``answers`` scores from them, always so where a method
compares pictures (``needs_set``). Tiles of one picture are never compared: their first tiles are one set, the second another.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from zsad.common.atomic_files import scratch_folder, write_atomically
from zsad.common.output_folder import differences
from zsad.common.precision import inference
from zsad.errors import ImageError, UsageError
from zsad.images.containers import stat_of
from zsad.images.reading import ImageRef, load_image
from zsad.images.stitching import Canvas
from zsad.images.tiling import Geometry
from zsad.inference.feature_store import FeatureFiles, save_features
from zsad.inference.scorer import Opened, Scored, Scorer, on_cpu
from zsad.references.corrections import Mark, corrected
from zsad.types import Prediction

__all__ = ["Encoded", "Entry", "answers", "encode_pictures"]


@dataclass(frozen=True)
class Entry:
    """One encoded picture: name, size and notes, and the files of its pieces' features."""

    ref: ImageRef
    scored: Scored
    files: tuple[Path, ...] = ()


class Encoded(Sequence[Entry]):
    """Encoded pictures in their order, features on disk.

    Args:
        geometry: how they were cut.
        encoder: ``describe_encoder`` of what encoded them.
    """

    def __init__(self, geometry: Geometry, encoder: Mapping[str, Any]) -> None:
        self.entries: list[Entry] = []
        self.geometry, self.encoder = geometry, json.loads(json.dumps(dict(encoder)))

    def check(self, encoder: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where another encoder, or another geometry, made the features; names what differs."""
        if differ := differences(self.encoder, encoder):
            raise UsageError(
                f"The pictures were encoded with other settings: {'; '.join(differ)}. Score them with the same, or encode them "
                "again."
            )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def only(self, numbers: Iterable[int]) -> Encoded:
        """Some of the pictures; their features go with the whole, so keep that."""
        some = Encoded(self.geometry, self.encoder)
        some.entries = [self.entries[number] for number in numbers]
        return some


def encode_pictures(
    scorer: Scorer, refs: Iterable[ImageRef], folder: Path | None = None, encoder: Mapping[str, Any] | None = None
) -> Encoded:
    """Runs the encoder once over pictures, in groups of ``batch_size`` cut by position.

    Args:
        scorer: how pictures reach the detector; its context is not used.
        refs: the pictures.
        folder: where features are kept; a group whose features are all there (the same files, unchanged) is not encoded
            again. None: a temporary folder, which goes with the result.
        encoder: for ``Encoded.check``.
    """
    made = Encoded(scorer.geometry, encoder or {})
    place = scratch_folder(made) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    waiting = iter(refs)
    while group := list(islice(waiting, scorer.batch_size)):
        stems = [place / _stem(ref, len(made) + i) for i, ref in enumerate(group)]
        known = [_recall(ref, stem) for ref, stem in zip(group, stems, strict=True)]
        if not all(known):
            _encode_group(scorer, group, stems)
            known = [_recall(ref, stem) for ref, stem in zip(group, stems, strict=True)]
        made.entries += [entry for entry in known if entry is not None]
    return made


def _stem(ref: ImageRef, index: int) -> str:
    """Name for a picture's files: its path and what the file was; its number where it is no file."""
    if ref.path is None:
        return f"{index:08d}"
    try:
        state = stat_of(ref.path)
    except OSError:
        return f"{index:08d}"
    key = f"{ref.name}\0{state.st_mtime_ns}\0{state.st_size}"
    return hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()


def _encode_group(scorer: Scorer, group: list[ImageRef], stems: list[Path]) -> None:
    """Writes features of every piece, and at last the note that makes a picture complete."""
    numbers = iter(range(len(group)))
    latest, number = None, -1
    for read, index, features in scorer.encoded(group):
        if read is not latest:
            latest, number = read, next(numbers)
            scored = read.scored
            note = {key: getattr(scored, key) for key in ("size", "notes", "error", "digest")} | {"pieces": len(read.places)}
        if features is not None:
            save_features(_piece(stems[number], index), features)
        if index == len(read.places) - 1 or features is None:
            write_atomically(stems[number].with_suffix(".json"), json.dumps(note).encode())


def _piece(stem: Path, index: int) -> Path:
    return stem.with_name(f"{stem.name}-{index}.safetensors")


def _recall(ref: ImageRef, stem: Path) -> Entry | None:
    path = stem.with_suffix(".json")
    if not path.is_file():
        return None
    note = json.loads(path.read_text())
    size = None if note["size"] is None else (note["size"][0], note["size"][1])
    files = tuple(_piece(stem, index) for index in range(note["pieces"]))
    digest = note.get("digest", "")  # absent in features that 0.1.0 wrote
    return Entry(ref, Scored(ref.name, ref.path, size, notes=tuple(note["notes"]), error=note["error"], digest=digest), files)


# ------------------------------------------------------------------ from features to scores
def answers(scorer: Scorer, encoded: Encoded, *, keep_images: bool = False, marks: Sequence[Mark] = ()) -> Iterator[Scored]:
    """Scores and maps of encoded pictures, in order; the encoder does not run.

    Args:
        scorer: the detector, the context, and how pictures are read again.
        encoded: the pictures.
        keep_images: give the pictures themselves too.
        marks: a person's corrections, which act on every score.

    Raises:
        UsageError: fewer pictures than a method needs that compares them with each other.
    """
    seen: dict[str, str] = {}  # digest -> name of the first
    compared = scorer.detector.needs_set(scorer.context)
    for entry, found in zip(encoded, _predictions(scorer, encoded, marks), strict=True):
        answer = _whole(scorer, encoded, entry, found, keep_images)
        first = seen.setdefault(answer.digest, answer.name) if compared and answer.digest else answer.name
        copied = () if first == answer.name else (f"an exact copy of {first}: counted once in the comparison",)
        yield replace(answer, notes=answer.notes + copied)


def _predictions(scorer: Scorer, encoded: Encoded, marks: Sequence[Mark]) -> Iterator[Iterable[Prediction] | None]:
    """For each picture the predictions for its pieces; None where too few others have as many pieces."""
    if not scorer.detector.needs_set(scorer.context):
        for entry in encoded:
            yield map(_scores(scorer, marks), FeatureFiles(entry.files, str(scorer.device)))
        return
    tiles = max((len(entry.files) for entry in encoded), default=0)
    if tiles <= 1:
        whole = _of_tile(scorer, encoded, 0, marks)
        for entry in encoded:
            yield islice(whole, len(entry.files))
        return
    if advice := scorer.detector.scales_within_set(scorer.context):
        raise UsageError(
            f"{scorer.detector.name} scales its scores within a set, and with tiles there are several, whose scores cannot be "
            f"compared. Leave tile out, or {advice}."
        )
    few = set[int]()
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        for tile in range(tiles):
            members = [n for n, entry in enumerate(encoded) if tile < len(entry.files)]
            if tile and len(members) < scorer.detector.smallest_set:
                few.update(members)
                continue
            for number, prediction in zip(members, _of_tile(scorer, encoded, tile, marks), strict=True):
                torch.save(vars(prediction), Path(folder) / f"{number}-{tile}.pt")
        for number, entry in enumerate(encoded):
            paths = [Path(folder) / f"{number}-{tile}.pt" for tile in range(len(entry.files))]
            kept = (Prediction(**torch.load(path, weights_only=True)) for path in paths)
            yield None if number in few else kept


def _scores(scorer: Scorer, marks: Sequence[Mark]) -> Any:
    def score(features: Any) -> Prediction:
        with inference(scorer.device):
            found = scorer.detector.score(features, scorer.context)
            return on_cpu(corrected(found, features, marks, scorer.detector.map_range))

    return score


def _of_tile(scorer: Scorer, encoded: Encoded, tile: int, marks: Sequence[Mark]) -> Iterator[Prediction]:
    """Predictions for one tile of all pictures that have it; exact copies count once, and have the prediction of the first."""
    members = [entry for entry in encoded if tile < len(entry.files)]
    names = [entry.scored.digest or f"number {number}" for number, entry in enumerate(members)]
    distinct = dict(zip(reversed(names), reversed(members), strict=True))  # the first of each
    left, kept = Counter(names), dict[str, Prediction]()
    order = dict.fromkeys(names)
    features = FeatureFiles([distinct[name].files[tile] for name in order], str(scorer.device))
    found = zip(order, features.paths, scorer.detector.score_set(features, scorer.context), strict=True)
    for name in names:
        if name not in kept:
            with inference(scorer.device):  # never across a yield, where it would reach the caller
                _, path, prediction = next(found)
                if marks:
                    own = FeatureFiles([path], str(scorer.device))[0]
                    prediction = corrected(prediction, own, marks, scorer.detector.map_range)
            kept[name] = on_cpu(prediction)
        left[name] -= 1
        yield kept[name] if left[name] else kept.pop(name)


def _whole(scorer: Scorer, encoded: Encoded, entry: Entry, found: Iterable[Prediction] | None, keep: bool) -> Scored:
    """The scored picture, from its pieces' predictions."""
    if entry.scored.size is None:
        return entry.scored
    if found is None:
        least = scorer.detector.smallest_set
        why = f"it is cut into more tiles than the others: fewer than {least} pictures have as many to compare the last with"
        return replace(entry.scored, error=why)
    view, places = encoded.geometry.window(entry.scored.size), encoded.geometry.places(entry.scored.size)
    picture = Opened(entry.scored, len(places), Canvas(view))
    for place, prediction in zip(places, found, strict=True):
        picture.add(prediction, 0, place)
    answer = picture.answer()
    if not keep:
        return answer
    try:
        return replace(answer, image=load_image(entry.ref, value_range=scorer.value_range).rgb)
    except ImageError as error:
        return Scored(answer.name, answer.path, error=str(error))
