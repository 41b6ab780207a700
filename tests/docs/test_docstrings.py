"""Every public object documents its parameters, and its methods say what they do."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import zsad

LONG = 2  # a method with more parameters lists them, or names them in its sentences; fewer follow from their names
FIELD = re.compile(r"    (\w+): .+?  # .+")  # a field of a dataclass that a comment explains, which the site shows
HEADS = ("Args:", "Attributes:")


def documented(text: str) -> set[str]:
    """Names that have a line of their own below ``Args`` or ``Attributes``."""
    found: set[str] = set()
    inside = False
    for line in text.splitlines():
        if re.match(r"\S", line):
            inside = line.strip() in HEADS
        elif inside and (entry := re.match(r" {4}(\*{0,2}\w+(?:, \w+)*):", line)):
            found |= {name.strip("* ") for name in entry[1].split(",")}
    return found


def parameters(callable_: Callable[..., Any]) -> list[str]:
    """Names of the parameters, without self."""
    return [name for name in inspect.signature(callable_).parameters if name not in ("self", "cls", "args", "kwargs")]


def problems(name: str, value: Any) -> list[str]:
    """What the documentation of a public object lacks."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and issubclass(value, Exception):
        return [] if text else [f"{name} has no docstring"]
    wanted = set(parameters(value))
    if dataclasses.is_dataclass(value):
        wanted -= {one[1] for line in inspect.getsource(value).splitlines() if (one := FIELD.match(line))}
    found = (
        [f"{name}: {one} is not documented" for one in sorted(wanted - documented(text))]
        if text
        else [f"{name} has no docstring"]
    )
    if inspect.isclass(value):
        found += [line for key, one in vars(value).items() for line in method_problems(value, key, one)]
    return found


def method_problems(owner: type, name: str, value: Any) -> list[str]:
    """What the documentation of a public method lacks."""
    made = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    if name.startswith("_") or not inspect.isfunction(made):
        return []
    text, wanted = inspect.getdoc(made) or "", parameters(made)
    if not text:
        return [f"{owner.__name__}.{name} has no docstring"]
    missing = set(wanted) - documented(text) - set(re.findall(r"``(\w+)``", text)) if len(wanted) > LONG else set()
    return [f"{owner.__name__}.{name}: {one} is not documented" for one in sorted(missing)]


@pytest.mark.parametrize("name", zsad.__all__)
def test_a_public_object_documents_its_parameters(name: str) -> None:
    assert problems(name, getattr(zsad, name)) == []


def test_what_is_missing_is_found() -> None:
    class Bad:
        """Says nothing of its argument."""

        def __init__(self, side: int, other: int) -> None: ...

        def cut(self, first: int, second: int, third: int) -> None:
            """Cuts.

            Args:
                first: one.
            """

        def bare(self) -> None: ...

    assert problems("Bad", Bad) == [
        "Bad: other is not documented",
        "Bad: side is not documented",
        "Bad.cut: second is not documented",
        "Bad.cut: third is not documented",
        "Bad.bare has no docstring",
    ]
    assert documented("One.\n\nArgs:\n    a, b: two.\n        c: deeper.\n    **d: more.\n\nReturns:\n    e: no.") == {
        "a",
        "b",
        "d",
    }
