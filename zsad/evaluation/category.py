"""Evaluation of one category: its pictures are scored, their scores and maps kept, and the metrics computed from those."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.common.file_names import OutputNames
from zsad.datasets import load_mask
from zsad.decision.thresholds import fixed
from zsad.detector import Detector
from zsad.errors import MaskError
from zsad.evaluation.map_size import resized, scored_pixels
from zsad.evaluation.metrics import IMAGE, PIXEL, MetricValues, image_metrics, pixel_metrics
from zsad.evaluation.metrics_table import Row
from zsad.evaluation.plan import Job, Plan
from zsad.evaluation.store import Kept
from zsad.images.reading import ImageRef
from zsad.images.tiling import Geometry
from zsad.inference.inspector import Inspector
from zsad.inference.scorer import Scored
from zsad.registry import create

__all__ = ["DetectorSetup", "evaluate_category"]

CITED = 3  # pictures that a note calls by name
OWN = ("method", "target", "backbone", "checkpoint", "references")


@dataclass(frozen=True)
class DetectorSetup:
    """A loaded detector and the settings of its inspectors; one serves all categories."""

    detector: Detector
    settings: Mapping[str, Any]  # keywords of Inspector

    @classmethod
    def load(cls, method: str | Detector | Inspector, settings: Mapping[str, Any]) -> DetectorSetup:
        """Loads the detector that ``evaluate`` was given, and separates its settings from the inspector's."""
        if isinstance(method, Inspector):
            return cls(method.detector, {**_settings_of(method), **settings})
        if isinstance(method, Detector):
            return cls(method, settings)
        known = inspect.signature(Inspector.__init__).parameters
        own = {key: value for key, value in settings.items() if key not in known or key in OWN}
        return cls(create(method, **own), {key: value for key, value in settings.items() if key not in own})

    def inspector(self, job: Job) -> Inspector:
        """An inspector for one category, with its target and references."""
        paths = [sample.path for sample in job.references]
        return Inspector(self.detector, job.target, references=paths or None, **self.settings)


def _settings_of(given: Inspector) -> dict[str, Any]:
    kept = {key: getattr(given, key) for key in ("coreset", "device", "precision", "batch_size", "workers", "value_range")}
    cut = given.geometry
    kept |= {"tile": cut.tile, "overlap": None if cut.tile is None else cut.overlap}
    return kept | {"roi": cut.roi, "keep_aspect": cut.keep_aspect}


def evaluate_category(
    make: Callable[[], Inspector], job: Job, plan: Plan, kept: Kept, maps: Path | None, step: Callable[[int], object]
) -> Row:
    """Computes the row of a job: read from disk where it is finished, and otherwise scored from where it was left.

    Args:
        make: gives the inspector of the job; not called where nothing is left to score.
        job: what to score.
        plan: what to measure.
        kept: where scores and maps are kept.
        maps: folder to which the maps are moved in the end; None: they are deleted.
        step: called with a number of pictures whenever so many are done.
    """
    if (done := kept.row()) is not None:
        step(len(job.samples))
        return Row.from_dict(done)
    if job.error:
        undefined = dict.fromkeys(plan.metrics, math.nan)
        return Row(job.category, job.target, job.seed, job.drawn, values=undefined, notes=job.notes, errors=(job.error,))
    inspector = make()
    size = plan.map_size or inspector.detector.backbone.image_size
    _score(inspector, job, plan, kept, size, step)
    row = _row(job, plan, kept, size, inspector.geometry)
    if maps is not None:
        _move_maps(job, kept, maps)
    kept.finish(row.as_dict())
    return row


def _score(inspector: Inspector, job: Job, plan: Plan, kept: Kept, size: int, step: Callable[[int], object]) -> None:
    done = kept.begin(len(job.samples), len(job.samples) if inspector.needs_set else inspector.batch_size)
    step(done)
    if done == len(job.samples):
        return
    wanted = [plan.keep_maps or one for one in _in_pixels(job, plan)]
    refs = [ImageRef(name, sample.path) for name, sample in zip(job.names, job.samples, strict=True)]
    for position, scored in enumerate(inspector.scored(refs[done:], folder=kept.features), done):
        answer = {"name": scored.name, "score": scored.score, "size": scored.size, "error": scored.error}
        there = wanted[position] and scored.model_map is not None
        kept.add(answer | {"notes": list(scored.notes)}, map_of(inspector, scored, size) if there else None)
        step(1)


def _in_pixels(job: Job, plan: Plan) -> list[bool]:
    """Per picture, whether it counts in pixel metrics; none does in a category without any mask."""
    asked = any(name in PIXEL for name in plan.metrics) and any(one.label == 1 and one.mask for one in job.samples)
    return [asked and (one.label == 0 or one.mask is not None) for one in job.samples]


def map_of(inspector: Inspector, scored: Scored, size: int) -> NDArray[np.float32]:
    """The anomaly map of the whole picture, (size, size) float32; resized bilinearly with antialiasing where needed.

    Tiles and a region of interest go back to their place in the picture first; outside a region the map is NaN.
    """
    found = scored.model_map
    if inspector.geometry.describe() is not None:
        found = inspector.result(scored, fixed(None, None, None)).anomaly_map
    assert found is not None
    if found.shape == (size, size):
        return found
    known = np.isfinite(found)
    if known.all():
        return resized(found, size)
    values, share = resized(np.where(known, found, 0), size), resized(known, size)
    with np.errstate(divide="ignore", invalid="ignore"):  # the mean of the scored pixels, where they are at least half
        return np.asarray(np.where(share > 0.5, values / share, np.nan), np.float32)


