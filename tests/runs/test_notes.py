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
    """Twelve normal pictures, and black and grey frames, which score low."""
    folder_of(tmp_path / "in", 12)
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
    assert len(Calibration.load(tmp_path / "c.json")) == 12
    assert f"zsad: x.png: left out; {BLANK}" in made.output
    _, rows, _ = predict(pictures, tmp_path / "out", "--calibration", str(tmp_path / "c.json"))
    assert [row["pred_label"] for row in rows if is_frame(row)] == ["review"] * 3


def test_inspectors_and_sessions_decide_alike(pictures: Path) -> None:
    inspector = zsad.Inspector("brightness", threshold=0.9)
    assert [result.pred_label for result in inspector(str(pictures))] == ["normal"] * 12 + ["review"] * 3
    assert [result.pred_label for result in inspector.rescore(inspector.encode(str(pictures)))][-3:] == ["review"] * 3
    assert next(iter(inspector(np.zeros((40, 40, 3), np.uint8)))).pred_label == "review"
    assert next(iter(zsad.Inspector("brightness")(np.zeros((40, 40, 3), np.uint8)))).pred_label == "review"
    session = zsad.Session(zsad.Inspector("brightness"))
    assert list(session.encode(str(pictures)))[-1] == 15
    session.rescore()
    assert [session.result(number).pred_label for number in range(12, 15)] == ["review"] * 3
    alone = zsad.Session(zsad.Inspector("brightness"))
    list(alone.encode([str(path) for path in sorted(pictures.glob("[0-9]*"))]))
    alone.rescore()
    assert session.thresholds == alone.thresholds


def test_a_resumed_run_still_knows(pictures: Path, tmp_path: Path) -> None:
    predict(pictures, tmp_path / "out")
    _, rows, _ = predict(pictures, tmp_path / "out", "--resume", "--threshold", "0.9")
    assert [row["pred_label"] for row in rows if is_frame(row)] == ["review"] * 3
    assert picture(0.3) != picture(0.3, plain=True)
