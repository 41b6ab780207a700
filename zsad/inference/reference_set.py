"""Normal pictures of a category, kept as what the method remembers of them.

They can be added, removed, saved and read back without a refit: a saved folder has the uncompressed rows of every picture
(one safetensors file each) and ``references.json`` with their names and the judge that encoded them; another judge refuses it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsad.common.atomic_files import differences, scratch_folder, write_aside
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.inference.scorer import Scorer
from zsad.references.coreset import blocks_of, counted, picked, streamed_coreset
from zsad.references.memory_bank import leave_out
from zsad.types import Bank

__all__ = ["ReferenceSet", "digest_of"]

FORMAT = "zsad references 1"
INDEX = "references.json"
BLOCK = 4  # pictures whose rows are thinned out together
# of Inspector.describe(): what rows depend on
JUDGE = (
    *("method", "arguments", "backbone", "backbone_sha256", "weights_sha256", "image_size"),
    *("activation", "position_embedding", "precision", "value_range", "geometry", "encoders"),
)


@dataclass(frozen=True)
class Reference:
    """One picture of the set; its rows are in ``<digest>.safetensors``."""

    name: str
    digest: str  # of the pixels


class ReferenceSet:
    """References of one judge; made by ``collect`` or ``load``.

    Attributes:
        judge: what encoded them, from ``Inspector.describe()``.
        errors: name and reason of every picture that could not be read.
    """

    def __init__(self, judge: Mapping[str, Any], members: Iterable[Reference] = ()) -> None:
        self.judge = {key: judge.get(key) for key in JUDGE}
        self._folder = scratch_folder(self)
        self._members = {one.digest: one for one in members}
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
        """``digest_of`` every picture."""
        return frozenset(self._members)

    def describe(self) -> dict[str, Any]:
        """For fingerprints: how many there are, and a digest that does not depend on their order."""
        whole = hashlib.sha256("".join(sorted(self._members)).encode()).hexdigest()
        return {"count": len(self), "sha256": whole}

    def check(self, judge: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where another judge encoded the set, and says what differs."""
        if differ := differences(self.judge, {key: judge.get(key) for key in JUDGE}):
            raise UsageError(
                f"The references were encoded by another judge: {'; '.join(differ)}. Use the same, or make them again from "
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
        for read, index, features in scorer.encoded(refs, keep_images=True):
            if features is None or read.scored.image is None:
                self.errors[read.scored.name] = str(read.scored.error)
                continue
            with torch.inference_mode():
                for key, found in scorer.detector.reference_rows(features).items():
                    rows.setdefault(key, []).append(found[0].cpu())  # (M, C) of a piece
            if index < len(read.places) - 1:
                continue
            whole, rows = {key: torch.cat(parts).clone() for key, parts in rows.items()}, {}
            digest = digest_of(read.scored.image)
            if digest not in self._members:
                save_file(whole, self._folder / f"{digest}.safetensors")
                self._members[digest] = Reference(self._free(read.scored.name), digest)
                added.append(self._members[digest].name)
        return added

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
                with safe_open(self._folder / f"{digest}.safetensors", framework="pt") as file:
                    yield file.get_tensor(key)

    def keys(self) -> list[str]:
        """Names of the banks; one of the form "novelty.3" has a row per row of "3" and comes behind it."""
        with safe_open(self._folder / f"{next(iter(self._members))}.safetensors", framework="pt") as file:
            return sorted(file.keys(), key=lambda key: ("." in key, key))

    def banks(self, coreset: float = 1.0, without: str | None = None, seed: int = 0) -> dict[str, Bank]:
        """What ``types.References`` takes; {} where there are no pictures.

        Args:
            coreset: share of the rows that are kept, in (0, 1]; then few pictures are in memory at once.
            without: digest of one picture that is left out.
            seed: of the coreset.
        """
        if not self._members.keys() - {without}:
            return {}
        banks: dict[str, Bank] = {}
        positions: dict[str, Tensor] = {}
        for key in self.keys():
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
        return {key: leave_out(bank, number) for key, bank in whole.items()}

    def copy(self) -> ReferenceSet:
        """A set of its own with the same pictures."""
        other = ReferenceSet(self.judge, self._members.values())
        for digest in self._members:
            shutil.copyfile(self._folder / f"{digest}.safetensors", other._folder / f"{digest}.safetensors")
        return other

    # ------------------------------------------------------------------ on disk
    def save(self, folder: str | Path) -> None:
        """Writes the set to a folder of its own.

        Raises:
            UsageError: the folder holds something else.
        """
        place = Path(folder)
        if place.exists() and not (place / INDEX).is_file() and (not place.is_dir() or any(place.iterdir())):
            raise UsageError(f"{str(place)!r} holds something that is no set of references. Give another folder.")
        place.mkdir(parents=True, exist_ok=True)
        for digest in self._members:
            target = place / f"{digest}.safetensors"
            if not target.exists():
                write_aside(target, (self._folder / target.name).read_bytes())
        members = [{"name": one.name, "sha256": one.digest} for one in self._members.values()]
        index = {"format": FORMAT, "judge": self.judge, "references": members}
        write_aside(place / INDEX, json.dumps(index, indent=1).encode())
        for stale in place.glob("*.safetensors"):
            if stale.stem not in self._members:
                stale.unlink()

    @classmethod
    def load(cls, folder: str | Path) -> ReferenceSet:
        """Reads what ``save`` wrote; the folder is not changed by what is added or removed later.

        Raises:
            UsageError: it is no such folder, or a file of it is damaged.
        """
        place = Path(folder)
        try:
            index = json.loads((place / INDEX).read_text(encoding="utf-8"))
            then, known = dict(index["judge"]), index["format"] == FORMAT
            members = [Reference(str(row["name"]), str(row["sha256"])) for row in index["references"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{str(place)!r} is no folder of saved references ({error}). Give pictures instead.") from error
        if not known or not all(len(one.digest) == 64 and one.digest.isalnum() for one in members):
            raise UsageError(f"{str(place)!r} was saved by another version, or is damaged. Make it again from the pictures.")
        made = cls(then, members)
        for one in members:
            made._take(place / f"{one.digest}.safetensors")
        return made

    def _take(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                next(iter(file.keys()))
            shutil.copyfile(path, self._folder / path.name)
        except (OSError, SafetensorError, StopIteration) as error:
            raise UsageError(f"{path.name}, a saved reference, is missing or damaged ({error}). Make it again.") from error


def digest_of(rgb: NDArray[np.uint8]) -> str:
    """Hex digest of a decoded picture, (H, W, 3): the same for the same pixels, whatever the file is called."""
    return hashlib.sha256(f"{rgb.shape}".encode() + np.ascontiguousarray(rgb).tobytes()).hexdigest()


def is_saved(source: Any) -> bool:
    """True for a folder that ``ReferenceSet.save`` wrote."""
    return isinstance(source, (str, Path)) and (Path(source) / INDEX).is_file()
