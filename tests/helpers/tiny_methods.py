"""Every registered method on a tower with small random weights, so that a test over the registry covers the next method."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

import zsad
from zsad.backbones.tiny import load_tiny
from zsad.backbones.tips_files import load_tips_tiny
from zsad.detector import Detector
from zsad.registry import _backbones, method_class
from zsad.types import Recipe

__all__ = [
    "LEARNED",
    "SIDE",
    "TRAINED_FORM",
    "has_own_tower",
    "on_tiny_tower",
    "options_of",
    "shallow",
    "shared_towers",
    "small_recipes",
    "tiny_method",
    "tiny_tower",
]

LEARNED = [name for name in zsad.list_methods() if method_class(name).loss is not Detector.loss]  # what can be trained
SIDE = 80  # pixels of the tiny CLIP; TIPS takes the nearest multiple of 14
LAYERS = 4  # of both towers: as many as the methods tap
SMALLER = {"compact": ["--set", "tower=small"]}  # options of a form that takes half the time
SHORTER: dict[str, dict[str, Any]] = {  # arguments of a cheaper form, where it is not what a test is about
    "clap": {"steps": 2, "copies": 2},  # 10 x 10 passes per picture by default
    "compact": {"fine": False},
}
TRAINED_FORM = {"clip_ad": {"linear": True}, "mrad": {"projections": True}}  # arguments of what has something to train


def shallow(monkeypatch: pytest.MonkeyPatch, layers: int = LAYERS) -> None:
    """The tiny towers have so few layers, whoever loads them."""
    monkeypatch.setitem(_backbones, "tiny", partial(load_tiny, layers=layers))
    monkeypatch.setitem(_backbones, "tips-tiny", partial(load_tips_tiny, layers=layers, text_layers=layers))


SHARED = {
    "tiny": cache(partial(load_tiny, layers=LAYERS)),
    "tips-tiny": cache(partial(load_tips_tiny, layers=LAYERS, text_layers=LAYERS)),
}


def shared_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``shallow``, and who loads a tower again gets the same one: for commands on the CPU, which change none."""
    for name, load in SHARED.items():
        monkeypatch.setitem(_backbones, name, load)


def small_recipes(monkeypatch: pytest.MonkeyPatch, layers: int = LAYERS) -> None:
    """Encoders that a command loads by name have the tiny one's size, and few layers."""
    shallow(monkeypatch, layers)
    for name in zsad.list_methods():
        cls = method_class(name)
        if not has_own_tower(name):
            monkeypatch.setattr(cls, "recipe", replace(cls.recipe, image_size=SIDE))


def has_own_tower(method: str) -> bool:
    """True where the method's tower ships with the package."""
    name: str = method_class(method).recipe.backbone
    return name in zsad.list_backbones() and not name.startswith("tips-") and name != "pixels"


def tiny_name(recipe: Recipe) -> str:
    """The small tower in the place of a recipe's; "pixels" is none, and the method's network has its own size."""
    if recipe.backbone == "pixels":
        return recipe.backbone
    return "tips-tiny" if recipe.backbone.startswith("tips-") else "tiny"


def tiny_tower(recipe: Recipe, image_size: int = SIDE) -> Any:
    """A tiny CLIP as the recipe asks, or a tiny TIPS, which reads multiples of 14 pixels."""
    if tiny_name(recipe) == "tips-tiny":
        return zsad.load_backbone("tips-tiny", image_size=round(image_size / 14) * 14)
    if tiny_name(recipe) == "pixels":
        return zsad.load_backbone("pixels", image_size=image_size // 32 * 32)
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding}
    return zsad.load_backbone("tiny", image_size=image_size, **options)


def on_tiny_tower(method: str, image_size: int = SIDE, **arguments: Any) -> Any:
    """A method on a tiny tower, untrained; one whose own tower ships with zsad runs on that."""
    tower = None if has_own_tower(method) else tiny_tower(method_class(method).recipe, image_size)
    return zsad.create(method, backbone=tower, **SHORTER.get(method, {}) | arguments)


def tiny_method(method: str, **arguments: Any) -> Any:
    """The method with seeded first weights, marked as trained."""
    recipe = method_class(method).recipe
    tower = zsad.load_backbone(recipe.backbone) if has_own_tower(method) else tiny_tower(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = method_class(method)(
            tower, **SHORTER.get(method, {}) | arguments
        )  # ``create`` would draw from another generator
    detector.trained = True
    return detector.eval()


def options_of(method: str, folder: Path) -> list[str]:
    """Options of a command for the method on its small tower, its weights written to ``folder`` where it has any."""
    cls = method_class(method)
    if has_own_tower(method):
        return ["--method", method, *SMALLER.get(method, [])]
    options = ["--method", method, "--backbone", tiny_name(cls.recipe)]
    options += [part for key, value in SHORTER.get(method, {}).items() for part in ("--set", f"{key}={value}")]
    if cls.learned:
        path = folder / f"{method}.safetensors"
        if not path.is_file():  # seeded: the same whichever test asks first
            tiny_method(method).save(path, trained_on="nothing")
        options += ["--checkpoint", str(path)]
    return options
