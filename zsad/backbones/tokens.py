"""CLIP's byte-pair tokens, by open_clip's tokenizer (its vocabulary ships inside open_clip, nothing is downloaded)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from zsad.backbones.openclip_package import part

KEPT = 8192  # sentences whose tokens are kept, about 3 MB: ensembles come again with every detector of a tower's kind


@cache
def clip_tokenizer() -> Callable[[str], tuple[int, ...]]:
    """The lower-casing, whitespace-cleaning byte-pair encoder: sentence -> ids without start, end and padding."""
    encode = _tokenizer().encode
    return lru_cache(maxsize=KEPT)(lambda sentence: tuple(encode(sentence)))


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
