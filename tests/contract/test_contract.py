"""Every registered method is covered the moment its file exists."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from checks import CHECKS

import zsad


@cache
def build(name: str) -> Any:
    """A method on a tiny backbone; one that has a backbone of its own runs on that."""
    torch.manual_seed(0)  # of weights that are not learned yet
    recipe = zsad.registry.method_class(name).recipe
    if recipe.backbone in zsad.list_backbones():
        return zsad.create(name)
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding}
    return zsad.create(name, backbone=zsad.load_backbone("tiny", image_size=112, **options))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", zsad.list_methods())
def test_contract(name: str, check: str) -> None:
    CHECKS[check](build(name))
