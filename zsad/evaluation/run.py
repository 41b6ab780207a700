"""``evaluate``: measures a method on a labelled data set, category by category."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from zsad.common.arguments import checked
from zsad.common.atomic_files import write_atomically
from zsad.common.version import versions
from zsad.datasets import Dataset, open_dataset
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.evaluation.category import DetectorSetup
from zsad.evaluation.leakage import leakage, learned_from
from zsad.evaluation.metrics import IMAGE, check_metrics
from zsad.evaluation.metrics_table import Evaluation
from zsad.evaluation.parallel import run_in_processes, run_serially
from zsad.evaluation.plan import Job, Plan, check_seeds, digest_of, plan_jobs, problems_of
from zsad.evaluation.store import MAPS, Store
from zsad.inference.inspector import Inspector

__all__ = ["evaluate"]

PER_CATEGORY = ("target", "words", "sentences")  # of Inspector.describe()
SMALLEST_MAP = 8


@checked
def evaluate(
    detector: str | Detector | Inspector,
    dataset: Dataset | str | Path,
    metrics: str | Collection[str] | None = None,
    categories: str | Collection[str] | None = None,
    *,
    map_size: int | None = None,
    out: str | Path | None = None,
    split: str = "test",
    kinds: str | Collection[str] | None = None,
    shots: int = 0,
    seeds: Sequence[int] = (0,),
    exact: bool = False,
    raw_names: bool = False,
    keep_maps: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    allow_leakage: bool = False,
    jobs: int = 1,
    **settings: Any,
) -> Evaluation:
    """Measures a method on a data set: a row of metrics per category, and their mean.

    Weights are loaded once; every category gets a context of its own, with its object name and its own references. All
    labelled pictures count in image metrics. Pixel metrics are of the normal pictures, whose masks are all zero, and of the
    anomalous ones that have a mask. A picture or mask that cannot be used becomes an error of its row, and the rest counts.

    Args:
        detector: a method's name as in ``create``, a built ``Detector``, or an ``Inspector`` (whose settings are taken over,
            its target and thresholds not).
        dataset: opened with ``split=None``, so that references can come from the train split; or a path for ``open_dataset``.
        metrics: of ``zsad.evaluation.metrics.HEADS``; None: image and pixel AUROC, AP and F1-max, and AUPRO; without any
            mask, the image metrics alone.
        categories: None takes all.
        map_size: side in pixels of the square at which maps and masks are compared; None: the model's input.
        out: folder for metrics.csv, .json and .md, and for what a resumed run needs.
        split: which pictures are scored.
        kinds: of these ("good", "crack"); None takes all.
        shots: normal pictures per category that are given as references, drawn from the train split, or else from the normal
            ones of ``split``, which are then not scored.
        seeds: of the draws; one row per category and seed.
        exact: pixel metrics without bins; takes longer, and 4 bytes of disk per pixel.
        raw_names: categories' own names in prompts: "pcb1" and not "printed circuit board".
        keep_maps: leaves the maps in ``out``/maps, float32 .npy at the metrics' size.
        resume: goes on with the run in ``out``; the result is the same to the bit as without a stop. Whole batches that were
            scored are not scored again.
        overwrite: deletes the run in ``out`` first.
        allow_leakage: measures also on data that the weights have seen; the tables are then marked.
        jobs: processes; each loads the method once, takes whole categories and its share of the threads. The numbers are the
            same to the bit for the same number of threads in a process (``OMP_NUM_THREADS=1``), and else up to the rounding
            of sums.
        **settings: keywords of ``Inspector`` and of the method.

    Raises:
        UsageError: something that cannot be carried out, the weights have seen the data, or ``out`` holds another run;
            SourceNotFound, UnknownName and WeightsError as in ``open_dataset`` and ``create``.
    """
    data = dataset if isinstance(dataset, Dataset) else open_dataset(dataset, split=None)
    chosen, drawn = data.select(categories), check_seeds(shots, seeds)
    todo = plan_jobs(chosen, chosen.select(None, split, kinds), shots, drawn, raw_names)
    plan = Plan(_metrics(metrics, todo), _map_size(map_size), exact, keep_maps)
    _check(todo, jobs, out, keep_maps or resume)
    with _store(out, resume, overwrite) as store:
        setup = DetectorSetup.load(detector, settings)
        trained_on = learned_from(setup.detector, detector if isinstance(detector, str) else "", settings.get("checkpoint"))
        leaked = _leaked(setup.detector, data, todo, trained_on, allow_leakage)
        first = next(job for job in todo if not job.error)
        inspector = setup.inspector(first)
        about = _about(inspector, data, todo, plan, drawn, shots)
        store.begin(about["settings"])
        maps = store.out / MAPS if keep_maps else None
        if jobs == 1:
            rows = run_serially(setup, first, inspector, todo, plan, store, maps)
        else:
            rows = run_in_processes(detector, settings, jobs, todo, plan, store, maps)
        found = Evaluation(
            data.name,
            setup.detector.name,
            plan.metrics,
            tuple(rows),
            plan.map_size or setup.detector.backbone.image_size,
            shots,
            drawn,
            leaked,
            _unknown(setup.detector, trained_on),
            problems_of(data, chosen.categories)[0],
            about,
        )
        if out is not None:
            _write(found, store.out)
    return found


def _metrics(names: str | Collection[str] | None, todo: Sequence[Job]) -> tuple[str, ...]:
    """The metrics that were asked for; by default no pixel metrics where there is no mask at all."""
    masks = any(sample.mask is not None for job in todo for sample in job.samples if sample.label == 1)
    return IMAGE if names is None and not masks else check_metrics(names)


def _map_size(size: int | None) -> int | None:
    if size is not None and size < SMALLEST_MAP:
        raise UsageError(f"map_size is {size}; give the side of the maps in pixels, at least {SMALLEST_MAP}, such as 256.")
    return size


def _check(todo: Sequence[Job], jobs: int, out: str | Path | None, needs_out: bool) -> None:
    if all(job.error for job in todo):
        raise UsageError(f"No category can be evaluated. {' '.join(dict.fromkeys(job.error for job in todo[:3]))}")
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; give the number of processes, at least 1.")
    if out is None and needs_out:
        raise UsageError("keep_maps and resume need a folder: give out.")


@contextmanager
def _store(out: str | Path | None, resume: bool, overwrite: bool) -> Iterator[Store]:
    """The output folder, or a temporary one."""
    if out is not None:
        store = Store(out)
        store.claim(resume=resume, overwrite=overwrite)
        try:
            yield store
        finally:
            store.release()
        return
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        store = Store(folder)
        store.claim()
        try:
            yield store
        finally:
            store.release()


def _leaked(detector: Detector, data: Dataset, todo: Sequence[Job], trained_on: Sequence[str], allowed: bool) -> str:
    samples = dict.fromkeys(sample for job in todo for sample in job.samples)
    found = leakage(detector, data, list(samples), trained_on)
    if found and not allowed:
        raise UsageError(
            f"{found} Figures there are not those of data never seen. Choose other data or other weights, or give "
            "allow_leakage (--allow-leakage) to measure all the same; the table is then marked."
        )
    return found


def _unknown(detector: Detector, trained_on: Sequence[str]) -> tuple[str, ...]:
    if not detector.learned or trained_on:
        return ()
    return (f"What the weights of {detector.name} learned from is not on record, so leakage cannot be ruled out.",)


# ------------------------------------------------------------------ on disk
def _about(
    inspector: Inspector, data: Dataset, todo: Sequence[Job], plan: Plan, seeds: Sequence[int], shots: int
) -> dict[str, Any]:
    described = inspector.describe()
    scored_by = {key: value for key, value in described.items() if key not in PER_CATEGORY and "reference" not in key}
    settings = scored_by | {
        "device": str(inspector.device),
        "batch_size": inspector.batch_size,
        "coreset": inspector.coreset,
        "data": digest_of(data, todo),
        "categories": list(dict.fromkeys(job.category for job in todo)),
        "metrics": list(plan.metrics),
        "map_size": plan.map_size,
        "exact": plan.exact,
        "keep_maps": plan.keep_maps,
        "shots": shots,
        "seeds": list(seeds),
    }
    return {
        "detector": scored_by,
        "settings": settings,
        "threads": torch.get_num_threads(),
        "source": {"name": data.name, "root": str(data.root), "layout": data.layout},
        "versions": versions(("torch", "numpy", "scipy")) | {"platform": platform.platform()},
    }


def _write(found: Evaluation, out: Path) -> None:
    write_atomically(out / "metrics.csv", found.to_csv().encode())
    write_atomically(out / "metrics.json", (json.dumps(found.as_dict(), indent=1) + "\n").encode())
    write_atomically(out / "metrics.md", found.to_markdown().encode())
