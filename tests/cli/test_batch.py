"""``zsad predict --batch``, and verdicts from references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from zsad.cli import app

ROOT = Path(__file__).resolve().parents[2]
BRICKS = ROOT / "demo" / "examples" / "brick"
COMPARED = "Pictures were compared with each other, as one product's; --batch off scores each by itself."


@pytest.fixture(scope="module")
def bricks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first eight, which are enough to be compared; 03, 05 and 08 have a defect."""
    folder = tmp_path_factory.mktemp("bricks")
    for path in sorted(BRICKS.glob("*.png"))[:8]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def run_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


@pytest.mark.slow
def test_a_folder_is_compared_and_says_so(bricks: Path, tmp_path: Path) -> None:
    done = call(bricks, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert COMPARED in done.stdout
    assert run_of(tmp_path / "out")["detector"]["arguments"]["batch"] is True
    assert run_of(tmp_path / "out")["counts"]["anomalous"] == 3
    again = call(bricks, "--out", tmp_path / "out", "--resume", "--threshold", "9")
    assert again.exit_code == 2, "a level that holds for single pictures asks for another way of scoring"
    assert "arguments.batch was true and is false" in again.stderr


@pytest.mark.slow
def test_off_scores_each_by_itself(bricks: Path, tmp_path: Path) -> None:
    done = call(bricks, "--out", tmp_path / "out", "--batch", "off", "--set", "tower=small")
    assert COMPARED not in done.stdout
    assert run_of(tmp_path / "out")["detector"]["arguments"]["batch"] is False


@pytest.mark.slow
@pytest.mark.parametrize("option", [("--batch", "on"), ("--set", "batch=True")])
def test_on_by_either_option(option: tuple[str, str], bricks: Path, tmp_path: Path) -> None:
    done = call(bricks, "--out", tmp_path / "out", *option, "--threshold", "0.25")
    assert done.exit_code == 0, done.output
    assert run_of(tmp_path / "out")["detector"]["arguments"]["batch"] is True
    assert run_of(tmp_path / "out")["counts"]["anomalous"] == 3


@pytest.mark.slow
def test_earlier_output_below_the_source_does_not_count(tmp_path: Path) -> None:
    """Seven pictures are too few to compare, however many overlays lie beside them."""
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted(BRICKS.glob("*.png"))[:7]:
        (source / path.name).write_bytes(path.read_bytes())
    for name in ("first", "second"):
        done = call(source, "--out", source / name, "--set", "tower=small")
        assert done.exit_code == 0, done.output
        assert COMPARED not in done.stdout
        assert run_of(source / name)["detector"]["arguments"]["batch"] is False


@pytest.mark.slow
def test_wrong_words_and_methods_that_cannot(tmp_path: Path) -> None:
    done = call(BRICKS, "--out", tmp_path / "out", "--batch", "maybe")
    assert done.exit_code == 2
    assert "batch is 'maybe'. Give 'auto', 'on' or 'off'." in done.stderr
    done = call(BRICKS, "--out", tmp_path / "out", "--batch", "on", "--method", "winclip", "--backbone", "tiny")
    assert done.exit_code == 2
    assert "winclip scores each picture by itself and cannot compare pictures" in done.stderr


@pytest.mark.slow
def test_references_decide_where_there_are_four(bricks: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for number in (1, 2, 4, 6, 7):
        name = f"brick-{number:02d}.png"
        (good / name).write_bytes((BRICKS / name).read_bytes())
    done = call(bricks, "--out", tmp_path / "out", "--references", good, "--set", "fine=False")
    assert done.exit_code == 0, done.output
    assert "approximate, from the 5 references, each scored by the others" in done.stdout
    assert COMPARED not in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    verdicts = {row["name"]: row["pred_label"] for row in rows}
    assert {verdicts[f"brick-{number:02d}.png"] for number in (3, 5, 8)} <= {"anomalous", "review"}
