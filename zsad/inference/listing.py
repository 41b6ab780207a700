"""The tables of ``zsad list`` and the sentences of ``zsad prompts``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from zsad.backbones.dinov2_weights import REPOSITORIES
from zsad.detector import Detector
from zsad.errors import WeightsError
from zsad.inference.settings import check_target
from zsad.registry import create, list_backbones, list_methods, method_class
from zsad.weights.checkpoints import load_index

__all__ = ["listings", "sentences_of", "traits"]

SELECTION = (
    "ViT-B-16-plus-240.laion400m_e32",
    "ViT-L-14-336.openai",
    "ViT-L-14.openai",
    "ViT-B-16.openai",
    "ViT-B-32.openai",
    "ViT-H-14.laion2b_s32b_b79k",
)
"""open_clip names that ``zsad list backbones`` shows without ``--all``: those of the methods' papers, and one smaller and
one larger."""
LICENCES = {"openai": "MIT", "laion400m_e31": "MIT", "laion400m_e32": "MIT", "laion2b_s32b_b79k": "MIT"}
AUTHORS = "; with faithful=True by the set"
OPTIONAL = "none; --checkpoint for its trained form"
PREFIX = {"size": "", "here": "", "licence": "its own", "from": "a file, a folder or the hub"}
OWN = {
    "compact": {"size": "12 MB", "here": "yes", "licence": "Apache-2.0", "from": "zsad"},
    "tiny": {"size": "0 MB", "here": "yes", "licence": "Apache-2.0", "from": "zsad (random weights, for tests)"},
    "tips-tiny": {"size": "0 MB", "here": "yes", "licence": "Apache-2.0", "from": "zsad (random weights, for tests)"},
}

DINOV2 = {"small": "88 MB", "base": "346 MB", "large": "1218 MB", "giant": "4546 MB"}
OWN |= {
    name: {
        "size": DINOV2[name.split("-")[1]],
        "here": "",
        "licence": "Apache-2.0",
        "from": "facebook's, downloaded when first used",
    }
    for name in REPOSITORIES
}


def listings(what: str | None = None, *, everything: bool = False) -> dict[str, list[dict[str, Any]]]:
    """What ``zsad list`` prints: rows by kind, of one kind or of all three.

    Args:
        what: "methods", "backbones" or "checkpoints"; None: all.
        everything: every open_clip name, and not only those of the methods' papers.
    """
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": _methods,
        "backbones": lambda: _backbones(everything),
        "checkpoints": _checkpoints,
    }
    return {kind: make() for kind, make in makers.items() if what in (None, kind)}


def traits(name: str) -> dict[str, str]:
    """What a method is, in words, from its class.

    Returns:
        "text" and "auxiliary data" (whether it reads sentences, whether it learns from other categories), "references" (by its
        paper's rule, or the common one of ``references/fusion.py``), "batch" (whether pictures are compared with each other),
        "towers", and "scores": "by itself", also where the authors' form, ``faithful=True``, lets them depend on the set.
    """
    cls = method_class(name)
    keywords = inspect.signature(cls.__init__).parameters
    faithful = keywords.get("faithful")
    batch = "always" if cls.smallest_set > 1 else "possible" if cls.as_batch is not Detector.as_batch else "no"
    return {
        "text": "yes" if "encode_text" in cls.needs or "prompts" in keywords else "no",
        "auxiliary data": "yes" if cls.learned else "optional" if cls.optional_weights else "no",
        "references": "own rule" if cls.own_references else "common rule",
        "batch": batch,
        "towers": ", ".join([cls.recipe.backbone, *(f"{one.backbone} ({key})" for key, one in cls.encoders.items())]),
        "scores": "by the set" if batch == "always" else "by itself" + (AUTHORS if faithful and not faithful.default else ""),
    }


def _methods() -> list[dict[str, Any]]:
    rows = []
    for name in list_methods():
        cls, own = method_class(name), traits(name)
        row = {"name": name, "backbone": cls.recipe.backbone, "px": cls.recipe.image_size}
        row |= {key: own[key] for key in ("references", "batch", "scores")}
        weights = _weights_of(name) if cls.learned else OPTIONAL if cls.optional_weights else "none of its own"
        rows.append(row | {"weights": weights, "what": (cls.__doc__ or "").strip().partition("\n")[0]})
    return rows


def _weights_of(method: str) -> str:
    here = [row["name"] for row in _checkpoints() if row["here"] == "yes" and row["name"].partition(".")[0] == method]
    return ", ".join(here) or "pass --checkpoint"


def _backbones(everything: bool) -> list[dict[str, Any]]:
    from zsad.backbones import openclip, tips_files

    known = OWN | {name: tips_files.listed(name) for name in tips_files.PUBLISHED}
    own = [{"name": f"{name}..." if name.endswith(":") else name, **known.get(name, PREFIX)} for name in list_backbones()]
    names = openclip.plain_models() if everything else SELECTION
    return own + [
        {
            "name": name,
            "size": f"{openclip.megabytes(name):.0f} MB",
            "here": "yes" if openclip.cached(name) else "no",
            "licence": LICENCES.get(name.partition(".")[2], "see its source"),
            "from": "open_clip, downloaded when first used",
        }
        for name in names
    ]


def _checkpoints() -> list[dict[str, Any]]:
    try:
        index = load_index()
    except WeightsError:
        return []
    return [
        {
            "name": entry.name,
            "size": f"{entry.size / 1e6:.1f} MB",
            "here": "yes" if entry.path else "no",
            "licence": entry.licence,
            "trained_on": entry.trained_on,
            "source": entry.source,
        }
        for entry in index.values()
    ]


def sentences_of(method: str, target: str, backbone: str | None, arguments: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The exact sentences of a method for a target; empty for methods without text."""
    target = check_target(target)
    detector = create(method, backbone=backbone, **arguments)
    with torch.inference_mode():
        return dict(detector.prepare(target).sentences)
