"""Prompt sets from a language model, and sentences that are chosen for each picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from vlm_server import pictures_of, vlm_server

from zsad import Inspector
from zsad.cli import app
from zsad.errors import UsageError
from zsad.prompts.adaptive import adaptive_text, kept_sentences
from zsad.prompts.prompt_set import PromptSet
from zsad.runs.prompt_effects import variant

LISTS = {
    "flawless": ["an even surface", "straight edges", "a round hole"],
    "flawed": ["a bent edge", "deep scratches", 'a "missing" tooth'],
}


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def generate(url: str, out: Path, *more: object) -> Any:
    return run("prompts", "generate", "--target", "metal nut", "--endpoint", url, "--model", "tiny", "--out", out, *more)


@pytest.mark.slow
def test_a_generated_file_is_a_prompt_set_that_a_text_method_takes(tmp_path: Path) -> None:
    out = tmp_path / "nut.toml"
    with vlm_server(lambda number, _: json.dumps(LISTS) if number == 2 else "an even surface") as server:
        done = generate(server.url, out)
        assert done.exit_code == 0, done.output
        there = generate(server.url, out)
    assert len(server.requests) == 2
    assert not any(map(pictures_of, server.requests))
    assert there.exit_code == 2
    assert "is there already" in there.output
    assert done.output.startswith(f"The name 'metal nut' goes to {server.url}")
    assert "  metal nut with a bent edge\n" in done.stdout
    sentences = PromptSet.pair(str(out), "metal nut")
    assert 'a photo of a metal nut with a "missing" tooth.' in sentences["anomalous"]
    assert {kind: len(lines) for kind, lines in sentences.items()} == {"normal": 16, "anomalous": 16}
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    options = ("--method", "winclip", "--backbone", "tiny", "--target", "metal nut", "--prompts", out, "--adaptive-prompts")
    scored = run("predict", tmp_path / "a.png", "--out", tmp_path / "out", *options)
    assert scored.exit_code == 0, scored.output
    detector = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))["detector"]
    assert detector["sentences"] == {kind: list(lines) for kind, lines in sentences.items()}
    assert detector["arguments"]["adaptive_prompts"] is True
    shown = run("prompts", "winclip", "--backbone", "tiny", "--target", "metal nut", "--set", f"prompts={out}", "--json")
    assert json.loads(shown.stdout)["sentences"] == {kind: list(lines) for kind, lines in sentences.items()}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"flawed": LISTS["flawed"][:2]}, "flawed: List should have at least 3"),
        ({"flawed": LISTS["flawless"]}, "a property stands there twice"),
        ({"flawed": ["{}", "abc", "def"]}, "flawed.0"),
        ({"flawed": ["a " * 9 + "x", "abc", "def"]}, "more than 8 words"),
    ],
)
def test_lists_that_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    with vlm_server(lambda *_: json.dumps(LISTS | change)) as server:
        done = generate(server.url, tmp_path / "nut.toml")
    assert done.exit_code == 2
    assert "gave no list of properties in two tries" in " ".join(done.output.split())
    assert why in " ".join(done.output.split())
    assert not (tmp_path / "nut.toml").exists()


def test_what_generate_and_prompts_refuse(tmp_path: Path) -> None:
    def message(*words: object) -> str:
        done = run(*words)
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    asked = ("prompts", "generate", "--target", "nut", "--out", tmp_path / "a.toml")
    assert "Give --endpoint URL and --model NAME" in message(*asked)
    assert "does not end in .toml" in message(*asked[:-1], tmp_path / "a.txt", "--endpoint", "http://x", "--model", "m")
    with vlm_server(lambda *_: "401") as server:
        assert "gave no answer: it answers 401" in message(*asked, "--endpoint", server.url, "--model", "m")
    assert "compact takes no prompt set, so --prompts" in message("predict", tmp_path, "--prompts", "a.toml")
    assert "compact takes no adaptive prompts, so --adaptive" in message("predict", tmp_path, "--adaptive-prompts")


# ------------------------------------------------------------------ chosen for each picture
def test_sentences_of_the_other_list_and_those_not_borne_out_are_left_out() -> None:
    normal = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0.1]])  # the third lies with the anomalous ones
    anomalous = torch.tensor([[0, 1.0, 0], [0, 0.9, 0.4], [0, 0.8, -0.6], [0, 0.95, 0.1]])
    images = torch.tensor([[0.2, 1, 0.5], [0.2, 1, -0.5]])
    kept = kept_sentences(images, {"normal": normal, "anomalous": anomalous})
    assert kept["normal"].tolist() == [[True, True, False]] * 2
    assert kept["anomalous"][0].tolist() == [True, True, False, True]  # the third turns away from the first picture
    assert kept["anomalous"][1].tolist() == [True, False, True, True]
    text = adaptive_text(images, {"normal": normal, "anomalous": anomalous})
    assert torch.allclose(text[0, 0], normal[:2].mean(0))
    assert torch.allclose(text[1, 1], anomalous[[0, 2, 3]].mean(0))


def test_equal_sentences_and_single_ones_stay() -> None:
    one = torch.tensor([[1.0, 2.0]])
    assert adaptive_text(one, {"normal": one, "anomalous": -one}).tolist() == [[[1, 2], [-1, -2]]]
    same = torch.randn(1, 8).expand(5, 8)
    assert kept_sentences(torch.randn(3, 8), {"normal": same, "anomalous": same})["normal"].all()


@pytest.mark.slow
def test_the_prompt_lab_shows_adaptive_prompts_beside_all_of_them() -> None:
    pictures = [np.random.default_rng(index).integers(0, 256, (48, 48, 3)).astype(np.uint8) for index in range(2)]
    plain = Inspector("winclip", "nut", backbone="tiny", batch=False)
    adaptive = Inspector("winclip", "nut", backbone="tiny", batch=False, adaptive_prompts=True)
    scores = [[result.pred_score for result in one(pictures)] for one in (plain, adaptive, variant(plain, adaptive=True))]
    assert scores[1] == pytest.approx(scores[2])
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)
    with pytest.raises(UsageError, match="chooses no sentences for each picture"):
        variant(Inspector("compact"), adaptive=True)
