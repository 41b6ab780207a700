"""CLIP's byte-pair tokens, by open_clip's tokenizer (its vocabulary ships inside open_clip, nothing is downloaded)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast


@cache
def clip_tokenizer() -> Callable[[str], list[int]]:
    """The lower-casing, whitespace-cleaning byte-pair encoder: sentence -> ids without start, end and padding."""
    from open_clip.tokenizer import SimpleTokenizer

    return cast(Callable[[str], list[int]], SimpleTokenizer().encode)
