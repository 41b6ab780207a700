"""Every registered method is covered the moment its file exists."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from checks import CHECKS

import zsad


@cache
def build(name: str) -> Any:
    """A method on a tiny backbone; one that has a backbone of its own runs on that."""
    recipe = zsad.registry.method_class(name).recipe
    return zsad.create(name, backbone=None if recipe.backbone in zsad.list_backbones() else "tiny")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", zsad.list_methods())
def test_contract(name: str, check: str) -> None:
    CHECKS[check](build(name))
