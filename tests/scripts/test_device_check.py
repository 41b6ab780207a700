"""The script for machines with an accelerator, run on the CPU: its tables and its verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import zsad
from zsad.types import Prediction

pytestmark = pytest.mark.slow


@pytest.fixture
def devices(root: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import devices

    return devices


def test_the_figures_of_a_method(devices: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    words = ["--device", "cpu", "--method", "anomalyclip", "--backbone", "tiny", "--pictures", "1", "--rounds", "1"]
    monkeypatch.setattr(devices, "COMPARED", 1)
    monkeypatch.setattr(sys, "argv", ["devices.py", *words, "--json", str(tmp_path / "figures.json")])
    devices.main()  # type: ignore[attr-defined]
    row = json.loads((tmp_path / "figures.json").read_text())["methods"][0]
    assert row["fp32_score"] == row["fp32_map"] == 0
    assert 0 < row["bf16_map"] < 0.5
    assert row["fp32_per_second"] > 0
    assert "| ok |" in capsys.readouterr().out  # type: ignore[attr-defined]


def test_another_answer_on_the_device_is_seen(devices: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second forward pass, the device's, is off by 1 %."""
    detector = zsad.create("anomalyclip", backbone="tiny")
    right, calls = type(detector).score, []

    def score(self: object, features: object, context: object) -> Prediction:
        found = right(self, features, context)
        calls.append(1)
        return found if len(calls) == 1 else Prediction(found.pred_score * 1.01, found.anomaly_map)

    monkeypatch.setattr(type(detector), "score", score)
    monkeypatch.setattr(devices, "build", lambda *_: detector)
    given = type("Given", (), {"backbone": "tiny", "precision": ["fp32"], "pictures": 1, "rounds": 1, "compile": False})
    row = devices.row_of("winclip", torch.device("cpu"), given)  # type: ignore[attr-defined]
    assert row["fp32_score"] == pytest.approx(0.01, rel=1e-3)
    assert devices.printed(row)["equal"] == "no"  # type: ignore[attr-defined]


def test_a_method_that_fails_is_a_row(devices: object) -> None:
    given = type("Given", (), {"backbone": "nowhere", "precision": ["fp32"], "pictures": 1, "rounds": 1, "compile": False})
    row = devices.row_of("winclip", torch.device("cpu"), given)  # type: ignore[attr-defined]
    assert "nowhere" in devices.printed(row)["tower"]  # type: ignore[attr-defined]
