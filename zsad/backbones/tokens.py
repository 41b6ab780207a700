"""CLIP's byte-pair tokens, by open_clip's tokenizer (its vocabulary ships inside open_clip, nothing is downloaded)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from zsad.backbones.openclip_package import part


def clip_tokenizer() -> Callable[[str], list[int]]:
    """The lower-casing, whitespace-cleaning byte-pair encoder: sentence -> ids without start, end and padding."""
    return cast(Callable[[str], list[int]], _tokenizer().encode)


def unknown_pieces(text: str) -> list[int]:
    """Tokens of a text that are single bytes of a letter or sign, which no word of the vocabulary is made of."""
    tokenizer = _tokenizer()
    bytes_of = tokenizer.byte_decoder
    found = []
    for token in clip_tokenizer()(text):
        piece = bytearray(bytes_of[sign] for sign in tokenizer.decoder[token].replace("</w>", ""))
        try:
            piece.decode("utf-8")
        except UnicodeDecodeError:
            found.append(token)
    return found


@cache
def _tokenizer() -> Any:
    return part("tokenizer").SimpleTokenizer()
