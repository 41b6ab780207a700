"""An inspector beside processes and threads: none hangs, and a child leaves its parent's files alone."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from children import fork, needs_fork

import zsad
import zsad.cli

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


def without(streams: dict[str, int], folder: Path, words: list[str]) -> None:
    """``zsad words...`` as Python begins where a shell has closed the streams."""
    os.chdir(folder)
    for name, number in streams.items():
        os.close(number)
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
    sys.argv = ["zsad", *words]
    zsad.cli.main()


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("closed", [("stdin",), ("stdout",), ("stderr",), ("stdin", "stdout", "stderr")], ids=" ".join)
def test_closed_streams_lose_nothing(closed: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    """What is opened first takes the number of a closed stream, and what is printed then goes into it."""
    for name in ("1", "2"):
        (tmp_path / f"{name}.png").write_bytes((root / "demo/examples/brick/brick-01.png").read_bytes())
    streams = {name: number for number, name in enumerate(("stdin", "stdout", "stderr")) if name in closed}
    child = fork(without, streams, tmp_path, ["predict", ".", "--set", "tower=small", "--out", "out"])
    child.join(200)
    assert child.exitcode == 0
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2
    assert "</html>" in (tmp_path / "out/report.html").read_text()
