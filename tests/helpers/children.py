"""Children that a test kills, signals or takes streams from, forked from the test's own process.

That has imported everything (a Python that imports torch takes three seconds), and what the test has registered or replaced is
in the child too.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from zsad.cli import main

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

__all__ = ["fork", "needs_fork", "zsad_command"]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is forked from the test's process")


def fork(target: Callable[..., object], *arguments: object) -> ForkProcess:
    """Begins ``target(*arguments)`` in a child with one thread; its exit code is that of a program."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(target, *arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, where a process with threads is forked
        process.start()
    return process


def _alone(target: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)  # threads of the parent's pool are not here
    warnings.simplefilter("ignore")
    target(*arguments)


def zsad_command(words: list[str], stdout: Path | None = None, stderr: Path | None = None) -> None:
    """``zsad words...`` in this process, which ends with it; its streams go into files, or nowhere."""
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path or os.devnull, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115 (until the end)
    sys.argv = ["zsad", *words]
    main()
