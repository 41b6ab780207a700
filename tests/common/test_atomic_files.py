"""What differs between settings then and now, as a person reads it; files that are written aside; whose folder it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zsad.common.atomic_files import differences
from zsad.errors import UsageError
from zsad.evaluation.store import Store
from zsad.runs.folder import RunFolder


def test_of_objects_the_entries_that_differ_are_named() -> None:
    padded = {"tile": None, "overlap": None, "roi": None, "keep_aspect": True}
    assert differences({"geometry": None}, {"geometry": padded}) == ["geometry.keep_aspect was null and is true"]
    cropped = padded | {"keep_aspect": False, "roi": "box:0,0 100,100"}
    assert differences({"geometry": padded}, {"geometry": cropped}) == [
        "geometry.keep_aspect was true and is false",
        'geometry.roi was null and is "box:0,0 100,100"',
    ]
    assert differences({"references": {"count": 6, "sha256": "ab"}}, {"references": {"count": 7, "sha256": "ab"}}) == [
        "references.count was 6 and is 7"
    ]


def test_no_difference_is_lost() -> None:
    """Entries that say the same unset are named by their object where nothing else differs."""
    assert differences({"a": {"b": None}}, {"a": {"b": False}}) == ['a was {"b": null} and is {"b": false}']
    assert differences({"a": None}, {"a": {}}) == ["a was null and is {}"]
    assert differences({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}) == ["a.b.c was 1 and is 2"]
    assert differences({"a": {"b": 0}}, {"a": {"b": None}}) == ['a was {"b": 0} and is {"b": null}']
    assert differences({"a": [1, 2]}, {"a": (1, 2)}) == []


@pytest.mark.parametrize("asked", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_folder_of_another_command_is_left_alone(asked: dict[str, bool], tmp_path: Path) -> None:
    """A run of predict once cleared the hidden folder of an evaluation, so that nothing could be resumed."""
    evaluation, run = Store(tmp_path / "evaluation"), RunFolder(tmp_path / "run")
    evaluation.claim()
    evaluation.begin({"method": "compact"})
    run.claim()
    run.records.open({"method": "compact"})
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(
        UsageError, match=r"holds an evaluation \(zsad evaluate\), and nothing in it was changed\. Give another"
    ):
        RunFolder(evaluation.out).claim(**asked)
    with pytest.raises(UsageError, match=r"holds a run of zsad predict, and nothing in it was changed\. Give another --out"):
        Store(run.out).claim(**asked)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    Store(evaluation.out).claim(overwrite=True)
    RunFolder(run.out).claim(overwrite=True)


@pytest.mark.slow
def test_processes_that_write_the_same_file_leave_a_whole_one(tmp_path: Path) -> None:
    """As two runs of training do that share a cache of features. Both begin at the same moment."""
    code = (
        "import sys; from pathlib import Path; from zsad.common.atomic_files import write_aside\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(2000): write_aside(Path(sys.argv[1]), sys.argv[2].encode() * 50_000)"
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
