"""Files that are written atomically: whole or not there, whoever writes and whatever fails."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from light_import import LIGHT

from zsad.common.atomic_files import remove_partials, write_atomically


def test_bytes_and_what_a_function_writes(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_atomically(tmp_path / "a.npy", partial(np.save, arr=array))
    np.save(memory := io.BytesIO(), array)
    write_atomically(tmp_path / "b.npy", memory.getvalue())
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_what_fails_leaves_the_file_of_before_and_no_half(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")

    def fails(file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", fails)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.npz.123.partial").touch()
    (tmp_path / "maps" / "a.npz").touch()
    remove_partials(tmp_path)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["a.npz"]


@pytest.mark.slow
def test_processes_that_write_the_same_file_leave_a_whole_one(tmp_path: Path) -> None:
    """As two runs of training do that share a cache of features. Both begin at the same moment."""
    code = (
        f"{LIGHT}from pathlib import Path; from zsad.common.atomic_files import write_atomically\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(1000): write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 50_000)"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", code, str(tmp_path / "kept")]
    both = [subprocess.Popen([*command, letter], text=True, **pipes) for letter in "ab"]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    assert [(one.communicate()[1], one.returncode) for one in both] == [("", 0), ("", 0)]
    assert len(set((tmp_path / "kept").read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
