"""Options that benchmarks of several methods share, and the line about the machine below their tables."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence

import torch

__all__ = ["machine", "pair_options"]


def pair_options(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """``--method``, ``--pairs``, ``--threads``, ``--cpu-time`` and ``--json``."""
    parser.add_argument("--method", action="append", choices=methods)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of this process, for a machine that is not idle")
    parser.add_argument("--json", action="store_true")


def machine(given: argparse.Namespace) -> str:
    """Where and how the rows were measured."""
    clock = ", CPU time" if given.cpu_time else ""
    return f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}, {given.pairs} interleaved pairs{clock}"
