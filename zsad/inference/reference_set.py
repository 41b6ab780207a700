"""Reference images of a category, kept as the rows of the memory banks that the method makes of them.

They can be added, removed, saved and read back without a refit; see ``reference_files.py``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zsad.common.atomic_files import scratch_folder
from zsad.common.output_folder import differences
from zsad.decision.reference_rule import MOST
from zsad.errors import MaskError, UsageError
from zsad.images.reading import ImageRef
from zsad.inference.anomalous import MaskOf, rows_of, seen_mask
from zsad.inference.encoded import Entry
from zsad.inference.feature_store import save_features
from zsad.inference.reference_files import Reference, copy_rows, read_saved, rows_file, write_saved
from zsad.inference.reference_rows import StoredRows
from zsad.inference.scorer import Scored, Scorer
from zsad.references.sum_banks import SUMS, joined
from zsad.types import ImageFeatures

__all__ = ["ReferenceSet"]

# of Inspector.describe(): what rows depend on
ENCODER = (
    *("method", "arguments", "backbone", "backbone_sha256", "weights_sha256", "image_size"),
    *("activation", "position_embedding", "precision", "value_range", "geometry", "encoders"),
)


class ReferenceSet(StoredRows):
    """Reference images that one detector has encoded; they grow by ``add``, or come from ``load``.

    Args:
        detector: ``Inspector.describe()`` of what encodes them.
        members: pictures whose rows are put into the set's folder afterwards.

    Attributes:
        detector: what of it the rows depend on.
        errors: name and reason of every picture that could not be read.
    """

    def __init__(self, detector: Mapping[str, Any], members: Sequence[Reference] = ()) -> None:
        self.detector = {key: detector.get(key) for key in ENCODER}
        self._folder = scratch_folder(self)
        self._members = {one.digest: one for one in members if not one.anomalous}
        self._shown = {one.digest: one for one in members if one.anomalous}  # anomalous ones
        self._encoded: dict[str, Entry] = {}  # by digest; of those that were added, not read from a folder
        self.errors: dict[str, str] = {}
        self._chosen = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in the order in which they came."""
        return tuple(one.name for one in self._members.values())

    @property
    def anomalous_names(self) -> tuple[str, ...]:
        """Names of the anomalous pictures, in the order in which they came."""
        return tuple(one.name for one in self._shown.values())

    @property
    def digests(self) -> frozenset[str]:
        """``Scored.digest`` of every picture."""
        return frozenset(self._members)

    def describe(self) -> dict[str, Any]:
        """How many there are, and a digest that does not depend on their order; the anomalous ones by themselves."""
        parts = [
            {"count": len(one), "sha256": hashlib.sha256("".join(sorted(one)).encode()).hexdigest()} for one in self._kinds
        ]
        return parts[0] | ({"anomalous": parts[1]} if self._shown else {})

    def _all(self) -> list[Reference]:
        """The pictures, normal ones first."""
        return [*self._members.values(), *self._shown.values()]

    def check(self, detector: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where another detector encoded the set, and names what differs."""
        if differ := differences(self.detector, {key: detector.get(key) for key in ENCODER}):
            raise UsageError(
                f"The references were encoded by another detector: {'; '.join(differ)}. Use the same, or make them again from "
                "the pictures."
            )

    # ------------------------------------------------------------------ members
    def add(self, scorer: Scorer, refs: Iterable[ImageRef], masks: MaskOf | None = None) -> list[str]:
        """Encodes pictures and adds them; one that is there already is left out, one that cannot be read is in ``errors``.

        Args:
            scorer: encodes them.
            refs: the pictures, normal ones, or with ``masks`` anomalous ones.
            masks: where in an anomalous picture the defect is.

        Returns:
            The names of those that were added.
        """
        added: list[str] = []
        rows: dict[str, list[Tensor]] = {}
        pieces: list[ImageFeatures] = []
        own = self._members if masks is None else self._shown
        scorer = replace(scorer, angles=scorer.detector.reference_angles if masks is None else ())
        for read, index, features in scorer.encoded(refs, keep_images=True):
            if features is None or read.scored.image is None:
                self.errors[read.scored.name] = str(read.scored.error)
                continue
            tiles = len(read.places) // (1 + len(scorer.angles))
            try:
                seen = None if masks is None else self._seen(scorer, masks, read.scored, index)
            except (MaskError, UsageError) as error:
                self.errors[read.scored.name] = str(error)
                continue
            with torch.inference_mode():
                for key, found in rows_of(scorer.detector, features, index // tiles, seen).items():
                    parts = [*rows.get(key, ()), found]  # (M, C) of each piece
                    rows[key] = [joined(key, parts)] if key.startswith(SUMS) else parts
            pieces += [features] if masks is None and len(self._encoded) < MOST and index < tiles else []
            if index < len(read.places) - 1:
                continue
            whole, rows = {key: torch.cat(parts).clone() for key, parts in rows.items()}, {}
            digest = read.scored.digest
            if digest not in self._members and digest not in self._shown:
                save_file(whole, rows_file(self._folder, digest))
                own[digest] = Reference(self._free(read.scored.name), digest, masks is not None)
                added.append(own[digest].name)
                if pieces:
                    self._keep(digest, replace(read.scored, image=None), pieces)
            pieces = []
        return added

    @staticmethod
    def _seen(scorer: Scorer, masks: MaskOf, scored: Scored, index: int) -> Tensor | None:
        """The mask of a picture as the method sees it in one piece; None where all of the picture is an example."""
        mask = None if scored.size is None else masks(ImageRef(scored.name, scored.path), scored.size)
        return None if mask is None else seen_mask(mask, scorer.geometry, index, scorer.detector.backbone.image_size)

    def _keep(self, digest: str, scored: Scored, pieces: Sequence[ImageFeatures]) -> None:
        """Keeps the features of a picture, so that it can be scored by the others."""
        files = tuple(self._folder / f"{digest}-{number}.features" for number in range(len(pieces)))
        for file, features in zip(files, pieces, strict=True):
            save_features(file, features)
        self._encoded[digest] = Entry(ImageRef(scored.name, scored.path), scored, files)

    def entries(self) -> dict[str, Entry]:
        """At most ``MOST`` pictures that can be scored by the others, by digest; none of those that were read from a folder."""
        return {digest: self._encoded[digest] for digest in self._members if digest in self._encoded}

    def _free(self, name: str) -> str:
        """The name, or with a number behind it where another picture has it: names are what ``remove`` goes by."""
        taken = {*self.names, *self.anomalous_names}
        return next(one for one in chain([name], (f"{name} ({n})" for n in count(2))) if one not in taken)

    def remove(self, names: Iterable[str]) -> None:
        """Takes pictures out.

        Raises:
            UsageError: a name that is not there.
        """
        wanted, there = set(names), (*self.names, *self.anomalous_names)
        if unknown := sorted(wanted - set(there)):
            raise UsageError(f"{unknown[0]!r} is no reference. There are: {', '.join(there) or 'none'}.")
        self._members, self._shown = ({d: one for d, one in kind.items() if one.name not in wanted} for kind in self._kinds)

    def copy(self) -> ReferenceSet:
        """A set of its own with the same pictures."""
        other = ReferenceSet(self.detector, self._all())
        copy_rows(self._folder, [one.digest for one in self._all()], other._folder)
        for digest, entry in self.entries().items():
            files = tuple(Path(shutil.copy(file, other._folder)) for file in entry.files)
            other._encoded[digest] = replace(entry, files=files)
        return other

    # ------------------------------------------------------------------ on disk
    def save(self, folder: str | Path) -> None:
        """Writes the set to a folder of its own.

        Raises:
            UsageError: the folder holds something else.
        """
        write_saved(Path(folder), self.detector, self._all(), self._folder)

    @classmethod
    def load(cls, folder: str | Path) -> ReferenceSet:
        """Reads what ``save`` wrote; the folder is not changed by what is added or removed later.

        Raises:
            UsageError: it is no such folder, or a file of it is damaged.
        """
        detector, members = read_saved(Path(folder))
        made = cls(detector, members)
        copy_rows(Path(folder), [one.digest for one in members], made._folder)
        return made
