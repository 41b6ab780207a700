"""Every registered method on a small encoder, so that a test over the registry covers the next method without a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import zsad

SIDE = 80  # pixels of the tiny backbone
TRAINED_FORM = {"clip_ad": {"linear": True}, "mrad": {"projections": True}}  # arguments of what has something to train


def tiny_backbone_of(method: str) -> Any:
    """A small encoder as the method's paper sets it up; the method's own where that ships with the package."""
    recipe = zsad.registry.method_class(method).recipe
    if recipe.backbone in zsad.list_backbones():
        return zsad.load_backbone(recipe.backbone)
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding, "image_size": SIDE}
    return zsad.load_backbone("tiny", **options)


def tiny_method(method: str, backbone: Any = None, seed: int = 0, **arguments: Any) -> Any:
    """The method with seeded first weights, marked as trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = zsad.registry.method_class(method)(backbone or tiny_backbone_of(method), **arguments)
    detector.trained = True
    return detector.eval()


def options_of(method: str, folder: Path) -> list[str]:
    """Options of a command for the method on its small encoder, its weights written to ``folder`` where it has any."""
    cls = zsad.registry.method_class(method)
    if cls.recipe.backbone in zsad.list_backbones():
        return ["--method", method]
    options = ["--method", method, "--backbone", tiny_backbone_of(method).name]
    if cls.learned:
        path = folder / f"{method}.safetensors"
        tiny_method(method).save(path, trained_on="nothing")
        options += ["--checkpoint", str(path)]
    return options
