"""Background threads: work on later items while the caller uses earlier ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

__all__ = ["ahead", "one_thread_after_fork"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(items: Iterable[Item], work: Callable[[Item], Made], workers: int, waiting: int) -> Iterator[Made]:
    """``map`` in threads: in order, with at most ``waiting`` items begun and not yet taken."""
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[Made]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > waiting:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@cache
def one_thread_after_fork() -> None:
    """Children that are forked from now on compute with one thread.

    OpenMP's threads do not live on in a forked child, and it would wait for them for ever. Once per process.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        import torch

        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
