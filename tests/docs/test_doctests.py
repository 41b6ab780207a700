"""Every example in a docstring of the package is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import zsad

MODULES = [one.name for one in pkgutil.walk_packages(zsad.__path__, "zsad.") if not one.name.endswith("__main__")]
FEWEST = 4  # objects with an example; more are welcome


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    """Docstrings of a module with examples, those of what it imports left out."""
    return [one for one in doctest.DocTestFinder().find(module) if one.examples]


def test_examples_are_true(capsys: pytest.CaptureFixture[str]) -> None:
    found = [one for name in MODULES for one in examples_of(importlib.import_module(name))]
    for one in found:
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(one).failed == 0, capsys.readouterr().out
    assert len(found) >= FEWEST


def test_a_wrong_example_is_found() -> None:
    module = ModuleType("wrong")
    module.__doc__ = ">>> 1 + 1\n3\n"
    [one] = examples_of(module)
    assert doctest.DocTestRunner().run(one, out=lambda text: None).failed == 1
