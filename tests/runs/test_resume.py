"""A run that was killed and resumed leaves the same files, byte for byte; memory does not grow with the pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from typer.testing import CliRunner

from zsad.cli import app

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "tests/helpers/brightness.py"), "predict"]
COMMON = ["--method", "brightness", "--target", "lamp", "--batch-size", "3", "--maps", "npy"]
SLOWLY = [*COMMON, "--set", "pause=0.15"]  # where a run is killed or timed


def predict(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return done.exit_code, done.output


def contents(out: Path, hidden: bool = True) -> dict[str, object]:
    """Every file of a run folder; of run.json everything but the times."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and (hidden or ".zsad" not in path.parts):
            name = str(path.relative_to(out))
            found[name] = path.read_bytes()
            if name == "run.json":
                found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "times"}
    return found


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def killed_after(records: int, source: Path, out: Path) -> int:
    """Starts a run, kills it (-9) once that many records are on disk, and says how many there were then."""
    run = subprocess.Popen([*PROGRAM, str(source), "--out", str(out), *SLOWLY], env=environment())
    file = out / ".zsad" / "records.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (file.is_file() and file.read_bytes().count(b"\n") >= records):
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    return file.read_bytes().count(b"\n")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("pictures")
    folder_of(source, 10, 3)
    (source / "05.png").write_bytes(b"broken")
    return source


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(pictures: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert predict(pictures, "--out", whole, *SLOWLY)[0] == 3
    kept = killed_after(4, pictures, torn)
    assert 4 <= kept < 13
    assert not (torn / "predictions.jsonl").exists()
    with (torn / ".zsad" / "records.jsonl").open("ab") as file:
        file.write(b'{"name": "12.png", "sco')  # a torn last line
    code, said = predict(pictures, "--out", torn, *SLOWLY, "--resume")
    assert code == 3, said
    assert contents(torn) == contents(whole)
    assert json.loads((torn / "run.json").read_text())["times"]["on_record_before"] == kept


@pytest.mark.slow
def test_tiles_resume_to_the_bit(tmp_path: Path) -> None:
    """A map's last digits depend on what passes the model with it, so a group of pictures is scored again as a whole."""
    (source := tmp_path / "in").mkdir()
    for index in range(7):
        picture(0.3, (8, 8, 20 + index, 30), (64 + 24 * index, 64)).save(source / f"{index}.png")
    common = ["--method", "compact", "--set", "tower=small", "--batch-size", "3", "--maps", "npy"]
    common += ["--tile", "64", "--roi", "polygon:0,0 100%,0 50%,64"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert predict(source, "--out", whole, *common)[0] == 0
    shutil.copytree(whole, torn)
    records = torn / ".zsad" / "records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:4]))
    assert (
        "geometry.tile was [64, 64] and is [32, 32]"
        in predict(source, "--out", torn, *common[:-4], "--tile", "32", "--resume")[1]
    )
    assert predict(source, "--out", torn, *common, "--resume")[0] == 0
    assert contents(torn) == contents(whole)


@pytest.mark.slow
def test_stopped_anywhere_in_the_second_stage(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsad.runs import drawing, writers

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    predict(pictures, "--out", whole, *COMMON)
    for module, part in ((writers, "write_report"), (drawing, "thumbnail")):
        with monkeypatch.context() as patch:
            patch.setattr(module, part, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            code, said = predict(pictures, "--out", torn, *COMMON, "--resume")
        assert code == 130
        assert f"stopped. What is scored is kept in {torn}; give --resume to go on with it." in said
        assert not (torn / "report.html").exists()
    predict(pictures, "--out", torn, *COMMON, "--resume")
    assert contents(torn) == contents(whole)


@pytest.mark.slow
def test_resume_scores_nothing_twice_and_takes_other_thresholds(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(pictures, "--out", out, *SLOWLY)
    before = (out / ".zsad" / "records.jsonl").read_bytes()
    begun = time.monotonic()
    code, _ = predict(pictures, "--out", out, *SLOWLY, "--resume", "--threshold", "0.31", "--pixel-threshold", "0.9")
    assert time.monotonic() - begun < 5 * 0.15 + 3
    assert code == 3
    assert (out / ".zsad" / "records.jsonl").read_bytes() == before
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {row["threshold"] for row in rows if not row["error"]} == {0.31}
    assert sum(row["pred_label"] == "anomalous" for row in rows) > 3


def test_changed_and_new_pictures_are_scored(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 5)
    arguments = (source, "--out", out, "--method", "brightness", "--resume")  # nothing to resume yet: begins
    assert predict(*arguments)[0] == 0
    picture(0.9).save(source / "02.png")
    picture(0.8).save(source / "07.png")
    (source / "04.png").unlink()
    assert predict(*arguments)[0] == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["00.png", "01.png", "02.png", "03.png", "07.png"]
    assert rows[2]["pred_score"] > 0.85
    assert not (out / "overlays" / "04.jpg").exists()


def test_other_settings_are_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(pictures, "--out", out, "--method", "brightness", "--target", "lamp")
    before = contents(out)
    code, said = predict(pictures, "--out", out, "--method", "brightness", "--target", "bulb", "--set", "gain=2.0", "--resume")
    assert code == 2
    assert 'target was "lamp" and is "bulb"' in said
    assert "arguments.gain was 1.0 and is 2.0" in said
    assert "--overwrite to start anew" in said
    assert contents(out) == before
    code, said = predict(pictures, "--out", out, "--method", "brightness", "--target", "lamp", "--resume", "--batch-size", "2")
    assert code == 2  # a score's last digits depend on the batch
    assert "batch_size was 8 and is 2" in said


def test_a_second_run_needs_a_word(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (pictures, "--out", out, "--method", "brightness")
    predict(*arguments)
    code, said = predict(*arguments)
    assert code == 2
    assert "holds a run already. Give --resume to go on with it" in said
    (out / "notes.txt").write_text("mine")
    assert predict(*arguments, "--overwrite", "--target", "bulb")[0] == 3
    assert (out / "notes.txt").read_text() == "mine"
    assert predict(*arguments, "--overwrite", "--resume")[0] == 2


def test_a_foreign_folder_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.png").write_bytes(b"x")
    for flag in ("--overwrite", "--resume"):
        code, said = predict(pictures, "--out", tmp_path, "--method", "brightness", flag)
        assert code == 2
        assert "holds masks, but no run, so nothing was overwritten" in said
    assert (tmp_path / "masks" / "mine.png").read_bytes() == b"x"


def test_own_output_is_not_scored(tmp_path: Path) -> None:
    """The results lie below the pictures: a second run must not take overlays for pictures."""
    folder_of(tmp_path, 3)
    arguments = (tmp_path, "--out", tmp_path / "results", "--method", "brightness", "--pixel-threshold", "0.2")
    assert predict(*arguments)[0] == 0
    code, said = predict(*arguments, "--overwrite")
    assert code == 0
    code, said = predict(*arguments, "--resume")
    assert ": 6 pictures." in said
    assert "output of earlier runs in" in said
    assert len((tmp_path / "results" / "predictions.jsonl").read_text().splitlines()) == 3
    code, said = predict(tmp_path / "results" / "overlays", "--out", tmp_path / "results", "--method", "brightness", "--resume")
    assert code == 2
    assert "Every picture of the source is output of an earlier run" in said


def test_a_damaged_map_is_said(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(pictures, "--out", out, "--method", "brightness")
    next((out / ".zsad" / "maps").rglob("*.npz")).write_bytes(b"")
    code, said = predict(pictures, "--out", out, "--method", "brightness", "--resume")
    assert code == 2
    assert "cannot be read" in said
    assert "Run again with --overwrite." in said


def test_a_picture_that_vanishes_keeps_its_score(tmp_path: Path) -> None:
    from zsad.inference.inspector import Inspector
    from zsad.runs.records import Records

    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 3)
    score = Records.score

    def then_delete(self: Records, refs: object, *rest: object) -> object:
        yield from score(self, refs, *rest)  # type: ignore[arg-type, misc]
        (source / "01.png").unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "score", then_delete)
        code, _ = predict(source, "--out", out, "--method", "brightness", "--threshold", "0.9")
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert code == 3
    assert rows[1]["pred_score"] == next(iter(Inspector("brightness")(picture(0.3 + 0.004 * 7)))).pred_score
    assert rows[1]["pred_label"] == "normal"
    assert rows[1]["error"].startswith("scored, but it could not be read again to draw it: '01.png' ")


MEMORY = """
import os, sys
from pathlib import Path
import psutil, torch
import brightness
brightness.register_methods()
from zsad.inference.inspector import Inspector
from zsad.runs.drawing import Options
from zsad.runs.folder import RunFolder
from zsad.images.reading import list_images
from zsad.decision.thresholds import Thresholds

source, out = map(Path, sys.argv[1:])
process, seen = psutil.Process(), []

def watch(items, label, total):
    for done, item in enumerate(items, 1):
        yield item
        if done == 100:
            seen.append(process.memory_info().rss)

def run(out):
    inspector = Inspector("brightness")
    with RunFolder(out, inspector.describe()) as run:
        run.fill(list_images(source), inspector.scored, 8, watch=watch)
        run.write(inspector, Thresholds(), Options(), watch=watch)
        run.finish({})

run(out)
print(process.memory_info().rss / seen[0] - 1, len(seen))
"""


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index in range(200):
        picture(0.3 + index / 1000, (8, 8, 200, 150), (400, 300)).save(source / f"{index}.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, source, tmp_path / "out"],
        env=environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    growth, seen = map(float, done.stdout.split())
    assert seen == 2
    assert growth < 0.10


@pytest.mark.slow
def test_damaged_records_are_scored_again_and_damaged_settings_say_so(pictures: Path, tmp_path: Path) -> None:
    """What a power cut leaves: a run of NUL bytes in the records, an empty settings file."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    for place in (out, whole):
        assert predict(pictures, "--out", place, *COMMON)[0] == 3
    records = out / ".zsad" / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:5]) + b"\0" * 60 + b"\n" + b"".join(lines[6:]))
    assert predict(pictures, "--out", out, *COMMON, "--resume")[0] == 3
    assert contents(out, hidden=False) == contents(whole, hidden=False)
    (out / ".zsad" / "settings.json").write_bytes(b"")
    code, said = predict(pictures, "--out", out, *COMMON, "--resume")
    assert (code, "is damaged" in said, "--overwrite" in said) == (2, True, True)
