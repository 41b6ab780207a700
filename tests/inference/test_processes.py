"""An inspector beside processes and threads: none hangs, and a child leaves its parent's files alone."""

from __future__ import annotations

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
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(1) as pool:
            got = pool.map_async(one, [3, 4]).get(100)
        assert np.allclose(got, want, atol=1e-4), (method, got, want)
    if hasattr(os, "fork"):
        if os.fork() == 0:
            sys.exit(0)  # an ordinary end, with all that is registered for it
        os.wait()
    inspector.add_references([picture(5)])
    inspector.save_references(tempfile.mkdtemp() + "/kept")
    print(len(inspector.references))
"""

CLOSES_EACH = """
import os, sys
import zsad.cli

for number, name in enumerate(("stdin", "stdout", "stderr")):
    if not os.fork():
        os.close(number)
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
        sys.argv = ["zsad", *sys.argv[1:], name]
        zsad.cli.main()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0, name
"""


@pytest.mark.slow
def test_children_answer_and_clean_up_nothing(tmp_path: Path) -> None:
    """Children by each start method; with two threads, for a fork of a process with one cannot hang."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = [sys.executable, "-W", "ignore", str(program)]
    threads = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=200, stdin=subprocess.DEVNULL, env=threads)
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
def test_closed_streams_lose_nothing(root: Path, tmp_path: Path) -> None:
    """A shell closes all three; each alone is closed in a child of one process, as Python starts without it."""
    for name in ("1", "2"):
        (tmp_path / f"{name}.png").write_bytes((root / "demo/examples/brick/brick-01.png").read_bytes())
    predict = "predict . --set tower=small --out"
    (tmp_path / "each.py").write_text(CLOSES_EACH)
    each = subprocess.run(
        [sys.executable, "-W", "ignore", "each.py", *predict.split()],
        cwd=tmp_path, check=False, capture_output=True, timeout=200, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert each.returncode == 0, each.stderr[-2000:]
    command = f"{sys.executable} -W ignore -m zsad {predict} all <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True, timeout=100).returncode == 0
    for out in ("stdin", "stdout", "stderr", "all"):
        assert len((tmp_path / out / "predictions.jsonl").read_text().splitlines()) == 2
        assert "</html>" in (tmp_path / out / "report.html").read_text()
