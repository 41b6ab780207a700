"""Runs the jobs of ``evaluate``, one after the other in this process or several at once in worker processes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from zsad.errors import UsageError, ZsadError
from zsad.evaluation.category import DetectorSetup, evaluate_category
from zsad.evaluation.metrics_table import Row
from zsad.evaluation.plan import Job, Plan
from zsad.evaluation.store import Store
from zsad.inference.inspector import Inspector

__all__ = ["run_in_processes", "run_serially"]


def run_serially(
    setup: DetectorSetup, first: Job, inspector: Inspector, todo: Sequence[Job], plan: Plan, store: Store, maps: Path | None
) -> list[Row]:
    """Runs one job after the other; the inspector of the first one is given."""
    rows = []
    with _bar(todo) as bar:
        for job in todo:
            bar.set_postfix_str(job.category, refresh=False)
            make = (lambda: inspector) if job is first else _maker(setup, job)
            rows.append(evaluate_category(make, job, plan, store.kept(job.category, job.seed), maps, bar.update))
    return rows


def _maker(setup: DetectorSetup, job: Job) -> Callable[[], Inspector]:
    return lambda: setup.inspector(job)


def _bar(todo: Sequence[Job]) -> tqdm[Any]:
    """A progress bar on stderr, silent without a terminal."""
    return tqdm(total=sum(len(job.samples) for job in todo if not job.error), desc="scoring", unit="picture", disable=None)


def run_in_processes(
    detector: Any, settings: dict[str, Any], jobs: int, todo: Sequence[Job], plan: Plan, store: Store, maps: Path | None
) -> list[Row]:
    """Runs the jobs in processes of their own, each with its share of the threads."""
    threads = max(1, torch.get_num_threads() // jobs)
    arguments = (_pickled(detector, settings), threads)
    pool = ProcessPoolExecutor(min(jobs, len(todo)), _processes(), _begin, arguments)
    try:
        futures = [pool.submit(_evaluate, job, plan, store.out, maps) for job in todo]
        with _bar(todo) as bar:
            return [_taken(future.result(), len(job.samples), bar) for job, future in zip(todo, futures, strict=True)]
    except BrokenProcessPool as error:
        raise UsageError(
            "A process of --jobs died: too little memory for so many, or a script that calls evaluate without "
            'if __name__ == "__main__". Give fewer jobs; with an output folder, resume goes on from what is kept.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _processes() -> BaseContext:
    """How processes begin: on Linux as forks of one that has imported this package, once for all (3 s); elsewhere each anew.

    None is a fork of this process, whose threads and whose memory on a card no child could use.
    """
    if sys.platform != "linux":  # forks of a process that has loaded macOS's frameworks crash, and Windows has none
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _pickled(detector: Any, settings: dict[str, Any]) -> bytes:
    """The detector and its settings, pickled for another process; a name stays a name."""
    if not isinstance(detector, str):
        setup = DetectorSetup.load(detector, settings)
        detector, settings = setup.detector, dict(setup.settings)
    try:
        return pickle.dumps((detector, settings))  # to a child of our own, never to a file
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"What was given cannot be handed to other processes ({error}). Give the method by name, or jobs=1."
        ) from error


def _taken(found: Row | str, pictures: int, bar: tqdm[Any]) -> Row:
    if isinstance(found, str):
        raise UsageError(found)
    bar.update(pictures)
    return found


_setups: list[DetectorSetup] = []  # one, in a process that ``run_in_processes`` began


def _begin(pickled: bytes, threads: int) -> None:
    torch.set_num_threads(threads)
    _setups.append(DetectorSetup.load(*pickle.loads(pickled)))


def _evaluate(job: Job, plan: Plan, out: Path, maps: Path | None) -> Row | str:
    """The row, or the message of an error: some errors cannot be pickled on their way between processes."""
    try:
        kept = Store(out).kept(job.category, job.seed)
        return evaluate_category(lambda: _setups[0].inspector(job), job, plan, kept, maps, lambda _: None)
    except ZsadError as error:
        return str(error)
