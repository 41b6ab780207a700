"""--dry-run states what would be scored, how long about and in how much memory, and loads, scores and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from brightness import folder_of, picture
from typer.testing import CliRunner

from zsad import registry
from zsad.cli import app


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(registry, "create", refuse)
    monkeypatch.setattr(registry, "load_backbone", refuse)
    monkeypatch.setattr("zsad.inference.settings.create", refuse)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder_of(tmp_path / "in", 12)
    picture(0.3, size=(200, 100)).save(tmp_path / "in/a.JPG")
    (tmp_path / "in/broken.tif").write_bytes(b"no picture")
    return tmp_path / "in"


def dry_run(source: Path, *arguments: object) -> str:
    done = CliRunner().invoke(app, ["predict", str(source), "--dry-run", "--device", "cpu", *map(str, arguments)])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def plan(source: Path, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dry_run(source, "--json", *arguments))
    return found


def test_lines_for_a_person(source: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    lines = dry_run(source, "--out", tmp_path / "out").splitlines()
    size = sum(path.stat().st_size for path in source.iterdir())
    assert lines[0] == f"Would score 14 pictures ({size / 1e3:.3g} kB): 12 .png, 1 .jpg, 1 .tif."
    assert lines[1] == "Detector: compact on compact, cpu, batches of 8; compared with each other."
    assert lines[2].startswith("Time: about ")
    assert lines[2].endswith(" (benchmarks/folder.py on two CPU threads).")
    assert lines[3:] == ["Memory: about 830 MB.", "Nothing was loaded, scored or written."]
    assert sorted(tmp_path.rglob("*")) == before


def test_json_for_a_program(source: Path, tmp_path: Path) -> None:
    found = plan(source, "--out", tmp_path / "out", "--method", "winclip", "--batch-size", 2)
    assert found["dry_run"] is True
    assert (found["pictures"], found["by_ending"]) == (14, {".png": 12, ".jpg": 1, ".tif": 1})
    assert found["bytes"] == sum(path.stat().st_size for path in source.iterdir())
    assert (found["method"], found["backbone"]) == ("winclip", "ViT-B-16-plus-240.laion400m_e32")
    assert (found["batch_size"], found["compared_with_each_other"], found["out_holds_a_run"]) == (2, False, False)
    assert 208e6 * 4 < found["memory_bytes"] < 2e9


@pytest.mark.slow
def test_time_follows_pictures_methods_and_tiles(source: Path) -> None:
    seconds = {method: plan(source, "--method", method)["seconds"] for method in ("compact", "winclip", "anomalyclip", "musc")}
    assert seconds["compact"] < seconds["winclip"]
    assert seconds["compact"] < seconds["anomalyclip"] < seconds["musc"]
    assert plan(source, "--method", "musc", "--set", "pool=2")["seconds"] < seconds["musc"]
    tiled = plan(source, "--tile", "32")
    assert tiled["tiles_per_picture"] > 8
    assert tiled["seconds"] > 5 * seconds["compact"]
    assert plan(source, "--batch", "off")["seconds"] < seconds["compact"]
    with_references = plan(source, "--references", source)
    assert (with_references["references"], with_references["compared_with_each_other"]) == (14, False)
    unknown = plan(source, "--method", "musc", "--backbone", "hf:org/name")
    assert (unknown["seconds"], unknown["memory_bytes"]) == (None, None)
    assert "Time and memory: not known; no figure of this method and encoder is at hand." in dry_run(
        source, "--method", "musc", "--backbone", "hf:org/name"
    )


def test_what_a_run_holds_already(source: Path, tmp_path: Path) -> None:
    out = source / "out"
    (out / ".zsad").mkdir(parents=True)
    (out / "overlays").mkdir()
    picture(0.3).save(out / "overlays/00.png")
    (out / ".zsad/records.jsonl").write_text("{}\n" * 5)
    fresh, resumed = plan(source, "--out", out), plan(source, "--out", out, "--resume")
    assert (fresh["pictures"], fresh["output_of_earlier_runs"], fresh["on_record"]) == (14, 1, 0)
    assert (resumed["on_record"], resumed["seconds"] < fresh["seconds"]) == (5, True)
    assert f"{out} holds a run already: it needs --resume or --overwrite." in dry_run(source, "--out", out)
    assert f"Scored already in {out}: 5 pictures." in dry_run(source, "--out", out, "--resume")
    assert "Left out as output of earlier runs: 1 picture." in dry_run(source, "--out", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "There is nothing at 'nowhere'"), ([".", "--method", "no"], "No method is called 'no'")],
    ids=["source", "method"],
)
def test_what_is_wrong_is_a_sentence(arguments: list[str], message: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    done = CliRunner().invoke(app, ["predict", *arguments, "--dry-run"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
