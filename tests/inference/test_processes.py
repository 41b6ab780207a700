"""An inspector beside processes and threads: none hangs, and a child leaves its parent's files alone."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import zsad

PROGRAM = """
import multiprocessing, os, sys, tempfile
import numpy as np
import zsad

inspector = None

def picture(k):
    return np.random.default_rng(k).integers(0, 255, (120, 160, 3), np.uint8)

def one(k):
    global inspector
    if inspector is None:  # spawned: nothing of the parent is here
        inspector = zsad.Inspector(target="ring", tower="small", references=[picture(1), picture(2)])
    return next(iter(inspector(picture(k)))).pred_score

if __name__ == "__main__":
    want = [one(3), one(4)]
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        got = pool.map_async(one, [3, 4]).get(100)
    assert np.allclose(got, want, atol=1e-4), (got, want)
    if hasattr(os, "fork"):
        if os.fork() == 0:
            sys.exit(0)  # an ordinary end, with all that is registered for it
        os.wait()
    inspector.add_references([picture(5)])
    inspector.save_references(tempfile.mkdtemp() + "/kept")
    print(len(inspector.references))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_child_answers_and_cleans_up_nothing(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = [sys.executable, "-W", "ignore", str(program), method]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=200, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout.split()) == (0, ["3"]), done.stderr[-2000:]


@pytest.mark.slow
def test_threads_share_an_inspector() -> None:
    pictures = [np.random.default_rng(k).integers(0, 255, (60, 80, 3), np.uint8) for k in range(6)]
    inspector = zsad.Inspector("winclip", backbone="tiny", references=pictures[:1])
    alone = [next(iter(inspector(one))).pred_score for one in pictures]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda one: next(iter(inspector(one))).pred_score, pictures * 2))
    assert together == pytest.approx(alone * 2, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lose_nothing(closed: str, root: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / f"{name}.png").write_bytes((root / "demo/examples/brick/brick-01.png").read_bytes())
    command = f"{sys.executable} -W ignore -m zsad predict . --method winclip --backbone tiny --out out {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True, timeout=100).returncode == 0
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2
    assert "</html>" in (tmp_path / "out/report.html").read_text()
