"""Checks of requests that the page and the API share, and errors as messages instead of tracebacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

import zsad
from zsad_demo.methods import MethodOption
from zsad_demo.prompt_effects import split_words
from zsad_demo.uploads import Refused


def errors_as_messages(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a handler: ``Refused`` and ``ZsadError`` show their message on the page, escaped; others stay server errors."""

    def shown(error: Exception) -> gr.Error:
        return gr.Error(escape(str(error), quote=False), title="Not done", print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from handler(*args, **kwargs)
            except (Refused, zsad.ZsadError) as error:
                raise shown(error) from None

        return steps

    @functools.wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except (Refused, zsad.ZsadError) as error:
            raise shown(error) from None

    return run


def checked_words(option: MethodOption, text: str) -> tuple[str, ...]:
    """The defect words of a text field. Raises ``Refused`` where the method takes none."""
    words = split_words(text)
    if words and option.target is not None:
        raise Refused(
            f"{option.name} is an exported model, whose words are inside it. Clear the field, or choose another method."
        )
    if words and not option.words:
        raise Refused(f"{option.name} takes no defect words, so they would do nothing. Clear the field, or choose compact.")
    return words


def checked_focus(option: MethodOption, text: str) -> tuple[str, ...]:
    """The words of a field on what to look at. Raises ``Refused`` where the method cannot be steered by them."""
    words = split_words(text)
    if words and not option.focus:
        raise Refused(
            f"{option.name} has no space of texts and pictures in which words could say what to look at. Clear both fields, or "
            "choose winclip or laft."
        )
    return words


def check_method(option: MethodOption, agreed: bool) -> None:
    """Raises ``Refused`` where a method lacks its checkpoint, or needs a download that nobody agreed to."""
    if not option.usable:
        raise Refused(f"{option.name}: {option.note}")
    if option.download and not agreed:
        raise Refused(
            f"{option.name} needs {option.download:.0f} MB of weights that are not on this machine. Tick "
            f"'{option.consent}' below Method, or choose compact."
        )
