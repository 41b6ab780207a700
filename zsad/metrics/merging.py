"""External merge sort: visits the pixels of a set, sorted picture by picture, from the highest score to the lowest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zsad.metrics.ranking import Numbers, Steps, from_histogram, steps
from zsad.metrics.spool import Keys, Spool, scores_of

__all__ = ["Merge"]

CHUNK = 1 << 22  # pixels that are sorted at a time


class Merge:
    """Merges sorted pixels in pieces of at most ``CHUNK``, each a range of keys, one piece at a time.

    A piece that holds more is a single bin: its pixels are counted by key instead of sorted, so that any number of ties fits.

    Args:
        outside: per picture the keys of its normal pixels, ascending.
        inside: per picture the keys of its defect pixels, ascending.
        areas: beside ``inside``, the areas of their regions.
        counts: (bins,) how many pixels of either kind have ``key >> shift`` equal to the bin.
        shift: 32 less the bits of a bin.
    """

    def __init__(self, outside: Spool, inside: Spool, areas: Spool, counts: NDArray[np.int64], shift: int) -> None:
        self.outside, self.inside, self.areas, self.shift = outside, inside, areas, shift
        self.cuts = _cuts(counts)  # (pieces + 1,)
        self.sizes = np.add.reduceat(counts, self.cuts[:-1])
        self.out, self.into = self._offsets(outside), self._offsets(inside)  # (pictures, pieces + 1)

    def steps(self) -> Iterator[Steps]:
        """The exact ROC curve in parts, highest scores first."""
        above = (0, 0)
        for piece in reversed(range(self.sizes.size)):
            part = self._counted(piece, above) if self.sizes[piece] > CHUNK else self._sorted(piece, above)
            yield part._replace(scores=scores_of(part.scores))
            width = [int((one[:, piece + 1] - one[:, piece]).sum()) for one in (self.out, self.into)]
            above = (above[0] + width[0], above[1] + width[1])

    def top(self, clean: NDArray[np.bool_], enough: float) -> tuple[Keys, NDArray[np.float64]]:
        """Distinct keys of the normal pictures from the highest down, until their mass exceeds ``enough``.

        Args:
            clean: (pictures,) which of them are normal; each has a mass of 1, spread evenly over its pixels.
            enough: in pictures.

        Returns:
            (K,) keys, descending, and (K,) their mass.
        """
        keys, masses, total = [], [], 0.0
        for piece in reversed(range(self.sizes.size)):
            sparse = self.sizes[piece] <= CHUNK
            one, mass = self._masses_sorted(piece, clean) if sparse else self._masses_counted(piece, clean)
            keys.append(one)
            masses.append(mass)
            total += float(mass.sum())
            if total > enough:
                break
        return np.concatenate(keys), np.concatenate(masses)

    def _offsets(self, spool: Spool) -> NDArray[np.int64]:
        rows = [np.searchsorted(spool.read(row) >> self.shift, self.cuts) for row in range(len(spool))]
        return np.array(rows, np.int64).reshape(len(spool), self.cuts.size)

    def _rows(self, spool: Spool, offsets: NDArray[np.int64], piece: int) -> Iterator[tuple[int, Keys]]:
        """(picture, keys) of each picture that has keys in a piece."""
        for row in np.flatnonzero(offsets[:, piece + 1] > offsets[:, piece]):
            yield int(row), spool.read(int(row), int(offsets[row, piece]), int(offsets[row, piece + 1]))

    def _sorted(self, piece: int, above: tuple[int, int]) -> Steps:
        outside = _joined([keys for _, keys in self._rows(self.outside, self.out, piece)])
        inside = _joined([keys for _, keys in self._rows(self.inside, self.into, piece)])
        areas = _joined([one for _, one in self._rows(self.areas, self.into, piece)])
        return steps(outside, inside, 1 / areas, above)

    def _counted(self, piece: int, above: tuple[int, int]) -> Steps:
        base, span = self._base(piece)
        normal, anomalous, mass = np.zeros(span, np.int64), np.zeros(span, np.int64), np.zeros(span)
        for _, keys in self._rows(self.outside, self.out, piece):
            np.add.at(normal, keys - base, 1)
        pairs = zip(self._rows(self.inside, self.into, piece), self._rows(self.areas, self.into, piece), strict=True)
        for (_, keys), (_, areas) in pairs:
            np.add.at(anomalous, keys - base, 1)
            np.add.at(mass, keys - base, 1 / areas)
        part = from_histogram(normal, anomalous, mass, above)
        return part._replace(scores=part.scores.astype(np.uint32) + base)

    def _masses_sorted(self, piece: int, clean: NDArray[np.bool_]) -> tuple[Keys, NDArray[np.float64]]:
        rows = [(row, keys) for row, keys in self._rows(self.outside, self.out, piece) if clean[row]]
        keys, where = np.unique(_joined([keys for _, keys in rows]), return_inverse=True)
        weight = np.concatenate([np.zeros(0), *(np.full(keys.size, 1 / self.out[row, -1]) for row, keys in rows)])
        return keys[::-1], np.bincount(where, weight, keys.size)[::-1].astype(np.float64)

    def _masses_counted(self, piece: int, clean: NDArray[np.bool_]) -> tuple[Keys, NDArray[np.float64]]:
        base, span = self._base(piece)
        mass = np.zeros(span)
        for row, keys in self._rows(self.outside, self.out, piece):
            if clean[row]:
                np.add.at(mass, keys - base, 1 / self.out[row, -1])
        found = np.flatnonzero(mass)[::-1]
        return found.astype(np.uint32) + base, mass[found]

    def _base(self, piece: int) -> tuple[np.uint32, int]:
        """Lowest key of a piece that is one bin, and its number of keys."""
        return np.uint32(int(self.cuts[piece]) << self.shift), 1 << self.shift


def _joined(rows: list[Keys]) -> Numbers:
    return np.concatenate([np.zeros(0, np.uint32), *rows])


def _cuts(counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """First bins of the pieces, and the end: as many bins in a piece as hold ``CHUNK`` items together, at least one."""
    total, cuts = np.cumsum(counts), [0]
    while cuts[-1] < counts.size:
        held = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(int(np.searchsorted(total, held + CHUNK, "right")), cuts[-1] + 1))
    return np.array(cuts, np.uint32)
