"""Forked children: they compute with one thread instead of waiting for ever, and leave the parent's files alone."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")]
PROGRAM = """
import multiprocessing, os, sys, tempfile
import numpy as np
import zsad

def picture(k):
    return np.random.default_rng(k).integers(0, 255, (120, 160, 3), np.uint8)

def one(k):
    return next(iter(inspector(picture(k)))).pred_score

if __name__ == "__main__":
    inspector = zsad.Inspector(target="ring", tower="small", references=[picture(1), picture(2)])
    want = [one(3), one(4)]
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        got = pool.map_async(one, [3, 4]).get(60) if sys.argv[1] == "fork" else want
    assert np.allclose(got, want, atol=1e-4), (got, want)
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    inspector.add_references([picture(5)])
    inspector.save_references(tempfile.mkdtemp() + "/kept")
    print(len(inspector.references))
else:
    inspector = None
"""


@pytest.mark.parametrize("method", [one for one in multiprocessing.get_all_start_methods() if one == "fork"])
def test_a_forked_child_answers_and_cleans_up_nothing(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = [sys.executable, "-W", "ignore", str(program), method]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=200, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout.split()) == (0, ["3"]), done.stderr[-2000:]
