"""The authors' names, and what their files leave to be decided."""

from __future__ import annotations

import pytest
import torch

from zsad.errors import CheckpointMismatch
from zsad.weights.checkpoints import AuthorsFile

LAYOUT = AuthorsFile(
    {r"^clip_model\.": "", r"^fc\.(\d+)\.": r"layers.\1.", r"^(frozen\.|logit_scale$)": None}, inside=("learner", "head")
)


def tensors(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(index)) for index, name in enumerate(names)}


def test_patterns_apply_in_their_order_and_the_rest_stays() -> None:
    found = LAYOUT.own_names(tensors("clip_model.fc.3.weight", "fc.4.bias", "surplus", "clip_model.frozen.x", "logit_scale"))
    assert {key: tensor.item() for key, tensor in found.items()} == {"layers.3.weight": 0, "layers.4.bias": 1, "surplus": 2}


def test_where_the_entries_are_there_nothing_else_counts() -> None:
    inside = tensors("fc.0.weight")
    assert LAYOUT.own_names({"learner": inside, "epoch": 15}) == {"layers.0.weight": inside["fc.0.weight"]}
    both = {"learner": inside, "head": tensors("up"), "optimizer": {}}
    assert LAYOUT.own_names(both).keys() == {"layers.0.weight", "up"}
    assert LAYOUT.own_names(inside).keys() == {"layers.0.weight"}, "a file without the entry is the entry"
    assert LAYOUT.own_names({"other": inside}) == {"other": inside}, "left for the strict load to refuse"


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(CheckpointMismatch, match=r"has layers\.0\.weight twice, the second time as fc\.0\.weight\. Take one"):
        LAYOUT.own_names(tensors("clip_model.fc.0.weight", "fc.0.weight"))


def test_without_a_layout_names_stay() -> None:
    state = tensors("a", "b")
    assert AuthorsFile().own_names(state) == state
