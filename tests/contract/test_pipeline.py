"""Every command with every registered method, on small encoders: the next method is covered the moment its file exists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated import write_set
from command_runs import normal_pictures, results, run
from tiny_methods import LEARNED, SIDE, TRAINED_FORM, options_of, shared_towers, small_recipes, tiny_method
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.registry import method_class
from zsad.training.setup import named_parameters

pytestmark = pytest.mark.slow
MANY = {"musc"}  # needs more than three pictures
TILES = {"musc": ["--set", "rscin_k=()"]}  # what a method needs so that the scores of tiles can be compared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of three normal and two anomalous pictures."""
    return write_set(tmp_path_factory.mktemp("set") / "parts", good=3, bad=2)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of two normal pictures and an anomalous one."""
    return write_set(tmp_path_factory.mktemp("few") / "parts", good=2, bad=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_recipes(monkeypatch)
    shared_towers(monkeypatch)


def shown(method: str, data: Path) -> list[str]:
    """Options with references for methods that score with some alone."""
    return ["--references", str(normal_pictures(method, data))] if method_class(method).needs_references else []


@pytest.mark.parametrize("method", zsad.list_methods())
def test_predict_with_tiles_and_a_region_resumes(method: str, data: Path, weights: Path, tmp_path: Path) -> None:
    pictures = data / ("nut/test" if method in MANY else "nut/test/good")
    count = len(list(pictures.rglob("*.png")))
    options = [
        pictures,
        "--target",
        "nut",
        *options_of(method, weights),
        "--maps",
        "npy",
        *TILES.get(method, []),
        *shown(method, data),
    ]
    options += ["--tile", "64", "--roi", "10%,10%,90%,90%", "--batch-size", "1"]
    run("predict", *options, "--out", tmp_path)
    whole = results(tmp_path)
    rows = [json.loads(line) for line in whole["predictions.jsonl"].splitlines()]
    assert [row["error"] for row in rows] == [None] * count
    maps = sorted((tmp_path / "maps").rglob("*.npy"))
    assert len(maps) == count
    for path in maps:
        anomaly_map = np.load(path)
        assert anomaly_map.shape == (96, 96)
        assert np.isnan(anomaly_map[0]).all()
        assert np.isfinite(anomaly_map[48, 20:80]).all()
    records = tmp_path / ".zsad/records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:1]))
    run("predict", *options, "--out", tmp_path, "--resume")
    assert results(tmp_path) == whole


@pytest.mark.parametrize("method", zsad.list_methods())
def test_calibrated_verdicts_with_references(method: str, data: Path, weights: Path, tmp_path: Path) -> None:
    options = [*options_of(method, weights), "--target", "nut", "--references", normal_pictures(method, data)]
    calibrate = [
        "--normal",
        data / "nut/test/good",
        *options,
        "--out",
        tmp_path / "calibration.json",
        "--max-false-alarms",
        "0.5",
    ]
    detector = tiny_method(method)
    size = detector.backbone.image_size
    picture = torch.zeros(1, 3, size, size)
    if detector.needs_set(detector.prepare("nut", zsad.References(picture))):
        done = CliRunner().invoke(app, ["calibrate", *map(str, calibrate)])
        assert done.exit_code == 2
        assert "so a score depends on the others and no false-alarm rate can be guaranteed" in done.output
        return
    run("calibrate", *calibrate)
    bad = data / "nut/test/defect"
    run("predict", bad, *options, "--calibration", tmp_path / "calibration.json", "--out", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert {row["pred_label"] for row in rows} <= {"normal", "anomalous", "review"}
    assert all(row["threshold"] is not None for row in rows)


@pytest.mark.parametrize("method", zsad.list_methods())
def test_evaluate(method: str, data: Path, few: Path, weights: Path, tmp_path: Path) -> None:
    out, needed = tmp_path / "out", method_class(method).needs_references
    shots = ["--shots", needed] if needed else []
    run(
        "evaluate",
        "--data",
        data if method in MANY else few,
        *options_of(method, weights),
        "--out",
        out,
        "--map-size",
        "64",
        *shots,
    )
    found = json.loads((out / "metrics.json").read_text())
    assert set(found["categories"]) == {"nut", "tile"}
    assert found["mean"]["pixel_auroc"] is not None


@pytest.mark.parametrize("method", LEARNED)
def test_finetune(method: str, data: Path, weights: Path, tmp_path: Path) -> None:
    options = [one for one in options_of(method, weights)[1:] if one != "--checkpoint" and not one.endswith(".safetensors")]
    form = TRAINED_FORM.get(method, {})
    options += [part for key, value in form.items() for part in ("--set", f"{key}={value}")]
    detector = tiny_method(method, **form)
    few = max(1, len(detector.schedule.phases))
    run("finetune", *options, "--data", data, "--out", tmp_path, "--epochs", few, "--batch-size", 4, "--device", "cpu")
    learned = zsad.from_pretrained(tmp_path, backbone=detector.backbone)
    assert learned.trained
    if named_parameters(learned):
        assert len(learned.header["losses"]) == few
    reference = normal_pictures(method, data) if learned.needs_references else None
    assert [found.error for found in zsad.Inspector(learned, "nut", references=reference)(data / "nut/test/defect")] == [
        None
    ] * 2


def test_the_side_is_the_backbones() -> None:
    assert tiny_method("winclip").backbone.image_size == SIDE
