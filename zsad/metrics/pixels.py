"""Pixel metrics of a set that does not fit into memory, one picture at a time: exact, or binned with error bounds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.errors import UsageError
from zsad.metrics.bounds import area_slack, auroc_slack, f1_ceiling, precision_slack
from zsad.metrics.merging import Merge
from zsad.metrics.overlap import area_terms, check_pair, region_areas
from zsad.metrics.pimo import BOUNDS, Levels, check_bounds, picture_area, span, warn_missing_class
from zsad.metrics.ranking import Steps, auroc_terms, f1_terms, from_histogram, precision_terms
from zsad.metrics.spool import Spool, keys_of, scores_of

__all__ = ["Bounded", "PixelFigures", "PixelMetrics"]


class Bounded(NamedTuple):
    """A metric's value, and the largest possible distance of the exact value from it (0 where it is exact)."""

    value: float
    error: float


UNDEFINED = Bounded(float("nan"), float("nan"))


@dataclass(frozen=True)
class PixelFigures:
    """Values of all pixel metrics of a set; NaN where one is undefined."""

    auroc: Bounded
    average_precision: Bounded
    f1_max: Bounded
    f1_threshold: float  # score >= it has exactly f1_max.value
    aupro: Bounded
    aupimo: Bounded  # mean over the anomalous pictures
    aupimo_per_picture: NDArray[np.float64]  # (N,), NaN for normal pictures
    pictures: int
    regions: int


