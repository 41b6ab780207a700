"""What holds for the page and for the endpoints alike: errors as sentences, words, and no download without consent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

import zsad
from zsad_demo import lab
from zsad_demo.facts import Offer
from zsad_demo.uploads import Refused


def polite(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Turns what has a sentence into that sentence on the page, escaped; the rest stays an error of the server."""

    def sentence(error: Exception) -> gr.Error:
        return gr.Error(escape(str(error), quote=False), title="Not done", print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from handler(*args, **kwargs)
            except (Refused, zsad.ZsadError) as error:
                raise sentence(error) from None

        return steps

    @functools.wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except (Refused, zsad.ZsadError) as error:
            raise sentence(error) from None

    return run


def words_for(offer: Offer, text: str) -> tuple[str, ...]:
    """The defect words. Raises ``Refused`` where the method takes none."""
    words = lab.words_of(text)
    if words and not offer.words:
        raise Refused(f"{offer.name} takes no defect words, so they would do nothing. Clear the field, or choose compact.")
    return words


def allowed(offer: Offer, agreed: bool) -> None:
    """Raises ``Refused`` where a method cannot score here, or would download what nobody agreed to."""
    if not offer.usable:
        raise Refused(f"{offer.name}: {offer.note}")
    if offer.download and not agreed:
        raise Refused(
            f"{offer.name} needs {offer.download:.0f} MB that are not here. Tick 'Download it now', or choose compact."
        )
