"""Shared by tests of training. ``main`` trains on the tiny backbone: method, data, out, epochs, batch size [resume].

Several trainings, one after the other, are separated by a comma. It takes words, for tests that need a process of their own: to
kill it, or to have two of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import zsad
from zsad.methods.adaclip import AdaCLIP
from zsad.methods.anomalyclip import AnomalyCLIP
from zsad.methods.april_gan import AprilGAN

RECIPES = {"anomalyclip": AnomalyCLIP.recipe, "adaclip": AdaCLIP.recipe, "april_gan": AprilGAN.recipe}


def tiny(method: str, seed: int = 0, **arguments: Any) -> Any:
    """A method on the tiny backbone at 80 px, with seeded first weights; ``compact`` with the one tower that it trains on."""
    if method == "compact":
        return zsad.create(method, tower="small")
    recipe = RECIPES[method]
    backbone = zsad.load_backbone("tiny", activation=recipe.activation, position_embedding=recipe.position_embedding)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type_of(method)(backbone, **arguments).eval()


def type_of(method: str) -> Any:
    """The class; ``create`` would draw the first weights from the caller's generator and hide how."""
    return {"anomalyclip": AnomalyCLIP, "adaclip": AdaCLIP, "april_gan": AprilGAN}[method]


def main(*arguments: str) -> None:
    if "," in arguments:
        end = arguments.index(",")
        main(*arguments[:end])
        main(*arguments[end + 1 :])
        return
    method, data, out, epochs, batch_size, *rest = arguments
    torch.set_num_threads(1)
    detector = tiny(method)
    if int(os.environ.get("RANK", "0")):  # as unseeded processes would: the first one's weights have to win
        torch.nn.init.zeros_(next(p for key, p in detector.named_parameters() if not key.startswith("backbone.")))
    zsad.train(detector, data, Path(out), epochs=int(epochs), batch_size=int(batch_size), device="cpu", resume="resume" in rest)
