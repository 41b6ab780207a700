"""Lists of parameters are read without torch's classes, and nothing in a file is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from zsad.errors import UnsafeCheckpoint
from zsad.weights.checkpoints import read_state_dict
from zsad.weights.parameter_lists import read_parameter_lists


def parameters() -> torch.nn.ParameterList:
    return torch.nn.ParameterList([torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5).half())])


def test_a_list_and_a_dict_of_lists(tmp_path: Path) -> None:
    own, path = parameters(), tmp_path / "prompts.pth"
    torch.save(own, path)
    found = read_state_dict(path)
    assert list(found) == ["0", "1"]
    assert all(torch.equal(found[str(index)], tensor) for index, tensor in enumerate(own))
    torch.save({"learnable_prompts": own, "epoch": 3}, path)
    found = read_state_dict(path)
    assert found["epoch"] == 3
    assert torch.equal(found["learnable_prompts"]["1"], own[1])


class Touch:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "prompts.pth", tmp_path / "was run"
    torch.save({"learnable_prompts": parameters(), "other": Touch(trace)}, path)
    with pytest.raises(UnsafeCheckpoint, match="loading it could run code"):
        read_state_dict(path)
    assert not trace.exists()
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UnsafeCheckpoint, match="loading it could run code"):
        read_state_dict(path)


def test_what_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert read_parameter_lists(path) is None
    torch.save({"a": torch.zeros(2)}, path)  # a plain state dict is torch's own reader's
    assert read_parameter_lists(path) is None
    torch.save(parameters(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:8] if name.endswith("data/0") else content)
    assert read_parameter_lists(path) is None  # a tensor is cut short
