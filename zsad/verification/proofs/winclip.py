"""WinCLIP and WinCLIP+ beside anomalib's implementation (161bb36, with open_clip 2.24)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsad.alignment.windows import harmonic_map, window_tokens
from zsad.registry import create
from zsad.types import References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference, normalised
from zsad.verification.towers import write_tower

__all__ = ["PROOF", "build", "pictures"]

SHAPE = {"patch_size": 16, "image_size": 240, "vision_layers": 12}
GRID, SCALES = (15, 15), (2, 3)


def build(reference: Reference, folder: Path) -> Any:
    """The method on the tiny weights."""
    return create("winclip", backbone=f"file:{write_tower(reference, folder, **SHAPE)}")


def pictures(reference: Reference) -> Tensor:
    """(4, 3, 240, 240): two test pictures, two references; resized on the float tensor without a clamp, as their code does."""
    from torchvision.transforms.v2 import InterpolationMode, Resize

    raw = reference.tensor("images_uint8").permute(0, 3, 1, 2).float() / 255
    resized = Resize((240, 240), interpolation=InterpolationMode.BICUBIC, antialias=True)(raw)
    return normalised(resized)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Sentences, features of towers and windows, zero-shot of two classes, one and two references."""
    detector, images = build(reference, folder), pictures(reference)
    check("inputs", "input", images[[0, 2, 3]])
    with torch.inference_mode():
        features, references = detector.encode(images[:2]), detector.encode(images[2:])
        _features(check, features, references)
        for index, name in enumerate(reference.settings["class_names"]):
            _zero_shot(reference, check, detector, features, index, name)
        for shots in (1, 2):
            _few_shot(check, detector, features, detector.prepare(name_of(reference), References(images[2 : 2 + shots])), shots)


def name_of(reference: Reference) -> str:
    """The class of which references are given."""
    return str(reference.settings["class_names"][0])


def _features(check: Comparisons, features: Any, references: Any) -> None:
    check("features", "image_embeddings", features.image)
    for found, prefix in ((features, ""), (references, "ref_")):
        check("features", f"{prefix}patch_embeddings", found.streams["patches"][12].patches)
        for scale in SCALES:
            check("features", f"{prefix}window_embeddings_{scale}", found.streams["windows"][scale].patches)
    for scale in SCALES:  # theirs: (places of a window, windows), counted from the class token or from the first patch
        stored = check.reference.tensor(f"masks_{scale}").T.long()
        theirs = sorted(map(tuple, (stored - stored.min()).sort(dim=1).values.tolist()))
        check.equal("inputs", f"masks_{scale}", sorted(map(tuple, (window_tokens(GRID, scale)[:, 1:] - 1).tolist())), theirs)
        check.used(f"masks_{scale}")


def _zero_shot(reference: Reference, check: Comparisons, detector: Any, features: Any, index: int, name: str) -> None:
    stem, context = f"c{index}/k0/", detector.prepare(name)
    found, windows = detector.score(features, context), detector.window_scores(features, context)
    for kind in ("normal", "anomalous"):
        stored = reference.settings["prompts"][name][kind]
        check.equal("sentences", f"prompts/{name}/{kind}", list(context.sentences[kind]), stored)
    check("text", f"c{index}/text_embeddings", context.text[0])
    check("scores", f"{stem}pred_score", found.pred_score)
    check("scores", f"{stem}image_scores", found.pred_score)
    for scale in SCALES:
        check("scores", f"{stem}window_scores_{scale}", windows[scale])
        check("maps", f"{stem}map_scale{scale}", harmonic_map(windows[scale], scale, GRID))
    check("maps", f"{stem}map_15x15", detector.patch_map(found.pred_score, windows, GRID))
    check("maps", f"{stem}anomaly_map_stride8", found.anomaly_map[:, ::8, ::8])
    if f"{stem}anomaly_map" in reference:
        check("maps", f"{stem}anomaly_map", found.anomaly_map[:1])


def _few_shot(check: Comparisons, detector: Any, features: Any, context: Any, shots: int) -> None:
    stem = f"c0/k{shots}/"
    scores, found = detector.reference_scores(features, context), detector.score(features, context)
    for scale in SCALES:
        check("scores", f"{stem}window_scores_{scale}", scores[f"window_{scale}"])
        check("maps", f"{stem}map_scale{scale}", harmonic_map(scores[f"window_{scale}"], scale, GRID))
    check("maps", f"{stem}map_patch", scores["patches"].unflatten(1, GRID))
    check("maps", f"{stem}map_15x15_fewshot", detector.reference_map(scores, GRID))
    check("scores", f"{stem}pred_score", found.pred_score)
    check("maps", f"{stem}anomaly_map_stride8", found.anomaly_map[:, ::8, ::8])
    if f"{stem}anomaly_map" in check.reference:
        check("maps", f"{stem}anomaly_map", found.anomaly_map[:1])


PROOF = Proof(
    "winclip",
    "winclip",
    run,
    inputs=("images_uint8",),
    left_out={"masks_uint8": "where the drawn defects are; no part of the method"},
)
