"""Object names for prompts from the names of folders, by ``prompts/classes.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from typing import Any

from zsad.common.assets import asset

__all__ = ["prompt_name"]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(asset("prompts/classes.toml").read_text(encoding="utf-8"))


def prompt_name(category: str, *, folders: Sequence[str] = (), layout: str = "", raw: bool = False) -> str:
    """The object name of a category in prompts: "pcb1" -> "printed circuit board".

    The names of a data set that is recognised by its layout or by the name of its folder come first, then the names
    that hold anywhere, then a rule: underscores and hyphens become spaces, digits at the end are dropped, and what has no
    letter left is an "object".

    Args:
        category: as the data set writes it.
        folders: names of the data set's folder and of the one above.
        layout: name of the reader.
        raw: return the category as it is, as the code of WinCLIP's and APRIL-GAN's authors does.
    """
    if raw:
        return category
    key = category.casefold()
    for entry in _table()["data_set"]:
        if layout in entry.get("layouts", ()) or any(_named(word, folder) for word in entry["folders"] for folder in folders):
            name = entry.get("names", {}).get(key, entry.get("default"))
            if name is not None:
                return str(name)
    return str(_table()["names"].get(key) or _by_rule(category))


def _named(word: str, folder: str) -> bool:
    return word in re.sub(r"[^a-z0-9]", "", folder.casefold())


def _by_rule(category: str) -> str:
    words = re.sub(r"[_\-\s]+", " ", category).strip()
    words = re.sub(r"[\d ]+$", "", words)
    return words if re.search(r"[^\W\d]", words) else "object"