class PixelMetrics:
    """AUROC, AP, F1-max, AUPRO and AUPIMO of the pixels of any number of pictures in bounded memory.

    Scores become float32 and are counted in bins by their upper bits, so that nothing need be known of their range. With
    the default 22 bits there are 8192 bins between a power of two and the next, and the counts take 128 MB. The bins
    bound the error of each value. ``exact`` also keeps all pixels in a temporary file, 4 bytes each, and merges them
    in order: no error, and memory stays bounded. AUPIMO is the one over every threshold (``aupimo(..., thresholds=None)``);
    pixels inside masks go to a temporary file in either case, 8 bytes each.

    Args:
        exact: keep all pixels and merge them at the end.
        limit: where AUPRO's integral ends.
        bounds: FPR range of AUPIMO.
        bits: 8 to 24; memory is 32 bytes times 2 to the power of it.
        folder: for the temporary files; None is the system's folder.

    Raises:
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        exact: bool = False,
        limit: float = 0.3,
        bounds: tuple[float, float] = BOUNDS,
        bits: int = 22,
        folder: str | Path | None = None,
    ) -> None:
        if not 8 <= bits <= 24:
            raise UsageError(f"bits={bits} is out of range; give 8 (coarse, small) to 24 (fine, 512 MB).")
        if not 0 < limit <= 1:
            raise UsageError(f"limit={limit} is no false positive rate above 0; give one in (0, 1], usually 0.3.")
        check_bounds(bounds)
        self.exact, self.limit, self.bounds, self.shift = exact, limit, bounds, 32 - bits
        self._normal = np.zeros(1 << bits, np.int64)  # pixels outside masks
        self._anomalous = np.zeros(1 << bits, np.int64)  # pixels inside
        self._mass = np.zeros(1 << bits)  # of pixels inside, 1 / area of their region
        self._clean = np.zeros(1 << bits)  # of pixels of normal pictures, 1 / pixels of the picture
        self._used = slice(1 << bits, 0)  # of the bins: those from the lowest to the highest pixel
        self._regions = 0
        self._kinds: list[bool] = []  # per picture: has it a defect?
        self._inside, self._areas, self._outside = Spool(folder), Spool(folder), Spool(folder)

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike, scored: ArrayLike | None = None) -> None:
        """Adds one picture.

        Args:
            anomaly_map: (H, W), higher is more anomalous; rounded to float32.
            mask: (H, W), 0 or False normal, anything else defect; all zero for a normal picture.
            scored: (H, W), False where nothing was scored (outside a region of interest): such pixels and what lies there of a
                defect do not count. None: everywhere.

        Raises:
            UsageError: shapes differ, or the map is not finite where it was scored; nothing is added then.
        """
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            single = np.asarray(anomaly_map).astype(np.float32, copy=False)
        counts = np.ones(single.shape, np.bool_) if scored is None else np.asarray(scored) != 0
        if counts.shape != single.shape:
            raise UsageError(f"scored of picture {len(self._kinds)} has shape {counts.shape}, its map {single.shape}.")
        values, truth = check_pair(len(self._kinds), single if scored is None else np.where(counts, single, 0), mask)
        keys, truth = keys_of(values), truth & counts
        outside, inside = keys[~truth & counts], keys[truth]
        for some in (outside, inside):
            if some.size:
                low, high = int(some.min()) >> self.shift, int(some.max()) >> self.shift
                self._used = slice(min(self._used.start, low), max(self._used.stop, high + 1))
        areas, regions = region_areas(truth)
        np.add.at(self._normal, outside >> self.shift, 1)
        np.add.at(self._anomalous, inside >> self.shift, 1)
        np.add.at(self._mass, inside >> self.shift, 1 / areas)
        if not regions:
            np.add.at(self._clean, outside >> self.shift, 1 / max(1, outside.size))
        order = np.argsort(inside)
        self._inside.append(inside[order])
        self._areas.append(areas[order].astype(np.uint32))
        if self.exact:
            self._outside.append(np.sort(outside))
        self._regions += regions
        self._kinds.append(bool(regions))

    def result(self) -> PixelFigures:
        """Computes the metrics of all pictures so far; more can be added afterwards."""
        normal, anomalous = int(self._normal[self._used].sum()), int(self._anomalous[self._used].sum())
        merge = None
        if self.exact:
            merge = Merge(self._outside, self._inside, self._areas, self._normal + self._anomalous, self.shift)
        per_picture, pimo = self._aupimo(merge)
        figures, threshold = [UNDEFINED] * 4, float("nan")
        if normal and anomalous:
            figures, threshold = _tally(self._parts(merge), normal, anomalous, self._regions, self.limit, self.exact)
        else:
            message = f"Pixel metrics need both classes; got {normal} normal and {anomalous} anomalous pixels: NaN."
            warnings.warn(message, stacklevel=2)
        rank, precision, f1, overlap = figures
        count = len(self._kinds)
        return PixelFigures(rank, precision, f1, threshold, overlap, pimo, per_picture, count, self._regions)

    def _parts(self, merge: Merge | None) -> Iterator[Steps]:
        if merge:
            yield from merge.steps()
            return
        used = self._used
        part = from_histogram(self._normal[used], self._anomalous[used], self._mass[used])
        edges = (part.scores + used.start) << self.shift  # the lower ones of the bins
        yield part._replace(scores=scores_of(edges.astype(np.uint32)))

    def _aupimo(self, merge: Merge | None) -> tuple[NDArray[np.float64], Bounded]:
        """AUPIMO per picture, and the mean; NaN, with a warning, where the set cannot resolve the bounds."""
        found, slack = np.full(len(self._kinds), np.nan), 0.0
        bad = np.flatnonzero(self._kinds)
        if not 0 < bad.size < found.size:
            warn_missing_class(found.size - bad.size, bad.size)
            return found, UNDEFINED
        try:
            part = span(self._levels(merge), self.bounds)
        except UsageError as error:
            warnings.warn(f"AUPIMO is NaN. {error}", stacklevel=3)
            return found, UNDEFINED
        for number in bad:
            keys = self._inside.read(int(number)) >> (0 if merge else self.shift)
            found[number], half = picture_area(part, keys, self.bounds)
            slack += half
        most = 0.0 if merge else slack / bad.size + _loose(part.fpr, self.bounds)
        return found, Bounded(float(found[bad].mean()), most)

    def _levels(self, merge: Merge | None) -> Levels:
        """Levels of the shared FPR, from the highest key down to one beyond the upper bound."""
        clean = ~np.array(self._kinds)
        if merge:
            keys, mass = merge.top(clean, 2 * self.bounds[1] * clean.sum())
        else:
            keys = (np.flatnonzero(self._clean[self._used])[::-1] + self._used.start).astype(np.uint32)
            mass = self._clean[keys]
        return Levels(keys, np.cumsum(mass) / clean.sum())


def _loose(fpr: NDArray[np.float64], bounds: tuple[float, float]) -> float:
    """Largest area between the ends of the bins and those of the exact levels, which are at least as near to the bounds."""
    widths = 0.0
    for bound, end in zip(bounds, (fpr[0], fpr[-1]), strict=True):
        far = abs(bound - end)
        if far >= bound:
            return 1.0
        widths += np.log((bound + far) / (bound - far))
    return float(min(1.0, widths / np.log(bounds[1] / bounds[0])))


def _tally(
    parts: Iterable[Steps], normal: int, anomalous: int, regions: int, limit: float, exact: bool
) -> tuple[list[Bounded], float]:
    """AUROC, AP, F1-max and AUPRO of a curve that comes in parts, highest scores first; and the threshold of F1-max."""
    rank = precision = area = best = ceiling = rank_slack = 0.0
    precision_slacks, area_slacks, threshold = np.zeros(2), np.zeros(2), float("nan")
    for part in parts:
        rank += auroc_terms(part, normal).sum()
        precision += precision_terms(part).sum()
        area += area_terms(part, normal, limit).sum()
        f1 = f1_terms(part, anomalous)
        if f1.size and f1.max() > best:
            best, threshold = float(f1.max()), float(part.scores[f1.argmax()])
        if not exact:
            rank_slack += auroc_slack(part)
            precision_slacks += precision_slack(part)
            area_slacks += area_slack(part, normal, limit)
            ceiling = max(ceiling, f1_ceiling(part, anomalous))
    pairs, whole = normal * anomalous, limit * normal * regions
    return [
        Bounded(float(rank / pairs), rank_slack / pairs),
        Bounded(float(precision / anomalous), float(precision_slacks.max() / anomalous)),
        Bounded(best, max(ceiling - best, 0.0)),
        Bounded(min(float(area / whole), 1.0), float(area_slacks.max() / whole)),
    ], threshold
