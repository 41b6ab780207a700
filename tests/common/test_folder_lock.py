"""Two runs never write into one folder at once; a run that was killed holds nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from light_import import LIGHT

from zsad.common import folder_lock
from zsad.common.folder_lock import FolderLock, is_running
from zsad.errors import UsageError
from zsad.evaluation.store import Store
from zsad.runs.folder import RunFolder
from zsad.training.run import TrainingRun

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from zsad.runs.folder import RunFolder
run = RunFolder(sys.argv[1], {}, resume=True)
print("held", flush=True)
time.sleep(60)
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """A process that has claimed a folder and sleeps."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None
    assert run.stdout.readline() == "held\n"
    return run


@pytest.mark.parametrize("asked", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_the_second_run_is_refused_with_a_sentence(asked: dict[str, bool], tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}) as run:
        (tmp_path / ".zsad/records.jsonl").write_text("")
        before = {path for path in tmp_path.rglob("*") if path.name != "lock"}
        with pytest.raises(UsageError) as caught:
            RunFolder(tmp_path, {}, **asked)
        sentence = str(caught.value)
        assert sentence.startswith(f"{str(tmp_path)!r} is in use by another run (zsad predict, this process, since ")
        assert sentence.endswith("), so nothing in it was changed. Wait for its end, or give another --out.")
        assert {path for path in tmp_path.rglob("*") if path.name != "lock"} == before
        assert run.lock.path.is_file()
    assert not run.lock.path.exists()
    RunFolder(tmp_path, {}, **(asked or {"resume": True}))


@pytest.mark.slow
def test_of_another_process_its_number_is_named_and_killed_it_holds_nothing(tmp_path: Path) -> None:
    run = holder(tmp_path)
    try:
        with pytest.raises(UsageError, match=rf"is in use by another run \(zsad predict, process {run.pid} on .+, since .+\)"):
            RunFolder(tmp_path, {}, resume=True)
    finally:
        run.kill()
        run.communicate()
    assert json.loads((tmp_path / ".zsad/lock").read_text())["pid"] == run.pid  # kill -9 leaves the file, and not the lock
    again = RunFolder(tmp_path, {}, resume=True)
    assert json.loads((tmp_path / ".zsad/lock").read_text())["pid"] == os.getpid()
    again.lock.release()


def test_the_lock_goes_with_its_object_and_on_an_error(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"seed": 1})
    (tmp_path / ".zsad/records.jsonl").write_text("")
    for _ in range(2):
        with pytest.raises(UsageError, match="seed was 1 and is 2") as kept:
            RunFolder(tmp_path, {"seed": 2}, resume=True)
        assert kept.value is not None
    assert not (tmp_path / ".zsad/lock").exists()


def test_evaluations_and_trainings_too(tmp_path: Path) -> None:
    store, training = Store(tmp_path / "evaluation"), TrainingRun(tmp_path / "training")
    store.claim()
    training.claim(resume=False, overwrite=False)
    with pytest.raises(UsageError, match=r"is in use by another run \(zsad evaluate, this process"):
        Store(store.out).claim(overwrite=True)
    with pytest.raises(UsageError, match=r"is in use by another run \(zsad finetune, this process"):
        TrainingRun(training.out).claim(resume=False, overwrite=True)
    store.release()
    with training.guarded():
        pass
    assert not list(tmp_path.rglob("*lock*"))
    Store(store.out).claim(overwrite=True)
    TrainingRun(training.out).claim(resume=False, overwrite=True)


def test_without_locks_of_the_file_system_the_statement_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    path = tmp_path / "lock"

    def stated(**facts: Any) -> None:
        path.write_text(json.dumps({"command": "zsad predict", "host": "here", "since": "10:00:00", **facts}))

    monkeypatch.setattr(folder_lock, "_lock", none)
    monkeypatch.setattr(folder_lock.socket, "gethostname", lambda: "here")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for free in ({"pid": gone.pid}, {"pid": None}):
        stated(**free)
        FolderLock(path, "zsad predict", tmp_path).release()
    for taken in ({"pid": os.getppid()}, {"pid": gone.pid, "host": "elsewhere"}):
        stated(**taken)
        with pytest.raises(UsageError, match=rf"process {taken['pid']} on {taken.get('host', 'here')}, since 10:00:00"):
            FolderLock(path, "zsad predict", tmp_path)
    path.write_text("torn {")
    FolderLock(path, "zsad predict", tmp_path).release()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    code = (
        f"{LIGHT}import os; from pathlib import Path; from zsad.common.folder_lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1]) / 'lock', 'zsad predict', Path(sys.argv[1]))\n"
        "if not (child := os.fork()): sys.exit(0)\n"
        "os.waitpid(child, 0); print(lock.path.exists())\n"
        "try: FolderLock(lock.path, 'zsad predict', lock.path.parent)\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "UsageError"]


def test_which_processes_are_running() -> None:
    assert is_running(os.getpid())
    assert not any(map(is_running, (0, -1, None, "1", True, 2**22 + 1)))
