"""The rows of ``evaluate``, one after the other in this process, or several at once in others."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from zsad.errors import UsageError, ZsadError
from zsad.evaluation.category import Judge, assess
from zsad.evaluation.plan import Job, Plan
from zsad.evaluation.store import Store
from zsad.evaluation.table import Row
from zsad.inference.inspector import Inspector

__all__ = ["run_here", "run_there"]


def run_here(
    judge: Judge, first: Job, inspector: Inspector, todo: Sequence[Job], plan: Plan, store: Store, maps: Path | None
) -> list[Row]:
    """One job after the other; the first one's inspector is there already."""
    rows = []
    with _bar(todo) as bar:
        for job in todo:
            bar.set_postfix_str(job.category, refresh=False)
            make = (lambda: inspector) if job is first else _maker(judge, job)
            rows.append(assess(make, job, plan, store.kept(job.category, job.seed), maps, bar.update))
    return rows


def _maker(judge: Judge, job: Job) -> Callable[[], Inspector]:
    return lambda: judge.inspector(job)


def _bar(todo: Sequence[Job]) -> tqdm[Any]:
    """On stderr, silent without a terminal."""
    return tqdm(total=sum(len(job.samples) for job in todo if not job.error), desc="scoring", unit="picture", disable=None)


def run_there(
    detector: Any, settings: dict[str, Any], jobs: int, todo: Sequence[Job], plan: Plan, store: Store, maps: Path | None
) -> list[Row]:
    """The same in processes that begin afresh (spawn), each with its share of the threads."""
    threads = max(1, torch.get_num_threads() // jobs)
    setup = (_portable(detector, settings), threads)
    pool = ProcessPoolExecutor(min(jobs, len(todo)), get_context("spawn"), _begin, setup)
    try:
        futures = [pool.submit(_assess, job, plan, store.out, maps) for job in todo]
        with _bar(todo) as bar:
            return [_taken(future.result(), len(job.samples), bar) for job, future in zip(todo, futures, strict=True)]
    except BrokenProcessPool as error:
        raise UsageError(
            "A process of --jobs died: too little memory for so many, or a script that calls evaluate without "
            'if __name__ == "__main__". Give fewer jobs; with an output folder, resume goes on from what is kept.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _portable(detector: Any, settings: dict[str, Any]) -> bytes:
    """What a process needs to load the method; a name stays a name."""
    if not isinstance(detector, str):
        judge = Judge.load(detector, settings)
        detector, settings = judge.detector, dict(judge.settings)
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


_judge: list[Judge] = []  # of a process that ``run_there`` began


def _begin(setup: bytes, threads: int) -> None:
    torch.set_num_threads(threads)
    _judge.append(Judge.load(*pickle.loads(setup)))


def _assess(job: Job, plan: Plan, out: Path, maps: Path | None) -> Row | str:
    """The row, or what to say instead; some errors do not survive the way between processes."""
    try:
        kept = Store(out).kept(job.category, job.seed)
        return assess(lambda: _judge[0].inspector(job), job, plan, kept, maps, lambda _: None)
    except ZsadError as error:
        return str(error)
