"""Parts of open_clip that need none of the rest: its tokenizer, its list of weights, its architectures' sizes.

``import open_clip`` imports timm, transformers and torchvision, which takes several times as long as torch; none of them is
used here. Where open_clip is loaded already, its own modules are taken.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

__all__ = ["architectures", "configuration", "part"]

ALONE = "zsad_open_clip"  # the package's name in sys.modules where its __init__ was not run
SECTIONS = {"embed_dim", "vision_cfg", "text_cfg"}  # of a file that open_clip takes for an architecture


def part(name: str) -> ModuleType:
    """The module ``open_clip.<name>``, which imports nothing of open_clip but others of that kind."""
    if (folder := _folder()) is None:
        return importlib.import_module(f"open_clip.{name}")
    if ALONE not in sys.modules:
        package = ModuleType(ALONE)
        package.__path__ = [str(folder)]
        sys.modules[ALONE] = package
    return importlib.import_module(f"{ALONE}.{name}")


def architectures() -> list[str]:
    """Names of all architectures, sorted."""
    folder = _folder()
    return sorted(_files(folder)) if folder else sorted(importlib.import_module("open_clip").list_models())


def configuration(architecture: str) -> dict[str, Any]:
    """Sizes of an architecture's towers, as open_clip writes them; empty where it has none of this name."""
    if (folder := _folder()) is not None:
        return cast(dict[str, Any], json.loads(_files(folder).get(architecture, "{}")))
    return dict(importlib.import_module("open_clip").get_model_config(architecture) or {})


def _folder() -> Path | None:
    """Where open_clip is installed; None where it is loaded already, or is not to be read from a folder."""
    package = None if "open_clip" in sys.modules else find_spec("open_clip")  # finds it and runs nothing
    return Path(package.origin).parent if package and package.origin else None


@cache
def _files(folder: Path) -> dict[str, str]:
    """The architectures' files by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "model_configs").glob("*.json")}
    return {name: text for name, text in texts.items() if json.loads(text).keys() >= SECTIONS}
