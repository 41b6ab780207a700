"""Reference images: normal pictures of a category, kept as the rows of the memory banks that the method makes of them.

They can be added, removed, saved and read back without a refit; see ``reference_files.py``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsad.common.atomic_files import scratch_folder
from zsad.common.output_folder import differences
from zsad.decision.reference_rule import MOST
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.inference.encoded import Entry
from zsad.inference.feature_store import save_features
from zsad.inference.reference_files import Reference, copy_rows, read_saved, rows_file, write_saved
from zsad.inference.scorer import Scored, Scorer
from zsad.references.coreset import blocks_of, counted, picked, streamed_coreset
from zsad.references.memory_bank import leave_out
from zsad.references.sum_banks import SUMS, joined, less
from zsad.types import Bank, ImageFeatures

__all__ = ["ReferenceSet"]

BLOCK = 4  # pictures whose rows are thinned out together
# of Inspector.describe(): what rows depend on
ENCODER = (
    *("method", "arguments", "backbone", "backbone_sha256", "weights_sha256", "image_size"),
    *("activation", "position_embedding", "precision", "value_range", "geometry", "encoders"),
)


class ReferenceSet:
    """Reference images that one detector has encoded; they grow by ``add``, or come from ``load``.

    Args:
        detector: ``Inspector.describe()`` of what encodes them.
        members: pictures whose rows are put into the set's folder afterwards.

    Attributes:
        detector: what of it the rows depend on.
        errors: name and reason of every picture that could not be read.
    """

    def __init__(self, detector: Mapping[str, Any], members: Iterable[Reference] = ()) -> None:
        self.detector = {key: detector.get(key) for key in ENCODER}
        self._folder = scratch_folder(self)
        self._members = {one.digest: one for one in members}
        self._encoded: dict[str, Entry] = {}  # by digest; of those that were added, not read from a folder
        self.errors: dict[str, str] = {}
        self._chosen: dict[Hashable, Tensor] = {}  # of blocks of pictures: positions of the coreset's rows

    def __len__(self) -> int:
        return len(self._members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in the order in which they came."""
        return tuple(one.name for one in self._members.values())

    @property
    def digests(self) -> frozenset[str]:
        """``Scored.digest`` of every picture."""
        return frozenset(self._members)

    def describe(self) -> dict[str, Any]:
        """How many there are, and a digest that does not depend on their order."""
        whole = hashlib.sha256("".join(sorted(self._members)).encode()).hexdigest()
        return {"count": len(self), "sha256": whole}

    def check(self, detector: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where another detector encoded the set, and names what differs."""
        if differ := differences(self.detector, {key: detector.get(key) for key in ENCODER}):
            raise UsageError(
                f"The references were encoded by another detector: {'; '.join(differ)}. Use the same, or make them again from "
                "the pictures."
            )

    # ------------------------------------------------------------------ members
    def add(self, scorer: Scorer, refs: Iterable[ImageRef]) -> list[str]:
        """Encodes pictures and adds them; one that is there already is left out, one that cannot be read is in ``errors``.

        Returns:
            The names of those that were added.
        """
        added: list[str] = []
        rows: dict[str, list[Tensor]] = {}
        pieces: list[ImageFeatures] = []
        scorer = replace(scorer, angles=scorer.detector.reference_angles)
        for read, index, features in scorer.encoded(refs, keep_images=True):
            if features is None or read.scored.image is None:
                self.errors[read.scored.name] = str(read.scored.error)
                continue
            tiles = len(read.places) // (1 + len(scorer.angles))
            with torch.inference_mode():
                for key, found in scorer.detector.view_rows(features, index // tiles).items():
                    parts = [*rows.get(key, ()), found[0].cpu()]  # (M, C) of each piece
                    rows[key] = [joined(key, parts)] if key.startswith(SUMS) else parts
            pieces += [features] if len(self._encoded) < MOST and index < tiles else []
            if index < len(read.places) - 1:
                continue
            whole, rows = {key: torch.cat(parts).clone() for key, parts in rows.items()}, {}
            digest = read.scored.digest
            if digest not in self._members:
                save_file(whole, rows_file(self._folder, digest))
                self._members[digest] = Reference(self._free(read.scored.name), digest)
                added.append(self._members[digest].name)
                if pieces:
                    self._keep(digest, replace(read.scored, image=None), pieces)
            pieces = []
        return added

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
        taken = set(self.names)
        return next(one for one in chain([name], (f"{name} ({n})" for n in count(2))) if one not in taken)

    def remove(self, names: Iterable[str]) -> None:
        """Takes pictures out.

        Raises:
            UsageError: a name that is not there.
        """
        wanted = set(names)
        if unknown := sorted(wanted - set(self.names)):
            raise UsageError(f"{unknown[0]!r} is no reference. There are: {', '.join(self.names) or 'none'}.")
        self._members = {digest: one for digest, one in self._members.items() if one.name not in wanted}

    def rows(self, key: str, without: str | None = None) -> Iterator[Tensor]:
        """(M, C) per picture, one at a time, in an order that does not depend on that of adding."""
        for digest in sorted(self._members):
            if digest != without:
                with safe_open(rows_file(self._folder, digest), framework="pt") as file:
                    yield file.get_tensor(key)

    def keys(self) -> list[str]:
        """Names of the banks; one of the form "novelty.3" has a row per row of "3" and comes behind it."""
        with safe_open(rows_file(self._folder, next(iter(self._members))), framework="pt") as file:
            return sorted(file.keys(), key=lambda key: ("." in key, key))

    def banks(self, coreset: float = 1.0, without: str | None = None, seed: int = 0) -> dict[str, Bank]:
        """What ``types.References`` takes; {} where there are no pictures.

        Args:
            coreset: share of the rows that are kept, in (0, 1]; then few pictures are in memory at once. Packed sums are
                added up, so that they have the size of one picture's, whatever the share.
            without: digest of one picture that is left out.
            seed: of the coreset.
        """
        if not self._members.keys() - {without}:
            return {}
        banks: dict[str, Bank] = {}
        positions: dict[str, Tensor] = {}
        for key in self.keys():
            if key.startswith(SUMS):
                whole = joined(key, self.rows(key, without))
                banks[key] = Bank(whole, torch.zeros(len(whole), dtype=torch.int64))
                continue
            leader = key.rpartition(".")[2]
            sizes: list[int] = []
            parts = counted(self.rows(key, without), sizes)
            if coreset == 1:
                rows = torch.cat(list(parts))
                chosen = torch.arange(len(rows))
            elif key == leader:
                names = ((key, coreset, seed, *block) for block in self._blocks(without))
                rows, chosen = streamed_coreset(blocks_of(parts, BLOCK), coreset, seed, known=self._chosen, names=names)
                positions[key] = chosen
            else:
                rows, chosen = picked(parts, positions[leader]), positions[leader]
            source = torch.bucketize(chosen, torch.tensor(sizes).cumsum(0), right=True)
            banks[key] = Bank(rows, source)
        return banks

    def _blocks(self, without: str | None) -> list[list[str]]:
        left = [digest for digest in sorted(self._members) if digest != without]
        return [left[start : start + BLOCK] for start in range(0, len(left), BLOCK)]

    def banks_without(self, digest: str, whole: Mapping[str, Bank], coreset: float = 1.0) -> dict[str, Bank]:
        """What ``banks(coreset, digest)`` gives, from the banks of the ``whole`` set, without reading it again.

        Only of a coreset the others' rows are read and chosen again: which were kept depends on the picture that is left out.
        Blocks without it that were seen before are not chosen again, so of N pictures all leave-outs choose in 3 N / 2 blocks.
        """
        if coreset < 1 or self._members.keys() <= {digest}:
            return self.banks(coreset, digest)
        number = sorted(self._members).index(digest)
        with safe_open(rows_file(self._folder, digest), framework="pt") as own:
            return {
                key: replace(bank, rows=less(bank.rows, own.get_tensor(key)).to(bank.rows.device))
                if key.startswith(SUMS)
                else leave_out(bank, number)
                for key, bank in whole.items()
            }

    def copy(self) -> ReferenceSet:
        """A set of its own with the same pictures."""
        other = ReferenceSet(self.detector, self._members.values())
        copy_rows(self._folder, self._members, other._folder)
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
        write_saved(Path(folder), self.detector, self._members.values(), self._folder)

    @classmethod
    def load(cls, folder: str | Path) -> ReferenceSet:
        """Reads what ``save`` wrote; the folder is not changed by what is added or removed later.

        Raises:
            UsageError: it is no such folder, or a file of it is damaged.
        """
        detector, members = read_saved(Path(folder))
        made = cls(detector, members)
        copy_rows(Path(folder), made._members, made._folder)
        return made
