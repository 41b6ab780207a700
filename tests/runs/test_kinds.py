"""``zsad kinds`` on runs of the small detector that ships with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from vlm_server import vlm_server

from zsad.cli import app
from zsad.datasets import open_dataset
from zsad.evaluation.kinds import evaluate_kinds

SIDE = 64


def picture(kind: str, seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(10, 30, (SIDE, SIDE, 3)).astype(np.uint8)
    y, x = draw.integers(8, 30, 2)
    if kind == "spot":
        pixels[y : y + 16, x : x + 16] = 250
    if kind == "grid":
        pixels[y : y + 16 : 2, x : x + 16] = 250
    return Image.fromarray(pixels)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for kind, count in (("spot", 3), ("grid", 3), ("good", 4)):
        for i in range(count):
            picture(kind, i).save(tmp_path / f"{kind}{i}.png")
    small = ("--batch", "off", "--set", "tower=small")
    done = run("predict", str(tmp_path), *small, "--out", str(tmp_path / "out"), "--threshold", "0.2")
    assert done.exit_code == 0, done.output
    return tmp_path / "out"


def rows_of(results: Path) -> dict[str, Any]:
    lines = (results / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_kinds_of_a_run(results: Path, tmp_path: Path) -> None:
    before = rows_of(results)
    done = run("kinds", str(results), "--kinds", "2")
    assert done.exit_code == 0, done.output
    after = rows_of(results)
    assert {name: {k: v for k, v in row.items() if k != "kind"} for name, row in after.items()} == before
    assert all((row["kind"] is None) == (row["pred_label"] == "normal") for row in after.values())
    flagged = {row["kind"] for row in after.values() if row["pred_label"] == "anomalous"}
    assert flagged <= {"kind 1", "kind 2", "new"}
    header, *lines = (results / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert header.endswith(",kind")
    assert len(lines) == len(after)
    again = run("kinds", str(results), "--rename", "kind 1=spot", "--rename", "kind 2=spot", "--json")
    assert set(json.loads(again.stdout)["kinds"]) <= {"spot", "new"}
    report = (results / "report.html").read_text(encoding="utf-8")
    assert report.count('id="kinds"') == 1
    assert "spot" in report
    known = run("kinds", str(results), "--like", str(results))
    assert known.exit_code == 0, known.output
    assert "kind 1" not in known.stdout
    facts = json.loads((results / "kinds.json").read_text(encoding="utf-8"))
    assert len(facts["regions"]) >= 6


@pytest.mark.slow
def test_a_model_names_the_kinds(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_API_KEY", "sk-secret")

    def plan(number: int, _: dict[str, Any]) -> str:
        return json.dumps({"name": "bright spot"}) if number == 1 else "no idea"

    with vlm_server(plan) as server:
        address = ("--endpoint", server.url, "--model", "tiny")
        done = run("kinds", str(results), "--kinds", "2", *address, "--json")
        refused = run("kinds", str(results), *address, "--rename", "a=b")
        bare = run("kinds", str(results), "--endpoint", server.url)
    assert done.exit_code == 3, done.output
    source = results.parent.resolve()
    first = f"Pictures go to {server.url} (model tiny). Contact sheets of 2 kinds of '{source}'."
    assert done.stderr.startswith(first + "\n2 kinds to name: 2 images to send, about")
    assert "kind 2 keeps its name: the answer was twice not of the form" in done.stderr
    assert set(json.loads(done.stdout)["unnamed"]) == {"kind 2"}
    assert len(server.requests) == 3
    assert "bright spot" in {row["kind"] for row in rows_of(results).values()}
    assert "bright spot" in (results / "report.html").read_text(encoding="utf-8")
    everything = b"".join(path.read_bytes() for path in results.rglob("*") if path.is_file())
    assert b"sk-secret" not in everything + (done.output + refused.output).encode()
    assert "names were given (--like, --rename)" in " ".join(refused.output.split())
    assert "--endpoint was given without a model's name" in " ".join(bare.output.split())
    for path in results.parent.glob("*.png"):
        path.touch()
    changed = run("kinds", str(results), "--kinds", "2")
    assert (
        "None of the flagged pictures can be read again. The first: 'grid0.png' is not the file that was scored"
        in changed.output
    )


@pytest.mark.slow
def test_what_cannot_be_grouped(results: Path, tmp_path: Path) -> None:
    def message(*words: str) -> str:
        done = run("kinds", *words)
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    assert "holds no results with maps" in message(str(tmp_path / "nothing"))
    assert "--kinds and --like were both given" in message(str(results), "--kinds", "2", "--like", str(results))
    assert "--rename takes OLD=NEW" in message(str(results), "--rename", "scratch")
    assert "holds no kinds that can be read" in message(str(results), "--like", str(tmp_path))
    assert "40 kinds of" in message(str(results), "--kinds", "40")
    for name, threshold, text in (("none", "9", "No picture of"), ("one", "0", "there is 1 region")):
        out = tmp_path / name
        source = tmp_path / ("spot0.png" if name == "one" else "good0.png")
        run("predict", str(source), "--out", str(out), "--threshold", threshold)
        assert text in message(str(out))
    for path in (results / ".zsad/maps").rglob("*.npz"):
        path.unlink()
    assert "The stored map of" in message(str(results))


@pytest.mark.slow
def test_agreement_with_labels(tmp_path: Path) -> None:
    for kind in ("spot", "grid", "good"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        for i in range(3):
            picture(kind, i).save(tmp_path / "test" / kind / f"{i}.png")
    [row] = evaluate_kinds("compact", open_dataset(tmp_path, split=None), "true", tower="small")
    assert (row.pictures, row.kinds) == (6, 2)
    assert 0 <= row.regions.f1 <= 1
    done = run("evaluate", "--data", str(tmp_path), "--out", str(tmp_path / "e"), "--group-kinds", "--set", "tower=small")
    assert done.exit_code == 0, done.output
    assert "k-means on whole pictures" in done.output
    assert "nmi" in done.output
