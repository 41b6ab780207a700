"""Checks the types of arguments against a function's annotations, so that a wrong one is a clear error at the call."""

from __future__ import annotations

import ast
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from zsad.errors import UsageError

__all__ = ["checked", "fits", "in_words"]

P = ParamSpec("P")
R = TypeVar("R")
# by annotation: the types that are taken (an integer is a number, a bool is neither), and their name in messages
KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "a text"),
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "Path": (os.PathLike, "a path"),
    "tuple": ((tuple, list), "a tuple"),
}
SHOWN = 60  # characters of a refused value


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that compares arguments with the function's annotations and raises ``UsageError`` for other types.

    Checked are the types of ``KINDS``, classes, None, unions, ``Literal`` and the items of sequences. Of a protocol the
    methods have to be there. Other annotations are not checked.
    """
    signature = inspect.signature(function)
    scope: Mapping[str, Any] = getattr(function, "__globals__", {})
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for key, value in signature.bind(*args, **kwargs).arguments.items():
            parameter = signature.parameters[key]
            if parameter.kind is parameter.VAR_KEYWORD or parameter.annotation is parameter.empty:
                continue
            if not fits(value, parameter.annotation, scope):
                shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}..."
                wanted = in_words(parameter.annotation)
                raise UsageError(f"{key} of {name} takes {wanted}; got {shown} ({type(value).__name__}).")
        return function(*args, **kwargs)

    return run


def fits(value: Any, annotation: str, scope: Mapping[str, Any]) -> bool:
    """Whether a value fits an annotation; True where the annotation is not checked.

    Args:
        value: what was given.
        annotation: as in the source, such as ``"tuple[int, ...] | None"``.
        scope: names of its module.
    """
    return _fits(value, ast.parse(annotation, mode="eval").body, scope)


def in_words(annotation: str) -> str:
    """An annotation in words, for messages: "a number or None"."""
    *parts, last = [_word(node) for node in _members(ast.parse(annotation, mode="eval").body)]
    return f"{', '.join(parts)} or {last}" if parts else last


def _members(node: ast.expr) -> list[ast.expr]:
    return [*_members(node.left), *_members(node.right)] if isinstance(node, ast.BinOp) else [node]


def _word(node: ast.expr) -> str:
    text = ast.unparse(node)
    if text in KINDS:
        return KINDS[text][1]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and ast.unparse(node.value) == "Literal":
        return " or ".join(map(ast.unparse, node.slice.elts))
    return text


def _fits(value: Any, node: ast.expr, scope: Mapping[str, Any]) -> bool:
    if isinstance(node, ast.BinOp):
        return any(_fits(value, one, scope) for one in _members(node))
    if isinstance(node, ast.Constant):
        return bool(value == node.value) if node.value is not None else value is None
    if not isinstance(node, ast.Subscript):
        return _is(value, ast.unparse(node), scope)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if ast.unparse(node.value) == "Literal":
        return isinstance(value, str) and any(_fits(value, one, scope) for one in inner)
    if not _is(value, ast.unparse(node.value), scope):
        return False
    return not isinstance(value, (list, tuple)) or all(_fits(one, inner[0], scope) for one in value)


def _is(value: Any, name: str, scope: Mapping[str, Any]) -> bool:
    if name in KINDS:
        return isinstance(value, KINDS[name][0]) and (name == "bool" or not isinstance(value, bool))
    first, *rest = name.split(".")
    found: Any = functools.reduce(lambda place, part: getattr(place, part, None), rest, scope.get(first))
    if found is Any or not isinstance(found, type):
        return True
    if getattr(found, "_is_protocol", False):
        return all(hasattr(value, key) for key, one in vars(found).items() if inspect.isfunction(one) and key[0] != "_")
    return isinstance(value, found)
