"""``zsad watch``: every picture once, none lost, over restarts and stops."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from typer.testing import CliRunner, Result

from zsad.cli import app
from zsad.cli import watch as watching
from zsad.runs.watching import HotFolder

ROOT = Path(__file__).resolve().parents[2]
ANOMALOUS = (8, 8, 24, 24)


def watch(*arguments: object, once: bool = True) -> Result:
    given = ["watch", "in", "--out", "out", "--method", "brightness", "--interval", "0.05", *map(str, arguments)]
    done = CliRunner().invoke(app, [*given, *["--once"] * once])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    return done


def rows(out: Path = Path("out")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def names() -> list[str]:
    return [row["name"] for row in rows()]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("in"), 3)
    picture(0.3, ANOMALOUS).save("in/bad.png")


def test_pictures_are_scored_once_and_rows_are_appended() -> None:
    done = watch("--threshold", "0.6")
    assert done.exit_code == 0, done.output
    assert sorted(names()) == ["00.png", "01.png", "02.png", "bad.png"]
    assert {row["name"]: row["pred_label"] for row in rows()}["bad.png"] == "anomalous"
    assert Path("out/overlays/bad.jpg").is_file()
    assert "bad.png" in Path("out/report.html").read_text()
    assert json.loads(Path("out/run.json").read_text())["counts"] == {"anomalous": 1, "normal": 3}
    assert "zsad: done. 4 pictures: 1 anomalous, 0 review, 3 normal." in done.stderr
    assert len(done.stdout.splitlines()) == 4
    before = Path("out/predictions.jsonl").read_bytes()
    done = watch("--threshold", "0.6")
    assert (done.stdout, Path("out/predictions.jsonl").read_bytes()) == ("", before)
    picture(0.2).save("in/late.png")
    assert watch("--threshold", "0.6").exit_code == 0
    after = Path("out/predictions.jsonl").read_bytes()
    assert after.startswith(before)
    assert names()[-1] == "late.png"
    with Path("out/predictions.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names()


def test_rows_equal_those_of_predict() -> None:
    levels = ["--threshold", "0.6", "--pixel-threshold", "0.6", "--maps", "npy"]
    watch(*levels)
    there = {row["name"]: row for row in rows()}
    done = CliRunner().invoke(
        app,
        ["predict", "in", "--out", "other", "--method", "brightness", "--batch", "off", *levels],
    )
    assert done.exit_code == 0
    lines = Path("other/predictions.jsonl").read_text().splitlines()
    assert {row["name"]: row for row in map(json.loads, lines)} == there


def test_results_of_pictures_that_were_moved_away_stay() -> None:
    watch("--threshold", "0.6")
    before = rows()
    shutil.rmtree("in")
    Path("in").mkdir()
    assert watch("--threshold", "0.6").exit_code == 0
    assert rows() == before
    assert "bad.png" in Path("out/report.html").read_text()


def test_a_picture_that_is_replaced_has_one_row() -> None:
    watch("--threshold", "0.6")
    picture(0.3).save("in/bad.png")
    os.utime("in/bad.png", ns=(1, 1))
    watch("--threshold", "0.6")
    assert sorted(names()) == ["00.png", "01.png", "02.png", "bad.png"]
    assert {row["name"]: row["pred_label"] for row in rows()}["bad.png"] == "normal"
    os.chmod("in/bad.png", 0o600)  # noqa: PTH101  (what changes neither size nor time is no new picture)
    assert watch("--threshold", "0.6").stdout == ""


def test_output_names_do_not_collide() -> None:
    watch("--threshold", "0.1")
    picture(0.5).save("in/00.bmp")
    watch("--threshold", "0.1")
    overlays = [row["overlay"] for row in rows()]
    assert len(set(overlays)) == len(overlays) == 5
    assert all(Path("out", one).is_file() for one in overlays)


def test_a_growing_file_waits_and_an_unreadable_one_is_a_row() -> None:
    hot = HotFolder("in")
    assert hot.look({}) == ([], 4)
    with Path("in/00.png").open("ab") as file:
        file.write(b"more")
    found, waiting = hot.look({})
    assert (sorted(ref.name for ref, _ in found), waiting) == (["01.png", "02.png", "bad.png"], 1)
    Path("in/broken.png").write_bytes(b"no picture")
    Path("in/empty.png").touch()
    assert watch("--threshold", "0.6").exit_code == 0
    errors = {row["name"]: row["error"] for row in rows() if row["error"]}
    assert list(errors) == ["broken.png"]
    assert "no picture of a kind" in errors["broken.png"]
    assert "1 picture had not stopped growing" in watch("--threshold", "0.6").stderr


def test_a_run_inside_the_folder_is_not_its_own_input() -> None:
    for _ in range(2):
        watch("--threshold", "0.1", "--out", "in/results")
    lines = Path("in/results/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_a_picture_that_is_moved_while_it_is_scored_keeps_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    from zsad.runs.watching import Watcher

    real = Watcher._journal

    def moved(self: Watcher, place: int) -> dict[str, Any]:
        Path("in/bad.png").unlink(missing_ok=True)
        return real(self, place)

    monkeypatch.setattr(Watcher, "_journal", moved)
    for name in ("00", "01", "02"):
        Path(f"in/{name}.png").unlink()
    watch("--threshold", "0.6", "--exec", f'{sys.executable} -c \'open("ran", "a").write(input()[:1])\'')
    (row,) = rows()
    assert (row["name"], row["pred_label"], Path("ran").read_text()) == ("bad.png", "anomalous", "{")
    assert "could not be read again" in row["error"]


# ------------------------------------------------------------------ stops
@pytest.mark.parametrize("step", ["add", "_journal", "_hand"])
def test_nothing_is_lost_or_doubled_between_any_two_steps(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends right after a step: after the record, after the journal, and before the row is handed on."""
    from zsad.runs import watching as runs

    owner = runs.Journal if step == "add" else runs.Watcher
    real, calls = getattr(owner, step), [0]

    class Killed(Exception):
        pass

    def fails(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise Killed
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fails)
        with pytest.raises(Killed):
            watch("--threshold", "0.6", "--exec", f'{sys.executable} -c \'open("ran", "a").write(input()[:1])\'')
    done = watch("--threshold", "0.6", "--exec", f'{sys.executable} -c \'open("ran", "a").write(input()[:1])\'')
    assert done.exit_code == 0
    assert sorted(names()) == ["00.png", "01.png", "02.png", "bad.png"]
    assert Path("ran").read_text() == "{"


