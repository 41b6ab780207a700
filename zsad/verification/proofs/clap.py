"""CLAP's map beside the code that it takes over (HealthX-Lab/MedCLIP-SAMv2, 07047e3), run for words for and against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsad.alignment.bottleneck import Attribution
from zsad.methods.clap import relevance
from zsad.registry import create, load_backbone
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.tiny_pictures import described_pictures, resized_pictures
from zsad.verification.towers import write_clip

__all__ = ["PROOF", "build"]

SHAPE = {"vision_layers": 12, "image_size": 112}
SIGNS = ("negative", "positive")  # rows of the text, normal first
CLOSE, CAPACITY, ALPHA, PIXELS = 1e-5, 2e-3, 1e-3, 5  # tolerances; the last of suspected places
THIRD_QUARTER = 0.674  # of a normal distribution, in deviations


def build(reference: Reference, folder: Path) -> Any:
    """The method on the tiny weights, with the fixture's words."""
    settings = reference.settings
    path = write_clip(reference, settings["weights"]["fingerprint"], folder / "tiny.pt", **SHAPE)
    negative, positive = (tuple(settings["text"][sign].split(", ")) for sign in SIGNS)
    own = settings["settings"]
    arguments: dict[str, Any] = {
        "words": positive,
        "normal_words": negative,
        "layer": own["block_idx"] + 1,
        "beta": own["beta"],
        "steps": own["steps"],
        "copies": own["copies"],
    }
    return create("clap", backbone=load_backbone(f"file:{path}", activation="quick_gelu"), **arguments)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Features, the optimisation of three pictures for both texts, maps and suspected places."""
    detector, settings = build(reference, folder), reference.settings
    pictures = described_pictures(settings)[0]
    check("inputs", "input_uint8", resized_pictures(pictures, SHAPE["image_size"]))
    with torch.no_grad():
        features, context = detector.encode(reference.pixels()), detector.prepare()
    check("features", "image_features", features.image)
    text = detector.text_of(context)[0]
    check("text", "text_features", text.flip(0))
    for row, sign in enumerate(SIGNS):
        found = [int(one) for one in detector.backbone.tokenize([settings["text"][sign]])[0] if one]
        check.equal("sentences", f"tokens/{sign}", found, settings["tokens"][sign])
        check.equal("sentences", f"text/{sign}", [*context.sentences.values()][row], (settings["text"][sign],))
    for number in range(len(pictures)):
        _picture(check, detector, features[number : number + 1], context, number)


def _picture(check: Comparisons, detector: Any, features: Any, context: Any, number: int) -> None:
    settings = check.reference.settings
    ((_, tap),) = features.taps.items()
    shape = (detector.copies, 1 + tap.patches.shape[1], tap.patches.shape[2])
    noise = [
        [random_tensor(settings["seed"], f"clap/{number}/{sign}/noise{step}", shape, 1.0) for step in range(detector.steps)]
        for sign in SIGNS
    ]
    with detector.adapting(features, context) as (own, there):
        found = dict(zip(SIGNS, detector.attributions(own, there, noise), strict=True))
    side, maps = settings["settings"]["map_size"], dict[str, Tensor]()
    for sign, one in found.items():
        _attribution(check, one, tap.grid, f"{number}/{sign}/")
        maps[sign] = relevance(one.capacity, tap.grid, side)
    if number == 0:
        check("maps", "0/positive_map_half", maps["positive"][::2, ::2], tolerance=CLOSE)
    difference = maps["positive"] - maps["negative"]
    check("maps", f"{number}/clap_map_half", difference[::2, ::2], tolerance=CLOSE)
    mean, deviation = difference.mean(), difference.std(correction=0)
    suspected = difference > mean + THIRD_QUARTER * deviation
    facts = torch.stack([mean, deviation, suspected.float().mean(), difference.max()])
    check("scores", f"{number}/stats", facts, tolerance=PIXELS / side**2)
    places, stored = check.reference.stored(f"{number}/suspected")
    packed = np.packbits(suspected.numpy().reshape(-1))[places]
    different = np.unpackbits(packed ^ stored.astype(np.uint8)).sum()
    check.number("inputs", f"{number}/suspected", different, 0, tolerance=PIXELS)
    check.used(f"{number}/suspected")


def _attribution(check: Comparisons, found: Attribution, grid: tuple[int, int], stem: str) -> None:
    check("features", f"{stem}capacity_grid", found.capacity[1:].view(grid), tolerance=CAPACITY)
    check("scores", f"{stem}steps", found.steps, tolerance=CLOSE)
    if f"{stem}alpha" in check.reference:
        check("features", f"{stem}alpha", found.alpha, tolerance=ALPHA)


PROOF = Proof(
    "clap",
    "clap",
    run,
    inputs=("input_uint8",),
    left_out={"msgms_*": "the error of a U-Net's repainting, which is trained for each data set and is no part of the method"},
)
