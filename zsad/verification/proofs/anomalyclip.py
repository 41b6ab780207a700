"""AnomalyCLIP beside its authors' code (zqhang/AnomalyCLIP, 45ed4dd)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zsad.registry import create
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import PATCHES, Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "build", "write_prompts"]

KEPT = ("", "nohalf/")  # deep prompts rounded to float16, as their code does, and the same code without the rounding
ROUNDED = 1e-3  # of a gradient's length, for its elements: they pass through float16, whose steps are 1e-3
OURS = {"ctx_pos": "normal", "ctx_neg": "anomalous"} | {f"compound_prompts_text.{i}": f"deep.{i}" for i in range(8)}


def write_prompts(seed: int, path: Path, width: int = 128, projections: bool = True) -> Path:
    """A checkpoint in the authors' layout, with the tensors that nothing uses (``projections``)."""
    state = {f"ctx_{side}": random_tensor(seed, f"anomalyclip/ctx_{side}", (1, 1, 12, width), 0.5) for side in ("pos", "neg")}
    for i in range(8):
        name = f"compound_prompts_text.{i}"
        state[name] = random_tensor(seed, f"anomalyclip/{name}", (4, width), 0.5)
        if projections:
            state[f"compound_prompt_projections.{i}.weight"] = torch.zeros(896, width)
            state[f"compound_prompt_projections.{i}.bias"] = torch.zeros(896)
    state["tokenized_prompts_pos"] = torch.zeros(1, 1, 77, dtype=torch.int32)
    torch.save({"prompt_learner": state}, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    return tiny_backbone(reference, folder, activation="quick_gelu", position_embedding="bilinear", image_size=112)


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    checkpoint = write_prompts(reference.settings["seed"], folder / "prompts.pth")
    return create("anomalyclip", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    labels = torch.tensor(reference.settings["train"]["labels"])
    return Batch(reference.pixels(), labels, reference.tensor("train/gt"), ("x",) * len(labels))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Text, features of all taps, maps and scores, one step of training: with and without rounding to float16."""
    tower = backbone(reference, folder)
    check("inputs", "input_first", reference.pixels()[:1])
    for prefix in KEPT:
        detector = build(reference, folder, tower, taps=TAPS, half_prompts=not prefix)
        _outputs(check, detector, reference.pixels(), prefix)
        _training(check, detector, batch(reference), prefix)
    _features(check, detector, reference)


def _outputs(check: Comparisons, detector: Any, images: torch.Tensor, prefix: str) -> None:
    with torch.inference_mode():
        raw = detector.prompts.encode(detector.backbone, half=not prefix)
        context, features = detector.prepare(), detector.encode(images)
        found, maps = detector.score(features, context), detector.layer_maps(features, context)
    check("text", f"{prefix}text_features_raw", raw[0])
    check("text", f"{prefix}text_features", context.text)
    check("scores", f"{prefix}image_probs", found.pred_score, part=(0, slice(None), 1))
    check("scores", f"{prefix}text_probs", found.pred_score[:1])  # their line gives the first picture's alone
    check("maps", f"{prefix}anomaly_map_raw", torch.stack(list(maps.values())).sum(0))
    check("maps", f"{prefix}anomaly_map", found.anomaly_map)
    if not prefix:
        for layer in TAPS:
            check("maps", f"map_{layer}", maps[layer])


def _features(check: Comparisons, detector: Any, reference: Reference) -> None:
    sentences = list(detector.prompts.sentences())
    check.equal("sentences", "prompts", sentences, reference.settings["prompts"])
    check("sentences", "tokens", detector.backbone.tokenize(sentences))
    with torch.inference_mode():
        features = detector.encode(reference.pixels())
    length = float(features.image.norm(dim=-1).mean())  # the feature is not normalised
    check("features", "image_features_raw", features.image, tolerance=1e-5 * max(1.0, length))
    for layer in TAPS:
        check("features", f"patch_features_{layer}", features.streams["local"][layer].patches, part=PATCHES)


def _training(check: Comparisons, detector: Any, step: Batch, prefix: str) -> None:
    reference, stem = check.reference, f"{prefix}train/"
    losses = detector.loss(step, detector.prepare())
    torch.stack(list(losses.values())).sum().backward()
    check("losses", f"{stem}image_loss", losses["picture"])
    check("losses", f"{stem}pixel_loss", torch.stack([losses[f"map {layer}"] for layer in TAPS]).sum())
    check("losses", f"{stem}total_loss", torch.stack(list(losses.values())).sum())
    for layer in TAPS:  # focal and both Dice losses, four times in their sum
        key = f"{stem}terms_{layer}"
        check.number("losses", key, losses[f"map {layer}"], 4 * float(reference[key].sum()))
        check.used(key)
    gradients = {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}
    norms = reference.settings[f"{prefix}grad_norms"]
    check.equal("gradients", f"{stem}learned tensors", set(gradients), {f"prompts.{OURS[key]}" for key in norms})
    for key, norm in norms.items():
        gradient = gradients[f"prompts.{OURS[key]}"]
        check.number("gradients", f"{prefix}grad_norms/{key}", gradient.norm(), norm)
        check("gradients", f"{stem}grad/{key}", gradient, scale=norm, tolerance=ROUNDED)


PROOF = Proof(
    "anomalyclip",
    "anomalyclip",
    run,
    inputs=("input_uint8", "train/gt"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt holds them resized",
        "plain/*": "the tower without V-V attention, which the method does not use",
        "similarity_*": "on the way to the maps, which are compared",
        "positional_embedding_resized": "on the way to the features, which are compared",
        "prompts_embedded": "on the way to the text features, which are compared",
        "*train/image_logits": "on the way to the loss, which is compared",
        "*train/total_loss_after_one_adam_step": "a property of torch's optimizer",
    },
)
