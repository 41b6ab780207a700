"""Explains many made pictures in a child, for tests that kill it, and then again: ``asking_process.py URL FILE COUNT``.

The first line on stdout is the child's process id, the second what it ended with; then this process waits for a line.
Everything is logged, to stderr. The last line on stdout is a JSON object: what was said, and by how many bytes the process grew
after the first ``WARM`` answers.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from zsad.explain.asking import Asker
from zsad.explain.endpoint import Endpoint
from zsad.explain.known import Explanations
from zsad.explain.pictures import Case, Outline, Seen

SIDE, WARM = 384, 110
REGION = Outline((40, 40, 120, 120), ((40, 40), (120, 40), (120, 120), (40, 120)))


def load(index: int) -> Seen:
    """A picture of its own for every index, 0.4 MB."""
    draw = np.random.default_rng(index)
    pixels = np.full((SIDE, SIDE, 3), draw.integers(0, 256, 3), dtype=np.uint8)
    pixels[:24, :24] = draw.integers(0, 256, (24, 24, 3))
    return Seen(pixels)


def cases(count: int) -> Iterator[Case]:
    """Flagged pictures, none of them made yet."""
    for index in range(count):
        yield Case(f"{index}.png", (SIDE, SIDE), str(index), True, (REGION,), (0.0, 1.0), lambda index=index: load(index))


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def main(url: str, file: str, count: int) -> None:
    logging.basicConfig(level=logging.DEBUG)
    endpoint = Endpoint(url, "tiny", wait=0.001, timeout=2, parallel=8)
    said, before = list[str](), 0
    for number, one in enumerate(Asker(endpoint, "brick", known=Explanations(Path(file))).over(cases(count))):
        said.append(one["defect_seen"])
        before = resident() if number == WARM else before
    endpoint.close()
    print(json.dumps({"said": said, "growth": resident() - before}))


if __name__ == "__main__":
    import openai  # noqa: F401 (before the fork: an endpoint imports it, which takes a CPU second)

    given = sys.argv[1], sys.argv[2], int(sys.argv[3])
    child = get_context("fork" if hasattr(os, "fork") else "spawn").Process(target=main, args=given)
    child.start()
    print(child.pid, flush=True)
    child.join()
    print(child.exitcode, flush=True)
    sys.stdin.readline()
    main(*given)
