"""Every registered method is covered the moment its file exists."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from checks import CHECKS
from tiny_methods import on_tiny_tower, shallow

import zsad

DEEP = {"anomalyclip", "crane", "filo"}  # whose gradients come to all they learn on a tower of twelve layers alone


@cache
def build(name: str) -> Any:
    """A method on a tiny backbone; one that has a backbone of its own runs on that."""
    torch.manual_seed(0)  # of weights that are not learned yet
    with pytest.MonkeyPatch.context() as patch:
        if name not in DEEP:
            shallow(patch)
        return on_tiny_tower(name, 112)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", zsad.list_methods())
def test_contract(name: str, check: str) -> None:
    CHECKS[check](build(name))
