"""CLIP's byte-pair tokens, by open_clip's tokenizer (its vocabulary ships inside open_clip, nothing is downloaded)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

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
    return _tokenizer_module().SimpleTokenizer()


def _tokenizer_module() -> ModuleType:
    """``open_clip.tokenizer``, without the rest of open_clip where that is not loaded yet.

    The package imports timm, transformers and torchvision, which takes four times as long as torch; the tokenizer's file needs
    none of them.
    """
    package = importlib.util.find_spec("open_clip")  # finds it and runs nothing
    if "open_clip" not in sys.modules and package is not None and package.origin:
        file = Path(package.origin).with_name("tokenizer.py")
        spec = importlib.util.spec_from_file_location("zsad_clip_tokenizer", file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    from open_clip import tokenizer

    return cast(ModuleType, tokenizer)
