"""Methods on towers with small random weights."""

from __future__ import annotations

from typing import Any

import zsad
from zsad.types import Recipe

__all__ = ["on_tiny_tower", "tiny_tower"]


def tiny_tower(recipe: Recipe, image_size: int) -> Any:
    """A tiny CLIP as the recipe asks, or a tiny TIPS, which reads multiples of 14 pixels."""
    if recipe.backbone.startswith("tips-"):
        return zsad.load_backbone("tips-tiny", image_size=round(image_size / 14) * 14)
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding}
    return zsad.load_backbone("tiny", image_size=image_size, **options)


def on_tiny_tower(method: str, image_size: int, **arguments: Any) -> Any:
    """A method on a tiny tower; one whose own tower ships with zsad runs on that."""
    recipe = zsad.registry.method_class(method).recipe
    if recipe.backbone in zsad.list_backbones() and not recipe.backbone.startswith("tips-"):
        return zsad.create(method, **arguments)
    return zsad.create(method, backbone=tiny_tower(recipe, image_size), **arguments)