def test_a_torn_journal_is_mended() -> None:
    watch("--threshold", "0.6")
    before = sorted(names())
    for name in ("watched.jsonl", "records.jsonl"):
        file = Path("out/.zsad", name)
        file.write_bytes(file.read_bytes()[:-20])
        watch("--threshold", "0.6")
        assert sorted(names()) == before


TWO = """
import os, sys
from brightness import register_methods
from zsad.cli import main

register_methods()
for name in ("SIGTERM", "SIGINT"):  # each with a process and an output folder of its own
    if not os.fork():
        for number in (1, 2):
            os.dup2(os.open(f"{name}.{number}", os.O_CREAT | os.O_WRONLY), number)
        sys.argv[1:] = [*"watch in --method brightness --threshold 0.6 --interval 0.1 --out".split(), name]
        open(f"{name}.pid", "w").write(str(os.getpid()))
        main()
print(*(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes are forked from one")
def test_a_signal_ends_it_cleanly() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", TWO], env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    for kind in (signal.SIGTERM, signal.SIGINT):
        out = Path(kind.name)
        while time.monotonic() < deadline and not ((out / "run.json").is_file() and len(rows(out)) == 4):
            time.sleep(0.05)
        os.kill(int(Path(f"{kind.name}.pid").read_text()), kind)
    assert run.communicate(timeout=60)[0].split() == ["0", "0"]
    for name in ("SIGTERM", "SIGINT"):
        assert "zsad: stopped. 4 pictures: 1 anomalous, 0 review, 3 normal." in Path(f"{name}.2").read_text()
        assert len(Path(f"{name}.1").read_text().splitlines()) == 4


# ------------------------------------------------------------------ --exec
def test_a_command_runs_per_anomalous_picture_without_a_shell() -> None:
    picture(0.3, ANOMALOUS).save("in/$(touch pwned); echo.png")
    program = "import sys; open('got', 'a').write(sys.stdin.read() + repr(sys.argv[1:]) + chr(10))"
    done = watch("--threshold", "0.6", "--exec", f'{sys.executable} -c "{program}" "a b" "$HOME"')
    assert done.exit_code == 0, done.output
    lines = Path("got").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in lines[::2]) == ["$(touch pwned); echo.png", "bad.png"]
    assert set(lines[1::2]) == {"['a b', '$HOME']"}
    assert not Path("pwned").exists()


@pytest.mark.slow
def test_a_command_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LONGEST", 1)
    for command, said in ((f'{sys.executable} -c "exit(3)"', "ended with exit code 3"), ("sleep 9", "took more than 1 s")):
        done = watch("--threshold", "0.6", "--overwrite", "--exec", command)
        assert done.exit_code == 0
        assert f"zsad: --exec for bad.png {said}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--exec", "no-such-program"], "names no program"),
        (["--exec", ""], "names no program"),
        (["--exec", "'a"], "cannot be split into words"),
        (["--exec", "true"], "no rule calls a picture anomalous"),
        (["--out", "in/00.png"], "is a file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments: list[str], said: str) -> None:
    done = watch(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_no_folder_and_no_rule() -> None:
    done = watch()
    assert "pictures are scored without a verdict" in done.stderr
    assert {row["pred_label"] for row in rows()} == {None}
    shutil.rmtree("in")
    done = watch("--overwrite")
    assert done.exit_code == 2
    assert "There is no folder at 'in'." in done.stderr
