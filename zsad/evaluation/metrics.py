"""The metrics of ``evaluate``, and their computation for one category."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import UnknownName, UsageError
from zsad.metrics import PixelFigures, PixelMetrics, aupro_legacy, auroc, average_precision, f1_max

__all__ = ["DEFAULT", "HEADS", "IMAGE", "PIXEL", "SHORT", "MetricValues", "check_metrics", "image_metrics", "pixel_metrics"]

HEADS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
    "aupro_legacy": "AUPRO (legacy)",
}
"""Column headings of the metrics, by name."""
SHORT = {name: head.replace("image ", "i-").replace("pixel ", "p-") for name, head in HEADS.items()}
"""Short headings, for a terminal."""
IMAGE = ("image_auroc", "image_ap", "image_f1_max")
PIXEL = tuple(name for name in HEADS if name not in IMAGE)
DEFAULT = (*IMAGE, "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")

Pairs = Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]]


@dataclass
class MetricValues:
    """Metrics of one category; those that are undefined are NaN, and a note gives the reason."""

    values: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)  # how far the exact value can be at most
    thresholds: dict[str, float] = field(default_factory=dict)  # of the F1-max: score >= it is anomalous
    notes: list[str] = field(default_factory=list)


def check_metrics(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Checks names of metrics and returns them in the order of ``HEADS``, each once; None gives ``DEFAULT``.

    Raises:
        UnknownName: no such metric.
        UsageError: none was named.
    """
    if names is None:
        return DEFAULT
    wanted = [one.strip() for one in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in HEADS:
            raise UnknownName.among("metric", name, HEADS)
    if not wanted:
        raise UsageError(f"No metric was named. Leave metrics out for the usual ones, or choose of: {', '.join(HEADS)}.")
    return tuple(name for name in HEADS if name in wanted)


def image_metrics(names: Sequence[str], scores: Sequence[float], labels: Sequence[int]) -> MetricValues:
    """Computes the metrics of ``IMAGE`` among ``names``.

    Args:
        names: of metrics.
        scores: one per picture, higher is more anomalous.
        labels: as many, 0 normal, 1 anomalous.
    """
    wanted = [name for name in names if name in IMAGE]
    bad = sum(labels)
    if wanted and (not bad or bad == len(labels)):
        note = f"Image metrics need both classes; there are {len(labels) - bad} normal and {bad} anomalous pictures: NaN."
        return MetricValues(dict.fromkeys(wanted, math.nan), notes=[note])
    found = MetricValues()
    for name in wanted:
        if name == "image_f1_max":
            found.values[name], found.thresholds[name] = f1_max(scores, labels)
        else:
            found.values[name] = (auroc if name == "image_auroc" else average_precision)(scores, labels)
    return found


def pixel_metrics(names: Sequence[str], pairs: Callable[[], Pairs], *, exact: bool = False, folder: Any = None) -> MetricValues:
    """Computes the metrics of ``PIXEL`` among ``names``.

    Args:
        names: of metrics.
        pairs: gives (map, mask), each (S, S), of every picture, in the same order whenever it is called; NaN in a map is a
            pixel that was not scored and does not count. ``aupro_legacy`` holds all of them in memory, the others one.
        exact: no bins; see ``PixelMetrics``.
        folder: for temporary files.
    """
    found, wanted = MetricValues(), [name for name in names if name in PIXEL]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if any(name != "aupro_legacy" for name in wanted):
            metrics = PixelMetrics(exact=exact, folder=folder)
            for anomaly_map, mask in pairs():
                metrics.update(anomaly_map, mask, ~np.isnan(anomaly_map))
            _take(found, wanted, metrics.result())
        if "aupro_legacy" in wanted:
            _add_legacy(found, list(pairs()))
    messages = dict.fromkeys(str(one.message) for one in caught)
    found.notes += [text for text in messages if "aupimo" in wanted or "AUPIMO" not in text]
    return found


def _add_legacy(found: MetricValues, kept: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> None:
    """The published code has no unscored pixels, so with a region of interest there is no figure."""
    if any(np.isnan(one).any() for one, _ in kept):
        found.values["aupro_legacy"] = math.nan
        found.notes.append("AUPRO (legacy) knows no region of interest: NaN. AUPRO counts the region alone.")
    else:
        found.values["aupro_legacy"] = aupro_legacy([one for one, _ in kept], [mask for _, mask in kept])


def _take(found: MetricValues, wanted: Sequence[str], figures: PixelFigures) -> None:
    parts = {
        "pixel_auroc": figures.auroc,
        "pixel_ap": figures.average_precision,
        "pixel_f1_max": figures.f1_max,
        "aupro": figures.aupro,
        "aupimo": figures.aupimo,
    }
    for name in wanted:
        if name in parts:
            found.values[name], found.bounds[name] = parts[name]
    if "pixel_f1_max" in wanted:
        found.thresholds["pixel_f1_max"] = figures.f1_threshold
