"""Plans an evaluation: one job per category and seed, and the settings that all of them share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zsad.common.file_names import many
from zsad.datasets import Dataset, Sample, Shapes
from zsad.errors import UsageError
from zsad.evaluation.few_shot import draw

__all__ = ["Job", "Plan", "check_seeds", "digest_of", "plan_jobs", "problems_of"]


@dataclass(frozen=True)
class Job:
    """The pictures of one category that are scored with one context.

    Attributes:
        category: as the data set writes it.
        target: its object name in prompts.
        seed: of the draw of references; None without them.
        samples: labelled pictures, in the data set's order.
        names: of them, for rows and files.
        references: reference images that were drawn.
        drawn: names of them.
        notes: remarks for the table.
        error: why the category cannot be evaluated; "" where it can.
    """

    category: str
    target: str
    seed: int | None
    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    references: tuple[Sample, ...] = ()
    drawn: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """Settings that every job shares."""

    metrics: tuple[str, ...]
    map_size: int | None = None  # None: the model's
    exact: bool = False
    keep_maps: bool = False


def plan_jobs(data: Dataset, tested: Dataset, shots: int, seeds: Sequence[int], raw_names: bool = False) -> list[Job]:
    """Makes one job per category and seed, in the order of the data set.

    Args:
        data: all splits; references come from its train split.
        tested: what was selected of it; categories of ``data`` without a picture there get a job with an error.
        shots: references per category; 0: none, and one job per category.
        seeds: of the draws.
        raw_names: targets are the categories' own names.

    Raises:
        UsageError: no picture has a label.
    """
    if all(sample.label is None for sample in tested):
        raise UsageError(f"No label among {many(len(tested), 'picture')} of {data.name!r}, so there is nothing to measure.")
    jobs = []
    for category in dict.fromkeys([*tested.categories, *data.categories]):
        target = data.prompt_name(category, raw=raw_names)
        own = [one for one in tested if one.category == category]
        for seed in seeds if shots else [None]:
            jobs.append(_job(data, category, target, own, shots, seed))
    return jobs


def _job(data: Dataset, category: str, target: str, own: Sequence[Sample], shots: int, seed: int | None) -> Job:
    known = [one for one in own if one.label is not None]
    notes = (
        [f"{many(len(own) - len(known), 'unlabelled picture is', 'unlabelled pictures are')} left out."]
        if len(own) > len(known)
        else []
    )
    drawn, remarks = draw(data, category, known, shots, seed) if seed is not None else ((), ())
    left = tuple(one for one in known if one not in drawn)
    error = ""
    if not own:
        error = f"{category}: has no picture to score."
    elif not left:
        error = f"{category}: has no labelled picture to score."
    elif len(drawn) < (shots if seed is not None else 0):
        asked, there = many(shots, "reference was", "references were"), "is" if len(drawn) == 1 else "are"
        error = f"{category}: {asked} asked for, and there {there} {many(len(drawn), 'normal picture')} to draw from."
    names = tuple(map(data.name_of, left)), tuple(map(data.name_of, drawn))
    return Job(category, target, seed, left, names[0], drawn, names[1], (*notes, *remarks), error)


def check_seeds(shots: int, seeds: Sequence[int]) -> tuple[int, ...]:
    """Checks the seeds of the draws and returns them; () where nothing is drawn.

    Raises:
        UsageError: fewer than 0 shots, or no seed, or one twice.
    """
    if shots < 0:
        raise UsageError(f"shots is {shots}; give the number of reference pictures per category, or 0 for none.")
    if shots and (not seeds or len(set(seeds)) < len(seeds)):
        raise UsageError(f"seeds are {list(seeds)}; give at least one number, and none twice.")
    return tuple(seeds) if shots else ()


def digest_of(data: Dataset, jobs: Sequence[Job]) -> str:
    """Digest of the pictures, masks, labels and draws, by which a resumed run is compared: names, sizes, modification times."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(f"{job.category}\0{job.target}\0{job.seed}\0{job.error}\n".encode(errors="surrogatepass"))
        for sample in (*job.samples, *job.references):
            facts = (data.name_of(sample), sample.label, _state(sample.path), _state(sample.mask), sample.kind)
            digest.update(f"{facts}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _state(path: Any) -> tuple[Any, ...]:
    if path is None:
        return ()
    if isinstance(path, Shapes):
        return ("shapes", hashlib.sha256(repr(path).encode()).hexdigest())
    try:
        found = os.stat(path)  # noqa: PTH116 (one call for both)
    except (OSError, ValueError):
        return (path.name,)
    return (path.name, found.st_size, found.st_mtime_ns)


def problems_of(data: Dataset, selected: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The reader's problems that concern the selected categories, and whether any is more than a set without masks."""
    others = set(data.categories) - set(selected)
    own = [text for text in data.problems if text.partition(":")[0].split("/")[0] not in others]
    bare = tuple(f"{category}: none of its " for category in data.categories)
    return tuple(own), any(not text.startswith(bare) for text in own)