def _row(job: Job, plan: Plan, kept: Kept, size: int, geometry: Geometry) -> Row:
    """Computes the row from the kept scores and maps; the same ones give the same row."""
    answers, notes = kept.answers, list(job.notes)
    errors = [str(one["error"]) for one in answers if one["error"] is not None]
    notes += _cited([(text, one["name"]) for one in answers for text in one["notes"]])
    good = [index for index, one in enumerate(answers) if one["score"] is not None]
    labels = [int(job.samples[index].label == 1) for index in good]
    image = image_metrics(plan.metrics, [answers[index]["score"] for index in good], labels)
    in_pixels = _in_pixels(job, plan)
    packed = _masks(job, [index for index in good if in_pixels[index]], kept, size, notes, errors)
    masks = sum(job.samples[index].label == 1 for index in packed)
    pixel = _pixels(plan, packed, kept, size, geometry) if masks else _no_pixels(plan, job)
    if bare := sum(one.label == 1 and one.mask is None for one in job.samples) * any(in_pixels):
        notes.append(f"Anomalous pictures without a mask: {bare}. They are left out of the pixel metrics.")
    values = {name: (image if name in IMAGE else pixel).values[name] for name in plan.metrics}
    return Row(
        job.category,
        job.target,
        job.seed,
        job.drawn,
        labels.count(0),
        labels.count(1),
        masks,
        values,
        pixel.bounds,
        image.thresholds | pixel.thresholds,
        tuple(dict.fromkeys([*notes, *image.notes, *pixel.notes])),
        tuple(errors),
        sum(job.samples[index].boxes for index in packed if job.samples[index].label == 1),
    )


def _no_pixels(plan: Plan, job: Job) -> MetricValues:
    wanted = [name for name in plan.metrics if name in PIXEL]
    notes = [f"No mask of {job.category} can be used, so its pixel metrics are NaN."] if wanted else []
    return MetricValues(dict.fromkeys(wanted, math.nan), notes=notes)


def _masks(
    job: Job, indices: Sequence[int], kept: Kept, size: int, notes: list[str], errors: list[str]
) -> dict[int, NDArray[np.uint8]]:
    """Masks at the metrics' size by position, eight pixels to the byte: all zero for normal pictures, whatever their file.

    Remarks on masks are added to ``notes``, masks that cannot be used to ``errors``.
    """
    found, remarks = {}, list[tuple[str, str]]()
    for index in indices:
        sample, name, own = job.samples[index], job.names[index], list[str]()
        height, width = kept.answers[index]["size"]
        try:
            mask = load_mask(sample, size, picture=(height, width), notes=own)
        except MaskError as error:
            errors.append(f"{name}: left out of the pixel metrics. {error}")
            continue
        if sample.label == 1 and not mask.any() and not own:
            own.append(f"the mask vanishes at {size} x {size} pixels")
        remarks += [(text, name) for text in own]
        found[index] = np.packbits(mask if sample.label == 1 else np.zeros_like(mask))
    notes += _cited(remarks)
    return found


def _pixels(plan: Plan, packed: Mapping[int, NDArray[np.uint8]], kept: Kept, size: int, geometry: Geometry) -> MetricValues:
    outside: dict[int, bool] = {}  # pictures with defects outside of the region of interest: all of them?

    def pairs() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        for index, bits in packed.items():
            scored = scored_pixels(geometry, tuple(kept.answers[index]["size"]), size)
            found = kept.map(index)
            if scored is not None:  # maps that 0.1.0 kept have fillers outside
                found = np.where(scored, found, np.float32(np.nan))
            mask = np.unpackbits(bits, count=size * size).reshape(size, size).astype(bool)
            if (lost := mask & np.isnan(found)).any():
                outside[index] = bool((lost == mask).all())
            yield found, mask

    figures = pixel_metrics(plan.metrics, pairs, exact=plan.exact, folder=kept.folder)
    if outside:
        figures.notes.append(
            f"Outside of the region of interest lie all defects of {sum(outside.values())} pictures and a part of those of "
            f"{len(outside) - sum(outside.values())} more. Pixel metrics count the region alone, image metrics every picture."
        )
    return figures


def _cited(found: Sequence[tuple[str, str]]) -> list[str]:
    """One note per message, with the number and names of its pictures."""
    notes = []
    for text, count in Counter(text for text, _ in found).items():
        names = [name for one, name in found if one == text]
        more = " ..." if count > CITED else ""
        notes.append(f"{text} ({count} picture{'s' * (count > 1)}: {', '.join(names[:CITED])}{more})")
    return notes


def _move_maps(job: Job, kept: Kept, maps: Path) -> None:
    """Moves the maps to ``maps/[seed-0/]<category>/<name of the picture>.npy``."""
    root = maps if job.seed is None else maps / f"seed-{job.seed}"
    names = [name if name.startswith(f"{job.category}/") else f"{job.category}/{name}" for name in job.names]
    naming = OutputNames(names)
    for index, answer in enumerate(kept.answers):
        if answer["map"]:
            place = root / f"{naming(names[index])}.npy"
            place.parent.mkdir(parents=True, exist_ok=True)
            np.save(place, kept.map(index))
