"""Checkpoints as people have them: from several GPUs, wrapped, or something else under the name of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zsad.errors import CheckpointMismatch
from zsad.weights.checkpoints import read_header, read_state_dict

STATE = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}


@pytest.mark.parametrize(
    "content",
    [
        {f"module.{key}": tensor for key, tensor in STATE.items()},
        {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        {"model": {f"module.{key}": tensor for key, tensor in STATE.items()}, "lr": 0.1},
        {"model_state_dict": {"state_dict": STATE}},
    ],
    ids=["parallel", "wrapped", "both", "twice"],
)
def test_common_forms_are_plain_tensors(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth").keys() == STATE.keys()


def test_named_groups_stay_and_lose_the_prefix(tmp_path: Path) -> None:
    torch.save({"prompt_learner": {f"module.{key}": tensor for key, tensor in STATE.items()}}, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth")["prompt_learner"].keys() == STATE.keys()


def test_a_module_of_that_name_among_others_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "head.a": torch.ones(1), "model": torch.ones(1)}, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth").keys() == {"module.a", "head.a", "model"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a page of HTML, no file of weights"),
        (b"<html><body>login</body></html>", "is a page of HTML"),
        (b"", "is empty, no file of weights"),
        (b'{"error": "not found"}', "is a text"),
    ],
)
def test_what_is_no_file_of_weights_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointMismatch, match=f"x.pth {message}"):
        read_state_dict(tmp_path / "x.pth")


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {"zsad": "{broken"})
    with pytest.raises(CheckpointMismatch, match="header of x.safetensors is damaged"):
        read_header(tmp_path / "x.safetensors")
