"""The worst pictures of a table as a page, and the table in numbers; reads columns, and whole rows of what is shown alone."""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zsad.decision.thresholds import Thresholds
from zsad.distributed.job import SUMMARY
from zsad.distributed.levels import Outcome, count
from zsad.distributed.manifest import read_manifest
from zsad.distributed.places import Place
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import Specification
from zsad.distributed.table import read_part, scanned
from zsad.errors import UsageError, ZsadError
from zsad.images.heatmap import thumbnail
from zsad.images.reading import load_image
from zsad.runs.report import Shown, write_report

__all__ = ["Numbers", "histogram_of", "report_of"]

BINS, ERRORS, THUMB = 20, 100, 320  # bars of the histogram, error rows that are shown, pixels of a thumbnail
OUTLINE = (255, 32, 32)


@dataclass
class Numbers(Outcome):
    """What a table holds, with the histogram of its scores: the low end of each bar, and how many there are."""

    histogram: list[tuple[float, int]] = field(default_factory=list)


def report_of(table: str, out: Path, limit: int) -> Numbers:
    """Writes the report of a table.

    Args:
        table: address of the results.
        out: the page.
        limit: pictures that are shown, the worst first.

    Raises:
        UsageError: there is no table.
    """
    place = Place(table)
    manifest = read_manifest(place)
    if manifest is None:
        raise UsageError(f"{place} holds no table of zsad predict --engine. Give its --out.")
    found, scores, worst, failed = _read(place, limit)
    detector = dict(manifest["detector"])
    scorer = BatchScorer(Specification({}, detector, source=str(manifest["source"])))
    rows = _rows(place, scorer, detector, [*worst, *failed])
    write_report(
        out,
        rows,
        counts=found.counts,
        thresholds=found.thresholds,
        detector=detector,
        scores=scores,
        limit=limit,
        table="the table",
    )
    found.histogram = histogram_of(scores)
    return found


def histogram_of(scores: NDArray[np.float64]) -> list[tuple[float, int]]:
    """Lower end and count of each of ``BINS`` bins over the finite scores; [] where there are none."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return []
    low = known.min()
    wide = (known.max() - low) or 1.0
    heights, edges = np.histogram((known - low) / wide, BINS, (0, 1))  # of scores that hardly differ bins would have no width
    return [(float(low + wide * edge), int(n)) for edge, n in zip(edges, heights, strict=False)]


Where = tuple[str, int]  # a part of the table, and the row in it


def _read(place: Place, limit: int) -> tuple[Numbers, Any, list[Where], list[Where]]:
    """Counts, all scores, and where the worst pictures and some errors are."""
    found, scores, worst, failed = Numbers(_levels(place)), [np.empty(0)], list[tuple[float, str, int]](), list[Where]()
    for name, part in scanned(place, ("score", "label", "error")):
        errors = part.column("error").to_pylist()
        count(found, part.column("label").to_pylist(), errors)
        own = part.column("score").to_numpy()
        scores.append(own)
        known = ((float(score), name, row) for row, score in enumerate(own.tolist()) if score == score)
        worst = heapq.nlargest(limit, [*worst, *known])
        failed += [(name, row) for row, error in enumerate(errors) if error][: ERRORS - len(failed)]
    return found, np.concatenate(scores), [(name, row) for _, name, row in worst], failed


def _levels(place: Place) -> Thresholds:
    """What the labels rest on, as the run's summary states it."""
    if not place.exists(SUMMARY):
        return Thresholds(source="the run is not finished, so there are no verdicts yet; the same command goes on with it")
    return Thresholds(**json.loads(place.read(SUMMARY))["thresholds"])


def _rows(place: Place, scorer: BatchScorer, detector: dict[str, Any], where: list[Where]) -> Iterator[Shown]:
    kept: dict[str, Any] = {}
    for name, row in where:
        if name not in kept:
            kept = {name: read_part(place, name)} if len(kept) > 8 else kept | {name: read_part(place, name)}
        found = kept[name].slice(row, 1).to_pylist()[0]
        shown = found | {"pred_score": found["score"], "pred_label": found["label"], "overlay": None}
        yield Shown(shown, _thumbnail(scorer, found) if found["error"] is None else b"")


def _thumbnail(scorer: BatchScorer, row: dict[str, Any]) -> bytes:
    """The picture with the outlines of its regions, as JPEG; nothing where it cannot be read any more."""
    try:
        picture = Image.fromarray(load_image(scorer.ref(row["path"])).rgb)
    except ZsadError:
        return b""
    small, memory = thumbnail(picture, THUMB), io.BytesIO()
    scale, draw = small.width / picture.width, ImageDraw.Draw(small)
    for region in row["regions"]:
        corners = [(x * scale, y * scale) for x, y in region["contour"]]
        draw.line([*corners, corners[0]], fill=OUTLINE, width=2)
    small.save(memory, "JPEG", quality=80)
    return memory.getvalue()
