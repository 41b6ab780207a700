"""The rows that reference images left in a folder, and the memory banks that are made of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from zsad.inference.reference_files import Reference, rows_file
from zsad.references.coreset import blocks_of, picked, stacked, streamed_coreset
from zsad.references.memory_bank import ANOMALOUS, leave_out
from zsad.references.sum_banks import SUMS, joined, less
from zsad.types import Bank

__all__ = ["StoredRows"]

BLOCK = 4  # pictures whose rows are thinned out together


class StoredRows:
    """The part of a ``ReferenceSet`` that makes banks."""

    _folder: Path
    _members: dict[str, Reference]  # normal pictures by digest
    _shown: dict[str, Reference]  # anomalous ones
    _chosen: dict[Hashable, Tensor]  # of blocks of pictures: positions of the coreset's rows

    @property
    def _kinds(self) -> tuple[dict[str, Reference], dict[str, Reference]]:
        """Normal and anomalous pictures, by digest."""
        return self._members, self._shown

    def rows(self, key: str, without: str | None = None, *, anomalous: bool = False) -> Iterator[Tensor]:
        """(M, C) per picture, one at a time, in an order that does not depend on that of adding."""
        for digest in sorted(self._kinds[anomalous]):
            if digest != without:
                with safe_open(rows_file(self._folder, digest), framework="pt") as file:
                    yield file.get_tensor(key)

    def _sizes(self, key: str, without: str | None) -> list[int]:
        """M of each picture of ``rows``."""
        found = []
        for digest in sorted(self._members.keys() - {without}):
            with safe_open(rows_file(self._folder, digest), framework="pt") as file:
                found.append(int(file.get_slice(key).get_shape()[0]))
        return found

    def keys(self) -> list[str]:
        """Names of the banks; one of the form "novelty.3" has a row per row of "3" and comes behind it."""
        with safe_open(rows_file(self._folder, next(iter(self._members or self._shown))), framework="pt") as file:
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
            return self._anomalous_banks(0)
        banks: dict[str, Bank] = {}
        positions: dict[str, Tensor] = {}
        for key in self.keys():
            if key.startswith(SUMS):
                whole = joined(key, self.rows(key, without))
                banks[key] = Bank(whole, torch.zeros(len(whole), dtype=torch.int64))
                continue
            leader, sizes, parts = key.rpartition(".")[2], self._sizes(key, without), self.rows(key, without)
            if coreset == 1:
                rows = stacked(parts, sum(sizes))
                chosen = torch.arange(len(rows))
            elif key == leader:
                names = ((key, coreset, seed, *block) for block in self._blocks(without))
                each = [sum(sizes[start : start + BLOCK]) for start in range(0, len(sizes), BLOCK)]
                blocks = blocks_of(parts, BLOCK)
                rows, chosen = streamed_coreset(blocks, coreset, each, seed, known=self._chosen, names=names)
                positions[key] = chosen
            else:
                rows, chosen = picked(parts, positions[leader]), positions[leader]
            source = torch.bucketize(chosen, torch.tensor(sizes).cumsum(0), right=True)
            banks[key] = Bank(rows, source)
        return banks | self._anomalous_banks(len(self._members.keys() - {without}))

    def _anomalous_banks(self, first: int) -> dict[str, Bank]:
        """Banks of the anomalous pictures, which are counted from ``first`` on, behind the normal ones."""
        banks = {}
        for key in self.keys() if self._shown else ():
            parts = list(self.rows(key, anomalous=True))
            sizes = torch.tensor([len(part) for part in parts])
            banks[key + ANOMALOUS] = Bank(torch.cat(parts), first + torch.arange(len(parts)).repeat_interleave(sizes), -1)
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
