"""The commands of docs/explain.md run, against the test server and a tiny model in a folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_vlm import write_tiny_vlm
from typer.testing import CliRunner
from vlm_server import GOOD, pictures_of, vlm_server

from zsad.cli import app
from zsad.explain.local import LocalModel

PAGE = Path(__file__).parents[2] / "docs/explain.md"
LISTS = {"flawless": ["straight edges", "even colour", "no gaps"], "flawed": ["a crack", "a dent", "a broken corner"]}


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalModel, "most_tokens", 5)
    (tmp_path / "photos").mkdir()
    questions = {}
    for index in range(2):
        pixels = np.random.default_rng(index).integers(10, 30, (64, 64, 3)).astype(np.uint8)
        pixels[8:24, 8:24] = 250
        Image.fromarray(pixels).save(tmp_path / f"photos/{index}.png")
        place = tmp_path / "MMAD/one/bad" / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
        asked = {
            "Question": "Is there a defect?",
            "Options": {"A": "Yes.", "B": "No."},
            "Answer": "A",
            "type": "Anomaly Detection",
        }
        questions[f"one/bad/{index}.png"] = {"conversation": [asked]}
    (tmp_path / "mmad.json").write_text(json.dumps(questions))
    write_tiny_vlm(tmp_path / "models/vlm")
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    zsad ")]
    assert len(lines) == 9

    def plan(_: int, body: dict[str, Any]) -> str:
        if "Choose one." in body["messages"][0]["content"][0]["text"]:
            return '{"answer": "A"}'
        return json.dumps(GOOD if pictures_of(body) else LISTS)

    with vlm_server(plan) as server:
        for line in lines:
            words = shlex.split(line.replace("http://localhost:8000/v1", server.url))[1:]
            words += ["--backbone", "tiny"] if "winclip" in words else []
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (line, done.output)
    assert len(server.requests) == 7  # two pictures, the lists, and two questions twice
    shown = [len(pictures_of(body)) for body in server.requests[2:6]]
    assert shown == [1, 1, 2, 2]  # without regions and with them
    rows = [json.loads(line) for line in (tmp_path / "results/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["explanation"]["model"].startswith("vlm-") for row in rows)  # of the last command
