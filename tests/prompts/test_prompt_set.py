"""Prompt sets and their ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import SourceNotFound, UnknownName, UsageError
from zsad.prompts.prompt_set import PromptSet, encode_ensemble


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tiny")


def test_states_times_templates() -> None:
    prompts = PromptSet({"normal": ("{}", "good {}"), "anomalous": ("bad {}",)}, ("a {}.", "the {}!"))
    assert prompts.sentences("nut") == {
        "normal": ("a nut.", "the nut!", "a good nut.", "the good nut!"),
        "anomalous": ("a bad nut.", "the bad nut!"),
    }


def test_winclip_has_231_sentences() -> None:
    found = PromptSet.load("winclip").sentences("nut")
    assert (len(found["normal"]), len(found["anomalous"])) == (147, 84)


@pytest.mark.parametrize("mode", ["none", "before", "after", "both"])
def test_ensemble_by_hand(tiny: Any, mode: str) -> None:
    lines = ["a nut.", "a nut.", "a bolt."]  # a repeated sentence counts twice
    raw = torch.stack([tiny.encode_text([line])[0] for line in lines])
    mean = (F.normalize(raw, dim=-1) if mode in ("before", "both") else raw).mean(dim=0)
    expected = F.normalize(mean, dim=-1) if mode in ("after", "both") else mean
    found = encode_ensemble(tiny, [lines, ["x"]], normalize=mode)
    assert found.shape == (1, 2, 32)
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-6)


def test_ensemble_refuses_other_modes(tiny: Any) -> None:
    with pytest.raises(UsageError, match="choose 'before', 'after', 'both' or 'none'"):
        encode_ensemble(tiny, [["x"]], normalize="later")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no toml at all [", "is no prompt set"),
        ('templates = ["{}"]', "needs a list 'templates' and a table"),
        ('templates = []\n[states]\nnormal = ["{}"]', "'templates' is empty"),
        ('templates = ["a {} and {}"]\n[states]\nnormal = ["{}"]', "needs exactly one {}"),
        ('templates = ["a {}"]\n[states]\nnormal = ["good"]', "'good' in 'normal' needs exactly one {}"),
        ('templates = ["a {}"]\nstates = ["x"]', "is no prompt set"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UsageError, match=message.replace("{", r"\{")):
        PromptSet.load(tmp_path / "own.toml")


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no prompt set at"):
        PromptSet.load(tmp_path / "own.toml")
    with pytest.raises(UnknownName, match="No prompt set is called 'winclipp'.*Did you mean 'winclip'"):
        PromptSet.load("winclipp")
