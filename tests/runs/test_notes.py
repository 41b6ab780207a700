"""What a run decided on its own is counted in its summary; frames without content are for review everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.decision.calibration import Calibration


def predict(source: Path, out: Path, *arguments: str) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Output, rows and run.json of a run without errors."""
    done = CliRunner().invoke(app, ["predict", str(source), "--out", str(out), "--method", "brightness", *arguments])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return done.output, rows, json.loads((out / "run.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ frames without content
BLANK = "without content: the frame is black, so it is for review"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eleven normal pictures, and black and grey frames, which score low."""
    folder_of(tmp_path / "in", 11)
    for name in ("x.png", "y.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / "in" / name)
    Image.new("RGB", (64, 64), (40, 40, 40)).save(tmp_path / "in/z.png")
    return tmp_path / "in"


@pytest.mark.parametrize(
    "how", [[], ["--threshold", "0.9"], ["--threshold", "0.0"], ["--threshold", "0.9", "--review-at", "0.8"]], ids=str
)
def test_frames_without_content_are_for_review(how: list[str], pictures: Path, tmp_path: Path) -> None:
    _, rows, run = predict(pictures, tmp_path / "out", *how)
    assert [row["pred_label"] for row in rows if is_frame(row)] == ["review"] * 3
    assert [row["notes"] for row in rows[-3:-1]] == [[BLANK], [BLANK]]
    assert "of one colour (40, 40, 40)" in rows[-1]["notes"][0]
    assert not any(row["notes"] for row in rows if not is_frame(row))
    assert run["counts"]["review"] == 3


def is_frame(row: dict[str, Any]) -> bool:
    return row["name"] in ("x.png", "y.png", "z.png")


def test_they_do_not_move_the_batch_rule(pictures: Path, tmp_path: Path) -> None:
    _, _, with_frames = predict(pictures, tmp_path / "with")
    for name in ("x.png", "y.png", "z.png"):
        (pictures / name).unlink()
    _, _, without = predict(pictures, tmp_path / "without")
    assert with_frames["thresholds"] == without["thresholds"]


def test_nor_a_calibration(pictures: Path, tmp_path: Path) -> None:
    options = ["--method", "brightness", "--max-false-alarms", "0.2", "--out", str(tmp_path / "c.json")]
    made = CliRunner().invoke(app, ["calibrate", "--normal", str(pictures), *options])
    assert made.exit_code == 0, made.output
    assert len(Calibration.load(tmp_path / "c.json")) == 11
    assert f"zsad: x.png: left out; {BLANK}" in made.output
    _, rows, _ = predict(pictures, tmp_path / "out", "--calibration", str(tmp_path / "c.json"))
    assert [row["pred_label"] for row in rows if is_frame(row)] == ["review"] * 3


def test_inspectors_and_sessions_decide_alike(pictures: Path) -> None:
    inspector = zsad.Inspector("brightness", threshold=0.9)
    assert [result.pred_label for result in inspector(str(pictures))] == ["normal"] * 11 + ["review"] * 3
    assert [result.pred_label for result in inspector.rescore(inspector.encode(str(pictures)))][-3:] == ["review"] * 3
    assert next(iter(inspector(np.zeros((40, 40, 3), np.uint8)))).pred_label == "review"
    assert next(iter(zsad.Inspector("brightness")(np.zeros((40, 40, 3), np.uint8)))).pred_label == "review"
    session = zsad.Session(zsad.Inspector("brightness"))
    assert list(session.encode(str(pictures)))[-1] == 14
    session.rescore()
    assert [session.result(number).pred_label for number in range(11, 14)] == ["review"] * 3
    alone = zsad.Session(zsad.Inspector("brightness"))
    list(alone.encode([str(path) for path in sorted(pictures.glob("[0-9]*"))]))
    alone.rescore()
    assert session.thresholds == alone.thresholds


def test_a_resumed_run_still_knows(pictures: Path, tmp_path: Path) -> None:
    predict(pictures, tmp_path / "out")
    _, rows, _ = predict(pictures, tmp_path / "out", "--resume", "--threshold", "0.9")
    assert [row["pred_label"] for row in rows if is_frame(row)] == ["review"] * 3
    assert picture(0.3) != picture(0.3, plain=True)


# ------------------------------------------------------------------ counted notes
def deep(path: Path, level: int, most: int) -> None:
    values = np.full((64, 64), level, np.uint16)
    values[0, 0] = most
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_pictures_that_are_read_otherwise_than_their_neighbours_are_counted(tmp_path: Path) -> None:
    for index in range(9):
        deep(tmp_path / f"in/{index}.png", 1500 + index, 1000 if index == 4 else 2600)
    deep(tmp_path / "in/4.png", 400, 900)
    picture(0.3).save(tmp_path / "in/x.png")
    output, _, run = predict(tmp_path / "in", tmp_path / "out")
    sentence = (
        "Caution: pictures were read over different ranges of values, 8 over 0..4095 (16-bit), 1 over 0..1023 (16-bit), 1 as "
        "they are (8-bit), so one may look brighter than its neighbours; give --value-range 0 4095 to read all beyond 8 bits "
        "alike."
    )
    assert sentence in output.splitlines()
    assert sentence in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert run["notes"] == {
        "16-bit: range 0..1023 (10 bits used) mapped to 0..255": 1,
        "16-bit: range 0..4095 (12 bits used) mapped to 0..255": 8,
    }
    output, _, run = predict(tmp_path / "in", tmp_path / "out", "--overwrite", "--value-range", "0", "2000")
    assert "9 over 0..2000 (16-bit), 1 as they are (8-bit), so one may look brighter than its neighbours." in output
    assert "8 pictures with values outside the range that became black to white: cut there." in output.splitlines()
    assert run["notes"]["values lie outside the range and were cut"] == 8


def test_pictures_of_one_range_are_no_matter(tmp_path: Path) -> None:
    for index in range(3):
        deep(tmp_path / f"in/{index}.png", 1500 + index, 2600)
    output, _, run = predict(tmp_path / "in", tmp_path / "out")
    assert "range" not in output.replace(str(tmp_path), "")
    assert list(run["notes"].values()) == [3]


def test_maps_that_a_png_cuts_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 3, 2)
    output, rows, run = predict(tmp_path / "in", tmp_path / "out", "--maps", "png", "--set", "gain=1.5")
    sentence = "2 anomaly maps with values outside the scale of --maps png, which were cut; --maps npy keeps them."
    assert sentence in output.splitlines()
    assert run["notes"] == {"map lies outside 0..1 and was cut in the png": 2}
    assert [len(row["notes"]) for row in rows] == [0, 0, 0, 1, 1]
    values = np.load(keep_maps(tmp_path / "in", tmp_path / "npy") / "maps/03.npy")
    assert rows[3]["notes"] == [f"{(values > 1).mean():.2%} of the map lies outside 0..1 and was cut in the png"]


def keep_maps(source: Path, out: Path) -> Path:
    _, rows, _ = predict(source, out, "--maps", "npy", "--set", "gain=1.5")
    assert not any(row["notes"] for row in rows)
    return out


def test_kinds_of_notes_are_counted_whatever_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        see_through = picture(0.3).convert("RGBA")
        see_through.paste((0, 0, 0, 0), (0, 0, 5 + index, 5))
        see_through.save(tmp_path / f"in/{index}.png")
    frames = [picture(0.3 + index / 10) for index in range(3)]
    frames[0].save(tmp_path / "in/two.gif", save_all=True, append_images=frames[1:2])
    frames[0].save(tmp_path / "in/x.gif", save_all=True, append_images=frames[1:])
    output, _, run = predict(tmp_path / "in", tmp_path / "out")
    assert run["notes"] == {"alpha: composited on white": 2, "animated: first of several frames": 2}
    assert "Notes of pictures: alpha: composited on white (2); animated: first of several frames (2)." in output.splitlines()
